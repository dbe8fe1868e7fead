"""What balancers of positives refuse: odd inputs, settings, states and proposals."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from positives_traces import feed, of_class
from scheme_lists import ONLY_POSITIVES
from torch import Tensor

from scalewise.weighting import LossBalancer, Moments


@pytest.mark.parametrize(
    ("positives", "words"),
    [
        (None, r"balancer\(losses, positives\)"),
        (torch.ones(2), r"of shape \(2,\)"),
        (torch.ones(4), r"of shape \(4,\)"),
        (torch.ones(3, device="meta"), "on meta"),
    ],
)
def test_missing_or_odd_positives_are_refused(positives: Tensor | None, words: str) -> None:
    balancer = of_class(3, "share", interval=2)
    for size in (3, 4):
        with pytest.raises(ValueError, match=words):
            balancer(torch.ones(size), positives)
    assert balancer.calls == 0


@pytest.mark.parametrize("by", ["level", "class"])
@pytest.mark.parametrize("shape", [(2,), (5,), (1, 4), ()])
def test_losses_of_another_shape_are_refused(by: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="this balancer has 3 groups but got"):
        LossBalancer(3, "equal", by=by)(torch.ones(shape), torch.ones(3))


def test_whole_levels_have_no_background() -> None:
    with pytest.raises(ValueError, match="this balancer has 3 groups but got"):
        LossBalancer(3, "equal")(torch.ones(4))


@pytest.mark.parametrize("name", ONLY_POSITIVES)
def test_schemes_of_positives_refuse_whole_levels(name: str) -> None:
    with pytest.raises(ValueError, match="weighs positives, and the groups are whole levels"):
        LossBalancer(3, name, objects=[1, 2, 3])


@pytest.mark.parametrize(
    ("scheme", "settings", "match"),
    [
        ("effective", {"objects": None}, r"how many objects .*objects=\[\.\.\.\]"),
        ("class:d=2", {}, "no group d; there are: a, b, c"),
        ("size:a=2", {}, "size:a=2 weighs by size, the groups are by class"),
        ("share:power=1.5", {}, r"power must lie in 0\.\.1, got 1\.5"),
        ("effective:beta=1", {}, "beta must lie in"),
        ("share", {"clip": (1.5, 3)}, "clip must hold 1"),
        ("share", {"clip": (-1, 3)}, "nothing below 0"),
        ("share", {"memory": 1.0}, "memory must lie in"),
        ("share", {"normalize": "sum"}, "'positives', 'lift' by class, got 'sum'"),
        ("class", {}, "name a group and its weight"),
        ("class:a", {}, "'a' is no group=weight, such as class:a=2"),
        ("class:a=-1", {}, "weight of a must be a number from 0 on"),
        ("class:a=nan", {}, "weight of a must be a number from 0 on"),
        ("avw:per_positive=true", {}, "no argument 'per_positive'"),
    ],
)
def test_wrong_arguments_are_refused(scheme: str, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        of_class(["a", "b", "c"], scheme, **settings)


def test_two_groups_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        of_class(["a", "a"], "share")


@pytest.mark.parametrize("objects", [[1.0], [1.0, 2.0, 3.0, 4.0]])
def test_as_many_numbers_of_objects_as_groups_are_needed(objects: list[float]) -> None:
    with pytest.raises(ValueError, match=r"objects.* 3 groups"):
        of_class(3, "effective", objects=objects)


def test_normalising_by_positives_is_refused_for_whole_levels() -> None:
    with pytest.raises(ValueError, match="by level, got 'positives'"):
        LossBalancer(3, "equal", normalize="positives")


@pytest.mark.parametrize("by", ["level", "size"])
def test_a_state_of_other_groups_is_refused_untouched(by: str) -> None:
    balancer, other = (
        of_class(3, "avw:signal=magnitude", 2),
        LossBalancer(3, "avw:signal=magnitude", 2, by=by),
    )
    feed(balancer, 7)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="scheme 'avw-magnitude by class', this one"):
        other.load_state_dict(balancer.state_dict())
    with pytest.raises(ValueError, match="this one 3 groups and scheme 'avw-magnitude by class'"):
        balancer.load_state_dict(before)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [math.inf, 1.0], [-1.0, 2.0]])
def test_an_unusable_proposal_keeps_the_old_weights_and_is_counted(bad: list[float]) -> None:
    proposals = [[0.5, 1.5], bad, [1.5, 0.5]]

    def scripted(current: Moments, previous: Moments) -> Tensor:
        return torch.tensor(proposals.pop(0))

    balancer = of_class(2, scripted, 1)
    seen = []
    for _ in range(3):
        balancer(torch.ones(2), torch.ones(2))
        seen.append(balancer.weights.tolist())
    assert seen == [[0.5, 1.5], [0.5, 1.5], [1.5, 0.5]]
    assert int(balancer.rejected) == 1


def test_a_proposal_of_zeros_is_rejected() -> None:
    balancer = of_class(2, lambda current, previous: torch.zeros(2), 1)
    balancer(torch.ones(2), torch.ones(2))
    assert int(balancer.rejected) == 1
