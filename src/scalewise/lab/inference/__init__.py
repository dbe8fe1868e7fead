"""Trained runs put to work: on a split with figures, on images and videos with drawings."""
