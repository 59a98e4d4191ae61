"""Export of weights to other programs, and import of published weights."""
