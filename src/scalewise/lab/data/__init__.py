"""Data sets: readers, checks, augmentation, batches. Their public names are in `scalewise.data`."""
