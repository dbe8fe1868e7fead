"""The checks that every integration has to pass, one function each, for any `Subject`."""

from __future__ import annotations

import dataclasses
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from processes import WORLD, run_ranks
from subject import Subject
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scalewise.weighting import LossBalancer

BATCHES = ((3, 1), (2, 0), (0, 0), (4,))  # objects per image
STEPS = 4


@dataclass
class Rank:
    """What one of two data parallel processes recorded.

    Attributes:
        weights: float32 [steps, n], with all sets of groups side by side.
        counts: `count` in the statistics of the last interval, by set of groups.
        means: `mean` in the same statistics.
        seen: this rank's steps in that interval, [steps, 2, n] by set of groups: the unweighted
            losses, and each group's share of the positives (1 for whole levels).
        gradients: gradients of one step under random weights, averaged over the ranks.
        reference: gradients of the same step on this rank alone, from the slow reference.
    """

    weights: Tensor
    counts: dict[str, Tensor]
    means: dict[str, Tensor]
    seen: dict[str, Tensor]
    gradients: dict[str, Tensor]
    reference: dict[str, Tensor]


def close(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    """Assert equal names and dtypes, and equal values up to float32 rounding."""
    assert list(found) == list(expected), what
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, f"{what}: {name}"
        scale = float(value.abs().max()) if value.numel() else 0.0
        torch.testing.assert_close(
            found[name], value, rtol=2e-5, atol=2e-6 * (1 + scale), msg=f"{what}: {name}"
        )


def same_weights(subject: Subject, levels: int, by: str) -> None:
    """At weight 1, losses and gradients equal those of the plain framework."""
    for counts in BATCHES:
        data = subject.batch(counts, 1)
        plain, weighted = subject.make(levels, 0), subject.make(levels, 0)
        balancers = subject.attach(weighted, "equal", by=by)
        groups = {"size": 3, "level": levels, "level-positives": levels}
        assert all(b.num_groups == groups.get(by, b.num_groups) for b in balancers.values())
        found, expected = subject.step(weighted, data), subject.step(plain, data)
        for mine, own, what in zip(found, expected, ("losses", "gradients"), strict=True):
            close(mine, own, f"{what} of {counts}")
            if by in subject.exact:
                assert all(torch.equal(mine[name], own[name]) for name in own), what


def random_weights(subject: Subject, by: str) -> None:
    """Under random weights, gradients equal those of the slow reference."""
    for counts in BATCHES:
        data = subject.batch(counts, 1)
        plain, weighted, weights = _under_random_weights(subject, by)
        subject.weigh(plain, weights, by)
        found, expected = subject.step(weighted, data)[1], subject.step(plain, data)[1]
        close(found, expected, f"gradients of {counts}")
    unweighted = subject.step(subject.make(subject.levels[0], 0), data)[1]
    assert any(not torch.allclose(found[name], unweighted[name], rtol=1e-2) for name in found)


def _under_random_weights(subject: Subject, by: str) -> tuple[Any, Any, dict[str, Tensor]]:
    """A plain model, a weighted model, and the weights of the second."""
    plain, weighted = subject.make(subject.levels[0], 0), subject.make(subject.levels[0], 0)
    balancers = subject.attach(weighted, "equal", by=by)
    draw = torch.Generator().manual_seed(3)
    for balancer in balancers.values():
        balancer.weights.copy_(0.2 + 1.6 * torch.rand(balancer.num_groups, generator=draw))
    return plain, weighted, {name: b.weights.clone() for name, b in balancers.items()}


def bfloat16(subject: Subject, by: str) -> None:
    """Under autocast, the two checks above hold up to the precision of bfloat16."""
    data = subject.batch((3, 1), 1)
    with torch.autocast("cpu", torch.bfloat16):
        plain, weighted, weights = _under_random_weights(subject, by)
        expected = subject.step(subject.make(subject.levels[0], 0), data)
        subject.weigh(plain, weights, by)
        assert _distance(subject.step(weighted, data)[1], subject.step(plain, data)[1]) < 0.03
        equal = subject.make(subject.levels[0], 0)
        subject.attach(equal, "equal", by=by)
        found = subject.step(equal, data)
    assert _distance(found[1], expected[1]) < 0.03
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name].float(), value.float(), rtol=1e-2, atol=1e-3)


