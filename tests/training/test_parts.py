"""The parts of a run, one by one, against closed forms and round trips."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import LightningModule
from matplotlib.figure import Figure
from torch import nn

from scalewise.cli.display import show_run
from scalewise.errors import UsageError, UserError
from scalewise.lab.training import runs
from scalewise.lab.training.average import MovingAverage, decay_at, update
from scalewise.lab.training.checkpoints import WholeFiles
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.module import DetectionModule, rate
from scalewise.lab.training.progress import describe
from scalewise.lab.training.scheme_options import build_balancer, parse_scheme
from scalewise.lab.training.trace import Trace, TraceInterval, group_names, loss_columns
from scalewise.lab.training.trace_picture import chosen_groups, draw_groups
from scalewise.weighting import AVW, RLO, LossBalancer


def test_schedules_at_known_steps() -> None:
    assert [rate(s, 100, 4, "constant") for s in (0, 3, 4, 99)] == [0.2, 0.8, 1, 1]
    assert rate(4, 104, 4, "cosine") == 1
    assert rate(54, 104, 4, "cosine") == pytest.approx(0.5)
    assert rate(104, 104, 4, "cosine") == pytest.approx(0)
    steps = [rate(s, 12, 0, "step") for s in (0, 7, 8, 10, 11)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@given(
    st.sampled_from(["cosine", "step", "constant"]),
    st.integers(0, 50),
    st.integers(1, 500),
)
def test_schedules_rise_then_never_rise(schedule: str, warmup: int, total: int) -> None:
    rates = [rate(step, total, warmup, schedule) for step in range(total + 1)]
    assert all(0 <= r <= 1 for r in rates)
    after = rates[warmup:]
    assert all(a >= b for a, b in pairwise(after))


def test_schemes_from_words() -> None:
    scheme = parse_scheme("avw:signal=dispersion:temperature=2:invert=true:strength=1e-1")
    assert isinstance(scheme, AVW)
    assert (scheme.name, scheme.temperature, scheme.strength) == ("avw-dispersion-invert", 2, 0.1)
    policy = parse_scheme("rlo:actions=equal+avw+dwa:explore=0.2")
    assert isinstance(policy, RLO)
    assert policy.action_names == ("equal", "avw-decline", "dwa")
    balancer = LossBalancer(3, parse_scheme("static:weights=1+1+4"))
    torch.testing.assert_close(balancer.weights, torch.tensor([0.5, 0.5, 2.0]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("awv", "did you mean 'avw'"),
        ("nonsense", "there are: avw"),
        ("avw:temprature=2", "did you mean 'temperature'"),
        ("avw:temperature", "no argument=value"),
        ("avw:temperature=-1", "temperature must be above 0"),
        ("rlo:actions=equal+uncertainty", "back-propagation"),
        ("static", "weights"),
        ("equal:strength=1", "there are: none"),
    ],
)
def test_wrong_schemes_are_explained(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_scheme(words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "static:weights=1+2"}, "2 static weights for 5 groups"),
    ],
)
def test_options_that_do_not_go_together_are_explained(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_balancer(5, TrainConfig(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compile": "graphs"}, "this training is on the cpu: take --compile true or false"),
        ({"compile": "graphs", "accumulate": 2}, "cannot be added up over --accumulate 2"),
        ({"weight_decay": float("nan")}, "--weight_decay must not be negative, got nan"),
    ],
)
def test_graphs_and_numbers_that_cannot_be_are_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path, tiny: Callable[..., TrainConfig]
) -> None:
    with pytest.raises(UsageError, match=message):
        train(tiny(tmp_path / "runs", **changes))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_moves_the_weights_by_no_more_than_the_clipped_gradient(
    precision: str,
    tmp_path: Path,
    tiny: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a fused optimizer in either precision; a window of two batches is clipped as one."""
    moved: list[float] = []
    step = DetectionModule.optimizer_step

    def watched(self: DetectionModule, *args: Any, **kwargs: Any) -> None:
        trained = [p for p in self.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in trained]
        step(self, *args, **kwargs)
        after = torch.cat([(p - q).flatten() for p, q in zip(trained, before, strict=True)])
        moved.append(after.detach().norm().item())
        (optimizer,) = self.trainer.optimizers
        assert optimizer.defaults["fused"]

    monkeypatch.setattr(DetectionModule, "optimizer_step", watched)
    options: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    options |= {"schedule": "constant", "warmup": 0, "backbone_lr": 1.0, "accumulate": 2}
    train(tiny(tmp_path, **options, precision=precision, epochs=1, lr=0.1, clip_norm=0.1))
    assert len(moved) == 3  # of five batches, the last alone
    assert moved == pytest.approx([0.01] * 3, rel=1e-2)


