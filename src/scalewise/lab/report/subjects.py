"""What a report is about: the runs and studies that were named, in the order of their names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from scalewise.errors import UsageError
from scalewise.lab.report.figure import series_style
from scalewise.lab.study.records import StudyRecords, load_study
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.kinds import GROUP, Kind, kind_of
from scalewise.lab.training.runs import RunError, load_config, load_json, load_metrics


@dataclass(frozen=True)
class ReportRun:
    """A run as it lies on disk.

    Attributes:
        label: Names it in the report.
        folder: Its folder.
        config: Its options.
        environment: Its versions, classes and command; empty where the file is absent.
        metrics: What its `metrics.json` holds; empty where the file is absent.
    """

    label: str
    folder: Path
    config: TrainConfig
    environment: dict[str, Any]
    metrics: dict[str, Any]

    @cached_property
    def last(self) -> dict[str, float]:
        """Metrics of the last epoch, NaN where undefined; empty for a run without an epoch."""
        return _numbers(self.metrics.get("last") or {})

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """Metrics of every epoch."""
        return [_numbers(epoch) for epoch in self.metrics.get("history") or []]

    @property
    def kind(self) -> Kind:
        """What its groups are called."""
        return kind_of(self.config.by)

    @property
    def status(self) -> str:
        """How far the run came."""
        return str(self.metrics.get("status", "no metrics.json"))


@dataclass(frozen=True)
class Series:
    """What one line or colour of a chart stands for: the runs of a scheme over its seeds.

    Attributes:
        label: A scheme of a study, or the name of a run.
        runs: At least one, in the order of the seeds.
        style: Colour, symbol and dash.
    """

    label: str
    runs: Sequence[ReportRun]
    style: tuple[str, str, str]

    def values(self, metric: str) -> list[float]:
        """The metric of the last epoch of each run that has it, in 0..1 for AP."""
        found = [run.last.get(metric, math.nan) for run in self.runs]
        return [value for value in found if not math.isnan(value)]


@dataclass(frozen=True)
class Comparison:
    """Series that are shown side by side.

    Attributes:
        title: Names them.
        key: Starts the identities of their charts.
        series: At least one.
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
    """What the groups of all runs are called; "group" where they are not of one kind."""
    kinds = {run.kind for comparison in comparisons for run in comparison.runs}
    return kinds.pop() if len(kinds) == 1 else GROUP


def require_subjects(paths: Sequence[Path]) -> None:
    """Refuse folders that are no run and no study.

    Raises:
        RunError: naming the first.
    """
    for path in paths:
        if not any((path / name).is_file() for name in ("study.yaml", "config.yaml")):
            raise RunError(
                f"{path} is neither a run nor a study: it has no config.yaml and no study.yaml"
            )


def load_subjects(paths: Sequence[Path], baseline: str | None) -> list[Comparison]:
    """Read runs and studies.

    Args:
        paths: Run folders and study folders; the runs become one comparison.
        baseline: Scheme to compare with; a study's own when None.

    Returns:
        One comparison a detector of each study, then one of the runs.

    Raises:
        UsageError: when a study does not have the baseline.
        RunError: when a folder is neither, or holds no finished run.
    """
    found: list[Comparison] = []
    singles: list[Path] = []
    require_subjects(paths)
    for path in dict.fromkeys(paths):
        if (path / "study.yaml").is_file():
            found += _of_study(path, baseline, len(found))
        else:
            singles.append(path)
    if singles:
        found.append(_of_runs(singles, baseline, len(found)))
    return found


def _of_study(folder: Path, baseline: str | None, number: int) -> list[Comparison]:
    study = load_study(folder)
    chosen = baseline or study.plan.baseline
    study = replace(study, plan=replace(study.plan, baseline=chosen))
    if chosen not in study.plan.schemes:
        raise UsageError(
            f"--baseline {chosen}: the study {folder} has the schemes "
            f"{', '.join(study.plan.schemes)}"
        )
    if not study.records:
        raise RunError(f"{folder} has no finished run yet: {len(study.missing)} are missing")
    found: list[Comparison] = []
    for detector in study.plan.detectors:
        groups: list[tuple[str, list[ReportRun]]] = []
        for scheme in study.plan.schemes:
            records = [r for r in study.records if r.detector == detector and r.scheme == scheme]
            runs = [
                _read_run(r.folder, f"{detector} {scheme} seed {r.seed}")
                for r in sorted(records, key=lambda record: record.seed)
            ]
            if runs:
                groups.append((scheme, runs))
        if groups:
            title = f"{folder.resolve().name}, {detector}"
            key = f"c{number + len(found)}"
            found.append(
                Comparison(title, key, _styled(groups, chosen), chosen, detector, study, folder)
            )
    return found


def _of_runs(folders: Sequence[Path], baseline: str | None, number: int) -> Comparison:
    names = [folder.resolve().name for folder in folders]
    labels = [
        name if names.count(name) == 1 else f"{folder.resolve().parent.name}/{name}"
        for name, folder in zip(names, folders, strict=True)
    ]
    labels = [
        label if labels.count(label) == 1 else str(folder)
        for label, folder in zip(labels, folders, strict=True)
    ]
    runs = [_read_run(f, label) for f, label in zip(folders, labels, strict=True)]
    equals = [run.label for run in runs if run.config.scheme == (baseline or "equal")]
    if baseline is not None and not equals:
        schemes = ", ".join(run.config.scheme for run in runs)
        raise UsageError(f"--baseline {baseline}: the runs have the schemes {schemes}")
    reference = equals[0] if len(equals) == 1 and len(runs) > 1 else None
    groups = [(run.label, [run]) for run in runs]
    title = "Runs" if len(runs) > 1 else runs[0].label
    return Comparison(title, f"c{number}", _styled(groups, reference), reference)


def _styled(groups: list[tuple[str, list[ReportRun]]], baseline: str | None) -> list[Series]:
    others = [label for label, _ in groups if label != baseline]
    return [
        Series(
            label,
            runs,
            series_style(others.index(label) if label in others else 0, label == baseline),
        )
        for label, runs in groups
    ]


def _read_run(folder: Path, label: str) -> ReportRun:
    """What lies in a run's folder; what is absent is left out, what is broken is an error."""
    present = (folder / "environment.json").is_file()
    environment = load_json(folder / "environment.json") if present else {}
    metrics = load_metrics(folder) if (folder / "metrics.json").is_file() else {}
    if not isinstance(environment, dict):
        raise RunError(f"{folder / 'environment.json'} is damaged: it holds no facts by name")
    return ReportRun(label, folder, load_config(folder), environment, metrics)


def _numbers(epoch: dict[str, Any]) -> dict[str, float]:
    return {k: math.nan if v is None else float(v) for k, v in epoch.items()}
