"""Charts of each group during a run: loss, variance, weight, action and policy."""

from __future__ import annotations

import numpy as np

from scalewise.lab.report.figure import figure_html, number
from scalewise.lab.report.group_course import group_figure
from scalewise.lab.report.markup import (
    Html,
    Section,
    Table,
    absent,
    choice,
    heading,
    join,
    paragraph,
    searchable,
    table,
)
from scalewise.lab.report.policy import policy_figure
from scalewise.lab.report.smoothing import block_losses
from scalewise.lab.report.subjects import Comparison, ReportRun, common_kind
from scalewise.lab.report.trace_series import GroupTrace, read_groups
from scalewise.lab.training.kinds import percent

POINTS = 400  # points of a line, at most
ALL_POINTS = 9600  # points of a line over all shown runs, so that the page stays small
ALL_RUNS = 24  # with more runs than this, only the first seed of each series is shown


def shown_runs(comparison: Comparison) -> list[ReportRun]:
    """The runs whose traces are drawn: all if they are few, else the first seed of each series.

    The baseline comes last, since its weights are the least interesting.
    """
    ordered = sorted(comparison.series, key=lambda series: series.label == comparison.baseline)
    if len(comparison.runs) > ALL_RUNS:
        return [series.runs[0] for series in ordered]
    seeds = range(max(len(series.runs) for series in ordered))
    return [s.runs[seed] for seed in seeds for s in ordered if seed < len(s.runs)]


def selection_note(comparison: Comparison) -> Html:
    """Says which runs a section shows; empty for a single run."""
    if len(comparison.runs) == 1:
        return Html("")
    if len(comparison.runs) <= ALL_RUNS:
        return paragraph("One run at a time; pick another from the list.")
    return paragraph(
        f"One run at a time, the first seed of each scheme: the study has {len(comparison.runs)} "
        "runs, too many for one page. To see others, make a report of their run folders."
    )


def groups_section(comparisons: list[Comparison]) -> Section:
    """Loss, variance and weight of each group over the steps, drawn actions and policy."""
    points = max(100, min(POINTS, ALL_POINTS // sum(len(shown_runs(c)) for c in comparisons)))
    parts: list[Html] = []
    for comparison in comparisons:
        if len(comparisons) > 1:
            parts.append(heading(comparison.title))
        parts.append(selection_note(comparison))
        options = [
            (run.label, _of_run(run, f"{comparison.key}-groups-{i}", points))
            for i, run in enumerate(shown_runs(comparison))
        ]
        parts.append(choice(f"{comparison.key}-groups", "Run:", options))
    title = f"What happened to each {common_kind(comparisons).one}"
    return Section("groups", title, join(parts))


def _of_run(run: ReportRun, identity: str, points: int) -> Html:
    trace = read_groups(run.folder)
    if trace is None:
        return absent(
            f"{run.label} has no trace.parquet, or an empty one, so the losses of its "
            f"{run.kind.many} are not shown."
        )
    parts = [figure_html(group_figure(run, trace, identity, points))]
    parts.append(_all_groups(run, trace, f"{identity}-all"))
    if trace.probabilities:
        parts.append(figure_html(policy_figure(run, trace, f"{identity}-policy", points)))
    else:
        parts.append(
            absent(f"The scheme {run.config.scheme} draws no actions, so it has no policy to show.")
        )
    return join(parts)


def _all_groups(run: ReportRun, trace: GroupTrace, identity: str) -> Html:
    """The table of all groups, with a search box if the charts show only some of them."""
    caption = f"{run.label}: all {len(trace.groups)} {run.kind.many}, over the whole run"
    content = table(all_groups_table(run, trace), caption)
    if len(trace.shown) == len(trace.groups):
        return content
    return searchable(identity, f"Find a {run.kind.one}:", content)


def all_groups_table(run: ReportRun, trace: GroupTrace) -> Table:
    """A table with a row for each group, most positives first; with the final AP for classes."""
    means, weights = block_losses(trace, np.array([0]))[0], trace.weights.mean(0)
    count = len(trace.groups)
    shares = np.full(count, np.nan)
    if trace.positives is not None:
        shares = trace.positives.sum(0) / max(float(trace.positives.sum()), 1.0)
    header = [run.kind.one, "share of the positives"]
    header += ["mean loss per positive" if trace.per_positive else "mean loss"]
    header += ["mean weight", "final weight"]
    classes = run.config.by == "class"
    rows = []
    for i in np.argsort(-np.nan_to_num(shares), kind="stable"):
        share = "-" if np.isnan(shares[i]) else f"{100 * shares[i]:.2f} %"
        row = [trace.groups[i], share, number(means[i]), number(weights[i])]
        row.append(number(float(trace.weights[-1, i])))
        if classes:
            row.append(percent(run.last.get(f"AP/{trace.groups[i]}", np.nan)))
        rows.append(row)
    return Table(header + (["AP at the end"] if classes else []), rows)
