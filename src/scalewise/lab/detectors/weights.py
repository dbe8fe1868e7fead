"""Pretrained weights of backbones: where they come from, and which of them fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

FILE_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class LoadedWeights:
    """The weights from which a backbone started.

    Attributes:
        source: file, weight enum entry, or "random".
        matched: number of tensors loaded.
        missing: tensors of the backbone that the source did not have; they stay random.
        unexpected: tensors of the source that the backbone does not use, such as its classifier.

    Examples:
        >>> import scalewise as sw
        >>> print(sw.detectors.atss("mobilenet_v3_small", num_classes=3, width=16, depth=1).loaded)
        backbone weights: random initialisation
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


def weight_file(weights: str | Path | None) -> Path | None:
    """`weights` as a path if it names a file; raises FileNotFoundError if there is none."""
    if weights is None or (isinstance(weights, str) and not weights.endswith(FILE_SUFFIXES)):
        return None
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"backbone weights: no file {path}")
    if path.suffix not in FILE_SUFFIXES:
        raise ValueError(f"backbone weights {path}: expected one of {', '.join(FILE_SUFFIXES)}")
    return path


def download(name: str, entry: str) -> tuple[Mapping[str, Any], str]:
    """State dictionary and name of a torchvision weight enum entry."""
    known = get_model_weights(name)
    key = "DEFAULT" if entry == "imagenet" else entry
    if key not in known.__members__:
        raise ValueError(
            f"backbone {name!r} has no weights {entry!r}: use a file ({', '.join(FILE_SUFFIXES)}), "
            f"'imagenet' or one of {', '.join(known.__members__)}"
        )
    found = known[key]
    try:
        return found.get_state_dict(progress=False, check_hash=True), str(found)
    except OSError as error:
        raise OSError(
            f"its weights cannot be downloaded ({getattr(error, 'reason', error)}); fetch "
            f"{found.url} on another machine, and name that file instead of {entry!r}"
        ) from None


def read(file: Path) -> Mapping[str, Any]:
    """The state dictionary of a file; it may be nested under "state_dict" or "model"."""
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


def load(body: nn.Module, state: Mapping[str, Any], source: str) -> LoadedWeights:
    """Load the tensors whose names fit; raise ValueError if none fits or a shape differs."""
    wanted = body.state_dict()
    matched = {key: state[key] for key in wanted if key in state}
    if not matched:
        raise ValueError(
            f"backbone weights {source}: none of its {len(state)} tensors{_some(list(state))} is "
            f"among those of the backbone{_some(list(wanted))}; is the file for another model?"
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
