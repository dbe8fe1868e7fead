"""Data sets: reading, checking, transforming, loading."""
