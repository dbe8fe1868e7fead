from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scheme_lists import OF_LEVELS
from torch import Tensor

from scalewise.weighting import AVW, RLO, LossBalancer

STEPS = torch.rand(600, 3, generator=torch.Generator().manual_seed(5)) + 0.05
STEPS[17, 1] = torch.nan
STEPS[40] *= 100


def run(balancer: LossBalancer, start: int, stop: int) -> None:
    for losses in STEPS[start:stop]:
        balancer(losses)


def equal_states(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit; NaN equals NaN."""
    return a.keys() == b.keys() and all(
        torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)) for key in a
    )


def same(a: LossBalancer, b: LossBalancer) -> bool:
    return equal_states(a.state_dict(), b.state_dict())


def reload(balancer: LossBalancer, into: LossBalancer) -> LossBalancer:
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    into.load_state_dict(torch.load(file, weights_only=True))
    return into


@pytest.mark.parametrize("interval", [2, 50, 150])
@pytest.mark.parametrize("name", OF_LEVELS)
def test_resuming_repeats_the_uninterrupted_run(name: str, interval: int) -> None:
    whole = LossBalancer(3, name, interval, seed=9)
    run(whole, 0, 155)
    part = LossBalancer(3, name, interval, seed=9)
    for start, stop in ((0, 3), (3, 140), (140, 155)):
        run(part, start, stop)
        part = reload(part, LossBalancer(3, name, interval, seed=1))
    assert same(part, whole)
    assert part.intervals == whole.intervals == 155 // interval


def test_every_step_can_be_resumed_inside_an_accumulation_window() -> None:
    whole = LossBalancer(3, "rlo", 2, accumulate=3)
    part = LossBalancer(3, "rlo", 2, accumulate=3)
    for step in range(30):
        run(whole, step, step + 1)
        run(part, step, step + 1)
        part = reload(part, LossBalancer(3, "rlo", 2, accumulate=3))
        assert same(part, whole)


def test_a_new_process_continues_bit_for_bit(tmp_path: Path) -> None:
    balancer = LossBalancer(3, "rlo", 5, normalize="loss")
    run(balancer, 0, 48)
    torch.save({"state": balancer.state_dict(), "steps": STEPS}, tmp_path / "state.pt")
    script = """
import sys, torch
from scalewise import LossBalancer
saved = torch.load(sys.argv[1], weights_only=True)
balancer = LossBalancer(3, "rlo", 5, normalize="loss")
balancer.load_state_dict(saved["state"])
for losses in saved["steps"][48:111]:
    balancer(losses)
torch.save(balancer.state_dict(), sys.argv[1])
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "state.pt")], check=True)
    run(balancer, 48, 111)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert equal_states(state, balancer.state_dict())


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_continue_on_their_own(how: str) -> None:
    balancer = LossBalancer(3, "rlo", 7)
    run(balancer, 0, 20)
    twin = copy.deepcopy(balancer) if how == "deepcopy" else pickle.loads(pickle.dumps(balancer))
    run(twin, 20, 100)
    assert balancer.intervals == 2
    run(balancer, 20, 100)
    assert same(twin, balancer)


def test_loading_by_assignment_and_moving_record_into_the_new_buffers() -> None:
    balancer = LossBalancer(3, "avw", 7)
    run(balancer, 0, 20)
    other = LossBalancer(3, "avw", 7)
    run(other, 0, 1)
    other.load_state_dict(balancer.state_dict(), assign=True)
    other = other.to(torch.device("cpu"))
    balancer = copy.deepcopy(balancer)
    run(balancer, 20, 50)
    run(other, 20, 50)
    assert same(balancer, other)


def test_a_state_is_found_inside_a_larger_model() -> None:
    model = torch.nn.ModuleDict({"balancer": LossBalancer(3, "rlo", 7)})
    twin = torch.nn.ModuleDict({"balancer": LossBalancer(3, "rlo", 7)})
    inner, outer = model["balancer"], twin["balancer"]
    assert isinstance(inner, LossBalancer)
    assert isinstance(outer, LossBalancer)
    run(inner, 0, 33)
    twin.load_state_dict(model.state_dict())
    assert same(inner, outer)


def test_state_holds_tensors_only() -> None:
    """The state holds only tensors, since averaged models and safetensors need that."""
    state = LossBalancer(3, "rlo").state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (LossBalancer(4, "avw"), "saved balancer has 3 groups .* this one 4 groups"),
        (LossBalancer(3, "rlo"), "scheme 'avw-decline', this one 3 groups and scheme 'rlo"),
        (LossBalancer(3, AVW("magnitude")), "this one 3 groups and scheme 'avw-magnitude'"),
        (LossBalancer(3, RLO(["equal", "avw"])), r"scheme 'rlo\(equal, avw-decline\)'"),
        (LossBalancer(["level0", "ü", "level1"], "avw"), "group 1 .* is 'level1', of this one 'ü'"),
    ],
)
def test_another_configuration_is_refused_untouched(other: LossBalancer, message: str) -> None:
    balancer = LossBalancer(3, "avw", 5)
    run(balancer, 0, 12)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(balancer.state_dict())
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("kept", [0, 3])
def test_states_of_older_versions_are_loaded(kept: int) -> None:
    """They hold no names of groups, and the oldest ones no short windows either."""
    balancer, twin = LossBalancer(3, "avw", 7), LossBalancer(3, "avw", 7)
    run(balancer, 0, 20)
    state = balancer.state_dict()
    codes = state["_extra_state"].tolist()
    state["_extra_state"] = torch.tensor(codes[: codes.index(-1) + kept])
    twin.load_state_dict(state)
    run(balancer, 20, 40)
    run(twin, 20, 40)
    assert same(balancer, twin)


@pytest.mark.parametrize("names", [list(np.arange(3)), [("a", 1), ("b", 2), ("c", 3)]])
def test_names_that_are_not_text_are_saved_as_text(names: Any) -> None:
    balancer = LossBalancer(names, "avw", 7)
    run(balancer, 0, 20)
    twin = LossBalancer(names, "avw", 7)
    twin.load_state_dict(balancer.state_dict())
    assert same(balancer, twin)
    with pytest.raises(ValueError, match="group 0 of the saved balancer is"):
        LossBalancer(names[::-1], "avw", 7).load_state_dict(balancer.state_dict())
