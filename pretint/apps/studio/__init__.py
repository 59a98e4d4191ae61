"""A local page on which photographs are coloured by hand and eye."""
