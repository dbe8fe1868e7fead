"""Backbones: features at strides 8, 16 and 32 from torchvision or timm models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torchvision
from torch import Tensor, nn
from torchvision.models import list_models

from scalewise.lab.detectors.backbone_probe import probe_image
from scalewise.lab.detectors.backbone_timm import timm_features
from scalewise.lab.detectors.backbone_torchvision import torchvision_features
from scalewise.lab.detectors.frozen import fold_batch_norms
from scalewise.lab.detectors.layers import lighten
from scalewise.lab.detectors.weights import LoadedWeights, download, load, read, weight_file


class Backbone(nn.Module):
    """Features [B, C_i, H / s_i, W / s_i] at strides 8, 16 and 32 of images [B, 3, H, W].

    Args:
        body: maps images to a list of three features.
        channels: channels of the three features.
        freeze_bn: keep BatchNorm's statistics and parameters fixed.
    """

    def __init__(self, body: nn.Module, channels: Sequence[int], freeze_bn: bool) -> None:
        super().__init__()
        self.body = body
        self.channels = tuple(channels)
        self.freeze_bn = freeze_bn
        if freeze_bn:
            fold_batch_norms(body, probe_image())
        lighten(body)
        if freeze_bn:
            for module in self._batch_norms():
                module.requires_grad_(False)
        self.train()

    def _batch_norms(self) -> list[nn.Module]:
        return [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; frozen BatchNorm stays in evaluation mode."""
        super().train(mode)
        if self.freeze_bn:
            for module in self._batch_norms():
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Three features, finest first."""
        features: list[Tensor] = self.body(images)
        return features


def make_backbone(
    name: str, weights: str | Path | None, freeze_bn: bool | None, freeze_stem: bool | None
) -> tuple[Backbone, LoadedWeights]:
    """Build backbone `name`, load `weights`, and say what was loaded.

    Args:
        name: name of a torchvision classification model, else of a timm model.
        weights: None (random), "imagenet", a torchvision weight enum entry, or a file.
        freeze_bn: whether to fix BatchNorm. None fixes it if weights are given.
        freeze_stem: whether to fix everything up to stride 4. None fixes it if weights are given.

    Raises:
        ValueError: if no such backbone or weights exist, if the backbone has no features at strides
            8, 16 and 32, or if the weights do not fit.
        FileNotFoundError: if `weights` is a file name and there is no such file.
        ImportError: if the model is timm's and timm is not installed.
    """
    file = weight_file(weights)
    body: nn.Module
    if name in list_models(module=torchvision.models):
        body, stem, channels = torchvision_features(name)
        if weights is None:
            loaded = LoadedWeights("random")
        elif file is not None:
            loaded = load(body.model, read(file), str(file))
        else:
            loaded = load(body.model, *download(name, str(weights)))
    else:
        body, stem, channels, loaded = timm_features(name, file or weights)
    if weights is not None if freeze_stem is None else freeze_stem:
        for module in stem:
            module.requires_grad_(False)
    freeze_bn = weights is not None if freeze_bn is None else freeze_bn
    return Backbone(body, channels, freeze_bn), loaded
