"""Compares every scheme of a study with the baseline, by detector and metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scalewise.errors import UsageError, UserError
from scalewise.lab.study.records import StudyRecords
from scalewise.lab.study.statistics import Difference, Summary, paired, summarize

METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@dataclass(frozen=True)
class MetricTable:
    """The comparison for one metric of one detector.

    Attributes:
        detector: name of the detector.
        metric: a key of the records' metrics.
        summaries: one for each planned scheme, including the baseline.
        differences: one for each planned scheme except the baseline.
    """

    detector: str
    metric: str
    summaries: list[Summary]
    differences: list[Difference]


def study_tables(study: StudyRecords, metrics: Sequence[str] = METRICS) -> list[MetricTable]:
    """Compare the schemes of a study, for each detector and each metric.

    Raises:
        UserError: no run is finished.
        UsageError: for a metric that no run has.
    """
    if not study.records:
        raise UserError("the study has no finished run, so there is nothing to compare")
    known = {name for record in study.records for name in record.metrics}
    unknown = [metric for metric in metrics if metric not in known]
    if unknown or not metrics:
        raise UsageError(f"no metric {', '.join(unknown) or 'named'}; there are: {sorted(known)}")
    return [
        _metric_table(study, detector, metric)
        for detector in study.plan.detectors
        for metric in metrics
    ]


def _metric_table(study: StudyRecords, detector: str, metric: str) -> MetricTable:
    values: dict[str, dict[int, float]] = {scheme: {} for scheme in study.plan.schemes}
    for record in study.records:
        if record.detector == detector:
            values[record.scheme][record.seed] = record.metrics.get(metric, math.nan)
    return MetricTable(detector, metric, summarize(values), paired(values, study.plan.baseline))


def class_metrics(study: StudyRecords) -> list[str]:
    """Names of all metrics "AP/<class>" that at least one run has."""
    names = (name for record in study.records for name in record.metrics)
    return list(dict.fromkeys(name for name in names if name.startswith("AP/")))