def test_a_warm_up_longer_than_the_training_is_told(
    tmp_path: Path, tiny: Callable[..., TrainConfig]
) -> None:
    with pytest.warns(UserWarning, match="--warmup 5 is no shorter than the 5 steps of the whole"):
        train(tiny(tmp_path, epochs=1, warmup=5))


def fill(trace: Trace, steps: range) -> None:
    for step in steps:
        interval = TraceInterval(
            step // 2, torch.full((2,), 1.0 + step // 2), torch.tensor(step % 2 - 1)
        )
        interval.probabilities = torch.tensor([0.25, 0.75])
        losses = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * step
        trace.add(step, 0, 0.1, losses, torch.tensor([5.0, 0.0]), interval)


def test_trace_round_trip_and_picture(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.parquet", ["class", "box"], ["P3", "P4"], ["equal", "avw"])
    fill(trace, range(3))
    trace.flush()
    fill(trace, range(3, 5))
    trace.save()
    table = pq.read_table(tmp_path / "trace.parquet")
    assert table["step"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["loss/box/P4"].to_pylist() == [0, 4, 8, 12, 16]
    assert table["weight/P3"].to_pylist() == [1, 1, 2, 2, 3]
    assert table["positives/P3"].to_pylist() == [5] * 5
    assert table["action"].to_pylist() == [None, "equal", None, "equal", None]
    assert table["probability/avw"].to_pylist() == [0.75] * 5
    picture = draw_groups(tmp_path)
    assert picture is not None
    assert picture.stat().st_size > 10_000
    assert draw_groups(tmp_path / "none") is None


NAMES = ["total", "$sum", "_a/b", "background", *(f"class {i}" for i in range(4, 80))]


def test_a_picture_of_many_classes_shows_ten_per_positive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn, against the columns of the trace."""
    runs.save_config(tmp_path, TrainConfig(data="x", by="class"))
    trace = Trace(tmp_path / "trace.parquet", ["class", "box"], NAMES)
    weights = torch.ones(80)
    weights[:4] = torch.tensor([2.0, 0.4, 3.0, 1.5])
    for step in range(40):
        positives = torch.arange(80.0).flip(0) * (step % 3)
        losses = torch.arange(81.0).repeat(2, 1) + step
        trace.add(step, 0, 0.1, losses, positives, TraceInterval(step // 7, weights))
    trace.save()
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, path: Path) -> None:
        drawn.append(figure)
        save(figure, path)

    monkeypatch.setattr(Figure, "savefig", keep)
    assert draw_groups(tmp_path) == tmp_path / "groups.png"
    losses_, shares, in_force = drawn[0].axes
    title = drawn[0].get_suptitle()
    assert "what happened to each class" in title
    assert "10 of 80 classes: those whose weights went furthest from 1" in title
    labels = [line.get_label() for line in losses_.lines]
    shown = [r"total", r"\$sum", " _a/b", "background", *(f"class {i}" for i in range(4, 10))]
    assert labels == ["(whole loss)", "(background)", *shown], "of equal weights the most frequent"
    table = pq.read_table(tmp_path / "trace.parquet").to_pydict()
    counts = np.array([table[f"positives/{name}"] for name in NAMES])
    loss = np.array(table["loss/class/_a/b"]) + np.array(table["loss/box/_a/b"])
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = loss / (counts[2] / counts.sum(0))
    np.testing.assert_allclose(np.asarray(losses_.lines[4].get_ydata(), float), expected)
    rest = np.array(table["background/class"]) + np.array(table["background/box"])
    np.testing.assert_allclose(np.asarray(losses_.lines[1].get_ydata(), float), rest)
    assert losses_.get_ylabel().startswith("loss per positive")
    assert shares.get_ylabel() == "share of the positives"
    assert len(shares.collections) == 11
    assert np.asarray(in_force.lines[2].get_ydata(), float).tolist() == [3.0] * 40


def test_groups_that_matter() -> None:
    weights = np.ones((3, 14))
    weights[1, 12] = 0.2  # further from 1 than 4
    weights[2, 13] = 4.0
    positives = np.arange(14.0)[None] * np.ones((3, 1))
    assert chosen_groups(weights, positives) == [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert chosen_groups(weights, None) == [0, 1, 2, 3, 4, 5, 6, 7, 12, 13]
    weights[0, 0] = 0.0
    assert chosen_groups(weights, positives)[0] == 0
    assert chosen_groups(weights[:, :3], None) == [0, 1, 2]


def test_columns_of_losses() -> None:
    for terms in (["class", "box"], [""]):
        names = [f"loss/{t}/{n}" if t else f"loss/{n}" for t in terms for n in NAMES]
        found = loss_columns(["step", *names, "positives/total"], NAMES)
        assert found is not None
        assert found[2] == [f"loss/{t}/_a/b" if t else "loss/_a/b" for t in terms]
    assert loss_columns(["loss/P3", "loss/total"], ["P3"]) is None
    assert loss_columns(["step"], ["P3"]) is None
    assert group_names(["loss/a", "weight/a/b", "weight/weight/c"]) == ["a/b", "weight/c"]


def test_many_weights_are_printed_below_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["[red]apple[/red]", *NAMES[:79]]
    weights = {name: 2 - i / 100 for i, name in enumerate(names)}
    none = dict.fromkeys(names, 0)
    for many in (80, 20, 9):
        runs.save_config(tmp_path, TrainConfig(data="x", by="class"))
        kept = dict(list(weights.items())[:many])
        outliers = none | {"background": 3}
        metrics = {"best": None, "weights": kept, "skipped_not_finite": none}
        runs.write_json(tmp_path / "metrics.json", metrics | {"skipped_outliers": outliers})
        show_run(tmp_path)
        printed = capsys.readouterr().out
        listed = [line for line in printed.splitlines() if line.startswith("│")]
        assert len(listed) == min(many, 20)
        assert "[red]apple[/red]" in listed[0]
        values = [float(line.split("│")[2]) for line in listed]
        assert values == sorted(values, reverse=True)
        assert values[-1] == pytest.approx(min(kept.values()))
        assert ("60 classes between them are not shown" in printed) == (many == 80)
        assert "outliers: background 3\n" in printed


def test_progress_names_few_groups_and_the_ends_of_many() -> None:
    scoring: Any = SimpleNamespace(history=[])
    few, many = {"small cat": 0.5, "P3": 2.0}, {name: 1 + i for i, name in enumerate(NAMES)}
    for weights, expected in (
        (few, "small cat 0.50 P3 2.00"),
        (many, "from total 1.00 to class 79 80.00"),
    ):
        recorder: Any = SimpleNamespace(latest={"loss": 1.0, "weights": weights, "action": None})
        assert describe(recorder, scoring)["weights"] == expected


def test_trace_drops_what_an_interrupted_attempt_did_after_its_checkpoint(tmp_path: Path) -> None:
    first = Trace(tmp_path / "t.parquet", ["class", "box"], ["P3", "P4"], ["equal", "avw"])
    fill(first, range(6))
    first.save()
    second = Trace(
        tmp_path / "t.parquet", ["class", "box"], ["P3", "P4"], ["equal", "avw"], first_step=4
    )
    fill(second, range(4, 8))
    second.save()
    assert pq.read_table(tmp_path / "t.parquet")["step"].to_pylist() == list(range(8))
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_json_is_strict_and_config_reads_back(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "m.json", {"a": [float("nan"), 1.5], "b": {"c": float("inf")}})
    assert json.loads((tmp_path / "m.json").read_text(), parse_constant=pytest.fail) == {
        "a": [None, 1.5],
        "b": {"c": None},
    }
    config = TrainConfig(data="x", lr=0.25, workers=3)
    runs.save_config(tmp_path, config)
    assert runs.load_config(tmp_path) == config
    (tmp_path / "config.yaml").write_text("data: x\n")  # of a version with fewer options
    assert runs.load_config(tmp_path) == TrainConfig(data="x", by="level")
    (tmp_path / "config.yaml").write_text("nonsense: 3\n")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read: .*nonsense"):
        runs.load_config(tmp_path)
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(UserError, match="no valid JSON"):
        runs.load_json(tmp_path / "m.json")


def test_checkpoints_are_whole_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = WholeFiles()
    files.save_checkpoint({"a": torch.ones(2)}, tmp_path / "c.ckpt")

    def dies(value: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(OSError, match="disk full"):
        files.save_checkpoint({"a": torch.zeros(2)}, tmp_path / "c.ckpt")
    assert torch.equal(torch.load(tmp_path / "c.ckpt", weights_only=True)["a"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["c.ckpt"]


def test_moving_average_follows_its_closed_form() -> None:
    averaged, current = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    expected = 0.0
    for k in range(30):
        nn.init.constant_(current.weight, float(k + 1))
        nn.init.constant_(current.running_mean, float(-k))  # type: ignore[arg-type]
        update(averaged, current, decay_at(k, 0.5))
        decay = min(0.5, (1 + k) / (10 + k)) if k else 0
        expected = decay * expected + (1 - decay) * (k + 1)
        assert averaged.weight.tolist() == pytest.approx([expected] * 2)
        assert averaged.running_mean.tolist() == [-k] * 2  # type: ignore[union-attr]
    assert decay_at(10**6, 0.999) == 0.999


def test_the_first_update_copies_to_the_bit() -> None:
    averaged, current = nn.Linear(7, 5), nn.Linear(7, 5)
    update(averaged, current, decay_at(0, 0.999))
    assert torch.equal(averaged.weight, current.weight)


def test_the_average_lies_where_the_training_is() -> None:
    """Lightning sets callbacks up before it moves the model; the "meta" device stands for a GPU."""
    average = MovingAverage(0.9)
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    module: Any = LightningModule()
    module.layer = nn.Linear(2, 2)
    average.setup(trainer, module, "fit")
    assert average._average_model is not None
    assert {p.device.type for p in average._average_model.parameters()} == {"meta"}
    assert module.layer.weight.device.type == "cpu"


def test_decay_and_rates_go_to_the_right_parameters() -> None:
    from scalewise.lab import detectors
    from scalewise.lab.training.module import parameter_groups

    detector = detectors.atss("mobilenet_v3_small", 3, width=16, depth=1)
    config = TrainConfig(data="x", lr=1.0, backbone_lr=0.1, weight_decay=0.5)
    module = DetectionModule(detector, LossBalancer(5, "uncertainty"), config)
    groups = parameter_groups(module, config)
    settings = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    trained = [p for p in module.parameters() if p.requires_grad]
    assert len(settings) == len(trained) == sum(len(g["params"]) for g in groups)
    for kind in detector.head.modules():
        if isinstance(kind, nn.Conv2d):
            assert settings[id(kind.weight)] == (1.0, 0.5)
            assert kind.bias is None or settings[id(kind.bias)] == (1.0, 0.0)
    first = next(p for p in detector.backbone.parameters() if p.ndim == 4)
    assert settings[id(first)] == (0.1, 0.5)
    log_variance = next(p for n, p in module.named_parameters() if n.endswith("log_variance"))
    assert settings[id(log_variance)] == (1.0, 0.0)
