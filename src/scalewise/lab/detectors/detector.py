"""The dense detector: one skeleton for every method."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from scalewise.lab.detectors.backbone import make_backbone
from scalewise.lab.detectors.batch import Batch, Detections
from scalewise.lab.detectors.decoding import select
from scalewise.lab.detectors.grid import Grid, make_grid
from scalewise.lab.detectors.group_sums import object_factor, sum_losses
from scalewise.lab.detectors.head import Head
from scalewise.lab.detectors.method import Method, Predictions
from scalewise.lab.detectors.pyramid import STRIDES, Pyramid, level_names
from scalewise.weighting.groups import Grouping

# Mean and standard deviation of ImageNet's RGB values in 0..1, as pretrained backbones expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class DenseDetector(nn.Module):
    """Backbone, pyramid P3 to P7 and a shared head; in training, losses per group or level.

    `atss`, `fcos` and `retinanet` make one; all three take these arguments. Weights and feature
    maps have the channels-last layout, which is faster on CPUs and GPUs.

    Args:
        backbone: a torchvision model (`mobilenet_v2`, `resnet50`, ...) or a timm model.
        num_classes: number of object classes.
        weights: weights of the backbone. None starts from random ones; `imagenet` or the name of a
            torchvision weight enum entry downloads them; a path to a .pth or .safetensors file
            loads that file.
        width: channels of the pyramid and the head.
        depth: convolutions in each of the head's towers.
        freeze_bn: keep the backbone's BatchNorm statistics and affine parameters fixed. Default:
            if weights were loaded, since detection batches are too small to estimate them anew.
        freeze_stem: keep the backbone's layers up to stride 4 fixed. Default: if weights were
            loaded; these layers find general features, and are the most expensive to train.
        anchor_scale: factor on the object sizes that the method's levels are meant for, above 0:
            its anchors, or the ranges of FCOS. If images are smaller than those that the method was
            made for, reduce it in proportion, so that objects spread over the levels as there.
        grouping: how positives are grouped. The losses then come by group, with the background
            apart. None gives losses by level, background included.
        object_power: 0 to 1; each positive weighs `k^-object_power`, where k is the number of
            positives of its object; the mean is scaled to 1. With 1 every object counts the same.

    Attributes:
        method: assignment, losses and box coding; set by the class ATSS, FCOS or RetinaNet.
        strides: strides of the levels in pixels.
        num_levels: number of levels.
        terms: names of the loss terms.
        loaded: the weights from which the backbone started.
        group_names: names of the groups: classes, sizes, or P3, P4, ... for levels.
        positives: float32 [groups], positive anchors of each group in the last training batch.
        score_threshold: detections below it are dropped. Scores of methods with centerness are the
            geometric mean of class probability and centerness.
        candidates: largest number of detections per level that enter non-maximum suppression.
        max_detections: largest number of detections per image.

    Raises:
        TypeError: for a `DenseDetector` that is not one of the three.
        ValueError: for sizes out of range, an unknown backbone, or weights that do not fit.
        FileNotFoundError: if `weights` is a path without a file.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> groups = sw.by_class(["cat", "dog"])
        >>> detector = sw.detectors.atss(
        ...     "mobilenet_v3_small", num_classes=2, width=16, depth=1, grouping=groups
        ... )
        >>> batch = sw.detectors.Batch(
        ...     images=torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8),
        ...     boxes=torch.tensor([[[5.0, 5.0, 40.0, 40.0]]]),
        ...     labels=torch.tensor([[1]]),
        ...     valid=torch.tensor([[True]]),
        ...     sizes=torch.tensor([[64, 64]]),
        ...     scales=torch.ones(1, 2),
        ...     image_ids=torch.tensor([1]),
        ... )
        >>> losses = detector(batch)
        >>> losses["box"] > 0  # of cats, dogs and the background
        tensor([False,  True, False])
        >>> found = detector.eval()(batch)  # `Detections`
    """

    method: ClassVar[Method]
    positives: Tensor
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        backbone: str = "mobilenet_v2",
        num_classes: int = 20,
        weights: str | Path | None = None,
        width: int = 256,
        depth: int = 4,
        freeze_bn: bool | None = None,
        freeze_stem: bool | None = None,
        anchor_scale: float = 1.0,
        grouping: Grouping | None = None,
        object_power: float = 0.0,
    ) -> None:
        super().__init__()
        if not hasattr(type(self), "method"):
            raise TypeError(
                "DenseDetector is the base of the detectors: call atss, fcos or retinanet"
            )
        for name, value, least in (
            ("num_classes", num_classes, 1),
            ("width", width, 1),
            ("depth", depth, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not anchor_scale > 0:
            raise ValueError(f"anchor_scale must be above 0, got {anchor_scale}")
        if not 0 <= object_power <= 1:
            raise ValueError(f"object_power must lie in 0..1, got {object_power}")
        self.anchor_scale = anchor_scale
        self.grouping = grouping
        self.object_power = object_power
        self.strides = STRIDES
        self.num_levels = len(STRIDES)
        self.terms = self.method.terms
        self.num_classes = num_classes
        self.score_threshold = 0.05
        self.candidates = 1000
        self.max_detections = 100
        self.backbone, self.loaded = make_backbone(backbone, weights, freeze_bn, freeze_stem)
        self.pyramid = Pyramid(self.backbone.channels, width)
        self.head = Head(
            width,
            depth,
            num_classes,
            self.method.anchors,
            self.num_levels,
            "centerness" in self.terms,
            self.method.first_delta,
        )
        self.group_names = level_names(self.strides) if grouping is None else grouping.names
        self.register_buffer("positives", torch.zeros(len(self.group_names)), persistent=False)
        self.register_buffer("_mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    def predict(self, images: Tensor, sizes: Tensor) -> tuple[Predictions, Grid]:
        """Outputs and locations for uint8 images [B, 3, H, W] and int64 sizes [B, 2]."""
        height, width = images.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(
                f"images must be padded to multiples of 32 pixels, got {height} x {width}"
            )
        x = images.to(self._mean.dtype, memory_format=torch.channels_last)
        x = (x - self._mean * 255) / (self._std * 255)
        # Padding becomes the mean colour, whatever bytes it holds.
        inside_y = torch.arange(height, device=x.device) < sizes[:, :1]  # [B, H]
        inside_x = torch.arange(width, device=x.device) < sizes[:, 1:]  # [B, W]
        x = x * (inside_y[:, None, :, None] & inside_x[:, None, None, :])
        levels = self.pyramid(self.backbone(x))
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        grid = make_grid(shapes, self.strides, images.device, self.anchor_scale)
        return self.head(levels), grid

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Loss of each term, float32 [groups]; the sum over all terms is the detector's loss.

        If positives are grouped, there is one more entry, the loss of the background.
        """
        predictions, grid = self.predict(batch.images, batch.sizes)
        found = self.method.losses(predictions, grid, batch)
        counts = [count * self.method.anchors for count in grid.counts]
        if self.object_power:
            factor = object_factor(found.owner, batch.boxes.shape[1], self.object_power)
            terms = {name: term * factor for name, term in found.terms.items()}
            found = found._replace(terms=terms)
        sums, positives = sum_losses(found, batch, counts, self.grouping)
        self.positives.copy_(positives)
        return {
            name: self.method.normalise(name, values, found.normalisers)
            for name, values in sums.items()
        }

    @torch.no_grad()
    def detect(self, batch: Batch) -> Detections:
        """The best detections of each image; only `images` and `sizes` of the batch are used."""
        predictions, grid = self.predict(batch.images, batch.sizes)
        return select(
            predictions,
            self.method.decode(predictions.deltas, grid),
            [count * self.method.anchors for count in grid.counts],
            batch.sizes,
            score_threshold=self.score_threshold,
            nms_iou=self.method.nms_iou,
            candidates=self.candidates,
            max_detections=self.max_detections,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor] | Detections:
        """`losses` in training mode, `detect` in evaluation mode."""
        return self.losses(batch) if self.training else self.detect(batch)
