"""Rebuild the tables and figures of `results/` from the records of its studies.

python benchmarks/results.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from overview import write_overview

from scalewise.report.figure import name_lines
from scalewise.study.comparisons import MetricTable, study_tables
from scalewise.study.images import image_bootstrap
from scalewise.study.records import StudyRecords, load_study
from scalewise.study.tables import write_tables
from scalewise.training.picture import level_color, level_losses
from scalewise.training.trace import read_trace

POINTS = 100.0
SEED_COLOR, INTERVAL_COLOR = "#9a9a9a", "#0b62a8"


def draw_differences(study: StudyRecords, path: Path) -> None:
    """One row a detector and scheme: each seed's difference, the mean and Student's interval."""
    tables = [t for t in study_tables(study, ["AP"]) if t.differences]
    rows = [(table, found) for table in tables for found in table.differences if found.seeds]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.5 * len(rows)), layout="constrained")
    for place, (table, found) in enumerate(rows):
        axes.scatter(
            POINTS * seed_differences(study, table, found.scheme), [place] * len(found.seeds),
            s=16, color=SEED_COLOR, zorder=2,
        )  # fmt: skip
        if found.t_interval is not None:
            axes.plot(POINTS * np.array(found.t_interval), [place] * 2, color=INTERVAL_COLOR, lw=2)
        axes.plot([POINTS * found.difference], [place], "o", color=INTERVAL_COLOR, zorder=3)
    axes.axvline(0, color="black", lw=0.8)
    labels = ["\n".join(name_lines(f"{t.detector}  {f.scheme}")) for t, f in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(
        f"AP minus {study.plan.baseline}, points: each seed (grey), mean, 95 % interval (blue)"
    )
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def seed_differences(study: StudyRecords, table: MetricTable, scheme: str) -> np.ndarray:
    """Scheme minus baseline for each seed that has both, in 0..1."""
    values = {
        (r.scheme, r.seed): r.metrics["AP"] for r in study.records if r.detector == table.detector
    }
    base = study.plan.baseline
    return np.array(
        [
            values[scheme, k] - values[base, k]
            for k in study.plan.seeds
            if (scheme, k) in values and (base, k) in values
        ]
    )


def draw_shares(study: StudyRecords, path: Path) -> None:
    """Each level's share of loss, positives and squared gradient norm, under the baseline."""
    detectors = study.plan.detectors
    figure, all_axes = plt.subplots(
        1, len(detectors), figsize=(4 * len(detectors) + 1, 3), layout="constrained", squeeze=False
    )
    for detector, axes in zip(detectors, all_axes[0], strict=True):
        draw_detector_shares(study, detector, axes)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def draw_detector_shares(study: StudyRecords, detector: str, axes: Axes) -> None:
    shares = level_shares(study, detector)
    for place, values in enumerate(shares.values()):
        left = 0.0
        for level, share in enumerate(values):
            axes.barh(place, share, left=left, color=level_color(level))
            if share > 0.05:
                axes.text(
                    left + share / 2, place, f"P{level + 3}\n{share:.0%}",
                    ha="center", va="center", color="white", fontsize=8,
                )  # fmt: skip
            left += share
    axes.set_yticks(range(len(shares)), list(shares))
    axes.invert_yaxis()
    axes.set_title(f"{detector}, {study.plan.baseline}", fontsize=10)
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))


def level_shares(study: StudyRecords, detector: str) -> dict[str, np.ndarray]:
    """Mean shares over the baseline's runs, by quantity: [levels] each."""
    folders = [
        r.folder for r in study.records if (r.detector, r.scheme) == (detector, study.plan.baseline)
    ]
    losses, positives, gradients = [], [], []
    for folder in folders:
        trace = read_trace(folder / "trace.parquet")
        names = [n.removeprefix("weight/") for n in trace.column_names if n.startswith("weight/")]
        losses.append([level_losses(trace, name).mean() for name in names])
        positives.append([trace[f"positives/{name}"].to_numpy().mean() for name in names])
        if (folder / "gradients.parquet").is_file():
            table = pq.read_table(folder / "gradients.parquet")
            gradients.append([table[f"gram/{n}/{n}"].to_numpy().mean() for n in names])
    found = {"loss": losses, "positives": positives, "gradient²": gradients}
    sums = {name: np.mean(rows, axis=0) for name, rows in found.items() if rows}
    return {name: values / values.sum() for name, values in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    results = parser.parse_args().results
    folders = [plan.parent for plan in sorted(results.glob("*/study.yaml"))]
    studies = [load_study(folder) for folder in folders]
    for study, folder in zip(studies, folders, strict=True):
        written = write_tables(study, folder, images=image_bootstrap(study))
        draw_differences(study, folder / "differences.png")
        draw_shares(study, folder / "shares.png")
        print(f"{folder.name}: {len(study.records)} runs, {', '.join(p.name for p in written)}")
    write_overview([(f.name, s) for f, s in zip(folders, studies, strict=True)], results)


if __name__ == "__main__":
    main()
