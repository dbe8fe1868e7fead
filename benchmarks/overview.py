"""One table and one figure of all studies except tuning studies ("-tune", or with --holdout).

benchmarks/results.py calls this.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from scalewise.files import write_text
from scalewise.lab.report.figure import name_lines
from scalewise.lab.study.comparisons import study_tables
from scalewise.lab.study.records import StudyRecords
from scalewise.lab.study.statistics import Difference
from scalewise.lab.study.verdicts import interval_points, points
from scalewise.weighting.scheme import scheme_class

Found = dict[str, dict[str, Difference]]  # by scheme, then by study

# Seen when a default was chosen: results/levels/PROTOCOL.md, correction of 2026-11-26.
CANDIDATES = (
    "avw:invert=true",
    "avw:signal=magnitude:temperature=2:invert=true:min_share=0.01",
    "avw:signal=magnitude:temperature=2:strength=1:invert=true:min_share=0.01",
)
CHOSEN_ON = (
    "levels/bccd-levels",
    "levels/bccd-levels-fcos",
    "levels/bccd-levels-fcos-again",
    "levels/bccd-levels-long",
    "levels/bccd-levels-retinanet-again",
    "levels/bccd-levels-retinanet-long",
    "levels/voc-levels",
    "levels/voc-levels-retinanet",
)
HEAD = """# All measured studies

AP minus that of equal weights at the same seed, in points: mean over the seeds and 95 %
interval (Student's t), last epoch. What the studies are: README.md; the first three rounds:
levels/first-rounds.md.

There is no mean over studies: those of one data set share its test images, so they are not
independent. A row marked "selection data" was looked at when a default was chosen
(levels/PROTOCOL.md, correction of 2026-11-26): it is no independent measurement of that scheme.

| scheme | study | equal, AP | difference | improving seeds | note |
| --- | --- | ---: | --- | ---: | --- |
"""


def write_overview(studies: Mapping[str, StudyRecords], results: Path) -> None:
    """Write overview.md and overview.png.

    Args:
        studies: studies by folder, relative to `results`.
        results: folder for the files.
    """
    found: Found = defaultdict(dict)
    lines: dict[str, list[str]] = defaultdict(list)
    for folder, study in studies.items():
        if study.plan.options.holdout or folder.endswith("-tune"):
            continue
        for table in study_tables(study, ["AP"]):
            base = next(s for s in table.summaries if s.scheme == study.plan.baseline)
            for seen in table.differences:
                if seen.seeds:
                    scheme = plain(seen.scheme)
                    found[scheme][f"{folder} ({table.detector})"] = seen
                    link = f"[{folder}]({folder}/tables.md) ({table.detector})"
                    lines[scheme].append(
                        f"| {scheme} | {link} | {100 * base.mean:.2f} "
                        f"| {points(seen.difference)} ({interval_points(seen.t_interval)}) "
                        f"| {seen.improving}/{len(seen.seeds)} "
                        f"| {'selection data' if selected(folder, scheme) else ''} |"
                    )
    text = "\n".join(line for own in sorted(lines.values(), key=len, reverse=True) for line in own)
    write_text(results / "overview.md", f"{HEAD}{text}\n")
    draw(found, results / "overview.png")


def selected(folder: str, scheme: str) -> bool:
    """Whether a scheme's figures in a study were seen when a default was chosen."""
    return folder in CHOSEN_ON and scheme in CANDIDATES


def plain(scheme: str) -> str:
    """A scheme as text, with its arguments in a fixed order and without defaults."""
    name, *pairs = scheme.split(":")
    if not pairs or "(" in scheme:
        return scheme
    known = inspect.signature(scheme_class(name)).parameters
    said = dict(pair.split("=") for pair in pairs)
    own = [k for k in known if k in said and said[k] != str(known[k].default).lower()]
    return ":".join([name, *(f"{key}={said[key]}" for key in own)])


def draw(found: Found, path: Path) -> None:
    """Draw a row for each study, for the three schemes with most studies."""
    schemes = sorted(found, key=lambda scheme: -len(found[scheme]))[:3]
    studies = sorted({name for scheme in schemes for name in found[scheme]})
    if not studies:
        return
    figure, all_axes = plt.subplots(
        1, len(schemes), figsize=(12, 1.4 + 0.4 * len(studies)), layout="constrained",
        sharey=True, sharex=True, squeeze=False,
    )  # fmt: skip
    for scheme, axes in zip(schemes, all_axes[0], strict=True):
        for place, name in enumerate(studies):
            seen = found[scheme].get(name)
            if seen is None or seen.t_interval is None:
                continue
            fill = "white" if selected(name.split(" ")[0], scheme) else "#0b62a8"
            axes.plot(100 * np.array(seen.t_interval), [place] * 2, color="#0b62a8", lw=2)
            axes.plot([100 * seen.difference], [place], "o", color="#0b62a8", mfc=fill)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_title("\n".join(name_lines(scheme)), fontsize=10)
        axes.set_xlabel("AP minus equal, points: mean, 95 % interval", fontsize=9)
    all_axes[0, 0].set_yticks(range(len(studies)), studies)
    all_axes[0, 0].set_ylim(len(studies) - 0.5, -0.5)
    figure.suptitle("White dots: selection data, looked at when a default was chosen", fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
