"""Level losses fed through a balancer, without a detector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scalewise.errors import UsageError
from scalewise.training.config import TrainConfig
from scalewise.training.runs import load_config
from scalewise.training.schemes import build_balancer, parse_scheme
from scalewise.weighting import LearnedScheme, LossBalancer


@dataclass(frozen=True)
class Setting:
    """A balancer in words; the fields are the training options of the same names."""

    scheme: str
    interval: int = 100
    normalize: Literal["mean", "loss"] = "loss"
    accumulate: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Replayed:
    """What a scheme chose, interval by interval; k intervals were finished.

    Attributes:
        setting: The balancer.
        rows: Rows of losses in an interval.
        weights: float32 [k + 1, levels], in force in each interval; the first are the initial ones,
            the last those that would come next, or that a last, unfinished interval had.
        actions: Names of the drawn actions, k + 1; None before the first draw and for all
            intervals of a scheme without a policy.
        action_names: Of the policy, empty without one.
        probabilities: float32 [k + 1, actions].
        means: float32 [k, levels], mean unweighted loss of each finished interval.
        variances: float32 [k, levels].
        skipped: int64 [levels], values left out of the statistics because they are not finite.
        outliers: int64 [levels], values that the guard left out.
        rejected: Proposals that were no weights and changed nothing.
    """

    setting: Setting
    rows: int
    weights: np.ndarray
    actions: tuple[str | None, ...]
    action_names: tuple[str, ...]
    probabilities: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    skipped: np.ndarray
    outliers: np.ndarray
    rejected: int


def replay(losses: Tensor, setting: Setting, positives: Tensor | None = None) -> Replayed:
    """Feed losses, row by row, to the balancer that training would use.

    Args:
        losses: float [rows, levels].
        setting: The balancer.
        positives: float [rows, levels], for schemes that look at losses per positive.

    Raises:
        UsageError: the setting cannot be replayed or does not fit the losses.
    """
    rows = setting.interval * setting.accumulate
    balancer = build_balancer(losses.shape[1], setting)
    if len(losses) < rows:
        raise UsageError(
            f"an interval of {rows} rows does not end within the {len(losses)} rows there are; "
            "choose a shorter --interval"
        )
    if balancer.scheme.per_positive and positives is None:
        raise UsageError(
            f"{setting.scheme} looks at losses per positive, and this record has no columns "
            "positives/<level>; replay a run's trace.parquet, or leave out per_positive"
        )
    states = [_state(balancer)]
    moments = []
    for count, row in enumerate(losses.unbind(0), 1):
        balancer(row, None if positives is None else positives[count - 1])
        if count % rows == 0:
            states.append(_state(balancer))
            statistics = balancer.statistics
            moments.append(torch.stack((statistics.mean, statistics.variance)))
    weights, drawn, chances = zip(*states, strict=True)
    names: tuple[str, ...] = tuple(getattr(balancer.scheme, "action_names", ()))
    means, variances = torch.stack(moments).unbind(1)
    return Replayed(
        setting,
        rows,
        torch.stack(weights).numpy(),
        tuple(names[action] if action >= 0 else None for action in drawn),
        names,
        torch.stack(chances).numpy(),
        means.numpy(),
        variances.numpy(),
        balancer.skipped.numpy(),
        balancer.outliers.numpy(),
        int(balancer.rejected),
    )


def replay_shuffled(
    losses: Tensor, setting: Setting, times: int, positives: Tensor | None = None
) -> Iterator[Replayed]:
    """Replays of the same rows in random order, which has no course of training left in it.

    Args:
        losses: float [rows, levels].
        setting: The balancer.
        times: Number of orders; they are the same ones for every setting.
        positives: float [rows, levels], shuffled along.
    """
    for seed in range(times):
        order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(seed))
        yield replay(losses[order], setting, None if positives is None else positives[order])


def run_setting(trace: Path) -> Setting:
    """What a run of ours was trained with, but its scheme; the defaults for other records.

    Args:
        trace: Run folder, its `trace.parquet`, or a record of something else.
    """
    folder = trace.parent if trace.name == "trace.parquet" else trace
    of_run = (folder / "trace.parquet").is_file() and (folder / "config.yaml").is_file()
    own = load_config(folder) if of_run else TrainConfig()
    return Setting("", own.interval, own.normalize, own.accumulate, own.seed)


def grid(schemes: str, intervals: str, base: Setting) -> list[Setting]:
    """Every scheme with every interval.

    Args:
        schemes: As after `--scheme`, separated by commas.
        intervals: Whole numbers above 0, separated by commas.
        base: The rest of each setting.

    Raises:
        UsageError: a word is not understood, or a scheme cannot be replayed.
    """
    lengths = []
    for word in _words(intervals, "--interval"):
        if not word.isdecimal() or int(word) < 1:
            raise UsageError(f"--interval: {word!r} is no whole number above 0")
        lengths.append(int(word))
    settings = [
        replace(base, scheme=scheme, interval=length)
        for scheme in _words(schemes, "--schemes")
        for length in lengths
    ]
    for setting in settings:
        if isinstance(parse_scheme(setting.scheme), LearnedScheme):
            raise UsageError(
                f"--schemes: {setting.scheme} cannot be replayed: its weights are trained by "
                "back-propagation, and follow the optimizer and its learning rate, which no "
                "record of losses holds"
            )
    return settings


def _state(balancer: LossBalancer) -> tuple[Tensor, int, Tensor]:
    """Weights, action (-1 for none) and probabilities in force; CPU tensors of their own."""
    scheme = balancer.scheme
    action = getattr(scheme, "action", None)
    chances = getattr(scheme, "probabilities", None)
    return (
        balancer.weights.clone(),
        int(action) if isinstance(action, Tensor) else -1,
        chances.clone() if isinstance(chances, Tensor) else torch.empty(0),
    )


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} {text!r}: an empty entry between commas")
    return words
