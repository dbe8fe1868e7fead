"""The controls that a sceptic asks for, on finished runs of `scalewise train`.

    python benchmarks/controls.py table --tune train --equal RUN ... --balanced RUN ... --out FILE
    python benchmarks/controls.py shuffled BALANCED_RUN --draw 0 --out runs/controls [--run]
    python benchmarks/controls.py cls_pw EQUAL_RUN --power 0.5 --out runs/controls

`table` answers "is it only the scores' scale?". Runs are paired by their seed and judged by their
last checkpoint, on the split they were validated on. It gives each run's

- AP; pooled AP, for which the detections of all classes are ranked in one list and still have to
  match an object of their own class; precision and recall at the score at which F1 is best, chosen
  over all classes together on the scored split; the expected calibration error, 15 bins of equal
  width, a detection being right when it matches an object at an IoU of 0.5. The mean over classes.
- AP with all detections kept, above a score of 0.001 instead of 0.05 and 1000 an image instead of
  100. COCO ranks each class by itself and takes 100 of it in an image, so that no rescaling of the
  scores of a class, as long as it keeps their order, can change this figure.

"equal, rescaled" is the equal run with one factor per class on the odds s / (1 - s) of its
scores, which keeps their order and never reaches 1. The factor is fitted on the tuning split, by
likelihood: the mean score of a class's detections becomes the share of them that is right. A class
without a right detection there, or without a wrong one, keeps its scores. A rescaling changes which
detections are among the 100 of an image, how classes rank among each other (pooled AP, F1) and the
calibration; but for the cap it cannot change the AP of a class.

`shuffled` prints the commands that train again, or trains (--run), with fixed weights instead of a
rule: each class's mean weight over the steps of a balanced run ("static"); the same weights given
to the wrong classes ("shuffled"), in a permutation drawn by --draw in which as few classes as
possible get the weight they had; and for all classes alike the weight of a mean positive in the
balanced run ("uniform"), since a rule that lifts rare classes raises the loss of all positives
together. Shuffled weights are not scaled, so that it is another loss then; the commands say it.

`cls_pw` trains as Ultralytics does with its option of this name (8.4, 2026): the classification
loss of a class, negatives too, is multiplied by (1 / objects of the class in the training
split)^power, divided by the mean over the classes; the other losses stay as they are.

What a control has trained is a run folder like any other; `table --other NAME RUN ...` shows it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq, linear_sum_assignment
from scipy.special import expit, logit
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from scalewise.data import Split, open_split
from scalewise.default import GIVEN
from scalewise.detectors.losses import focal_loss
from scalewise.errors import UsageError, UserError
from scalewise.evaluation import ImageDetections, coco_metrics
from scalewise.evaluation.matching import Matches, average_precision, matched
from scalewise.evaluation.stored import read_detections, write_detections
from scalewise.study.records import read_metrics
from scalewise.study.statistics import paired
from scalewise.study.verdicts import interval_points, points
from scalewise.training.config import DataOptions, DetectorOptions, OptimizerOptions, TrainConfig
from scalewise.training.fit import open_splits, train
from scalewise.training.grouping import count_objects
from scalewise.training.inference import detect_all, load_run
from scalewise.training.runs import load_config, write_json, write_text
from scalewise.training.trace import group_names, read_trace
from scalewise.weighting import by_class

Floats = npt.NDArray[np.float64]
Figures = dict[str, float]  # of one run, by name
Found = list[ImageDetections]

SCORE, MOST = 0.05, 100  # what detectors keep: scores above it, and as many an image
WIDE_SCORE, WIDE_MOST = 0.001, 1000
BINS = 15
EQUAL, RESCALED, BALANCED = "equal", "equal, rescaled", "balanced"
COLUMNS = ("AP", "AP, all kept", "pooled AP", "precision", "recall", "threshold", "ECE")


@dataclass(frozen=True)
class Ranking:
    """Detections with what became of them, class by class, the best of a class first.

    Attributes:
        matches: of d detections.
        scores: float64 [d].
    """

    matches: Matches
    scores: Floats

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Those that are right or wrong at an IoU of 0.5, not on a crowd: bool [d]."""
        counted: npt.NDArray[np.bool_] = self.matches.states[:, 0] >= 0
        return counted

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Those that found an object at an IoU of 0.5: bool [d]."""
        right: npt.NDArray[np.bool_] = self.matches.states[:, 0] == 1
        return right


def rank(split: Split, found: Found) -> Ranking:
    """Match detections, at most 100 an image, and keep their scores, which matches do not."""
    matches = matched(split, found)
    scores = np.concatenate([np.zeros(0), *(image.scores for image in found)])
    labels = np.concatenate([np.zeros(0), *(image.labels for image in found)])
    return Ranking(matches, scores[np.lexsort((-scores, labels))])


def pooled_ap(ranking: Ranking) -> float:
    """AP with the detections of all classes in one list."""
    matches = ranking.matches
    order = np.argsort(-ranking.scores, kind="stable")
    pooled = Matches(
        image_ids=matches.image_ids,
        objects=matches.objects.sum(axis=1, keepdims=True, dtype=np.int32),
        labels=np.zeros_like(matches.labels),
        images=matches.images[order],
        states=matches.states[order],
    )
    return float(average_precision(pooled, np.ones(len(matches.image_ids), dtype=np.int64))[0])


def best_f1(ranking: Ranking) -> tuple[float, float, float]:
    """Score at which F1 over all classes is best, with precision and recall there; IoU 0.5."""
    order = np.argsort(-ranking.scores, kind="stable")
    order = order[ranking.counted[order]]
    if not len(order):
        return math.nan, math.nan, math.nan
    scores, true = ranking.scores[order], np.cumsum(ranking.right[order])
    kept, objects = np.arange(1, len(order) + 1), int(ranking.matches.objects.sum())
    last = np.append(scores[1:] < scores[:-1], True)  # equal scores are kept or dropped together
    best = int(np.where(last, 2 * true / (kept + objects), -1).argmax())
    return float(scores[best]), float(true[best] / kept[best]), float(true[best] / objects)


def calibration_error(ranking: Ranking, label: int) -> float:
    """Expected calibration error of a class's scores; NaN without detections."""
    own = (ranking.matches.labels == label) & ranking.counted
    if not own.any():
        return math.nan
    scores, right = torch.from_numpy(ranking.scores[own]), torch.from_numpy(ranking.right[own])
    return float(binary_calibration_error(scores, right.int(), n_bins=BINS))


