"""What a data set asks of a detector, seen before any training."""
