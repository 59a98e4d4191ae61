"""Fine-tuning tasks: a backbone with a head for classes, boxes or masks, and the examples that it learns from."""
