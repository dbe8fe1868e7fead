"""A study of a few tiny runs: killed, resumed, with a run that always fails, and on Ray."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from scalewise.cli import main
from scalewise.lab.study.plan_file import load_plan
from scalewise.lab.study.planned_cells import Cell, cell_config, cell_folder
from scalewise.lab.study.records import load_study
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.run_metrics import read_metrics
from scalewise.lab.training.trace_reading import read_trace

TWO = "static:weights=1+2"  # fails, since there are five classes
EQUAL, RLO, BAD = (Cell("atss", scheme, 0) for scheme in ("equal", "rlo", TWO))
pytestmark = pytest.mark.xdist_group("compare")  # so that only one worker makes the studies
COMMAND = [sys.executable, "-c", "import sys; from scalewise.cli import main; sys.exit(main())"]
LIMIT = 240.0  # seconds a child may take on a busy machine before a test gives up


def _study_file(config: TrainConfig, path: Path, schemes: list[str]) -> Path:
    own = {"detector", "scheme", "seed", "out", "name"}
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in own}
    grid = {"schemes": schemes, "seeds": [0], "detectors": ["atss"]}
    path.write_text(yaml.safe_dump(grid | options))
    return path


def _until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for a condition on disk; fail if the process ends first."""
    waited = 0.0
    while not condition():
        if waited > LIMIT:
            process.kill()
            pytest.fail(f"gave up waiting after {LIMIT} seconds")
        waited += 0.05
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        assert condition(), f"the process ended first, with {process.returncode}"


def _heed_interrupts() -> None:
    """Let Ctrl-C end this process; a shell may start background commands with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def stopped(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., TrainConfig]
) -> tuple[Path, str, int]:
    """A study stopped by Ctrl-C in its second run: folder, printed text, exit status."""
    folder = tmp_path_factory.mktemp("compare")
    config = tiny(
        folder, epochs=4, checkpoint_every=2, normalize="loss", gradient_every=3, holdout=0.25
    )
    file = _study_file(config, folder / "plan.yaml", ["equal", "rlo", TWO])
    study = folder / "study"
    process = subprocess.Popen(
        [*COMMAND, "compare", "--config", str(file), "--out", str(study)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )
    _until((cell_folder(study, RLO) / "checkpoints" / "last.ckpt").is_file, process)
    os.killpg(process.pid, signal.SIGINT)  # a terminal, too, signals the study and its run
    printed, _ = process.communicate(timeout=LIMIT)
    return study, printed.decode(), process.returncode


@pytest.fixture(scope="module")
def killed(stopped: tuple[Path, str, int]) -> Path:
    """The same study after a second call that was killed after its next checkpoint."""
    study = stopped[0]
    checkpoint = cell_folder(study, RLO) / "checkpoints" / "last.ckpt"
    stamp = checkpoint.stat().st_mtime_ns
    process = subprocess.Popen(
        [*COMMAND, "compare", "--out", str(study)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _until(lambda: checkpoint.stat().st_mtime_ns != stamp, process)
    process.kill()
    process.wait()
    return study


@pytest.fixture(scope="module")
def resumed(killed: Path) -> tuple[Path, str, int, int]:
    """The study after a third call: folder, printed text, exit status, an older time stamp."""
    stamp = (cell_folder(killed, EQUAL) / "metrics.json").stat().st_mtime_ns
    done = subprocess.run(
        [*COMMAND, "compare", "--out", str(killed), "--jobs", "4"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return killed, done.stdout + done.stderr, done.returncode, stamp


def test_ctrl_c_ends_tidily_and_says_how_to_go_on(stopped: tuple[Path, str, int]) -> None:
    study, printed, status = stopped
    assert status == 130
    assert f"scalewise compare --out {study}" in printed
    assert "Traceback" not in printed
    metrics = read_metrics(cell_folder(study, RLO))
    assert metrics is not None
    assert metrics["status"] == "interrupted"


def test_another_call_runs_only_what_is_missing(resumed: tuple[Path, str, int, int]) -> None:
    study, printed, _status, stamp = resumed
    assert "3 runs, 2 to do" in printed
    assert (cell_folder(study, EQUAL) / "metrics.json").stat().st_mtime_ns == stamp
    assert [r.scheme for r in load_study(study).records] == ["equal", "rlo"]


def test_a_killed_run_goes_on_and_ends_as_if_left_alone(
    resumed: tuple[Path, str, int, int], tmp_path: Path
) -> None:
    study = resumed[0]
    folder = cell_folder(study, RLO)
    attempts = sorted(p.name for p in (folder / "logs").iterdir())
    assert attempts == ["attempt-1", "attempt-2", "attempt-3"]
    config = cell_config(study, load_plan(study), RLO)
    alone = train(dataclasses.replace(config, out=str(tmp_path)))
    assert read_trace(folder / "trace.parquet").equals(read_trace(alone / "trace.parquet"))
    one, other = read_metrics(folder), read_metrics(alone)
    assert one is not None
    assert other is not None
    assert [e["AP"] for e in one["history"]] == [e["AP"] for e in other["history"]]


def test_a_failing_run_is_reported_with_its_reason_and_stops_nothing(
    resumed: tuple[Path, str, int, int],
) -> None:
    study, printed, status, _stamp = resumed
    assert status == 1
    assert "failed: atss static:weights=1+2 seed 0: " in printed
    assert "2 static weights for 5 groups" in printed
    assert load_study(study).missing == [f"{BAD}: not finished"]


def test_schemes_of_one_seed_start_from_the_same_losses(
    resumed: tuple[Path, str, int, int],
) -> None:
    study = resumed[0]
    one, other = (read_trace(cell_folder(study, cell) / "trace.parquet") for cell in (EQUAL, RLO))
    losses = [name for name in one.column_names if name.startswith("loss/")]
    assert losses
    assert [one[n][0].as_py() for n in losses] == [other[n][0].as_py() for n in losses]
    last = len(one) - 1
    assert [one[n][last].as_py() for n in losses] != [other[n][last].as_py() for n in losses]


def test_other_options_are_refused(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--out", str(killed), "--size", "96"]) == 2
    assert "--size was 64 and is 96" in capsys.readouterr().err


def test_a_folder_that_is_no_study_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("all my work")
    assert main(["compare", "--data", "demo", "--out", str(tmp_path)]) == 1
    assert "is no study" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_study_killed_before_its_plan_was_written_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only half of a temporary file is left."""
    monkeypatch.setattr("scalewise.cli.compare._run", lambda *_: 0)
    study = tmp_path / "study"
    study.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (study / f".study.{ended.pid}.part.yaml").write_text("# 60 opt")
    words = ["compare", "--data", f"demo:images=10,size=64,folder={tmp_path}", "--out", str(study)]
    assert main(words) == 0, capsys.readouterr().err
    assert [path.name for path in study.iterdir()] == ["study.yaml"]


