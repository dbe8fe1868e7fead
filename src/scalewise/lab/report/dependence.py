"""Shows by shares and correlations whether groups are equally important and independent."""

from __future__ import annotations

import numpy as np

from scalewise.lab.report.correlations import (
    correlation,
    detrended,
    mean_cosine,
    pairwise_correlation,
)
from scalewise.lab.report.dependence_figures import matrix_figure, share_figure
from scalewise.lab.report.figure import figure_html
from scalewise.lab.report.group_charts import selection_note, shown_runs
from scalewise.lab.report.markup import Html, Section, absent, choice, heading, join, side_by_side
from scalewise.lab.report.subjects import Comparison, ReportRun, common_kind
from scalewise.lab.report.trace_series import Floats, GroupTrace, read_gradients, read_groups
from scalewise.lab.training.group_style import MOST
from scalewise.lab.training.kinds import Kind


def dependence_section(comparisons: list[Comparison]) -> Section:
    """Each group's shares and the correlations between groups, for one run at a time."""
    parts: list[Html] = []
    for comparison in comparisons:
        if len(comparisons) > 1:
            parts.append(heading(comparison.title))
        parts.append(selection_note(comparison))
        options = [
            (run.label, _of_run(run, f"{comparison.key}-dependence-{i}"))
            for i, run in enumerate(shown_runs(comparison))
        ]
        parts.append(choice(f"{comparison.key}-dependence", "Run:", options))
    many = common_kind(comparisons).many
    return Section("dependence", f"Are the {many} equally important, and independent?", join(parts))


def _of_run(run: ReportRun, identity: str) -> Html:
    trace = read_groups(run.folder)
    if trace is None:
        return absent(
            f"{run.label} has no trace.parquet, or an empty one, so there is nothing to compare."
        )
    gradients = read_gradients(run.folder, trace.groups)
    grams = None if gradients is None else gradients[1]
    notes = [*_silent(trace)]
    many = run.kind.many
    matrices = [
        matrix_figure(run, trace, f"{identity}-{name}", title, reading, matrix)
        for name, title, reading, matrix in _correlations(trace, run.kind)
    ]
    if grams is None:
        notes.append(
            absent(
                f"{run.label} has no gradients.parquet, so shares of the gradient norm and the "
                f"angles between the gradients of the {many} are not shown."
            )
        )
    else:
        matrices.append(
            matrix_figure(
                run,
                trace,
                f"{identity}-cosine",
                f"cosine between the {many}' gradients",
                f"1: the gradients of two {many} point the same way; below 0: against each other. "
                f"Mean of {len(grams)} measurements over the run.",
                mean_cosine(grams)[np.ix_(trace.shown, trace.shown)],
            )
        )
    return join(
        [
            figure_html(share_figure(run, trace, grams, f"{identity}-share")),
            *notes,
            side_by_side(matrices),
        ]
    )


def _silent(trace: GroupTrace) -> list[Html]:
    """Notes on missing positives: they were not recorded, or a group has none."""
    if trace.positives is None:
        return [absent("The trace does not hold positives, so their shares are not shown.")]
    silent = [
        group
        for group, count in zip(trace.groups, trace.positives.sum(0), strict=True)
        if count == 0
    ]
    if not silent:
        return []
    named = ", ".join(silent[:MOST])
    if len(silent) > MOST:
        named += f" and {len(silent) - MOST} more"
    effect = (
        "there is nothing to weigh there"
        if trace.per_positive
        else "the loss there is only that of recognising background"
    )
    return [absent(f"No object was assigned to {named} in any recorded step: {effect}.")]


def _correlations(trace: GroupTrace, kind: Kind) -> list[tuple[str, str, str, Floats]]:
    """Correlations of the losses with and without trend: identity, title, reading and matrix."""
    values = trace.compared[:, trace.shown]
    many = kind.many
    losses, steps = "losses", "All steps"
    relate = correlation
    if trace.per_positive:  # a rare group has no value at most steps
        losses, steps = "losses per positive", "All steps at which both have positives"
        relate = pairwise_correlation
    return [
        (
            "raw",
            f"correlation of the {losses}",
            f"1 (blue): the losses of two {many} rise and fall together; 0: independent; −1 (red): "
            f"one rises as the other falls. {steps}, so a common trend over the run counts too.",
            relate(values),
        ),
        (
            "detrended",
            "the same without the trend",
            f"The same after subtracting from each its moving average over 1/50 of the run: high "
            f"where the same batches are hard for both {many}.",
            relate(detrended(values)),
        ),
    ]
