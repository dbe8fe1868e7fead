"""Studies: a grid of runs, their records, and the statistics of these."""
