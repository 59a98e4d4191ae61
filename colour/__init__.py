"""Colour as a product: photographs in, colour out; what the colours are worth; pages to judge and to make them."""
