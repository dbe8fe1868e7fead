"""Trained detectors as files that run without scalewise: ONNX and `torch.export`."""
