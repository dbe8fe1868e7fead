"""Looks at a data set before training: sizes, levels, groups, doubtful labels, advice."""
