"""Weights out and in: export to other programs, import of published ones."""
