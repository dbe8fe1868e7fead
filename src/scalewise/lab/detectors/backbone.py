"""Backbones: features at strides 8, 16 and 32 from torchvision or timm models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, list_models

from scalewise.lab.detectors.frozen import fold_batch_norms
from scalewise.lab.detectors.layers import lighten
from scalewise.lab.detectors.weights import LoadedWeights, download, load, read, weight_file

STRIDES = (8, 16, 32)
STEM_STRIDE = 4
PROBE = 128  # side of the image, in pixels, that finds a model's strides
# Where not the last module of a stride is wanted: MobileNetV2's final 1x1 convolution serves its
# classifier and would quadruple the channels that the pyramid reads.
LAST = {"mobilenet_v2": {32: "features.17"}}


class Backbone(nn.Module):
    """Features [B, C_i, H / s_i, W / s_i] at strides 8, 16 and 32 of images [B, 3, H, W].

    Args:
        body: maps images to a list of three features.
        channels: of the three features.
        freeze_bn: keep BatchNorm's statistics and parameters fixed.
    """

    def __init__(self, body: nn.Module, channels: Sequence[int], freeze_bn: bool) -> None:
        super().__init__()
        self.body = body
        self.channels = tuple(channels)
        self.freeze_bn = freeze_bn
        if freeze_bn:
            fold_batch_norms(body, _probe_image())
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


class Chain(nn.Module):
    """A model cut down to the modules that lead to its features, called one after the other.

    Unlike a graph of `torch.fx`, it keeps the mode of its modules when it is copied.

    Args:
        model: whose submodules are used; names in the state dictionary stay below `model.`.
        units: paths of the modules to call, in order.
        features: those of `units` whose output is returned.
    """

    def __init__(self, model: nn.Module, units: Sequence[str], features: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.units = tuple(units)
        self.features = tuple(features)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to the features."""
        outputs = []
        for path in self.units:
            x = self.model.get_submodule(path)(x)
            if path in self.features:
                outputs.append(x)
        return outputs


def make_backbone(
    name: str, weights: str | Path | None, freeze_bn: bool | None, freeze_stem: bool | None
) -> tuple[Backbone, LoadedWeights]:
    """Build backbone `name`, load `weights`, and say what was loaded.

    Args:
        name: of a torchvision classification model, else of a timm model.
        weights: None (random), "imagenet", a torchvision weight enum entry, or a file.
        freeze_bn: None freezes exactly where weights were given.
        freeze_stem: whether to fix everything up to stride 4; None as for `freeze_bn`.

    Raises:
        ValueError: if no such backbone or weights exist, if the backbone has no features at strides
            8, 16 and 32, or if the weights do not fit.
        FileNotFoundError: if `weights` is a file name and there is no such file.
        ImportError: if the model is timm's and timm is not installed.
    """
    file = weight_file(weights)
    body: nn.Module
    if name in list_models(module=torchvision.models):
        body, stem, channels = _torchvision_features(name)
        if weights is None:
            loaded = LoadedWeights("random")
        elif file is not None:
            loaded = load(body.model, read(file), str(file))
        else:
            loaded = load(body.model, *download(name, str(weights)))
    else:
        body, stem, channels, loaded = _timm_features(name, file or weights)
    if weights is not None if freeze_stem is None else freeze_stem:
        for module in stem:
            module.requires_grad_(False)
    freeze_bn = weights is not None if freeze_bn is None else freeze_bn
    return Backbone(body, channels, freeze_bn), loaded


