"""The runs and studies that a report is about, as data classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scalewise.lab.study.records import StudyRecords
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.kinds import GROUP, Kind, kind_of


@dataclass(frozen=True)
class ReportRun:
    """A run and its records.

    Attributes:
        label: Name of the run in the report.
        folder: The run folder.
        config: Its options.
        environment: Content of `environment.json`, such as versions, classes and the command;
            empty if the file is absent.
        metrics: Content of `metrics.json`; empty if the file is absent.
    """

    label: str
    folder: Path
    config: TrainConfig
    environment: dict[str, Any]
    metrics: dict[str, Any]

    @cached_property
    def last(self) -> dict[str, float]:
        """Metrics of the last epoch, NaN where undefined; empty before the first epoch ends."""
        return _numbers(self.metrics.get("last") or {})

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """Metrics of every validated epoch."""
        return [_numbers(epoch) for epoch in self.metrics.get("history") or []]

    @property
    def kind(self) -> Kind:
        """The word for its groups, such as level or class."""
        return kind_of(self.config.by)

    @property
    def status(self) -> str:
        """The status of the run, such as "finished"."""
        return str(self.metrics.get("status", "no metrics.json"))


@dataclass(frozen=True)
class Series:
    """The runs of a scheme, one for each seed; a chart shows them as one line or colour.

    Attributes:
        label: A scheme of a study, or the name of a run.
        runs: At least one run, in the order of the seeds.
        style: Colour, symbol and dash in charts.
    """

    label: str
    runs: Sequence[ReportRun]
    style: tuple[str, str, str]

    def values(self, metric: str) -> list[float]:
        """The metric at the last epoch, for each run that has it; AP is in 0..1."""
        found = [run.last.get(metric, math.nan) for run in self.runs]
        return [value for value in found if not math.isnan(value)]


@dataclass(frozen=True)
class Comparison:
    """Series that are shown side by side.

    Attributes:
        title: Title in the report.
        key: Prefix of the HTML ids of the charts.
        series: At least one series.
        baseline: Label of the series that the others are compared with; None without one.
        detector: The detector of a study; None for runs that were named one by one.
        study: The study; None for runs that were named one by one.
        folder: The study's folder.
    """

    title: str
    key: str
    series: Sequence[Series]
    baseline: str | None = None
    detector: str | None = None
    study: StudyRecords | None = None
    folder: Path | None = None

    @property
    def runs(self) -> list[ReportRun]:
        """All runs."""
        return [run for series in self.series for run in series.runs]


def common_kind(comparisons: Sequence[Comparison]) -> Kind:
    """The word for the groups of all runs; "group" if the runs have different kinds."""
    kinds = {run.kind for comparison in comparisons for run in comparison.runs}
    return kinds.pop() if len(kinds) == 1 else GROUP


def _numbers(epoch: dict[str, Any]) -> dict[str, float]:
    return {k: math.nan if v is None else float(v) for k, v in epoch.items()}
