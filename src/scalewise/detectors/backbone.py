"""Backbones: features at strides 8, 16 and 32 from torchvision or timm models."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.feature_extraction import create_feature_extractor

STRIDES = (8, 16, 32)
FILE_SUFFIXES = (".pth", ".pt", ".safetensors")
# Where not the last module of a stride is wanted: MobileNetV2's final 1x1 convolution serves its
# classifier and would quadruple the channels that the pyramid reads.
NODES = {"mobilenet_v2": {32: "features.17"}}
PROBE = 128  # side of the image, in pixels, that finds a model's strides


@dataclass(frozen=True)
class LoadedWeights:
    """What weights a backbone started from.

    Attributes:
        source: file, weight enum entry, or "random".
        matched: number of tensors loaded.
        missing: tensors of the backbone that the source did not have; they stay random.
        unexpected: tensors of the source that the backbone does not use, such as its classifier.
    """

    source: str
    matched: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.source == "random":
            return "backbone weights: random initialisation"
        return (
            f"backbone weights: {self.source}: {self.matched} tensors loaded, "
            f"{len(self.missing)} missing{_some(self.missing)}, "
            f"{len(self.unexpected)} unused{_some(self.unexpected)}"
        )


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


class Backbone(nn.Module):
    """Features [B, C_i, H / s_i, W / s_i] at strides 8, 16 and 32 of images [B, 3, H, W].

    Args:
        body: maps images to three features, as a list or as a dictionary in order.
        channels: of the three features.
        freeze_bn: keep BatchNorm in evaluation mode and its parameters fixed.
    """

    def __init__(self, body: nn.Module, channels: Sequence[int], freeze_bn: bool) -> None:
        super().__init__()
        self.body = body
        self.channels = tuple(channels)
        self.freeze_bn = freeze_bn
        if freeze_bn:
            for module in self._batch_norms():
                module.requires_grad_(False)
        self.train(self.training)

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
        features = self.body(images)
        return list(features.values() if isinstance(features, Mapping) else features)


def make_backbone(
    name: str, weights: str | Path | None, freeze_bn: bool | None
) -> tuple[Backbone, LoadedWeights]:
    """Build backbone `name`, load `weights`, and say what was loaded.

    Args:
        name: of a torchvision classification model, else of a timm model.
        weights: None (random), "imagenet", a torchvision weight enum entry, or a file.
        freeze_bn: None freezes exactly where weights were given.

    Raises:
        ValueError: if no such backbone or weights exist, if the backbone has no features at strides
            8, 16 and 32, or if the weights do not fit.
        FileNotFoundError: if `weights` is a file name and there is no such file.
        ImportError: if the model is timm's and timm is not installed.
    """
    file = _weight_file(weights)
    if name in list_models(module=torchvision.models):
        body, channels = _torchvision_features(name)
        if weights is None:
            loaded = LoadedWeights("random")
        elif file is not None:
            loaded = _load(body, _read(file), str(file))
        else:
            loaded = _load(body, *_download(name, str(weights)))
    else:
        body, channels, loaded = _timm_features(name, file or weights)
    freeze = weights is not None if freeze_bn is None else freeze_bn
    return Backbone(body, channels, freeze), loaded


def _torchvision_features(name: str) -> tuple[nn.Module, list[int]]:
    """A torchvision model cut down to its features, with random weights, and their channels."""
    model = get_model(name, weights=None)
    last: dict[int, tuple[str, int]] = {}  # stride -> module that put it out last, its channels

    def record(module_name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and _square(output):
                stride = PROBE // output.shape[2]
                if NODES.get(name, {}).get(stride, module_name) == module_name:
                    last[stride] = (module_name, output.shape[1])

        return hook

    # Only what a chain of blocks passes on: the inside of a block is no feature of the model.
    hooks = [
        module.register_forward_hook(record(path))
        for path, module in model.named_modules()
        if path and all(isinstance(model.get_submodule(p), nn.Sequential) for p in _parents(path))
    ]
    _probe(name, model)
    for handle in hooks:
        handle.remove()
    if missing := [stride for stride in STRIDES if stride not in last]:
        raise ValueError(f"backbone {name!r} has no feature map at stride {missing[0]}")
    nodes = {last[stride][0]: str(stride) for stride in STRIDES}
    body: nn.Module = create_feature_extractor(model.train(), return_nodes=nodes)
    return body, [last[stride][1] for stride in STRIDES]


def _probe(name: str, model: nn.Module) -> Any:
    """The output of `model` for one black image."""
    try:
        with torch.no_grad():
            return model.eval()(torch.zeros(1, 3, PROBE, PROBE))
    except (AssertionError, RuntimeError) as error:  # a fixed input size, as in transformers
        raise ValueError(f"backbone {name!r} does not take {PROBE} px images: {error}") from error


def _square(x: Tensor) -> bool:
    """Whether x is a map [B, C, H, H] rather than channels last or pooled away."""
    return x.shape[2] == x.shape[3] > 1


def _parents(path: str) -> list[str]:
    """The paths of the modules around module `path`, the model itself left out."""
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _timm_features(
    name: str, weights: str | Path | None
) -> tuple[nn.Module, list[int], LoadedWeights]:
    """A timm feature extractor, the channels of its features, and what it loaded."""
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
    probed: list[Tensor] = _probe(name, timm.create_model(name, features_only=True))
    at = {PROBE // x.shape[2]: i for i, x in enumerate(probed) if _square(x)}
    if missing := [stride for stride in STRIDES if stride not in at]:
        raise ValueError(f"backbone {name!r} has no feature map at stride {missing[0]}")
    overlay = {"file": str(weights)} if isinstance(weights, Path) else None
    body: nn.Module = timm.create_model(
        name,
        features_only=True,
        out_indices=[at[stride] for stride in STRIDES],
        pretrained=weights is not None,
        pretrained_cfg_overlay=overlay,
    )
    channels = [probed[at[stride]].shape[1] for stride in STRIDES]
    if weights is None:
        return body, channels, LoadedWeights("random")
    # timm itself refuses a file that does not fill the model
    return body, channels, LoadedWeights(f"timm {name} {weights}", len(body.state_dict()))


def _weight_file(weights: str | Path | None) -> Path | None:
    """`weights` as a path if it names a file; raises FileNotFoundError if there is none."""
    if weights is None or (isinstance(weights, str) and not weights.endswith(FILE_SUFFIXES)):
        return None
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"backbone weights: no file {path}")
    if path.suffix not in FILE_SUFFIXES:
        raise ValueError(f"backbone weights {path}: expected one of {', '.join(FILE_SUFFIXES)}")
    return path


def _download(name: str, entry: str) -> tuple[Mapping[str, Any], str]:
    """State dictionary and name of a torchvision weight enum entry."""
    known = get_model_weights(name)
    key = "DEFAULT" if entry == "imagenet" else entry
    if key not in known.__members__:
        raise ValueError(
            f"backbone {name!r} has no weights {entry!r}: use a file ({', '.join(FILE_SUFFIXES)}), "
            f"'imagenet' or one of {', '.join(known.__members__)}"
        )
    return known[key].get_state_dict(progress=False, check_hash=True), str(known[key])


def _read(file: Path) -> Mapping[str, Any]:
    """The state dictionary of a file, also one nested under "state_dict" or "model"."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    state = torch.load(file, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise ValueError(f"backbone weights {file}: expected a dictionary of tensors")
    return state


def _load(body: nn.Module, state: Mapping[str, Any], source: str) -> LoadedWeights:
    """Load what fits by name; refuse when nothing does or when a shape differs."""
    wanted = body.state_dict()
    matched = {key: state[key] for key in wanted if key in state}
    if not matched:
        raise ValueError(
            f"backbone weights {source}: none of its {len(state)} tensors{_some(list(state))} is "
            f"among those of the backbone{_some(list(wanted))}; are they of another model?"
        )
    for key, value in matched.items():
        if not isinstance(value, Tensor) or value.shape != wanted[key].shape:
            raise ValueError(
                f"backbone weights {source}: {key} should be a tensor of shape "
                f"{tuple(wanted[key].shape)}, got {tuple(getattr(value, 'shape', ()))}"
            )
    loaded = LoadedWeights(
        source,
        len(matched),
        tuple(key for key in wanted if key not in state),
        tuple(key for key in state if key not in wanted),
    )
    if loaded.missing:
        warnings.warn(f"{loaded}; the missing ones stay random", stacklevel=4)
    body.load_state_dict(matched, strict=False)
    return loaded
