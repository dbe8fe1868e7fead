"""Dense detectors whose training step returns its loss per level."""
