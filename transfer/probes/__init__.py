"""What frozen features are judged by: stacks of linear classifiers, logistic regression, neighbors, SVMs."""
