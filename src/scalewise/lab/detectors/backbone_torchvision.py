"""Features of torchvision's models, cut down to the modules that lead to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from scalewise.lab.detectors.backbone_probe import (
    PROBE,
    STEM_STRIDE,
    STRIDES,
    is_map,
    probe,
    require_strides,
)

# Models whose last module of a stride is not wanted: MobileNetV2's last 1x1 convolution is for its
# classifier, and would give the pyramid four times as many channels to read.
LAST = {"mobilenet_v2": {32: "features.17"}}


class Chain(nn.Module):
    """A model cut down to the modules that lead to its features, called one after the other.

    Unlike a graph of `torch.fx`, it keeps the mode of its modules when it is copied.

    Args:
        model: its submodules are used; names in the state dictionary start with `model.`.
        units: paths of the modules to call, in order.
        features: the members of `units` whose output is returned.
    """

    def __init__(self, model: nn.Module, units: Sequence[str], features: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.units = tuple(units)
        self.features = tuple(features)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features of images [B, 3, H, W]."""
        outputs = []
        for path in self.units:
            x = self.model.get_submodule(path)(x)
            if path in self.features:
                outputs.append(x)
        return outputs


def torchvision_features(name: str) -> tuple[Chain, list[nn.Module], list[int]]:
    """A torchvision model with random weights, as a chain; its stem; its features' channels."""
    model = get_model(name, weights=None)
    outputs: dict[str, tuple[Tensor, Tensor]] = {}  # the second is a copy: models change in place
    last: dict[int, str] = {}  # stride -> the last module that returned a map of it

    def record(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and is_map(output):
                stride = PROBE // output.shape[2]
                before = last.get(stride, "")
                passes_on = before.startswith(path + ".") and output is outputs[before][0]
                if not passes_on and LAST.get(name, {}).get(stride, path) == path:
                    last[stride] = path
                    outputs[path] = output, output.clone()

        return hook

    # only what blocks pass on to each other: what is inside a block is not a feature of the model
    hooks = [
        module.register_forward_hook(record(path))
        for path, module in model.named_modules()
        if path and all(isinstance(model.get_submodule(p), nn.Sequential) for p in _parents(path))
    ]
    probe(name, model)
    for hook in hooks:
        hook.remove()
    require_strides(name, last)
    features = [last[stride] for stride in STRIDES]
    units = _units(model, [last[STEM_STRIDE], *features])
    chain = Chain(model, units, features)
    for path, got in zip(features, probe(name, chain), strict=True):
        if not torch.equal(got, outputs[path][1]):
            raise ValueError(f"backbone {name!r} is not a plain chain of blocks up to {path}")
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


def _parents(path: str) -> list[str]:
    """The paths of the modules that contain module `path`, without the model itself."""
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
