"""Make the tables and figures of `results/` again from the runs.csv of its studies.

Raw records are used too, if they were brought back (see results/README.md).

python benchmarks/results.py
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
from kept import kept_study
from matplotlib.axes import Axes
from overview import write_overview

from scalewise.files import write_text
from scalewise.lab.report.figure import name_lines
from scalewise.lab.study.comparisons import MetricTable, study_tables
from scalewise.lab.study.csv_tables import runs_csv
from scalewise.lab.study.other_images import image_bootstrap
from scalewise.lab.study.records import Record, StudyRecords
from scalewise.lab.study.study_tables import markdown
from scalewise.lab.training.group_style import level_color
from scalewise.lab.training.trace_reading import group_losses, read_trace

RESULTS = Path(__file__).parents[1] / "results"
POINTS = 100.0
SEED_COLOR, INTERVAL_COLOR = "#9a9a9a", "#0b62a8"
NO_IMAGES = (
    "- Intervals over evaluation images are left out: they need the raw record of every run, and "
    "this was made from runs.csv (results/README.md says how to bring the records back).\n"
)


def write_study(study: StudyRecords, folder: Path) -> None:
    """Write the tables and figures of a study; some are made only from raw records.

    Tuning studies (`*-tune`) get no figures.

    Raises:
        UserError: if no run is finished; nothing is written then.
    """
    tables = tables_text(study)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "tables.md", tables)
    write_text(folder / "runs.csv", runs_csv(study))
    if folder.name.endswith("-tune"):
        return
    draw_differences(study, folder / "differences.png")
    if all(has_levels(baseline_runs(study, detector)) for detector in study.plan.detectors):
        draw_shares(study, folder / "shares.png")


def tables_text(study: StudyRecords) -> str:
    """The tables; with intervals over images if every run has its raw record."""
    tables = study_tables(study)
    if not all((record.folder / "metrics.json").is_file() for record in study.records):
        return markdown(study, tables) + NO_IMAGES
    text = markdown(study, tables, image_bootstrap(study))
    return text.replace(f"{study.records[0].folder.parents[3]}/", "")  # no machine paths


def draw_differences(study: StudyRecords, path: Path) -> None:
    """Draw each seed's difference, the mean and Student's interval, by detector and scheme."""
    tables = [t for t in study_tables(study, ["AP"]) if t.differences]
    rows = [(table, found) for table in tables for found in table.differences if found.seeds]
    if not rows:
        return
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
    """AP of the scheme minus the baseline, as a share of 1, for each seed with both."""
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


def baseline_runs(study: StudyRecords, detector: str) -> list[Record]:
    own = (detector, study.plan.baseline)
    return [record for record in study.records if (record.detector, record.scheme) == own]


def has_levels(runs: list[Record]) -> bool:
    """Whether there are runs, and all their traces have weights and positives by level."""
    paths = [run.folder / "trace.parquet" for run in runs]
    if not paths or not all(path.is_file() for path in paths):
        return False
    names = {name for path in paths for name in pq.read_schema(path).names}
    weighed = {name.removeprefix("weight/") for name in names if name.startswith("weight/")}
    levels = all(re.fullmatch(r"P\d+", name) for name in weighed)
    return levels and all(f"positives/{name}" in names for name in weighed)


def draw_shares(study: StudyRecords, path: Path) -> None:
    """Draw each level's share of loss, positives and squared gradient norm in the baseline."""
    detectors = study.plan.detectors
    figure, all_axes = plt.subplots(
        1, len(detectors), figsize=(4 * len(detectors) + 1, 3), layout="constrained", squeeze=False
    )
    for detector, axes in zip(detectors, all_axes[0], strict=True):
        draw_level_shares(level_shares(baseline_runs(study, detector)), axes)
        axes.set_title(f"{detector}, {study.plan.baseline}", fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def draw_level_shares(shares: dict[str, np.ndarray], axes: Axes) -> None:
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
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))


def level_shares(runs: list[Record]) -> dict[str, np.ndarray]:
    """Shares of the levels by quantity, [levels] each, from means over the runs."""
    losses, positives, gradients = [], [], []
    for folder in (run.folder for run in runs):
        trace = read_trace(folder / "trace.parquet")
        names = [n.removeprefix("weight/") for n in trace.column_names if n.startswith("weight/")]
        losses.append([group_losses(trace, name).mean() for name in names])
        positives.append([trace[f"positives/{name}"].to_numpy().mean() for name in names])
        if (folder / "gradients.parquet").is_file():
            table = pq.read_table(folder / "gradients.parquet")
            gradients.append([table[f"gram/{n}/{n}"].to_numpy().mean() for n in names])
    found = {"loss": losses, "positives": positives, "gradient²": gradients}
    sums = {name: np.mean(rows, axis=0) for name, rows in found.items() if rows}
    return {name: values / values.sum() for name, values in sums.items()}


def main() -> None:
    folders = sorted(plan.parent for plan in RESULTS.rglob("study.yaml"))
    found = {folder.relative_to(RESULTS).as_posix(): kept_study(folder) for folder in folders}
    studies = {name: study for name, study in found.items() if study.records}
    for name in found.keys() - studies.keys():
        print(f"{name}: planned, no run yet")
    for name, study in studies.items():
        write_study(study, RESULTS / name)
        print(f"{name}: {len(study.records)} runs")
    write_overview(studies, RESULTS)


if __name__ == "__main__":
    main()
