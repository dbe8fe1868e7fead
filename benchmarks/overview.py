"""One table and one figure over all studies that were measured, not tuned on ("-tune", held out).

python benchmarks/results.py calls this.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from scalewise.report.figure import name_lines
from scalewise.study.comparisons import study_tables
from scalewise.study.records import StudyRecords
from scalewise.study.statistics import Difference
from scalewise.training.runs import write_text
from scalewise.weighting.scheme import scheme_class

Found = dict[str, dict[str, Difference]]  # by scheme, then by study


def write_overview(studies: Sequence[tuple[str, StudyRecords]], results: Path) -> None:
    """Write overview.md and overview.png from the studies and their names."""
    found: Found = defaultdict(dict)
    heads = {}
    for folder, study in studies:
        if study.plan.options.holdout or folder.endswith("-tune"):
            continue
        for table in study_tables(study, ["AP"]):
            name = f"{folder} ({table.detector})"
            base = next(s for s in table.summaries if s.scheme == study.plan.baseline)
            heads[name] = f"{100 * base.mean:.2f}"
            for difference in table.differences:
                if difference.seeds:
                    found[plain(difference.scheme)][name] = difference
    write_text(results / "overview.md", as_markdown(found, heads))
    draw(found, results / "overview.png")


def plain(scheme: str) -> str:
    """The scheme's words in one order and without its defaults, however a study wrote them."""
    name, *pairs = scheme.split(":")
    if not pairs or "(" in scheme:
        return scheme
    known = inspect.signature(scheme_class(name)).parameters
    said = dict(pair.split("=") for pair in pairs)
    own = [k for k in known if k in said and said[k] != str(known[k].default).lower()]
    return ":".join([name, *(f"{key}={said[key]}" for key in own)])


def as_markdown(found: Found, heads: dict[str, str]) -> str:
    lines = [
        "# All measured studies",
        "",
        "AP minus that of equal weights at the same seed, in points: mean over the seeds and 95 %",
        "interval (Student's t). Lean setting for two CPU cores, last epoch. Where a scheme was in",
        "three studies or more, the mean over them, with Student's t interval over the studies.",
        "What the studies are: README.md. `cov` in per-positive-val saw losses per positive.",
        "",
        "| scheme | study | equal, AP | difference | improving seeds |",
        "| --- | --- | ---: | --- | ---: |",
    ]
    for scheme, by_study in found.items():
        for name, head in heads.items():
            if name in by_study:
                seen = by_study[name]
                improving = f"{seen.improving}/{len(seen.seeds)}"
                lines.append(f"| {scheme} | {name} | {head} | {cell(seen)} | {improving} |")
        if len(by_study) >= 3:
            mean = over_studies(by_study)
            lines.append(f"| **{scheme}** | **mean of {len(by_study)}** | | **{mean}** | |")
    return "\n".join(lines) + "\n"


def cell(found: Difference) -> str:
    text = f"{100 * found.difference:+.2f}"
    if found.t_interval is None:
        return text
    low, high = found.t_interval
    return f"{text} ({100 * low:+.2f} to {100 * high:+.2f})"


def over_studies(by_study: dict[str, Difference]) -> str:
    means = 100 * np.array([found.difference for found in by_study.values()])
    low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
    return f"{means.mean():+.2f} ({low:+.2f} to {high:+.2f})"


def draw(found: Found, path: Path) -> None:
    """A row a study, for the three schemes that were in most of them."""
    schemes = sorted(found, key=lambda scheme: -len(found[scheme]))[:3]
    studies = list(dict.fromkeys(name for scheme in schemes for name in found[scheme]))
    figure, all_axes = plt.subplots(
        1, 3, figsize=(12, 1.4 + 0.4 * len(studies)), layout="constrained", sharey=True, sharex=True
    )
    for scheme, axes in zip(schemes, all_axes, strict=True):
        for place, name in enumerate(studies):
            difference = found[scheme].get(name)
            if difference is None or difference.t_interval is None:
                continue
            axes.plot(100 * np.array(difference.t_interval), [place] * 2, color="#0b62a8", lw=2)
            axes.plot([100 * difference.difference], [place], "o", color="#0b62a8")
        axes.axvline(0, color="black", lw=0.8)
        axes.set_title("\n".join(name_lines(scheme)), fontsize=10)
        axes.set_xlabel("AP minus equal, points: mean, 95 % interval", fontsize=9)
    all_axes[0].set_yticks(range(len(studies)), studies)
    all_axes[0].set_ylim(len(studies) - 0.5, -0.5)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
