"""Dynamic loss weights for object detectors: by the class, size or level of the objects.

Attributes load on first use, so that importing the package (and `scalewise --help`) costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalewise import detectors as detectors
    from scalewise.api import compare as compare
    from scalewise.api import evaluate as evaluate
    from scalewise.api import inspect as inspect
    from scalewise.api import predict as predict
    from scalewise.api import train as train
    from scalewise.integrations.attach import attach as attach
    from scalewise.integrations.attach import detach as detach
    from scalewise.lab.replay.record import record as record
    from scalewise.weighting import (
        AVW as AVW,
    )
    from scalewise.weighting import (
        DWA as DWA,
    )
    from scalewise.weighting import (
        RLO as RLO,
    )
    from scalewise.weighting import (
        CoV as CoV,
    )
    from scalewise.weighting import (
        EffectiveNumber as EffectiveNumber,
    )
    from scalewise.weighting import (
        Equal as Equal,
    )
    from scalewise.weighting import (
        Given as Given,
    )
    from scalewise.weighting import (
        Grouping as Grouping,
    )
    from scalewise.weighting import (
        InverseLoss as InverseLoss,
    )
    from scalewise.weighting import (
        LossBalancer as LossBalancer,
    )
    from scalewise.weighting import (
        LossProportional as LossProportional,
    )
    from scalewise.weighting import (
        Moments as Moments,
    )
    from scalewise.weighting import (
        Permuted as Permuted,
    )
    from scalewise.weighting import (
        RandomWeights as RandomWeights,
    )
    from scalewise.weighting import (
        Scheme as Scheme,
    )
    from scalewise.weighting import (
        Share as Share,
    )
    from scalewise.weighting import (
        Static as Static,
    )
    from scalewise.weighting import (
        Uncertainty as Uncertainty,
    )
    from scalewise.weighting import (
        by_class as by_class,
    )
    from scalewise.weighting import (
        by_level as by_level,
    )
    from scalewise.weighting import (
        by_size as by_size,
    )
    from scalewise.weighting import (
        product as product,
    )
    from scalewise.weighting import (
        scale_gradients as scale_gradients,
    )
    from scalewise.weighting import (
        split_levels as split_levels,
    )
    from scalewise.weighting import (
        sum_groups as sum_groups,
    )
    from scalewise.weighting import (
        weigh_positives as weigh_positives,
    )

__version__ = "0.1.0"

_WEIGHTING = (
    "AVW", "CoV", "DWA", "EffectiveNumber", "Equal", "Given", "Grouping", "InverseLoss",
    "LossBalancer", "LossProportional", "Moments", "Permuted", "RLO", "RandomWeights", "Scheme",
    "Share", "Static", "Uncertainty",
)  # fmt: skip
_FUNCTIONS = {
    "attach": "scalewise.integrations.attach",
    "detach": "scalewise.integrations.attach",
    "compare": "scalewise.api",
    "evaluate": "scalewise.api",
    "inspect": "scalewise.api",
    "predict": "scalewise.api",
    "train": "scalewise.api",
    "record": "scalewise.lab.replay.record",
    "by_class": "scalewise.weighting",
    "by_level": "scalewise.weighting",
    "by_size": "scalewise.weighting",
    "product": "scalewise.weighting",
    "scale_gradients": "scalewise.weighting",
    "split_levels": "scalewise.weighting",
    "sum_groups": "scalewise.weighting",
    "weigh_positives": "scalewise.weighting",
}
_MODULES = ("detectors", "weighting")


def __getattr__(name: str) -> Any:
    if name in _WEIGHTING:
        return getattr(importlib.import_module("scalewise.weighting"), name)
    if name in _FUNCTIONS:
        try:
            return getattr(importlib.import_module(_FUNCTIONS[name]), name)
        except ModuleNotFoundError as error:
            missing = str(error.name).partition(".")[0]
            if missing == "scalewise":
                raise
            raise ImportError(
                f"scalewise.{name} needs the package {missing}: pip install {missing}"
            ) from None
    if name in _MODULES:
        return importlib.import_module(f"scalewise.{name}")
    raise AttributeError(f"module 'scalewise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WEIGHTING, *_FUNCTIONS, *_MODULES])
