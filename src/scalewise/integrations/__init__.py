"""Level weights for detectors of other frameworks."""
