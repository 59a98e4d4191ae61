"""The engine: one training loop, and the run directory it writes."""
