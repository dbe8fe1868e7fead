"""Dynamic loss weights for the levels of multi-scale object detectors.

Attributes load on first use, so that importing the package (and `scalewise --help`) costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalewise import detectors as detectors
    from scalewise.weighting import (
        AVW as AVW,
        DWA as DWA,
        RLO as RLO,
        CoV as CoV,
        Equal as Equal,
        InverseLoss as InverseLoss,
        LossBalancer as LossBalancer,
        Moments as Moments,
        RandomWeights as RandomWeights,
        Scheme as Scheme,
        Static as Static,
        Uncertainty as Uncertainty,
    )

__version__ = "0.1.0"

_WEIGHTING = (
    "AVW", "CoV", "DWA", "Equal", "InverseLoss", "LossBalancer", "Moments", "RLO",
    "RandomWeights", "Scheme", "Static", "Uncertainty",
)  # fmt: skip
_MODULES = ("detectors", "weighting")


def __getattr__(name: str) -> Any:
    if name in _WEIGHTING:
        return getattr(importlib.import_module("scalewise.weighting"), name)
    if name in _MODULES:
        return importlib.import_module(f"scalewise.{name}")
    raise AttributeError(f"module 'scalewise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WEIGHTING, *_MODULES])
