"""Non-maximum suppression with the operator of ONNX."""

from __future__ import annotations

from typing import Any

from onnxscript import opset18

from scalewise.lab.export.graph import survivors

op: Any = opset18  # Any, because the types of onnxscript do not fit constants


def onnx_survivors(
    boxes: Any, scores: Any, labels: Any, threshold: float, iou: float, classes: int
) -> Any:
    """Do the same as `graph.survivors`, with the same arguments, traced into an ONNX graph."""
    of_class = op.OneHot(
        labels, op.Constant(value_int=classes), op.Constant(value_floats=[0.0, 1.0])
    )  # [B, K, C]
    by_row = op.Mul(of_class, op.Unsqueeze(scores, op.Constant(value_ints=[2])))
    picked = op.NonMaxSuppression(
        boxes,
        op.Transpose(by_row, perm=[0, 2, 1]),
        op.Constant(value_ints=[2**31 - 1]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[threshold]),
    )  # [n, 3]: image, class, row
    places = op.Gather(picked, op.Constant(value_ints=[0, 2]), axis=1)
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(places, start=0, end=1))
    none = op.Mul(scores, op.Constant(value_float=0.0))
    return op.Greater(op.ScatterND(none, places, ones), op.Constant(value_float=0.5))


def translations() -> dict[Any, Any]:
    """The operations that `torch.onnx.export` does not know, and their ONNX form."""
    return {survivors._opoverload: onnx_survivors}