def test_a_dry_run_prints_the_grid_and_the_time_and_writes_nothing(
    tmp_path: Path, tiny: Callable[..., TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    file = _study_file(tiny(tmp_path), tmp_path / "plan.yaml", ["equal", "rlo"])
    study = tmp_path / "study"
    assert main(["compare", "--config", str(file), "--out", str(study), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "to run  atss rlo seed 0" in printed
    assert "4 steps timed here" in printed
    assert "nothing was run" in printed
    assert not study.exists()


def test_a_ray_cluster_survives_a_killed_worker(
    tmp_path: Path, tiny: Callable[..., TrainConfig]
) -> None:
    pytest.importorskip("ray", reason="the extra scalewise[ray] is not installed")
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc to find the worker")
    config = tiny(tmp_path, epochs=4, checkpoint_every=2)
    file = _study_file(config, tmp_path / "plan.yaml", ["equal", "rlo"])
    study = tmp_path / "study"
    process = subprocess.Popen(
        [*COMMAND, "compare", "--config", str(file), "--out", str(study), "--ray"],
        env=os.environ | {"RAY_worker_niceness": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    folders = [cell_folder(study, cell) for cell in (EQUAL, RLO)]
    checkpoints = [folder / "checkpoints" / "last.ckpt" for folder in folders]
    _until(lambda: all(path.is_file() for path in checkpoints), process)
    os.kill(_ray_worker(process.pid), signal.SIGKILL)
    printed, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, printed.decode()
    assert [r.scheme for r in load_study(study).records] == ["equal", "rlo"]
    attempts = [len(list((folder / "logs").iterdir())) for folder in folders]
    assert sorted(attempts) == [1, 2], "one worker was killed, and another worker continues its run"
    for folder in folders:
        assert read_trace(folder / "trace.parquet")["step"].to_pylist() == list(range(4 * 5))


def _ray_worker(driver: int) -> int:
    """A process that runs a task of the Ray cluster started by `driver`."""
    parents, names = {}, {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                stat = (process / "stat").read_text()
                names[int(process.name)] = (process / "cmdline").read_bytes()
            except OSError:
                continue
            parents[int(process.name)] = int(stat.rpartition(")")[2].split()[1])
    for worker, name in names.items():
        above = worker
        while above in parents and above != driver:
            above = parents[above]
        if above == driver and b"_cell_task" in name:
            return worker
    raise AssertionError("no worker of the cluster runs a task")
