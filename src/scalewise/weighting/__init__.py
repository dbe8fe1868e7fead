"""The weighting core."""
