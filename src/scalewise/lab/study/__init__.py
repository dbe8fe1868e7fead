"""Studies: a grid of runs, its records, and what they say."""
