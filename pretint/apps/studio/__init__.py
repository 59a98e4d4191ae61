"""A local page on which photographs are colored by hand and eye."""