def fit_factors(ranking: Ranking, classes: int) -> Floats:
    """The factor on each class's odds with which its mean score is the share that is right."""
    factors = np.ones(classes)
    for label in range(classes):
        own = (ranking.matches.labels == label) & ranking.counted
        right = int(ranking.right[own].sum())
        if 0 < right < own.sum():
            logits = logit(ranking.scores[own].clip(1e-6, 1 - 1e-6))
            factors[label] = math.exp(brentq(excess, -50, 50, args=(logits, right)))
    return factors


def excess(shift: float, logits: Floats, right: int) -> float:
    """By how much the scores of shifted logits add up to more than the number that is right."""
    return float(expit(logits + shift).sum() - right)


def rescale(found: Found, factors: Floats) -> Found:
    """Multiply the odds of the scores by the factor of their class."""

    def scaled(image: ImageDetections) -> ImageDetections:
        factor, score = factors[image.labels], image.scores.astype(np.float64)
        new = factor * score / (factor * score + 1 - score)
        return replace(image, scores=new.astype(np.float32))

    return [scaled(image) for image in found]


def above(found: Found, score: float) -> Found:
    """The detections with a higher score."""
    return [chosen(image, np.flatnonzero(image.scores > score)) for image in found]


def capped(found: Found) -> Found:
    """The 100 best detections of each image."""
    return [chosen(image, np.argsort(-image.scores, kind="stable")[:MOST]) for image in found]


