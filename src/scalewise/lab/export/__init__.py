"""Writes trained detectors as ONNX or `torch.export` files, which run without scalewise."""
