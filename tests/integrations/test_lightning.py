"""The Lightning callback, compared with a plain loop and with runs without interruption."""

from __future__ import annotations

import csv
import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.loggers import CSVLogger
from lightning_runs import LEVELS, ROWS, STEPS, Module, Steps, balancer, fit, loader, trainer
from torch import Tensor, distributed, nn
from torch.overrides import TorchFunctionMode
from torchvision_models import batch, make

import scalewise as sw
from scalewise.integrations.lightning import BalancerCallback
from scalewise.integrations.loops import LoopError, find_balancers, readings


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_resumed_run_is_the_undisturbed_one(tmp_path: Path, inside: bool, precision: Any) -> None:
    def start() -> tuple[Module, BalancerCallback, sw.LossBalancer]:
        own = balancer(interval=2)  # 5 steps an epoch: checkpoint inside an interval
        return Module(own, inside), BalancerCallback(None if inside else own), own

    whole, callback, expected = start()
    fit(tmp_path, whole, callback, max_epochs=4, precision=precision)

    first, callback, _ = start()
    run = fit(tmp_path, first, callback, max_epochs=1, precision=precision)
    run.save_checkpoint(tmp_path / "one.ckpt")
    second, callback, resumed = start()
    fit(tmp_path, second, callback, tmp_path / "one.ckpt", max_epochs=4, precision=precision)

    assert torch.equal(second.scale, whole.scale)
    assert_same_state(resumed.state_dict(), expected.state_dict())
    assert resumed.intervals == 10
    assert torch.equal(torch.stack(second.seen), torch.stack(whole.seen)[STEPS:])
    assert (torch.stack(second.seen) != 1).any()