def chosen(image: ImageDetections, rows: npt.NDArray[np.intp]) -> ImageDetections:
    """Some of an image's detections."""
    return ImageDetections(
        image.image_id,
        image.boxes[rows],
        image.scores[rows],
        image.labels[rows],
        image.levels[rows],
    )


def figures(split: Split, found: Found, wide: Found) -> Figures:
    """All figures of a run.

    Args:
        split: what was looked at.
        found: at most 100 detections an image.
        wide: nearly all detections.
    """
    ranking = rank(split, found)
    metrics = coco_metrics(split, found)
    threshold, precision, recall = best_f1(ranking)
    errors = {name: calibration_error(ranking, i) for i, name in enumerate(split.classes)}
    return {
        "AP": metrics["AP"],
        "AP, all kept": coco_metrics(split, wide)["AP"],
        "pooled AP": pooled_ap(ranking),
        "precision": precision,
        "recall": recall,
        "threshold": threshold,
        "ECE": mean(errors.values()),
        **{name: value for name, value in metrics.items() if name.startswith("AP/")},
        **{f"ECE/{name}": value for name, value in errors.items()},
    }


def mean(values: Iterable[float]) -> float:
    """Over what is defined."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def wide_detections(run: Path, split: Split) -> Found:
    """Nearly all detections of a run's last checkpoint, kept in its folder for the next time."""
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
    """Refuse runs that differ in more than how losses are weighed.

    Raises:
        UserError: naming the options.
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
        config: of a run; `train_split` without the images that it held out, if any.
        name: of the split.
        scored: what the figures are of.

    Raises:
        UserError: when the two splits share an image.
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
    """One figure by run and seed."""
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
    """A figure in points; a threshold as it is."""
    if math.isnan(value):
        return "n/a"
    return f"{value:.2f}" if column == "threshold" else f"{100 * value:.2f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def given_words(by: str, weights: Mapping[str, float]) -> str:
    """Words of a scheme that gives these weights by name."""
    return ":".join([by, *(f"{name}={weight:.4g}" for name, weight in weights.items())])


def shuffle(weights: Floats, draw: int) -> Floats:
    """Give weights to the wrong groups.

    Args:
        weights: float [n].
        draw: seed of the permutation.

    Returns:
        A permutation of them in which as few groups as possible have the weight they had.
    """
    costs = np.random.default_rng(draw).random((len(weights), len(weights)))
    costs += len(weights) * np.isclose(weights[:, None], weights)  # outweighs all that is random
    shuffled: Floats = weights[linear_sum_assignment(costs)[1]]
    return shuffled


def fixed_weights(run: Path, draw: int) -> dict[str, tuple[str, float]]:
    """Schemes with fixed weights from the weights that a run had.

    Args:
        run: its folder.
        draw: seed of the permutation.

    Returns:
        By name, the scheme's words and the mean weight over the positives of the run.

    Raises:
        UsageError: when weights cannot be given by name for the groups of the run.
    """
    by = load_config(run).by
    if by not in GIVEN:
        raise UsageError(f"{run} weighs by {by}; weights can be given by {', '.join(GIVEN)}")
    trace = read_trace(run / "trace.parquet")
    names = group_names(trace.column_names)
    weights = np.array([trace[f"weight/{name}"].to_numpy().mean() for name in names])
    positives = np.array([trace[f"positives/{name}"].to_numpy().sum() for name in names])
    level = float(weights @ positives / positives.sum())
    sets = {
        "static": weights,
        "shuffled": shuffle(weights, draw),
        "uniform": np.full(len(names), level),
    }
    return {
        name: (
            given_words(by, dict(zip(names, own.tolist(), strict=True))),
            float(own @ positives / positives.sum()),
        )
        for name, own in sets.items()
    }


def train_shuffled(run: Path, draw: int, out: Path, train_now: bool) -> None:
    """Print the commands of the controls with fixed weights, and train them if asked to."""
    config = load_config(run)
    for name, (scheme, level) in fixed_weights(run, draw).items():
        folder = f"{name}-{draw}" if name == "shuffled" else name
        own = replace(config, scheme=scheme, out=str(out), name=f"{folder}-seed-{config.seed}")
        print(f"# {name}: a positive weighs {level:.2f} on average")
        words = ["--config", str(run / "config.yaml"), "--scheme", scheme, "--out", own.out]
        print(shlex.join(["scalewise", "train", *words, "--name", str(own.name)]), flush=True)
        if train_now:
            train(own)


def column_weights(objects: Sequence[int], power: float) -> Floats:
    """Weights of the classes by the number of their objects; their mean is 1.

    A class without objects weighs what the others do on average.
    """
    counts = np.asarray(objects, dtype=np.float64)
    present = counts > 0
    weights = np.where(present, counts, 1.0) ** -power
    weights = np.where(present, weights, weights[present].mean())
    scaled: Floats = weights / weights.mean()
    return scaled


@contextmanager
def weighted_columns(detector: str, weights: Floats) -> Iterator[None]:
    """Weigh the classes' columns of a detector's classification loss, background included.

    Args:
        detector: "atss", "fcos" or "retinanet"; every model of that kind is affected.
        weights: float [classes].
    """
    factors = torch.from_numpy(weights).float()

    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        columns = torch.arange(logits.shape[-1], device=logits.device)
        other = (labels[..., None] != columns).long()  # [B, A, C]: a class of its own per column
        return (focal_loss(logits[..., None], other) * factors.to(logits.device)).sum(-1)

    module = importlib.import_module(f"scalewise.detectors.{detector}")
    with mock.patch.object(module, "focal_loss", weighted):
        yield


def train_cls_pw(run: Path, power: float, out: Path) -> Path:
    """Train as a run was, with equal weights and weighted columns; returns the new run folder."""
    name = f"cls_pw-{power:g}-seed-{load_config(run).seed}"
    config = replace(load_config(run), scheme="equal", out=str(out), name=name)
    training = open_splits(config)[0]
    objects = count_objects(by_class(training.classes), training)
    assert objects is not None
    weights = column_weights(objects, power)
    with weighted_columns(config.detector, weights):
        trained = train(config)
    by_name = dict(zip(training.classes, weights.tolist(), strict=True))
    write_json(trained / "control.json", {"cls_pw": power, "weights": by_name})
    return trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="figures of finished runs")
    table.add_argument("--equal", type=Path, nargs="+", required=True, metavar="RUN")
    table.add_argument("--balanced", type=Path, nargs="+", required=True, metavar="RUN")
    table.add_argument("--other", nargs="+", action="append", default=[], metavar="NAME RUN")
    table.add_argument("--tune", required=True, help="split on which scores are rescaled")
    table.add_argument("--out", type=Path, help="Markdown file")
    shuffled = commands.add_parser("shuffled", help="fixed weights, right and wrong way round")
    shuffled.add_argument("balanced", type=Path, help="run folder")
    shuffled.add_argument("--draw", type=int, default=0, help="seed of the permutation")
    shuffled.add_argument("--out", type=Path, default=Path("runs"))
    shuffled.add_argument("--run", action="store_true", help="train now")
    cls_pw = commands.add_parser("cls_pw", help="weights on columns, as Ultralytics has them")
    cls_pw.add_argument("equal", type=Path, help="run folder")
    cls_pw.add_argument("--power", type=float, choices=[0.25, 0.5], default=0.25)
    cls_pw.add_argument("--out", type=Path, default=Path("runs"))
    options = parser.parse_args()
    if options.command == "shuffled":
        train_shuffled(options.balanced, options.draw, options.out, options.run)
    elif options.command == "cls_pw":
        train_cls_pw(options.equal, options.power, options.out)
    else:
        runs = {EQUAL: by_seed(options.equal), BALANCED: by_seed(options.balanced)}
        runs |= {name: by_seed([Path(f) for f in folders]) for name, *folders in options.other}
        text = make_table(runs, options.tune)
        print(text)
        if options.out:
            write_text(options.out, text)


if __name__ == "__main__":
    main()
