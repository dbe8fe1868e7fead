"""Several processes that train together: SLURM, studies, and accumulation."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import killed_ranks
import processes
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from kill import differences
from torch import distributed

from scalewise.cli import main
from scalewise.data import open_split
from scalewise.errors import UserError
from scalewise.lab.data.hold_out import hold_out
from scalewise.lab.study.plan import GridOptions, make_plan
from scalewise.lab.study.planned_cells import Cell, cell_config, cell_folder
from scalewise.lab.training import runs
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import resume, train
from scalewise.lab.training.ranks import free_port, is_main_process
from scalewise.lab.training.run_loaders import shared_out
from scalewise.lab.training.run_metrics import load_metrics
from scalewise.weighting import LossBalancer

Tiny = Callable[..., TrainConfig]
LIMIT = 400.0  # seconds a child may take on a busy machine before a test gives up
SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}
LAUNCHERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "JSM_NAMESPACE_RANK", *SLURM, "SLURM_PROCID")


@pytest.mark.parametrize(
    ("variables", "main_process"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "3", "LOCAL_RANK": "0"}, False),
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, False),
        (SLURM | {"SLURM_PROCID": "0"}, True),
        (SLURM | {"SLURM_PROCID": "1"}, False),
        # torchrun inside of a SLURM job: its ranks can differ from those of the tasks
        (SLURM | {"SLURM_PROCID": "1", "RANK": "0", "LOCAL_RANK": "0"}, True),
        (SLURM | {"SLURM_PROCID": "0", "RANK": "1", "LOCAL_RANK": "0"}, False),
        (SLURM | {"SLURM_PROCID": "1", "SLURM_JOB_NAME": "interactive"}, True),
        ({"SLURM_PROCID": "1"}, True),  # not started by srun
        ({"JSM_NAMESPACE_RANK": "2"}, False),
        ({"RANK": ""}, True),
    ],
)
def test_the_process_that_writes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], main_process: bool
) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() == main_process


def test_tasks_that_would_each_train_alone_are_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SLURM | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--devices"):
        train(tiny(tmp_path / "runs", devices=1))
    assert not (tmp_path / "runs").exists()


def test_two_slurm_tasks_and_one_image_to_validate(tiny: Tiny, tmp_path: Path) -> None:
    """They make one run folder; the rank without a validation image does not block the other."""
    config = tiny(
        tmp_path / "runs", epochs=1, devices=2, strategy="ddp", batch_size=2, name="run",
        holdout=0.05, interval=100,
    )  # fmt: skip
    assert len(hold_out(open_split(config.data, "train"), 0.05)[1].records) == 1
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config)))
    port = str(free_port())
    plain = {k: v for k, v in os.environ.items() if k not in LAUNCHERS}
    common = plain | SLURM | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = [sys.executable, "-m", "scalewise", "train", "--config", str(tmp_path / "run.yaml")]
    tasks = [
        subprocess.Popen(
            words,
            env=common | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    printed = [task.communicate(timeout=LIMIT)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], "\n".join(printed)
    assert [text.count("run folder:") for text in printed] == [2, 0]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
    run = tmp_path / "runs" / "run"
    assert load_metrics(run)["status"] == "finished"
    found = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    one, other = (rank["block"] for rank in found["ranks"])
    assert found["run"]["devices"] == 2
    assert not torch.equal(one, other), "each rank keeps its own records"
    (run / "metrics.json").unlink()
    (run / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace("devices: 2", "devices: 1")
    )
    with pytest.raises(UserError, match="--devices 1, but the checkpoint was made with 2"):
        resume(run)


def test_ports_are_free_and_below_those_that_systems_give_out() -> None:
    first = free_port()
    with socket.socket() as taken:
        taken.bind(("", first))
        ports = {free_port() for _ in range(20)}
    assert first not in ports
    assert len(ports) > 1
    assert max(ports) < 32_768
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("", port))


def test_every_device_gets_an_image_and_each_is_there(tiny: Tiny, tmp_path: Path) -> None:
    split = open_split(tiny(tmp_path).data, "val")  # four images
    for devices, count in ((1, 4), (3, 6), (4, 4), (9, 9)):
        records = shared_out(split, devices).records
        assert len(records) == count
        for rank in range(devices):
            assert len(records[rank::devices]) == count // devices
        assert {record.image_id for record in records} == {r.image_id for r in split.records}


def test_a_cell_takes_one_device_unless_told(tiny: Tiny, tmp_path: Path) -> None:
    for devices, taken in (("auto", 1), (1, 1), (2, 2)):
        plan = make_plan(GridOptions(schemes="equal"), tiny(tmp_path, devices=devices))
        assert cell_config(tmp_path, plan, plan.cells[0]).devices == taken


def test_a_study_whose_cells_take_two_devices(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning starts the second process with the command of the first."""
    monkeypatch.setenv("MASTER_PORT", "1")  # from another training; it must not be used
    config = tiny(tmp_path, epochs=1, batch_size=2, strategy="ddp", devices=2)
    own = {"detector", "scheme", "seed", "out", "name"}
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in own}
    plan = {"schemes": ["equal"], "seeds": [0], "detectors": ["atss"]} | options
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    study = tmp_path / "study"
    assert main(["compare", "--config", str(tmp_path / "plan.yaml"), "--out", str(study)]) == 0
    run = cell_folder(study, Cell("atss", "equal", 0))
    assert [path.name for path in run.parent.iterdir()] == ["seed-0"], "no folder was set aside"
    assert pq.read_table(run / "trace.parquet")["step"].to_pylist() == [0, 1, 2, 3, 4]
    command = runs.load_json(run / "environment.json")["command"]
    assert command == f"scalewise train --config {run / 'config.yaml'}"


