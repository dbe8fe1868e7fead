"""Feeds recorded losses of groups, from any training loop, through schemes without training."""
