"""Recorded losses fed through a balancer, without a detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scalewise.errors import UsageError
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.runs import load_config
from scalewise.lab.training.scheme_options import build_balancer, parse_scheme
from scalewise.weighting import LearnedScheme, LossBalancer


@dataclass(frozen=True)
class Setting:
    """A balancer in words; the fields are the training options of the same names.

    Examples:
        >>> from scalewise.lab.replay.feed import Setting
        >>> Setting("share", by="class").interval
        'auto'
    """

    scheme: str
    interval: int | Literal["auto"] = "auto"
    normalize: Literal["auto", "mean", "loss", "positives", "lift"] = "auto"
    accumulate: int = 1
    seed: int = 0
    by: str = "level"
    least_weight: float = 0.25
    largest_weight: float = 8.0


@dataclass(frozen=True)
class Replayed:
    """What a scheme chose, interval by interval; k intervals were finished.

    Attributes:
        setting: The balancer.
        starts: int64 [k + 1], the first row of each interval.
        weights: float32 [k + 1, groups], in force in each interval; the first are the initial ones,
            the last those that would come next, or that a last, unfinished interval had.
        actions: Names of the drawn actions, k + 1; None before the first draw and for all
            intervals of a scheme without a policy.
        action_names: Of the policy, empty without one.
        probabilities: float32 [k + 1, actions].
        means: float32 [k, groups], mean unweighted loss of each finished interval.
        variances: float32 [k, groups].
        skipped: int64 [groups], values left out of the statistics because they are not finite.
        outliers: int64 [groups], values that the guard left out.
        rejected: Proposals that were no weights and changed nothing.

    Examples:
        >>> import torch
        >>> from scalewise.lab.replay.feed import Setting, replay
        >>> losses = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
        >>> replay(losses, Setting("rlo", interval=20)).actions
        (None, 'avw-dispersion', 'equal', 'equal')
    """

    setting: Setting
    starts: np.ndarray
    weights: np.ndarray
    actions: tuple[str | None, ...]
    action_names: tuple[str, ...]
    probabilities: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    skipped: np.ndarray
    outliers: np.ndarray
    rejected: int


def replay(
    losses: Tensor,
    setting: Setting,
    positives: Tensor | None = None,
    names: Sequence[str] | None = None,
    epochs: np.ndarray | None = None,
) -> Replayed:
    """Feed losses, row by row, to the balancer that training would use.

    Args:
        losses: float [rows, groups].
        setting: The balancer.
        positives: float [rows, groups], for groups of positives.
        names: Of the groups, for weights that are given by name.
        epochs: int [rows], the epoch of each row, at whose end the optimizer makes its step even if
            fewer rows than `accumulate` came since the last; None where it is not known.

    Raises:
        UsageError: the setting cannot be replayed or does not fit the losses.

    Examples:
        >>> import torch
        >>> from scalewise.lab.replay.feed import Setting, replay
        >>> losses = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
        >>> replayed = replay(losses, Setting("avw:temperature=2", interval=20))
        >>> replayed.weights.shape  # the first weights, then those after each interval
        (4, 3)
    """
    balancer = build_balancer(names or losses.shape[1], setting)
    if setting.by != "level" and positives is None:
        raise UsageError(
            f"--by {setting.by} weighs positives, and this record has no columns "
            "positives/<group>; replay a run's trace.parquet, or --by level"
        )
    states = [_state(balancer)]
    moments: list[Tensor] = []
    ends: list[int] = []
    for count, row in enumerate(losses.unbind(0), 1):
        balancer(row, None if positives is None else positives[count - 1])
        if epochs is not None and epochs[count - 1] != epochs[min(count, len(epochs) - 1)]:
            balancer.close_window()
        if balancer.intervals > len(ends):
            ends.append(count)
            states.append(_state(balancer))
            statistics = balancer.statistics
            moments.append(torch.stack((statistics.mean, statistics.variance)))
    if not ends:
        raise UsageError(
            f"no interval of {setting.interval} steps ends within the {len(losses)} rows there "
            "are; choose a shorter --interval"
        )
    weights, drawn, chances = zip(*states, strict=True)
    actions: tuple[str, ...] = tuple(getattr(balancer.scheme, "action_names", ()))
    means, variances = torch.stack(moments).unbind(1)
    return Replayed(
        setting,
        np.array([0, *ends]),
        torch.stack(weights).numpy(),
        tuple(actions[action] if action >= 0 else None for action in drawn),
        actions,
        torch.stack(chances).numpy(),
        means.numpy(),
        variances.numpy(),
        balancer.skipped.numpy(),
        balancer.outliers.numpy(),
        int(balancer.rejected),
    )


def replay_shuffled(
    losses: Tensor,
    setting: Setting,
    times: int,
    positives: Tensor | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[Replayed]:
    """Replays of the same rows in random order, which has no course of training left in it.

    Args:
        losses: float [rows, groups].
        setting: The balancer.
        times: Number of orders; they are the same ones for every setting.
        positives: float [rows, groups], shuffled along.
        names: Of the groups.
    """
    for seed in range(times):
        order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(seed))
        shuffled = None if positives is None else positives[order]
        yield replay(losses[order], setting, shuffled, names)


def run_setting(trace: Path) -> Setting:
    """What a run of ours was trained with, but its scheme; the defaults for other records.

    Args:
        trace: Run folder, its `trace.parquet`, or a record of something else.
    """
    folder = trace.parent if trace.name == "trace.parquet" else trace
    of_run = (folder / "trace.parquet").is_file() and (folder / "config.yaml").is_file()
    own = load_config(folder) if of_run else TrainConfig(by="level")
    known = {f.name for f in fields(Setting)} - {"scheme"}
    return Setting("", **{name: getattr(own, name) for name in known})


def grid(schemes: str, intervals: str, base: Setting) -> list[Setting]:
    """Every scheme with every interval.

    Args:
        schemes: As after `--scheme`, separated by commas.
        intervals: Whole numbers above 0 or "auto", separated by commas.
        base: The rest of each setting.

    Raises:
        UsageError: a word is not understood, or a scheme cannot be replayed.
    """
    lengths: list[int | Literal["auto"]] = []
    for word in _words(intervals, "--interval"):
        if word == "auto":
            lengths.append("auto")
        elif word.isdecimal() and int(word) >= 1:
            lengths.append(int(word))
        else:
            raise UsageError(f"--interval: {word!r} is no whole number above 0, nor auto")
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
