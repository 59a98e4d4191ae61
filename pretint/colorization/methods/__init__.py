"""Ways to colour without a network: from a reference picture, and from scribbles."""
