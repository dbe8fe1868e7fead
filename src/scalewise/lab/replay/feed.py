"""Feeds recorded losses through a balancer, without a detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scalewise.errors import UsageError
from scalewise.lab.replay.settings import Setting
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.run_options import load_config
from scalewise.lab.training.scheme_options import build_balancer
from scalewise.weighting import LossBalancer


@dataclass(frozen=True)
class Replayed:
    """What a scheme chose in each interval, where k intervals were finished.

    Attributes:
        setting: The settings of the balancer.
        starts: int64 [k + 1], the first row of each interval.
        weights: float32 [k + 1, groups], the weights used in each interval. The first are the
            initial weights; the last belong to the unfinished interval at the end, or would be
            used next.
        actions: Names of the k + 1 drawn actions; None before the first draw, and always None for
            a scheme without a policy.
        action_names: Names of the policy's actions; empty without a policy.
        probabilities: float32 [k + 1, actions], probability of each action.
        means: float32 [k, groups], mean unweighted loss of each finished interval.
        variances: float32 [k, groups], variance of the unweighted loss in each finished interval.
        skipped: int64 [groups], number of values left out of the statistics because they are not
            finite.
        outliers: int64 [groups], number of values left out as outliers.
        rejected: Number of proposals that were not valid weights and therefore changed nothing.

    Examples:
        >>> import torch
        >>> from scalewise.lab.replay.feed import replay
        >>> from scalewise.lab.replay.settings import Setting
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
        losses: float [rows, groups], unweighted losses.
        setting: The settings of the balancer.
        positives: float [rows, groups], number of positives; needed for groups of positives.
        names: Names of the groups, for schemes whose weights are given by name.
        epochs: int [rows], the epoch of each row; None if unknown. At the end of an epoch the
            optimizer steps even if fewer than `accumulate` rows came since its last step.

    Raises:
        UsageError: the setting cannot be replayed or does not fit the losses.

    Examples:
        >>> import torch
        >>> from scalewise.lab.replay.feed import replay
        >>> from scalewise.lab.replay.settings import Setting
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
    epochs: np.ndarray | None = None,
) -> Iterator[Replayed]:
    """Replay the same rows in random orders, which hold no trend of the training.

    Args:
        losses: float [rows, groups], unweighted losses.
        setting: The settings of the balancer.
        times: Number of random orders; these are the same for every setting.
        positives: float [rows, groups], shuffled in the same way.
        names: Names of the groups.
        epochs: As for `replay`; not shuffled, so that the intervals end at the same rows.
    """
    for seed in range(times):
        order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(seed))
        shuffled = None if positives is None else positives[order]
        yield replay(losses[order], setting, shuffled, names, epochs)


def run_setting(trace: Path) -> Setting:
    """The settings of a run without its scheme; the defaults for records of other trainings.

    Args:
        trace: Run folder, its `trace.parquet`, or a record of another training.
    """
    folder = trace.parent if trace.name == "trace.parquet" else trace
    of_run = (folder / "trace.parquet").is_file() and (folder / "config.yaml").is_file()
    own = load_config(folder) if of_run else TrainConfig(by="level")
    known = {f.name for f in fields(Setting)} - {"scheme"}
    return Setting("", **{name: getattr(own, name) for name in known})


def _state(balancer: LossBalancer) -> tuple[Tensor, int, Tensor]:
    """Copies of the current weights, action (-1 for none) and probabilities."""
    scheme = balancer.scheme
    action = getattr(scheme, "action", None)
    chances = getattr(scheme, "probabilities", None)
    return (
        balancer.weights.clone(),
        int(action) if isinstance(action, Tensor) else -1,
        chances.clone() if isinstance(chances, Tensor) else torch.empty(0),
    )
