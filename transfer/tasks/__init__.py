"""Tasks that a backbone is fine-tuned on: what is learnt from, and the networks that learn it."""