def _torchvision_features(name: str) -> tuple[Chain, list[nn.Module], list[int]]:
    """A torchvision model with random weights as a chain, its stem, its features' channels."""
    model = get_model(name, weights=None)
    outputs: dict[str, tuple[Tensor, Tensor]] = {}  # and a copy, before the model may change it
    last: dict[int, str] = {}  # stride -> the module that put it out last

    def record(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and _is_map(output):
                stride = PROBE // output.shape[2]
                before = last.get(stride, "")
                passes_on = before.startswith(path + ".") and output is outputs[before][0]
                if not passes_on and LAST.get(name, {}).get(stride, path) == path:
                    last[stride] = path
                    outputs[path] = output, output.clone()

        return hook

    # Only what a chain of blocks passes on: the inside of a block is no feature of the model.
    hooks = [
        module.register_forward_hook(record(path))
        for path, module in model.named_modules()
        if path and all(isinstance(model.get_submodule(p), nn.Sequential) for p in _parents(path))
    ]
    _probe(name, model)
    for hook in hooks:
        hook.remove()
    _require_strides(name, last)
    features = [last[stride] for stride in STRIDES]
    units = _units(model, [last[STEM_STRIDE], *features])
    chain = Chain(model, units, features)
    for path, got in zip(features, _probe(name, chain), strict=True):
        if not torch.equal(got, outputs[path][1]):
            raise ValueError(f"backbone {name!r} is no plain chain of blocks up to {path}")
    stem = [model.get_submodule(path) for path in units[: units.index(last[STEM_STRIDE]) + 1]]
    return chain, stem, [outputs[path][1].shape[1] for path in features]


def _units(model: nn.Module, features: Sequence[str]) -> list[str]:
    """Paths of the modules that lead to the last of `features`; removes all others from `model`."""
    around = {parent for path in features for parent in _parents(path)}
    units: list[str] = []

    def visit(module: nn.Module, prefix: str) -> None:
        for key, child in list(module.named_children()):
            path = prefix + key
            if path in around:
                visit(child, path + ".")
            elif features[-1] in units:
                del module._modules[key]
            else:
                units.append(path)

    visit(model, "")
    return units


def _timm_features(
    name: str, weights: str | Path | None
) -> tuple[nn.Module, list[nn.Module], list[int], LoadedWeights]:
    """A timm feature extractor, its stem, its features' channels, and what it loaded."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"backbone {name!r} is not torchvision's; for timm's: pip install scalewise[timm]"
        ) from error
    if not timm.is_model(name):
        raise ValueError(f"unknown backbone {name!r}: neither a torchvision nor a timm model")
    if not (weights is None or isinstance(weights, Path) or weights == "imagenet"):
        raise ValueError(f"timm backbone {name!r} takes weights None, 'imagenet' or a file")
    maps: list[Tensor] = _probe(name, timm.create_model(name, features_only=True))
    at = {PROBE // x.shape[2]: i for i, x in enumerate(maps) if _is_map(x)}
    _require_strides(name, at)
    body: nn.Module = timm.create_model(
        name,
        features_only=True,
        out_indices=[at[stride] for stride in STRIDES],
        pretrained=weights is not None,
        pretrained_cfg_overlay={"file": str(weights)} if isinstance(weights, Path) else None,
    )
    stem: nn.Module = timm.create_model(name, features_only=True, out_indices=[at[STEM_STRIDE]])
    shared = [body.get_submodule(path) for path, m in stem.named_modules() if not [*m.children()]]
    channels = [maps[at[stride]].shape[1] for stride in STRIDES]
    if weights is None:
        loaded = LoadedWeights("random")
    elif isinstance(weights, Path):
        # timm passes over what does not fit; the model's own names, of which a feature extractor's
        # may differ, tell what did
        loaded = load(timm.create_model(name, num_classes=0), read(weights), str(weights))
    else:
        loaded = LoadedWeights(f"timm {name} {weights}", len(body.state_dict()))
    return body, shared, channels, loaded


def _probe_image() -> Tensor:
    # Not black, or a module left out might go unnoticed; not random, or it would cost a draw.
    return torch.linspace(-1, 1, 3 * PROBE * PROBE).view(1, 3, PROBE, PROBE)


def _probe(name: str, model: nn.Module) -> Any:
    """The output of `model` for one image."""
    try:
        with torch.no_grad():
            return model.eval()(_probe_image())
    except (AssertionError, RuntimeError) as error:  # a fixed input size, as in transformers
        raise ValueError(f"backbone {name!r} does not take {PROBE} px images: {error}") from error


def _require_strides(name: str, found: dict[int, Any]) -> None:
    for stride in (STEM_STRIDE, *STRIDES):
        if stride not in found:
            raise ValueError(f"backbone {name!r} has no feature map at stride {stride}")


def _is_map(x: Tensor) -> bool:
    """Whether x is a map [B, C, H, H] rather than channels last or pooled away."""
    return x.dim() == 4 and x.shape[2] == x.shape[3] > 1


def _parents(path: str) -> list[str]:
    """The paths of the modules around module `path`, the model itself left out."""
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
