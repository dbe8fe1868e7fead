"""Data sets: readers, checks, augmentation, batches. The public names are in `scalewise.data`."""
