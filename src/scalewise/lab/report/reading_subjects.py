"""Reads runs and studies for a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scalewise.errors import UsageError
from scalewise.lab.report.figure import series_style
from scalewise.lab.report.subjects import Comparison, ReportRun, Series
from scalewise.lab.study.records import load_study
from scalewise.lab.training.run_metrics import load_metrics
from scalewise.lab.training.run_options import load_config
from scalewise.lab.training.runs import RunError, load_json


def require_subjects(paths: Sequence[Path]) -> None:
    """Check that all folders are runs or studies.

    Raises:
        RunError: a folder is neither; the message names the first one.
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
        baseline: Scheme to compare with; None takes the baseline of each study.

    Returns:
        A comparison for each detector of each study, then one of the single runs.

    Raises:
        UsageError: a study, or the single runs, do not have the baseline.
        RunError: a folder is neither a run nor a study, or a study has no finished run.
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
    """Read a run folder; an absent file is left out, a damaged one is an error."""
    present = (folder / "environment.json").is_file()
    environment = load_json(folder / "environment.json") if present else {}
    metrics = load_metrics(folder) if (folder / "metrics.json").is_file() else {}
    if not isinstance(environment, dict):
        raise RunError(f"{folder / 'environment.json'} is damaged: it is not a JSON object")
    return ReportRun(label, folder, load_config(folder), environment, metrics)
