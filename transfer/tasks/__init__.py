"""Tasks of fine-tuning: a backbone with a head for classes, boxes or masks, and the examples it learns from."""
