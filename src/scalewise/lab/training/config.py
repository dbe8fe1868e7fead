"""All options of a training run, for the command line and for YAML.

No torch here: `scalewise train --help` must answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from scalewise.default import default_by, default_scheme
from scalewise.lab.training.option_groups import (
    By,
    DataOptions,
    DetectorOptions,
    OptimizerOptions,
    RunOptions,
    WeightingOptions,
)


@dataclass(kw_only=True)
class TrainConfig(RunOptions, OptimizerOptions, WeightingOptions, DetectorOptions, DataOptions):
    """All options of a run; see the option groups that it is made of.

    Examples:
        >>> from scalewise.lab.training.config import TrainConfig
        >>> config = TrainConfig(data="my-data", detector="fcos", epochs=24, seed=1)
        >>> config.by, config.scheme  # what is weighed, and how, where that is not said
        ('class', 'avw')
    """

    def __post_init__(self) -> None:
        """Put the defaults in place of "auto", so that records say what was done."""
        if self.by == "auto":
            self.by = cast(By, default_by(self.scheme))
        if self.scheme == "auto":
            self.scheme = default_scheme(self.by)


GROUPS = (DataOptions, DetectorOptions, WeightingOptions, OptimizerOptions, RunOptions)
