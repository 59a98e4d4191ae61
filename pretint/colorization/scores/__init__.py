"""Scores of colored images: accuracy, similarity, colorfulness, judgments of networks; and their table."""
