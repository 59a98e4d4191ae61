"""Scores of colored images: accuracy, likeness, colorfulness, what networks make of them; as tables."""