def _distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference of all gradients over the norm of the expected gradients."""
    assert found.keys() == expected.keys()
    apart = sum(float((found[n].double() - g.double()).square().sum()) for n, g in expected.items())
    whole = sum(float(g.double().square().sum()) for g in expected.values())
    return cast(float, (apart / whole) ** 0.5)


def accumulation(subject: Subject, by: str) -> None:
    """Weights change with the optimizer step, not with the forward pass."""
    model = subject.make(subject.levels[0], 0)
    options = {"interval": 1, "accumulate": 3, "normalize": "mean"}
    balancers = subject.attach(model, "random", by=by, **options)
    seen = []
    for seed in range(7):
        seen.append(torch.cat([b.weights.clone() for b in balancers.values()]))
        subject.step(model, subject.batch((4,), seed))
    for first in (0, 3):
        assert torch.equal(seen[first], seen[first + 1])
        assert torch.equal(seen[first], seen[first + 2])
        assert not torch.equal(seen[first], seen[first + 3])


def checkpoint(subject: Subject, by: str) -> None:
    """A new model that loads the saved `state_dict` trains like the first."""
    first, second = subject.make(subject.levels[0], 0), subject.make(subject.levels[0], 5)
    own, other = (subject.attach(m, "rlo", by=by, interval=2, seed=3) for m in (first, second))
    for seed in range(5):
        subject.step(first, subject.batch((2, 1), seed))
    second.load_state_dict(_through_a_file(first.state_dict()))
    for name, balancer in own.items():  # for frameworks that keep balancers outside of the model
        other[name].load_state_dict(_through_a_file(balancer.state_dict()))
    for seed in range(5, 9):
        data = subject.batch((2, 1), seed)
        for mine, its in zip(subject.step(first, data), subject.step(second, data), strict=True):
            assert all(torch.equal(mine[name], its[name]) for name in its)
    assert any(bool((b.weights != 1).any()) for b in own.values())
    for name, balancer in own.items():
        assert torch.equal(balancer.weights, other[name].weights)


def _through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def run_two_processes(module: str) -> dict[str, dict[str, list[Rank]]]:
    """Train all subjects of a module in two data parallel processes.

    Args:
        module: name of an importable module with `SUBJECTS`.

    Returns:
        The records of both ranks, by subject and by kind of group.
    """
    seen = run_ranks(_rank, module)
    return {
        key: {by: [Rank(**one[key][by]) for one in seen] for by in kinds}
        for key, kinds in seen[0].items()
    }


def two_processes(ranks: list[Rank]) -> None:
    """Data parallel ranks hold the same weights, computed from the losses of all ranks."""
    first, second = ranks
    assert torch.equal(first.weights, second.weights)
    assert (first.weights[-1] != 1).any()
    for name, counts in first.counts.items():
        losses, shares = torch.cat([rank.seen[name] for rank in ranks]).unbind(1)
        assert counts.tolist() == (shares > 0).sum(0).tolist(), name
        assert counts.max() == 2 * WORLD, name
        assert not torch.equal(first.seen[name], second.seen[name])
        mean = (losses.mean(0) / shares.mean(0)).nan_to_num()
        for rank in ranks:
            torch.testing.assert_close(rank.means[name], mean)
    expected = {n: (g + second.reference[n]) / WORLD for n, g in first.reference.items()}
    found = {n.removeprefix("module."): g for n, g in first.gradients.items()}
    close(found, expected, "gradients averaged over the ranks")


def _rank(rank: int, module: str) -> dict[str, dict[str, dict[str, Any]]]:
    subjects: dict[str, Subject] = importlib.import_module(module).SUBJECTS
    return {
        key: {by: dataclasses.asdict(_see(subject, rank, by)) for by in subject.main}
        for key, subject in subjects.items()
    }


def _last_step(balancer: LossBalancer) -> Tensor:
    """Losses and shares of the positives of the last step, float32 [2, n]."""
    losses = balancer.last_losses
    if balancer.by == "level":
        return torch.stack((losses, torch.ones_like(losses)))
    positives = balancer.block[(balancer.calls - 1) % len(balancer.block), len(losses) + 1 :]
    return torch.stack((losses, positives / positives.sum()))


def _see(subject: Subject, rank: int, by: str) -> Rank:
    model = subject.make(subject.levels[0], 0)
    balancers = subject.attach(model, "avw:signal=magnitude", by=by, interval=2)
    parallel = DistributedDataParallel(model)
    weights, seen = [], []
    for step in range(STEPS):
        subject.step(parallel, subject.batch((2, 1), 10 * step + rank))
        weights.append(torch.cat([b.weights.clone() for b in balancers.values()]))
        seen.append({name: _last_step(b) for name, b in balancers.items()})
    plain, fixed, in_force = _under_random_weights(subject, by)
    subject.weigh(plain, in_force, by)
    data = subject.batch((2, 1), 20 + rank)
    return Rank(
        torch.stack(weights),
        {name: b.statistics.count for name, b in balancers.items()},
        {name: b.statistics.mean for name, b in balancers.items()},
        {name: torch.stack([step[name] for step in seen[-2:]]) for name in balancers},
        subject.step(DistributedDataParallel(fixed), data)[1],
        subject.step(plain, data)[1],
    )


def weighs(subject: Subject, by: str) -> None:
    """Run `same_weights` and `random_weights`."""
    same_weights(subject, subject.levels[0], by)
    random_weights(subject, by)


CHECKS: dict[str, Callable[[Subject, str], None]] = {
    "bf16": bfloat16,
    "accumulation": accumulation,
    "checkpoint": checkpoint,
}
LEVELS = (1, 7)
