"""A record holds what the balancer saw and did."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import scalewise as sw
from scalewise.errors import UsageError
from scalewise.lab.replay.feed import replay
from scalewise.lab.replay.readers import read_losses
from scalewise.lab.replay.record import RecordError, record
from scalewise.lab.replay.settings import Setting


class Model(nn.Module):
    """Three levels whose losses depend on a parameter, and a balancer somewhere inside."""

    def __init__(self, balancer: sw.LossBalancer) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.loss = nn.ModuleDict({"balancer": balancer})

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.loss["balancer"]((self.scale * x).square())
        return total


def steps(count: int) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) + 0.1


@pytest.mark.parametrize("background", [False, True])
def test_positives_are_recorded_and_replayed(tmp_path: Path, background: bool) -> None:
    names = ["red cell", "platelet", "white cell"]
    balancer = sw.LossBalancer(names, "share", seed=7, by="class")
    counts = torch.randint(0, 4, (22, 3), generator=torch.Generator().manual_seed(2))
    in_force, intervals = [], []
    with sw.record(balancer, tmp_path / "trace.parquet") as recording:
        for losses, positives in zip(steps(22), counts, strict=True):
            in_force.append(balancer.weights.clone())
            intervals.append(balancer.intervals)
            given = torch.cat((losses, torch.tensor([0.5]))) if background else losses
            balancer(given, positives)
    table = pq.read_table(recording.path)
    assert ("background" in table.column_names) == background
    if background:
        assert table["background"].to_pylist() == [0.5] * 22
    found = read_losses(recording.path)
    assert found.groups == tuple(names)
    assert torch.equal(found.values, steps(22))
    assert found.positives is not None
    assert found.positives.tolist() == counts.tolist()
    setting = Setting("share", seed=7, by="class")
    replayed = replay(found.values, setting, found.positives)
    assert replayed.starts.tolist() == [0, 5, 10, 15, 20]
    np.testing.assert_array_equal(replayed.weights[intervals], torch.stack(in_force))
    assert len(np.unique(replayed.weights, axis=0)) > 2
    with pytest.raises(UsageError, match="no columns positives/<group>"):
        replay(found.values, setting)


def test_weights_given_by_name_are_replayed() -> None:
    setting = Setting("class:b=3", 5, by="class")
    replayed = replay(torch.ones(10, 2), setting, torch.ones(10, 2), ["a", "b"])
    assert replayed.weights.tolist() == [[1.0, 3.0]] * 3


def test_a_record_replays_to_its_own_weights_and_actions(tmp_path: Path) -> None:
    """Validation and steps without gradients in between must leave no row."""
    balancer = sw.LossBalancer(3, sw.RLO(explore=0.5), interval=4, seed=7)
    seen, in_force = [], []
    with sw.record(balancer, tmp_path / "trace.parquet", every=5) as recording:
        for losses in steps(22):
            seen.append(losses.clone())
            in_force.append(balancer.weights.clone())
            torch.autograd.backward(balancer(losses.requires_grad_()))
            losses.data.zero_()  # rows must be copies
            balancer.eval()
            balancer(torch.ones(3))
            balancer.train()
            with torch.no_grad():
                balancer(torch.ones(3))
    assert recording.steps == 22
    table = pq.read_table(recording.path)
    assert table.column_names[:4] == ["step", "interval", "loss/level0", "loss/level1"]
    found = read_losses(recording.path)
    assert found.groups == ("level0", "level1", "level2")
    assert torch.equal(found.values, torch.stack(seen))
    weights = np.stack([table[f"weight/{level}"].to_numpy() for level in found.groups], 1)
    np.testing.assert_array_equal(weights, torch.stack(in_force).numpy())
    replayed = replay(found.values, Setting("rlo:explore=0.5", 4, seed=7))
    at = table["interval"].to_numpy()
    np.testing.assert_array_equal(replayed.weights[at], weights)
    assert [replayed.actions[i] for i in at] == table["action"].to_pylist()
    chances = table["probability/equal"].to_numpy()
    np.testing.assert_array_equal(replayed.probabilities[at, 0], chances)


def test_recording_changes_nothing(tmp_path: Path) -> None:
    def run(recorded: bool) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        model = Model(sw.LossBalancer(3, "avw", interval=3, accumulate=2))
        recording = record(model, tmp_path / "t.parquet") if recorded else None
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for number, x in enumerate(steps(20)):
            model(x).backward()
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()
        if recording:
            recording.close()
        return model.scale.detach(), model.loss["balancer"].get_buffer("weights")

    for one, other in zip(run(True), run(False), strict=True):
        assert torch.equal(one, other)
    table = pq.read_table(tmp_path / "t.parquet")
    assert table["interval"].to_pylist() == [row // 6 for row in range(20)]


def test_lists_keywords_half_precision_and_names(tmp_path: Path) -> None:
    balancer = sw.LossBalancer(3)
    recording = record(balancer, tmp_path / "t.parquet", groups=("P3", "P4/5", "P6"))
    balancer([torch.tensor(float(n)) for n in range(3)])
    balancer(losses=torch.ones(3))
    balancer(torch.full((3,), 2.5, dtype=torch.bfloat16))
    balancer.forward(torch.ones(3))  # bypasses the hooks
    with pytest.warns(UserWarning, match="1 calls of the balancer are not in"):
        recording.close()
    found = read_losses(recording.path)
    assert found.groups == ("P3", "P4/5", "P6")
    assert found.values.tolist() == [[0, 1, 2], [1] * 3, [2.5] * 3]


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    wished = tmp_path / "new" / "t.parquet"
    paths = []
    for value in (1.0, 2.0):
        balancer = sw.LossBalancer(3)
        with record(balancer, wished) as one, record(balancer, str(wished)) as two:
            balancer(torch.full((3,), value))
        paths += [one.path, two.path]
    assert [p.name for p in paths] == ["t.parquet", "t-2.parquet", "t-3.parquet", "t-4.parquet"]
    assert [float(read_losses(p).values[0, 0]) for p in paths] == [1, 1, 2, 2]
    assert sorted(wished.parent.iterdir()) == sorted(paths), "leftovers"


def test_every_writes_along_the_way(tmp_path: Path) -> None:
    balancer = sw.LossBalancer(3)
    recording = record(balancer, tmp_path / "t.parquet", every=4)
    for x in steps(10):
        balancer(x)
    assert pq.read_table(recording.path).num_rows == 8
    recording.save()
    assert pq.read_table(recording.path).num_rows == 10
    recording.close()
    recording.close()
    balancer(torch.ones(3))
    assert pq.read_table(recording.path).num_rows == 10


def test_steps_between_two_writes_read_nothing_from_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(tensor: Tensor, *args: object) -> None:
        raise AssertionError("a step waits for the device")

    balancer = sw.LossBalancer(3, "rlo", interval=2)
    with record(balancer, tmp_path / "t.parquet", every=6) as recording:
        with monkeypatch.context() as watched:
            for name in ("cpu", "tolist", "item", "numpy", "__bool__", "__float__", "__int__"):
                watched.setattr(Tensor, name, refuse)
            for x in steps(5):
                balancer(x)
            with pytest.raises(AssertionError, match="waits"):
                balancer(torch.ones(3))  # the sixth writes
        assert recording.steps == 6


def test_a_loaded_state_is_noticed(tmp_path: Path) -> None:
    """Weights from a checkpoint apply at once."""
    source = sw.LossBalancer(3, "inverse", interval=2)
    for x in steps(4):
        source(x)
    balancer = sw.LossBalancer(3, "inverse", interval=2)
    recording = record(balancer, tmp_path / "t.parquet")
    balancer(torch.ones(3))
    balancer.load_state_dict(source.state_dict())
    balancer(torch.ones(3))
    with pytest.warns(UserWarning, match="3 calls of the balancer"):
        recording.close()
    last = pq.read_table(recording.path).to_pylist()[-1]
    assert [last[f"weight/level{n}"] for n in range(3)] == source.weights.tolist()
    assert last["interval"] == 2


def test_a_lost_device_does_not_hide_the_error_that_lost_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the recording ends, no tensor can be read any more."""

    def no_answer(*args: object) -> object:
        raise RuntimeError("the device is gone")

    def step_and_fail() -> None:
        balancer = sw.LossBalancer(["a", "b"], "avw", by="level")
        with sw.record(balancer, tmp_path / "losses.parquet"):
            balancer(torch.ones(2, requires_grad=True))
            for name in ("tolist", "cpu", "item", "numpy"):
                monkeypatch.setattr(torch.Tensor, name, no_answer)
            raise ZeroDivisionError("the first error")

    with (
        pytest.warns(
            UserWarning, match=r"losses\.parquet lacks the last steps: the device is gone"
        ),
        pytest.raises(ZeroDivisionError, match="the first error"),
    ):
        step_and_fail()


