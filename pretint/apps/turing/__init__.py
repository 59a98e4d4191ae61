"""The study "which one is fake?" of the paper: real beside coloured pictures, as a web page."""
