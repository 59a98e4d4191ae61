"""Colour as a product: photographs in, colour out, and what the colour is worth."""
