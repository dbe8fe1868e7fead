"""What each command imports when it starts, its number of threads, and the public names."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from scalewise import threads
from scalewise.cli import COMMANDS
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.threads import limit_threads, usable_cores, wait_briefly

HEAVY = {
    "torch", "lightning", "torchmetrics", "torchvision", "matplotlib", "plotly", "pandas",
    "pyarrow", "hotcoco", "ray", "scipy", "tensorboard", "timm", "transformers", "onnx",
}  # fmt: skip
REFUSED = {
    "inspect": ["--data", "nowhere"],
    "train": ["--data", "nowhere"],
    "compare": ["--data", "nowhere"],
    "report": ["nowhere"],
    "replay": ["nowhere"],
    "evaluate": ["nowhere"],
    "predict": ["nowhere", "nowhere.jpg"],
    "export": ["nowhere"],
    "demo": ["--epochs", "0"],
}
OF_LIGHTNING = {"lightning", "torchmetrics", "tensorboard"}
CALLS = """
import json, os, sys
from scalewise.cli import main
status = [main(words) for words in json.loads(sys.argv[1])]
loaded = sorted({name.partition(".")[0] for name in sys.modules})
waits = os.environ.get("GOMP_SPINCOUNT")
print("\\n" + json.dumps({"status": status, "loaded": loaded, "waits": waits}))
"""


@dataclass(frozen=True)
class Said:
    """Exit statuses, loaded packages, GOMP_SPINCOUNT and errors of commands run in one process."""

    status: list[int]
    loaded: set[str]
    waits: str | None
    error: str


def call(folder: Path, *calls: list[str], **environment: str) -> Said:
    """Run commands one after the other in a new process."""
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(calls)],
        cwd=folder,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    return Said(said["status"], set(said["loaded"]), said["waits"], done.stderr)


def test_every_command_has_a_call_that_is_refused() -> None:
    assert REFUSED.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", REFUSED)
def test_what_is_wrong_is_told_before_anything_heavy_is_imported(
    command: str, tmp_path: Path
) -> None:
    said = call(tmp_path, [command, *REFUSED[command]])
    assert said.status in ([1], [2]), said
    assert said.error.count("\n") == 1
    assert not HEAVY & said.loaded
    assert said.waits == "1000"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data", "demo", "--epochs", "zero"], "epochs"),
        (["compare", "--data", "demo", "--jobs", "0"], "--jobs must be at least 1, or auto"),
    ],
)
def test_wrong_options_are_told_as_fast(words: list[str], message: str, tmp_path: Path) -> None:
    said = call(tmp_path, words, GOMP_SPINCOUNT="7")
    assert said.status == [2]
    assert message in said.error
    assert not HEAVY & said.loaded
    assert said.waits == "7"  # the value that the user set


def test_commands_on_a_run_never_import_lightning(
    tmp_path: Path, tiny: Callable[..., TrainConfig]
) -> None:
    config = tiny(tmp_path, epochs=1, name="run", scheme="equal")
    run = str(train(config))
    refused = ["evaluate", run, "--data", "nowhere"]
    said = call(tmp_path, refused, ["train", "--resume", run], OMP_NUM_THREADS="1")
    assert said.status == [1, 1]
    assert not HEAVY & said.loaded
    assert "run is finished" in said.error
    said = call(
        tmp_path,
        ["inspect", "--data", config.data, "--size", "64"],
        ["evaluate", run, "--checkpoint", "last", "--device", "cpu"],
        ["predict", run, f"{run}/groups.png", "--checkpoint", "last", "--device", "cpu"],
        ["report", run],
        OMP_NUM_THREADS="1",
    )
    assert said.status == [0] * 4, said.error
    assert not OF_LIGHTNING & said.loaded


def test_training_loads_two_classes_of_torchmetrics_and_who_asks_finds_the_rest() -> None:
    code = """
import sys
from scalewise.lab.training.light import defer_torchmetrics
defer_torchmetrics()
import scalewise.lab.training.fit
heavy = {"scipy.signal", "transformers", "torchmetrics.functional", "matplotlib"}
assert not heavy & set(sys.modules)
import torch, torchmetrics
from lightning.pytorch.core.module import Metric
class Two(Metric):
    def update(self): pass
    def compute(self): return torch.tensor(2.0)
two = Two()
two.update()
_, axes = two._plot()
assert axes.lines[0].get_ydata().tolist() == [2.0]
mean = torchmetrics.MeanMetric()
mean.update(torch.tensor([1.0, 3.0]))
assert float(mean.compute()) == 2 and isinstance(mean, Metric)
from torchmetrics.functional import mean_squared_error
assert "torchmetrics.functional" in sys.modules and torchmetrics.Metric is Metric
defer_torchmetrics()
assert sys.modules["torchmetrics"] is torchmetrics
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["scalewise", "scalewise.data"])
def test_names_that_load_on_first_use_are_those_that_type_checkers_see(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in typed.body if isinstance(node, ast.ImportFrom)]
    names = {
        alias.asname or alias.name: (n.module, alias.name) for n in imports for alias in n.names
    }
    assert names.keys() <= set(dir(module))
    for name, (home, there) in names.items():
        expected = getattr(importlib.import_module(str(home)), there)
        assert getattr(module, name) is expected, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize(
    ("files", "cores", "limited"),
    [
        ({}, 8, False),
        ({"cpu.max": "max 100000\n"}, 8, False),
        ({"cpu.max": "250000 100000\n"}, 3, True),
        ({"cpu.max": "50000 100000\n"}, 1, True),
        ({"cpu.max": "1600000 100000\n"}, 8, True),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8, False),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2, True),
    ],
)
def test_cores_are_those_of_the_process_and_of_its_container(
    files: dict[str, str],
    cores: int,
    limited: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores() == cores
    found: dict[str, str] = {}
    limit_threads(found)
    assert found == ({"OMP_NUM_THREADS": str(cores)} if limited else {})


def test_what_the_user_has_set_for_threads_stays() -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        found = {name: "7"}
        wait_briefly(found)
        assert found == {name: "7"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        found = {name: "7"}
        limit_threads(found)
        assert found == {name: "7"}
