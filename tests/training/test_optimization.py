"""The optimizer, its schedules and the moving average, against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import LightningModule
from torch import nn

from scalewise.lab.training.average import MovingAverage, decay_at, update
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.module import DetectionModule
from scalewise.lab.training.optimization import rate
from scalewise.weighting import LossBalancer


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


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_moves_the_weights_by_no_more_than_the_clipped_gradient(
    precision: str,
    tmp_path: Path,
    tiny: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a fused optimizer; the gradients of two accumulated batches are clipped together."""
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
    assert len(moved) == 3  # five batches in windows of 2, 2 and 1
    assert moved == pytest.approx([0.01] * 3, rel=1e-2)


def test_a_warm_up_longer_than_the_training_is_told(
    tmp_path: Path, tiny: Callable[..., TrainConfig]
) -> None:
    with pytest.warns(UserWarning, match="--warmup 5 is not shorter than the 5 steps of the whole"):
        train(tiny(tmp_path, epochs=1, warmup=5))


def test_decay_and_rates_go_to_the_right_parameters() -> None:
    from scalewise import detectors
    from scalewise.lab.training.optimization import parameter_groups

    detector = detectors.atss("mobilenet_v3_small", 3, width=16, depth=1)
    config = TrainConfig(data="x", lr=1.0, backbone_lr=0.1, weight_decay=0.5)
    module = DetectionModule(detector, LossBalancer(5, "uncertainty"), config)
    groups = parameter_groups(module, detector.backbone, config)
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
    """The average is on the training device ("meta" here) before Lightning moves the model."""
    average = MovingAverage(0.9)
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    module: Any = LightningModule()
    module.layer = nn.Linear(2, 2)
    average.setup(trainer, module, "fit")
    assert average._average_model is not None
    assert {p.device.type for p in average._average_model.parameters()} == {"meta"}
    assert module.layer.weight.device.type == "cpu"
