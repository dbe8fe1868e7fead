"""Control runs with fixed weights, and control runs with weighted columns."""

from __future__ import annotations

import importlib
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import control_runs
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from control_runs import column_weights, shuffle, weighted_columns
from detector_batches import FACTORIES, random_batch
from detector_batches import tiny as tiny_detector
from torchvision.ops import sigmoid_focal_loss

from scalewise.cli.train import parser
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.run_options import load_config
from scalewise.lab.training.runs import load_json
from scalewise.lab.training.trace_reading import read_trace

Tiny = Callable[..., TrainConfig]


def test_as_few_groups_as_possible_keep_their_weight() -> None:
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    drawn = [shuffle(weights, draw) for draw in range(20)]
    for given in drawn:
        assert sorted(given) == sorted(weights)
        assert (given != weights).all()
    assert len({tuple(given) for given in drawn}) > 3
    assert (shuffle(weights, 3) == drawn[3]).all()
    many = np.array([1.0, 1.0, 1.0, 2.0, 3.0])  # one group must keep weight 1
    assert (shuffle(many, 0) != many).sum() == 4
    assert shuffle(np.array([2.0]), 0) == 2


@pytest.mark.parametrize("power", [0.25, 0.5])
def test_column_weights_are_those_of_ultralytics(power: float) -> None:
    train_module: Any = pytest.importorskip("ultralytics.models.yolo.detect.train")
    counts = np.array([900, 80, 0, 20], np.float32)
    trainer = SimpleNamespace(args=SimpleNamespace(cls_pw=power))
    theirs = train_module.DetectionTrainer.compute_class_weights(trainer, counts)
    np.testing.assert_allclose(
        column_weights(counts.tolist(), power), theirs / theirs.mean(), rtol=1e-6
    )
    assert (column_weights([5, 0, 7], 0) == 1).all()


@pytest.mark.parametrize("name", FACTORIES)
def test_columns_of_weight_one_are_the_plain_loss(name: str) -> None:
    detector, batch = tiny_detector(name), random_batch(0, 2, 4, 32, 64)
    plain = detector.losses(batch)
    with weighted_columns(name, column_weights([3, 1, 4, 1, 5], 0)):
        same = detector.losses(batch)
    weights = np.random.default_rng(0).random(5) * 3
    with weighted_columns(name, weights):
        other = detector.losses(batch)
    for term in detector.terms:
        assert torch.equal(same[term], plain[term])
        assert torch.equal(other[term], plain[term]) == (term != "classification")
    assert torch.equal(detector.losses(batch)["classification"], plain["classification"])


def test_random_columns_weigh_positives_and_negatives() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 30, 4), torch.randint(0, 5, (2, 30))
    weights = [0.3, 1.0, 2.5, 0.2]
    module = importlib.import_module("scalewise.lab.detectors.atss")
    with weighted_columns("atss", np.array(weights)):
        found = module.focal_loss(logits, labels)
    expected = torch.zeros(2, 30)
    for i, j, c in np.ndindex(2, 30, 4):
        target = (labels[i, j] == c).float()
        expected[i, j] += weights[c] * sigmoid_focal_loss(logits[i, j, c], target)
    torch.testing.assert_close(found, expected)


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run with equal weights and one with the scheme `share`, one epoch each."""
    out = tmp_path_factory.mktemp("runs")
    return {
        scheme: train(tiny(out, scheme=scheme, by="class", epochs=1, interval=2))
        for scheme in ("equal", "share")
    }


def test_the_commands_train_with_fixed_weights(
    trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained["share"]
    control_runs.train_fixed(run, 1, tmp_path, train_now=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[::2]] == ["# static", "# shuffled", "# uniform"]
    read = [parser().parse_args(shlex.split(line)[2:]) for line in lines[1::2]]
    trace = read_trace(run / "trace.parquet")
    classes = load_json(run / "environment.json")["classes"]
    means = [f"{trace[f'weight/{name}'].to_numpy().mean():.4g}" for name in classes]
    static, shuffled, uniform = (
        [pair.split("=") for pair in one.scheme.split(":")[1:]] for one in read
    )
    assert static == [[name, weight] for name, weight in zip(classes, means, strict=True)]
    assert Counter(weight for _, weight in shuffled) == Counter(means)
    assert shuffled != static
    assert len({weight for _, weight in uniform}) == 1
    positives = np.array([trace[f"positives/{name}"].to_numpy().sum() for name in classes])
    level = positives @ np.array(means, float) / positives.sum()
    assert float(uniform[0][1]) == pytest.approx(level, rel=1e-3)
    for one in read:
        changed = {k for k, v in asdict(load_config(run)).items() if one[k] != v}
        assert changed == {"scheme", "out", "name"}


def test_cls_pw_of_power_zero_is_the_plain_training(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    plain = read_trace(trained["equal"] / "trace.parquet")
    same = control_runs.train_cls_pw(trained["equal"], 0, tmp_path)
    assert pq.read_table(same / "trace.parquet").equals(plain)
    assert set(load_json(same / "control.json")["weights"].values()) == {1.0}
