"""Modules that can be traced: from pixels to boxes and scores, in plain operations."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from scalewise.lab.detectors.decoding import class_scores, clip, take_candidates
from scalewise.lab.detectors.detector import DenseDetector
from scalewise.lab.detectors.frozen import FoldedConv, FoldedNorm
from scalewise.lab.detectors.layers import ReLU6
from scalewise.lab.detectors.nms import Candidates, pick
from scalewise.lab.detectors.pointwise import Conv


def of_plain_layers(detector: DenseDetector) -> DenseDetector:
    """Copy a detector to the CPU, in float32 and evaluation mode, with layers of torch only.

    Frozen norms become part of their convolutions. The layers of scalewise choose the way to
    compute by the size of the batch, which a graph cannot do.
    """
    detector = copy.deepcopy(detector).cpu().float().eval()
    for path, module in list(detector.named_modules()):
        if isinstance(module, Conv):
            detector.set_submodule(path, _plain_conv(module))
        elif isinstance(module, ReLU6):
            detector.set_submodule(path, nn.ReLU6())
    for path, module in list(detector.named_modules()):
        if isinstance(module, FoldedNorm):
            detector.set_submodule(path, nn.Identity())
    return detector.requires_grad_(False)


def _plain_conv(conv: Conv) -> nn.Conv2d:
    weight, bias = conv.weight.detach(), conv.bias
    shift = torch.zeros(conv.out_channels) if bias is None else bias.detach()
    if isinstance(conv, FoldedConv):
        scale, offset = conv._norm[0].scale_and_shift()
        weight, shift = weight * scale[:, None, None, None], offset + shift * scale
    shape: dict[str, Any] = {
        name: getattr(conv, name)
        for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    }
    made = nn.Conv2d(conv.in_channels, conv.out_channels, **shape)
    assert made.bias is not None
    made.weight.data.copy_(weight)
    made.bias.data.copy_(shift)
    return made


class Decoded(nn.Module):
    """Images uint8 [B, 3, H, W] and sizes int64 [B, 2] to boxes [B, N, 4] and scores [B, N, C]."""

    def __init__(self, detector: DenseDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return all boxes, clipped to their images, and all scores."""
        predictions, grid = self.detector.predict(images, sizes)
        boxes = self.detector.method.decode(predictions.deltas, grid)
        return clip(boxes, sizes), class_scores(predictions)


class Suppressed(nn.Module):
    """Like `Decoded`, with suppression: K = `max_detections` rows an image, and their number.

    Args:
        detector: What `of_plain_layers` returned.
        counts: Number of anchors of each level.
        as_operation: Keep the suppression as one operation, for which ONNX has its own.
    """

    def __init__(self, detector: DenseDetector, counts: list[int], as_operation: bool) -> None:
        super().__init__()
        self.decoded = Decoded(detector)
        self.counts = counts
        self.as_operation = as_operation

    def forward(
        self, images: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return boxes [B, K, 4], scores, labels and levels [B, K], and counts [B]."""
        detector = self.decoded.detector
        boxes, scores = self.decoded(images, sizes)
        best = take_candidates(scores, boxes, self.counts, sizes, detector.candidates)
        most, threshold = detector.max_detections, detector.score_threshold
        rows = torch.zeros_like(best.scores[:, :1]).expand(-1, most)  # so that there are at least K
        best = Candidates(
            torch.cat((best.boxes, rows[..., None].expand(-1, -1, 4)), dim=1),
            torch.cat((best.scores, rows), dim=1),
            torch.cat((best.labels, rows.long()), dim=1),
            torch.cat((best.levels, rows.long()), dim=1),
        )
        iou, classes = detector.method.nms_iou, detector.num_classes
        keep = survivors if self.as_operation else _survivors
        kept = keep(best.boxes, best.scores, best.labels, threshold, iou, classes)
        ranked = torch.where(kept, best.scores, -1.0)
        if self.as_operation:  # ONNX has no sort; its TopK keeps the order of equal scores
            order = ranked.topk(most, dim=1).indices
        else:
            order = ranked.sort(dim=1, descending=True, stable=True).indices[:, :most]
        counts = kept.sum(1).clamp(max=most)
        found = pick(best, order, torch.arange(most) < counts[:, None])
        return found.boxes, found.scores, found.labels, found.levels, counts


def _survivors(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, iou: float, classes: int
) -> Tensor:
    """Which of the candidates [B, K] remain: bool [B, K].

    One suppression handles all images and classes: their boxes are moved apart, in float64 so that
    rounding does not change the overlaps.
    """
    batch, rows = scores.shape
    image = torch.arange(batch, device=scores.device)[:, None]
    reach = boxes.max().double() + 1
    apart = (image * classes + labels).double() * reach  # [B, K]
    among = scores > threshold
    # boxes that do not take part are moved away from all others
    apart = torch.where(among, apart, batch * classes * reach)
    placed = (boxes.double() + apart[..., None]).reshape(-1, 4)
    keep = nms(placed, scores.double().reshape(-1), iou)
    kept = torch.zeros_like(scores).reshape(-1)
    kept = kept.index_put((keep,), torch.ones_like(keep, dtype=kept.dtype))
    return (kept.reshape(batch, rows) > 0) & among


@torch.library.custom_op("scalewise::survivors", mutates_args=())
def survivors(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, iou: float, classes: int
) -> Tensor:
    """`_survivors` as one operation."""
    return _survivors(boxes, scores, labels, threshold, iou, classes)


@survivors.register_fake
def _(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, iou: float, classes: int
) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)
