"""The studio: a local page to color photographs interactively."""
