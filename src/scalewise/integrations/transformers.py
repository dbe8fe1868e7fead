"""The weights of groups in what a Hugging Face `Trainer` logs."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

import torch

from scalewise.integrations.attached import NAME, AttachedBalancer
from scalewise.integrations.loops import (
    LoopError,
    check_balancers,
    find_balancers,
    keep_from_broadcast,
    readings,
)
from scalewise.weighting import LossBalancer


def log_groups(trainer: Any) -> None:
    """Let a `transformers.Trainer` log its model's balancers, and check that they fit.

    Call it once, before `trainer.train()`. Each training log entry (every `logging_steps`) then
    also holds the values of `scalewise.integrations.loops.readings`, in `state.log_history`, on the
    console and in every reporter. A callback could not do that, because the reporters run before
    it. If the number of batches of an epoch is not a multiple of the accumulation, the short window
    at the end is a step like any other: weights change between windows, never within one. In
    data-parallel training each rank keeps its own records.

    Args:
        trainer: its model has `LossBalancer`s among its submodules, as `scalewise.attach` leaves
            them there, so that `Trainer` saves and restores them with the model.

    Raises:
        LoopError: there is no balancer; the `accumulate` of one is not
            `gradient_accumulation_steps`; one was loaded in half precision, or from a checkpoint
            that lacks it; the trainer would put the model into `DataParallel`, whose copies forget
            what they record; or the trainer does not take the loss from the model.

    Examples:
        >>> from scalewise.integrations.transformers import log_groups
        >>> import torch, transformers
        >>> import scalewise as sw
        >>> model = torch.nn.Linear(2, 2)
        >>> model.balancer = sw.LossBalancer(["cat", "dog"], by="class")
        >>> arguments = transformers.TrainingArguments("out", use_cpu=True, report_to="none")
        >>> trainer = transformers.Trainer(model, arguments)
        >>> log_groups(trainer)
        >>> trainer.log({"loss": 1.0})
        >>> trainer.state.log_history[-1]["weight/dog"]
        1.0
    """
    balancers = find_balancers(trainer.model)
    if not balancers:
        raise LoopError(
            f"log_groups: there is no LossBalancer among the submodules of "
            f"{type(trainer.model).__name__}; call sw.attach(model) first, or make your own "
            "balancer a submodule, so that Trainer saves it"
        )
    steps = trainer.args.gradient_accumulation_steps
    check_balancers(balancers, steps, "gradient_accumulation_steps")
    for name, balancer in balancers.items():
        _check_initialised(name, balancer)
    if trainer.args.n_gpu > 1:
        raise LoopError(
            f"log_groups: Trainer would use DataParallel on {trainer.args.n_gpu} GPUs, whose "
            "copies of the model forget what they record; start it with torchrun, or set "
            "CUDA_VISIBLE_DEVICES to one GPU"
        )
    if isinstance(getattr(trainer.model, NAME, None), AttachedBalancer) and (
        getattr(trainer, "compute_loss_func", None) or getattr(trainer, "label_smoother", None)
    ):
        raise LoopError(
            "log_groups: Trainer takes the loss from compute_loss_func or label smoothing, not "
            f"from {type(trainer.model).__name__}, whose weights would do nothing; leave both out"
        )
    keep_from_broadcast(trainer.model)
    log = trainer.log

    def with_groups(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:  # not those of an evaluation, nor the summary at the end
            logs = logs | readings(find_balancers(trainer.model))
        log(logs, *args, **kwargs)

    trainer.log = with_groups
    trainer.add_callback(_window_closer(balancers.values()))


def _window_closer(balancers: Collection[LossBalancer]) -> Any:
    """A callback that ends the balancers' windows with each step; an epoch's last may be short."""

    def on_step_end(*args: Any, **kwargs: Any) -> None:
        for balancer in balancers:
            balancer.close_window()

    base = importlib.import_module("transformers").TrainerCallback
    return type("WindowCloser", (base,), {"on_step_end": on_step_end})()


def _check_initialised(name: str, balancer: LossBalancer) -> None:
    """Refuse a balancer that the checkpoint lacks: `from_pretrained` leaves it without values."""
    initial = balancer.scheme.initial()
    if not balancer.scheme.fixed:
        initial = initial * (balancer.num_groups / initial.sum())
    fresh = torch.equal(balancer.weights.cpu(), initial.cpu()) and not balancer.finished.any()
    if not balancer.calls and not fresh:
        raise LoopError(
            f"log_groups: balancer {name!r} has recorded nothing, but its state is not that of a "
            "new one: from_pretrained sets no values for what a checkpoint lacks; make the "
            "balancer after the model was loaded"
        )
