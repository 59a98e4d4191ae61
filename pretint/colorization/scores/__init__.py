"""Scores of colored images: accuracy, similarity, colorfulness, evaluations by networks; and their table."""
