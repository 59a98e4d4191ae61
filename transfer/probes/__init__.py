"""Evaluation of frozen features: stacks of linear classifiers, logistic regression, nearest neighbors, SVMs."""