def test_copies_are_not_recorded(tmp_path: Path) -> None:
    balancer = sw.LossBalancer(3)
    with record(balancer, tmp_path / "t.parquet"):
        twin = copy.deepcopy(balancer)
        file = io.BytesIO()
        torch.save(balancer, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for other in (twin, loaded, balancer):
            other(torch.ones(3))
    assert len(read_losses(tmp_path / "t.parquet").values) == 1


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*")
def test_compiled_calls_are_counted(tmp_path: Path) -> None:
    torch._dynamo.reset()
    balancer = sw.LossBalancer(3, interval=2)
    recording = record(balancer, tmp_path / "t.parquet")
    compiled = torch.compile(balancer, backend="eager")
    for x in steps(4):
        torch.autograd.backward(compiled(x.requires_grad_()))
        balancer.advance()
    assert balancer.intervals == 2
    balancer(torch.ones(3))
    with pytest.warns(UserWarning, match="4 calls of the balancer.*torch.compile"):
        recording.close()
    assert len(read_losses(recording.path).values) == 1


def test_nothing_recorded_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="nothing was recorded"),
        record(sw.LossBalancer(3), tmp_path / "t.parquet"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    two = nn.ModuleDict({"a": sw.LossBalancer(2), "b": sw.LossBalancer(2)})
    with pytest.raises(RecordError, match="2 balancers, a, b"):
        record(two, path)
    with pytest.raises(RecordError, match="no LossBalancer in Linear"):
        record(nn.Linear(1, 1), path)
    with pytest.raises(RecordError, match="not function"):
        record(cast(nn.Module, run_python), path)
    with pytest.raises(RecordError, match="at least 1 step, got 0"):
        record(two["a"], path, every=0)
    for groups in (["P3"], ["P3", "P3"], ["", "c"]):
        with pytest.raises(RecordError, match="must be 2 different names"):
            record(two["a"], path, groups=groups)
    assert not path.exists()


FORGOTTEN = """
import sys
import torch
import scalewise as sw
assert "pyarrow" not in sys.modules and "lightning" not in sys.modules
balancer = sw.LossBalancer(2)
recording = sw.record(balancer, sys.argv[1])
assert "lightning" not in sys.modules
balancer(torch.tensor([1.0, 2.0]))
raise ValueError("the loop broke")
"""

WITHOUT = """
import sys
sys.modules["pyarrow"] = None
import scalewise as sw
try:
    sw.record(sw.LossBalancer(2), sys.argv[1])
except Exception as error:
    print(error)
"""


def run_python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )


def test_a_forgotten_recording_is_written_at_exit(tmp_path: Path) -> None:
    done = run_python(FORGOTTEN, str(tmp_path / "t.parquet"))
    assert "the loop broke" in done.stderr
    assert read_losses(tmp_path / "t.parquet").values.tolist() == [[1, 2]]


def test_missing_packages_are_named(tmp_path: Path) -> None:
    done = run_python(WITHOUT, str(tmp_path / "t.parquet"))
    assert done.stdout.strip().endswith("'pyarrow' is missing: pip install 'scalewise[train]'")


def test_each_process_has_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank, name in ((0, "t.parquet"), (2, "t-rank2.parquet")):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        recording = record(sw.LossBalancer(3), tmp_path / "t.parquet")
        assert recording.path == tmp_path / name
        with pytest.warns(UserWarning, match="nothing was recorded"):
            recording.close()
