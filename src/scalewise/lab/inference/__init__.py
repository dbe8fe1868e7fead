"""Uses trained runs: measures them on a split, and draws their detections on images and videos."""