def assert_same_state(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_without_the_callback_a_balancer_outside_starts_anew(tmp_path: Path) -> None:
    first = Module(balancer(), inside=False)
    fit(tmp_path, first, None, max_epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    own = balancer()
    with pytest.warns(UserWarning, match=r"no state of \['balancer'\]; their weights start anew"):
        fit(
            tmp_path, Module(own, False), BalancerCallback(own), tmp_path / "one.ckpt", max_epochs=2
        )
    assert int(own.get_extra_state()[1]) == STEPS  # only the calls after the resume


def plain_loop(epochs: int) -> list[dict[str, float]]:
    """The values to log after each step, from a loop without Lightning."""
    own, scale = balancer(), nn.Parameter(torch.ones(LEVELS))
    optimizer = torch.optim.SGD([scale], lr=0.1, momentum=0.9)
    policy: Any = own.scheme
    history = []
    for _ in range(epochs):
        for rows in ROWS.view(STEPS, 2, LEVELS):
            losses = (scale * rows).square().mean(0)
            optimizer.zero_grad()
            torch.autograd.backward(own(losses))
            optimizer.step()
            row = {"action": float(policy.action)}
            for name, chance in zip(policy.action_names, policy.probabilities, strict=True):
                row[f"probability/{name}"] = float(chance)
            for level, (loss, weight) in enumerate(zip(losses, own.weights, strict=True)):
                row |= {f"loss/level{level}": loss.item(), f"weight/level{level}": weight.item()}
            history.append(row)
    return history


@pytest.mark.parametrize("package", ["lightning", "pytorch_lightning"])
def test_it_logs_what_a_plain_loop_sees(tmp_path: Path, package: str) -> None:
    trainers = pytest.importorskip(package)
    module: Any = Module(balancer())
    if package == "pytorch_lightning":
        module = type("Other", (Steps, trainers.LightningModule), {})(balancer())
    logger = CSVLogger(tmp_path, name="log", version=0)
    options: Any = {"logger": logger, "log_every_n_steps": 2, "max_epochs": 6}
    fit(tmp_path, module, BalancerCallback(), package=trainers, **options)
    rows = list(csv.DictReader((tmp_path / "log/version_0/metrics.csv").open()))
    logged = {int(row["step"]): row for row in rows if row["action"]}
    own = [int(row["step"]) for row in rows if row["total"]]
    assert list(logged) == own == list(range(1, 6 * STEPS, 2))
    history = plain_loop(6)
    for step, row in logged.items():
        assert {name: float(row[name]) for name in history[step]} == history[step]
    for name in ("action", "loss/level0", "weight/level0", "probability/equal"):
        assert len({row[name] for row in logged.values()}) > 1  # values change during the run


def test_other_steps_touch_no_tensor(tmp_path: Path) -> None:
    class Watched(BalancerCallback):
        def on_train_batch_end(self, *args: Any) -> None:
            calls = 0

            def count(mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                nonlocal calls
                calls += 1
                return func(*args, **(kwargs or {}))

            mode: Any = type("Mode", (TorchFunctionMode,), {"__torch_function__": count})
            with mode():
                super().on_train_batch_end(*args)
            seen.append(calls)

    seen: list[int] = []
    options: Any = {"logger": CSVLogger(tmp_path), "log_every_n_steps": 4, "max_epochs": 2}
    fit(tmp_path, Module(balancer()), Watched(), **options)
    assert [calls > 0 for calls in seen] == [step % 4 == 3 for step in range(2 * STEPS)]


def test_several_balancers_are_told_apart_by_their_names() -> None:
    model = make("faster_rcnn")
    sw.attach(model, "size", "avw", interval=1)
    both = nn.ModuleDict({"detector": model, "other": balancer("equal")})
    found = find_balancers(both)
    rpn, roi = (f"detector.scalewise.balancers.{name}" for name in ("rpn", "roi"))
    assert list(found) == [rpn, roi, "other"]
    assert "other/loss/level0" not in readings(found)  # nothing recorded yet
    model(*batch((2, 1)))
    values = readings(found)
    assert values[f"{roi}/weight/medium"] == float(model.scalewise.weights["roi"][1])
    seen = model.scalewise.group_losses
    expected = seen["loss_classifier"] + seen["loss_box_reg"]
    sizes = ("small", "medium", "large")
    for size, loss in zip(sizes, expected.tolist(), strict=False):  # the last is the background's
        assert values[f"{roi}/loss/{size}"] == pytest.approx(loss)
    assert values["other/weight/level2"] == 1
    assert "loss/small" in readings({"one": found[rpn]})


class ByClass(Steps, L.LightningModule):
    """A loss per anchor, with groups that change from step to step."""

    def training_step(self, rows: Tensor, index: int) -> Tensor:
        loss = (self.scale * rows).square() / rows.numel()
        group = (10 * rows).long() % 4 - 1  # by anchor; -1 is the background
        self.last = [(loss[group == i].sum().item(), (group == i).sum()) for i in range(3)]
        return sw.weigh_positives(loss, group, self.kept[0])


def test_groups_of_positives_are_logged_by_name(tmp_path: Path) -> None:
    names = ["red", "white", "platelet"]
    own = sw.LossBalancer(names, "share", interval=2, by="class")
    module = ByClass(own)
    options: Any = {"logger": CSVLogger(tmp_path, name="log", version=0), "log_every_n_steps": 5}
    fit(tmp_path, module, BalancerCallback(), max_epochs=2, **options)
    *_, last = csv.DictReader((tmp_path / "log/version_0/metrics.csv").open())
    for name, weight, (loss, _) in zip(names, own.weights.tolist(), module.last, strict=True):
        assert float(last[f"weight/{name}"]) == weight
        assert float(last[f"loss/{name}"]) == pytest.approx(loss)
    assert own.intervals == 5
    assert (own.weights != 1).any()


def test_accumulated_batches_share_their_weights(tmp_path: Path) -> None:
    module = Module(balancer(sw.RandomWeights(), interval=1, accumulate=5))
    options: Any = {"max_epochs": 3, "accumulate_grad_batches": 5}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="BalancerCallback")
        fit(tmp_path, module, BalancerCallback(), **options)
    windows = torch.stack(module.seen).view(3, 5, LEVELS)
    assert torch.equal(windows, windows[:, :1].expand(3, 5, LEVELS))
    assert not torch.equal(windows[1], windows[2])


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("inside", [True, False])
def test_weights_do_not_change_in_a_window_that_an_epoch_cuts_short(
    tmp_path: Path, interval: int, inside: bool
) -> None:
    """An epoch has windows of 2, 2 and 1 batches; the run is resumed after the third epoch."""

    def run(epochs: int, resume: Path | None = None) -> tuple[Any, Tensor]:
        own = balancer(sw.RandomWeights(), interval=interval, accumulate=2)
        module, callback = Module(own, inside), BalancerCallback(None if inside else own)
        options: Any = {"max_epochs": epochs, "accumulate_grad_batches": 2}
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="BalancerCallback")
            return fit(tmp_path, module, callback, resume, **options), torch.stack(module.seen)

    _, seen = run(6)
    windows = [3 * (call // STEPS) + call % STEPS // 2 for call in range(6 * STEPS)]
    intervals = [window // interval for window in windows]
    changed = [bool((seen[i] != seen[i - 1]).any()) for i in range(1, len(seen))]
    assert changed == [intervals[i] != intervals[i - 1] for i in range(1, len(seen))]
    run(3)[0].save_checkpoint(tmp_path / "three.ckpt")
    assert torch.equal(run(6, tmp_path / "three.ckpt")[1], seen[3 * STEPS :])


def refused(folder: Path, reason: str, module: Any, callback: Any, **options: Any) -> None:
    with pytest.raises(LoopError, match=reason):
        fit(folder, module, callback, max_epochs=2, **options)


def test_another_accumulation_is_refused(tmp_path: Path) -> None:
    reason = r"'balancer' has accumulate=1, but accumulate_grad_batches is 5; .*accumulate=5"
    refused(tmp_path, reason, Module(balancer()), BalancerCallback(), accumulate_grad_batches=5)
    module = Module(balancer())
    callbacks = [BalancerCallback(), GradientAccumulationScheduler({1: 5})]
    with pytest.raises(LoopError, match=reason):
        trainer(tmp_path, callbacks, max_epochs=2).fit(module, loader())
    assert len(module.seen) == STEPS  # the first epoch was fine


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "no LossBalancer among", Module(balancer(), False), BalancerCallback())
    other = BalancerCallback({"balancer": balancer()})
    refused(tmp_path, "has a balancer 'balancer' already", Module(balancer()), other)
    learned = balancer("uncertainty")
    reason = r"'balancer' has parameters of its own \(uncertainty\); make it a submodule"
    refused(tmp_path, reason, Module(learned, False), BalancerCallback(learned))
    rounded = Module(balancer())
    rounded.balancer.weights = rounded.balancer.weights.bfloat16()
    refused(tmp_path, "made or loaded in torch.bfloat16", rounded, BalancerCallback())
    with pytest.raises(LoopError, match=r"has balancers \['other'\] outside .* \['balancer'\]"):
        BalancerCallback(balancer()).load_state_dict({"other": {}})


def test_a_submodule_that_is_given_as_well_is_saved_once(tmp_path: Path) -> None:
    own = balancer()
    callback = BalancerCallback(own)
    run = fit(tmp_path, Module(own), callback, max_epochs=1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    assert callback.state_dict() == {}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="BalancerCallback")
        own = balancer()
        fit(tmp_path, Module(own), BalancerCallback(own), tmp_path / "one.ckpt", max_epochs=2)
    assert int(own.get_extra_state()[1]) == 2 * STEPS


class ByRank(Module):
    """Saves the weights and statistics of its rank."""

    def training_step(self, rows: Tensor, index: int) -> Tensor:
        return super().training_step(rows * (1 + self.global_rank), index)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.scale], lr=0.0)

    def on_train_end(self) -> None:
        own = self.kept[0]
        seen = own.statistics
        moments = torch.stack((seen.count, seen.mean, seen.variance))
        found = {"weights": own.weights, "moments": moments}
        torch.save(found, f"{self.trainer.default_root_dir}/{self.global_rank}.pt")


class Late(ByRank):
    """Makes its balancer when Lightning asks for the layers."""

    def configure_model(self) -> None:
        self.balancer = self.kept[0]


needs_gloo = pytest.mark.skipif(
    not (distributed.is_gloo_available() and hasattr(os, "fork")), reason="needs gloo and fork"
)


@needs_gloo
def test_two_ranks_merge_what_each_of_them_saw(tmp_path: Path) -> None:
    module = ByRank(balancer("avw:signal=magnitude"))
    options: Any = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    fit(tmp_path, module, BalancerCallback(), max_epochs=3, **options)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(ranks[0]["weights"], ranks[1]["weights"])
    assert (ranks[0]["weights"] != 1).all()
    # 15 steps: the last interval has the last 3 batches, with doubled rows on rank 1
    losses = ROWS.view(STEPS, 2, LEVELS)[2:].square().mean(1)
    both = torch.cat((losses, 4 * losses))
    count, mean, variance = ranks[1]["moments"]
    assert count.tolist() == [6] * LEVELS
    torch.testing.assert_close(mean, both.mean(0))
    torch.testing.assert_close(variance, both.var(0))


@needs_gloo
def test_a_balancer_made_too_late_for_data_parallelism_is_refused(tmp_path: Path) -> None:
    module = Late(balancer(), inside=False)
    try:
        refused(
            tmp_path,
            r"made in setup\(\) or configure_model\(\)",
            module,
            BalancerCallback(),
            strategy="ddp",
        )
    finally:
        distributed.destroy_process_group()
    late = Late(balancer(), inside=False)
    fit(tmp_path, late, BalancerCallback(), max_epochs=1)  # one process broadcasts nothing
    assert late.balancer.intervals == 1


def test_pytorch_lightning_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    other = pytest.importorskip("pytorch_lightning")
    spec: Any = importlib.util.find_spec("scalewise.integrations.lightning")
    module: Any = importlib.util.module_from_spec(spec)
    for name in ("lightning", "lightning.pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    spec.loader.exec_module(module)
    assert issubclass(module.BalancerCallback, other.Callback)
    assert not issubclass(BalancerCallback, other.Callback)
