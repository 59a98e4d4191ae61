"""Scores of coloured pictures: accuracy, likeness, colourfulness, what networks make of them; as tables."""