@pytest.mark.parametrize(("interval", "accumulate", "batches"), [(3, 2, 5), (1, 3, 7), (2, 4, 6)])
def test_weights_change_between_windows_only(interval: int, accumulate: int, batches: int) -> None:
    """Changes come at counted windows, also if the state is saved and loaded at every call."""
    torch.manual_seed(0)
    balancer = LossBalancer(3, "random", interval=interval, accumulate=accumulate)
    windows: list[tuple[int, list[float]]] = []  # number of a window, weights in it
    number = 0
    for _ in range(12):
        for call in range(batches):
            windows.append((number, balancer.weights.tolist()))
            balancer(torch.rand(3).requires_grad_())
            if (call + 1) % accumulate == 0 or call + 1 == batches:
                balancer.close_window()
                number += 1
            copy = LossBalancer(3, "random", interval=interval, accumulate=accumulate)
            copy.load_state_dict(balancer.state_dict())
            balancer = copy
    weights: dict[int, list[list[float]]] = {}
    for place, row in windows:
        weights.setdefault(place, []).append(row)
    assert all(len({tuple(row) for row in rows}) == 1 for rows in weights.values())
    firsts = [rows[0] for rows in weights.values()]
    changes = [i for i in range(1, len(firsts)) if firsts[i] != firsts[i - 1]]
    assert changes == list(range(interval, len(firsts), interval))


def test_a_run_with_short_windows_and_its_replay_agree(tiny: Tiny, tmp_path: Path) -> None:
    """With five batches an epoch and two a step, every third window holds one batch."""
    changes = {"accumulate": 2, "interval": 2, "scheme": "random", "by": "level", "epochs": 4}
    run = train(tiny(tmp_path, name="run", **changes))
    trace = pq.read_table(run / "trace.parquet").to_pylist()
    windows = [3 * row["epoch"] + row["step"] % 5 // 2 for row in trace]
    weights = [row["weight/P3"] for row in trace]
    changed = [i for i in range(1, len(trace)) if weights[i] != weights[i - 1]]
    assert changed == [i for i in range(1, 20) if windows[i] // 2 != windows[i - 1] // 2]
    assert (
        main(["replay", str(run), "--schemes", "random", "--out", str(tmp_path / "replays")]) == 0
    )
    table = (tmp_path / "replays" / "run" / "weights.csv").read_text().splitlines()
    head = table[0].split(",")
    replayed = [dict(zip(head, line.split(","), strict=True)) for line in table[1:]]
    for line in replayed[:-1]:
        at = next(row for row in trace if row["step"] == int(line["step"]))
        assert float(line["weight/P3"]) == pytest.approx(at["weight/P3"], rel=1e-4)


def _two_ranks(config: TrainConfig, run: Path | None = None, last: int | None = None) -> list[int]:
    """Train with two processes and return their exit statuses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [processes.start(killed_ranks.work, r, port, config, run, last) for r in (0, 1)]
    ranks[0].join(LIMIT)
    if last is not None:  # it may wait for the killed one for ever
        ranks[1].kill()
    ranks[1].join(LIMIT)
    return [rank.exitcode or 0 for rank in ranks]


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")
def test_two_ranks_killed_and_resumed_are_the_undisturbed_ones(tiny: Tiny, tmp_path: Path) -> None:
    """They are killed at a random step, also within an interval or an accumulation window."""
    changes = {"devices": 2, "strategy": "ddp", "batch_size": 2, "accumulate": 2, "interval": 3}
    config = tiny(tmp_path, checkpoint_every=1, ema=0.9, gradient_every=3, **changes)
    whole, killed = (dataclasses.replace(config, name=name) for name in ("whole", "killed"))
    assert _two_ranks(whole) == [0, 0]
    step = random.randrange(4, 10)
    assert _two_ranks(killed, last=step) == [-signal.SIGKILL, -signal.SIGKILL], step
    run = tmp_path / "killed"
    assert not (run / "metrics.json").is_file() or load_metrics(run)["status"] == "running"
    assert _two_ranks(killed, run) == [0, 0], step
    assert list(differences(tmp_path / "whole", run)) == [], step
