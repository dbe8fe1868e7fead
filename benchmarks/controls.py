"""Check on finished runs whether better AP comes from rescaled scores only.

    python benchmarks/controls.py --tune train --equal RUN ... --balanced RUN ... --out FILE

Runs of `scalewise train` are paired by their seed.
The last checkpoint of each run is scored on the split on which the run was validated. The table has

- AP; pooled AP, where the detections of all classes are ranked in one list but must still match an
  object of their own class; precision and recall at the score with the best F1, which is chosen
  over all classes together on the scored split; the expected calibration error in 15 bins of equal
  width, as the mean over classes, where a detection is right if it matches an object at IoU 0.5.
- AP with all detections kept: above a score of 0.001 instead of 0.05, and 1000 per image instead of
  100. COCO ranks each class alone and takes 100 detections of it per image. So a rescaling of the
  scores of a class cannot change this figure, as long as it keeps their order.

"equal, rescaled" is the equal run with one factor per class on the odds s / (1 - s) of its scores,
which keeps their order and never reaches 1. The factor is fitted by likelihood on the tuning split:
the mean score of a class becomes its share of right detections. A class that has no right or no
wrong detection there keeps its scores. A rescaling changes which detections are
among the 100 of an image, how classes rank among each other (pooled AP, F1) and the calibration.
Apart from the limit of 100, it cannot change the AP of a class.

`control_runs.py` trains further control runs; `--other NAME RUN ...` adds them to the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from score_figures import (
    Figures,
    Floats,
    Found,
    above,
    capped,
    figures,
    fit_factors,
    mean,
    rescale,
)

from scalewise.data import Split, open_split
from scalewise.errors import UserError
from scalewise.files import write_text
from scalewise.lab.evaluation.ranking import rank
from scalewise.lab.evaluation.stored import read_detections, write_detections
from scalewise.lab.inference.detecting import detect_all
from scalewise.lab.inference.trained import load_run
from scalewise.lab.study.statistics import paired
from scalewise.lab.study.verdicts import interval_points, points
from scalewise.lab.training.building import open_splits
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.option_groups import DataOptions, DetectorOptions, OptimizerOptions
from scalewise.lab.training.run_metrics import read_metrics
from scalewise.lab.training.run_options import load_config

SCORE = 0.05  # detectors keep detections above this score
WIDE_SCORE, WIDE_MOST = 0.001, 1000
EQUAL, RESCALED, BALANCED = "equal", "equal, rescaled", "balanced"
COLUMNS = ("AP", "AP, all kept", "pooled AP", "precision", "recall", "threshold", "ECE")


def wide_detections(run: Path, split: Split) -> Found:
    """Nearly all detections of a run's last checkpoint, stored in its folder for later calls."""
    path = run / f"controls-{split.name}.parquet"
    if not path.is_file():
        trained = load_run(run, "last")
        trained.detector.score_threshold, trained.detector.max_detections = WIDE_SCORE, WIDE_MOST
        with torch.inference_mode():
            write_detections(path, list(detect_all(trained, split)))
    return read_detections(path)


def by_seed(folders: Sequence[Path]) -> dict[int, Path]:
    """Run folders by their seed.

    Raises:
        UserError: when a run is not finished, or two have the same seed.
    """
    found: dict[int, Path] = {}
    for folder in folders:
        seed = load_config(folder).seed
        if (read_metrics(folder) or {}).get("status") != "finished":
            raise UserError(f"{folder} is not finished")
        if seed in found:
            raise UserError(f"{folder} and {found[seed]} have the same seed, {seed}")
        found[seed] = folder
    return found


def check_alike(one: Path, other: Path) -> None:
    """Refuse runs with different options for data, detector or optimizer.

    Raises:
        UserError: with the names of these options.
    """
    first, second = load_config(one), load_config(other)
    kinds = (DataOptions, DetectorOptions, OptimizerOptions)
    names = {f.name for kind in kinds for f in dataclasses.fields(kind)} - {"workers", "cache"}
    differ = sorted(n for n in names if getattr(first, n) != getattr(second, n))
    if differ:
        raise UserError(f"{one} and {other} cannot be compared: they differ in {', '.join(differ)}")


def tuning_split(config: TrainConfig, name: str, scored: Split) -> Split:
    """The split that factors are fitted on.

    Args:
        config: options of a run; its `train_split` is used without held-out images.
        name: name of the split.
        scored: the split that is evaluated.

    Raises:
        UserError: if the two splits share an image.
    """
    own = name == config.train_split
    split = (
        open_splits(config)[0] if own else open_split(config.data, name, skip_bad=config.skip_bad)
    )
    shared = {r.path for r in split.records} & {r.path for r in scored.records}
    if shared:
        raise UserError(f"--tune {name} shares {len(shared)} images with {scored.name}")
    return split


