"""Dense detectors; their public names are in `scalewise.detectors`."""
