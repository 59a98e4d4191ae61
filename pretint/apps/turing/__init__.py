"""The study "which one is fake?" of the paper: real beside colored images, as a web page."""
