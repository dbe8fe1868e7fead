"""Features of timm's models."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from scalewise.lab.detectors.backbone_probe import (
    PROBE,
    STEM_STRIDE,
    STRIDES,
    is_map,
    probe,
    require_strides,
)
from scalewise.lab.detectors.weights import LoadedWeights, load, read


def timm_features(
    name: str, weights: str | Path | None
) -> tuple[nn.Module, list[nn.Module], list[int], LoadedWeights]:
    """A timm feature extractor, its stem, the channels of its features, and what it loaded."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"torchvision has no backbone {name!r}; for those of timm: pip install scalewise[timm]"
        ) from error
    if not timm.is_model(name):
        raise ValueError(f"unknown backbone {name!r}: neither a torchvision nor a timm model")
    if not (weights is None or isinstance(weights, Path) or weights == "imagenet"):
        raise ValueError(f"timm backbone {name!r} takes weights None, 'imagenet' or a file")
    maps: list[Tensor] = probe(name, timm.create_model(name, features_only=True))
    at = {PROBE // x.shape[2]: i for i, x in enumerate(maps) if is_map(x)}
    require_strides(name, at)
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
        # timm skips without a word what does not fit. The names in the whole model tell what fits;
        # those in a feature extractor may differ.
        loaded = load(timm.create_model(name, num_classes=0), read(weights), str(weights))
    else:
        loaded = LoadedWeights(f"timm {name} {weights}", len(body.state_dict()))
    return body, shared, channels, loaded
