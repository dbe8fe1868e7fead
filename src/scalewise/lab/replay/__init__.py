"""Recorded level losses, from anyone's training loop, fed through any scheme without training."""
