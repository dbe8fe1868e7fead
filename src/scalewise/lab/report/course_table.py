"""The table beside the chart of losses and weights over a run."""

from __future__ import annotations

import numpy as np

from scalewise.lab.report.figure import number
from scalewise.lab.report.markup import Table
from scalewise.lab.report.smoothing import block_losses, block_means, blocks, interval_variance
from scalewise.lab.report.trace_series import Floats, GroupTrace

TABLE_ROWS = 10


def course_table(trace: GroupTrace, named: str) -> Table:
    """The values of the chart, as means over ten parts of the run."""
    starts = blocks(len(trace.steps), TABLE_ROWS)
    loss, weights = block_losses(trace, starts), block_means(trace.weights, starts)
    edges = trace.starts
    interval_means = interval_variance(trace)
    ends = [*starts[1:], len(trace.steps)]
    rows = []
    for b, (start, end) in enumerate(zip(starts, ends, strict=True)):
        inside = (edges >= start) & (edges < end)
        spread = np.array([_mean(column) for column in interval_means[inside].T])
        row = [f"{trace.steps[start]} to {trace.steps[end - 1]}"]
        row += [number(v) for values in (loss[b], spread, weights[b]) for v in values[trace.shown]]
        if trace.background is not None:
            row.append(number(_mean(trace.background[start:end])))
        if trace.drawn:
            row.append(_most_drawn(trace, [int(e) for e in edges[inside]]))
        rows.append(row)
    header = ["steps"] + [
        f"{what} {trace.groups[i]}" for what in (named, "variance", "weight") for i in trace.shown
    ]
    header += ["loss of the background"] if trace.background is not None else []
    return Table(header + (["most drawn"] if trace.drawn else []), rows)


def _most_drawn(trace: GroupTrace, edges: list[int]) -> str:
    drawn = [trace.drawn[e] for e in edges] if trace.drawn else []
    counts = {name: drawn.count(name) for name in trace.probabilities if name in drawn}
    if not counts:
        return "-"
    name = max(counts, key=lambda action: counts[action])
    return f"{name}, {counts[name]} of {len(drawn)}"


def _mean(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
