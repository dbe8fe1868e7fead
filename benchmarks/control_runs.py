"""Control runs: a training repeated with fixed weights, or with weighted columns.

    python benchmarks/control_runs.py fixed BALANCED_RUN --draw 0 --out runs/controls [--run]
    python benchmarks/control_runs.py cls_pw EQUAL_RUN --power 0.5 --out runs/controls

`fixed` prints commands that train again with fixed weights; with --run it also runs them.
"static" is each class's mean weight over the steps of a balanced run. "shuffled" gives these
weights to the wrong classes, in a permutation drawn by --draw in which as few classes as possible
keep their weight. "uniform" gives all classes the mean weight of a positive in the balanced run,
since a rule that lifts rare classes also raises the loss of all positives together. Shuffled
weights are not scaled, so the size of the loss changes. The mean weight of a positive is printed.

`cls_pw` trains as Ultralytics does with its option `cls_pw` (8.4, 2026): the classification loss
of a class, also of negatives, is multiplied by (1 / objects of the class in the training
split)^power, divided by the mean over the classes; the other losses stay as they are.

The result is a run folder like any other: compare it with `controls.py --other NAME RUN ...`.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from score_figures import Floats
from torch import Tensor

from scalewise.default import GIVEN
from scalewise.errors import UsageError
from scalewise.lab.detectors.focal import focal_loss
from scalewise.lab.training.building import open_splits
from scalewise.lab.training.fit import train
from scalewise.lab.training.grouping import count_objects
from scalewise.lab.training.run_options import load_config
from scalewise.lab.training.runs import write_json
from scalewise.lab.training.trace_reading import group_names, read_trace
from scalewise.weighting import by_class


def given_words(by: str, weights: Mapping[str, float]) -> str:
    """A scheme that gives these weights by name, as text."""
    return ":".join([by, *(f"{name}={weight:.4g}" for name, weight in weights.items())])


def shuffle(weights: Floats, draw: int) -> Floats:
    """Give weights to the wrong groups.

    Args:
        weights: float [n].
        draw: seed of the permutation.

    Returns:
        A permutation in which as few groups as possible keep their weight.
    """
    costs = np.random.default_rng(draw).random((len(weights), len(weights)))
    costs += len(weights) * np.isclose(weights[:, None], weights)  # above all random costs
    shuffled: Floats = weights[linear_sum_assignment(costs)[1]]
    return shuffled


def fixed_weights(run: Path, draw: int) -> dict[str, tuple[str, float]]:
    """Schemes with fixed weights, made from the weights of a run.

    Args:
        run: folder of the run.
        draw: seed of the permutation.

    Returns:
        By name, the scheme as text and the mean weight over the positives of the run.

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


def train_fixed(run: Path, draw: int, out: Path, train_now: bool) -> None:
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

    A class without objects gets the mean weight of the others.
    """
    counts = np.asarray(objects, dtype=np.float64)
    present = counts > 0
    weights = np.where(present, counts, 1.0) ** -power
    weights = np.where(present, weights, weights[present].mean())
    scaled: Floats = weights / weights.mean()
    return scaled


@contextmanager
def weighted_columns(detector: str, weights: Floats) -> Iterator[None]:
    """Weigh the columns (classes) of a detector's classification loss, also for the background.

    Args:
        detector: "atss", "fcos" or "retinanet"; every model of that kind is affected.
        weights: float [classes].
    """
    factors = torch.from_numpy(weights).float()

    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        columns = torch.arange(logits.shape[-1], device=logits.device)
        other = (labels[..., None] != columns).long()  # [B, A, C]: 0 is the column's class
        return (focal_loss(logits[..., None], other) * factors.to(logits.device)).sum(-1)

    module = importlib.import_module(f"scalewise.lab.detectors.{detector}")
    with mock.patch.object(module, "focal_loss", weighted):
        yield


def train_cls_pw(run: Path, power: float, out: Path) -> Path:
    """Repeat a run with equal weights and weighted columns; return the new run folder."""
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
    fixed = commands.add_parser("fixed", help="fixed weights: as they were, shuffled, uniform")
    fixed.add_argument("balanced", type=Path, help="run folder")
    fixed.add_argument("--draw", type=int, default=0, help="seed of the permutation")
    fixed.add_argument("--out", type=Path, default=Path("runs"))
    fixed.add_argument("--run", action="store_true", help="train now")
    cls_pw = commands.add_parser("cls_pw", help="weights on columns, as in Ultralytics")
    cls_pw.add_argument("equal", type=Path, help="run folder")
    cls_pw.add_argument("--power", type=float, choices=[0.25, 0.5], default=0.25)
    cls_pw.add_argument("--out", type=Path, default=Path("runs"))
    options = parser.parse_args()
    if options.command == "fixed":
        train_fixed(options.balanced, options.draw, options.out, options.run)
    else:
        train_cls_pw(options.equal, options.power, options.out)


if __name__ == "__main__":
    main()
