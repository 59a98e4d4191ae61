"""Ways to color without a network: from a reference image, and from scribbles."""