def make_table(runs: Mapping[str, Mapping[int, Path]], tune: str) -> str:
    """Tables of all runs, as Markdown.

    Args:
        runs: run folders by name and seed; "equal" and "balanced" are among the names.
        tune: name of the tuning split.

    Raises:
        UserError: when the runs cannot be compared.
    """
    seeds = sorted(set.intersection(*(set(own) for own in runs.values())))
    if not seeds:
        raise UserError("there is no seed that all runs have")
    for own in runs.values():
        for seed in seeds:
            check_alike(runs[EQUAL][seed], own[seed])
    config = load_config(runs[EQUAL][seeds[0]])
    scored = open_splits(config)[1]
    tuned = tuning_split(config, tune, scored)
    names = [EQUAL, RESCALED, *(name for name in runs if name != EQUAL)]
    values: dict[str, dict[int, Figures]] = {name: {} for name in names}
    factors: list[Floats] = []
    for seed in seeds:
        for name, own in runs.items():
            wide = wide_detections(own[seed], scored)
            values[name][seed] = figures(scored, capped(above(wide, SCORE)), wide)
            if name == EQUAL:
                fitted = capped(above(wide_detections(own[seed], tuned), SCORE))
                factors.append(fit_factors(rank(tuned, fitted), len(scored.classes)))
                rescaled = capped(rescale(above(wide, SCORE), factors[-1]))
                values[RESCALED][seed] = figures(scored, rescaled, rescale(wide, factors[-1]))
    head = (
        f"{scored.describe()}. Factors fitted on {tuned.describe()}. Seeds "
        f"{', '.join(map(str, seeds))}, last checkpoints. All in points but the threshold; a mean "
        "over the seeds with Student's 95 % interval of its difference to equal weights."
    )
    return "\n".join(
        (
            "# Controls\n",
            f"{head}\n",
            run_table(values, seeds),
            "By class, means over the seeds:\n",
            class_table(values, scored.classes, np.mean(factors, axis=0)),
        )
    )


def run_table(values: Mapping[str, Mapping[int, Figures]], seeds: Sequence[int]) -> str:
    """The runs' figures: means, then seed by seed."""
    differences = {
        metric: {d.scheme: d for d in paired(one_figure(values, metric), EQUAL)}
        for metric in ("AP", "pooled AP")
    }
    rows = []
    for name, own in values.items():
        cells = [number(column, mean(own[seed][column] for seed in seeds)) for column in COLUMNS]
        for metric, by_name in differences.items():
            if name != EQUAL:
                one = by_name[name]
                cells[COLUMNS.index(metric)] += (
                    f" ({points(one.difference)}: {interval_points(one.t_interval)})"
                )
        rows.append([name, "mean", *cells])
    for seed in seeds:
        for name, own in values.items():
            cells = [number(column, own[seed][column]) for column in COLUMNS]
            rows.append([name, str(seed), *cells])
    return markdown(["run", "seed", *COLUMNS], rows)


def one_figure(
    values: Mapping[str, Mapping[int, Figures]], metric: str
) -> dict[str, dict[int, float]]:
    """One figure of all runs, by name and seed."""
    return {name: {s: own[s][metric] for s in own} for name, own in values.items()}


def class_table(
    values: Mapping[str, Mapping[int, Figures]], classes: Sequence[str], factors: Floats
) -> str:
    """AP and calibration error of each class, and the factor on its odds."""
    head = [f"{metric}, {name}" for metric in ("AP", "ECE") for name in values]
    rows = []
    for label, class_name in enumerate(classes):
        cells = [
            number(metric, mean(f[f"{metric}/{class_name}"] for f in own.values()))
            for metric in ("AP", "ECE")
            for own in values.values()
        ]
        rows.append([class_name, *cells, f"{factors[label]:.2f}"])
    return markdown(["class", *head, "factor"], rows)


def number(column: str, value: float) -> str:
    """A figure in points (times 100), or a threshold as it is."""
    if math.isnan(value):
        return "n/a"
    return f"{value:.2f}" if column == "threshold" else f"{100 * value:.2f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns after the first are aligned to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--equal", type=Path, nargs="+", required=True, metavar="RUN")
    parser.add_argument("--balanced", type=Path, nargs="+", required=True, metavar="RUN")
    parser.add_argument("--other", nargs="+", action="append", default=[], metavar="NAME RUN")
    parser.add_argument("--tune", required=True, help="split on which scores are rescaled")
    parser.add_argument("--out", type=Path, help="Markdown file")
    options = parser.parse_args()
    runs = {EQUAL: by_seed(options.equal), BALANCED: by_seed(options.balanced)}
    runs |= {name: by_seed([Path(f) for f in folders]) for name, *folders in options.other}
    text = make_table(runs, options.tune)
    print(text)
    if options.out:
        write_text(options.out, text)


if __name__ == "__main__":
    main()
