"""The benchmark for a GPU, run as a rehearsal on the CPU, and its parts one by one."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gpu import bounded, find_study, pack
from kept import kept_study
from profile_step import covered, summary

from scalewise.errors import UserError
from scalewise.lab.study.planned_cells import Cell, cell_folder

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("compare")  # not at the same time as other studies


def test_a_rehearsed_visit_brings_every_part(tmp_path: Path) -> None:
    out = tmp_path / "visit"
    words = ["--out", str(out), "--minutes", "6", "--device", "cpu", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/gpu.py"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    brought = {path.name for path in out.iterdir()}
    assert brought == {"visit.md", "tests.txt", "speed.md", "profile.txt", "study.tar.gz"}
    lines = (out / "visit.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in lines if "|" in line][2:]
    *parts, (study, outcome) = rows
    assert dict(parts) == dict.fromkeys(
        (
            "card",
            "tests",
            "balancer",
            "detector_step",
            "overhead",
            "evaluation",
            "epoch",
            "profile",
        ),
        "ok",
    ), (out / "speed.md").read_text()
    assert (study, outcome) == (
        "study gpu-groups",
        "ok: 2 of 2 missing runs of 2, 2 at a time",
    ), done.stdout
    assert "PASSED tests/cuda/test_cuda_steps.py" in (out / "tests.txt").read_text()
    assert str(tmp_path) not in (out / "speed.md").read_text()
    assert "| cache device | " in (out / "speed.md").read_text()
    assert "failed" not in (out / "speed.md").read_text()
    assert "operators called" in (out / "profile.txt").read_text()
    kept = tmp_path / "gpu-groups"
    kept.mkdir()
    (kept / "study.yaml").write_bytes((find_study("gpu-groups") / "study.yaml").read_bytes())
    with tarfile.open(out / "study.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    found = kept_study(kept)
    assert [record.scheme for record in found.records] == list(found.plan.schemes[:2])


def test_a_part_that_hangs_or_fails_is_cut_off_and_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    endless = "print('begun', flush=True)\nwhile True: pass"
    assert bounded([sys.executable, "-c", endless], 1.5, log) == "cut off after 2 s"
    assert bounded([sys.executable, "-c", "raise SystemExit(3)"], 60, log) == "exit status 3"
    assert bounded([sys.executable, "-c", "print('well')"], 60, log) == "ok"
    assert bounded([sys.executable, "-c", "raise SystemExit(3)"], 0, log) == "no time left"
    assert "well" in log.read_text()


def test_an_unknown_study_is_named() -> None:
    with pytest.raises(UserError, match="--study nowhere: 0 studies"):
        find_study("nowhere")


def test_what_is_packed_unpacks_beside_the_plan(tmp_path: Path) -> None:
    study, cell = tmp_path / "name", Cell("atss", "equal", 3)
    folder = cell_folder(study, cell)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    (folder / "big.ckpt").write_text("not carried")
    pack(study, [cell], tmp_path / "study.tar.gz")
    with tarfile.open(tmp_path / "study.tar.gz") as archive:
        assert archive.getnames() == ["name/runs/atss/equal/seed-3/metrics.json"]


def test_the_union_of_spans() -> None:
    assert covered([]) == 0
    assert covered([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4
    assert covered([(5, 6), (0, 10)]) == 10


def test_a_profile_counts_kernels_waits_and_idle_time() -> None:
    def event(name: str, device: str, start: float = 0, end: float = 0) -> Any:
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(name=name, device_type=SimpleNamespace(name=device), time_range=span)

    events = [
        event("aten::add", "CPU"),
        event("cudaLaunchKernel", "CPU"),
        event("cudaLaunchKernel", "CPU"),
        event("cudaStreamSynchronize", "CPU"),
        event("add_kernel", "CUDA", 0, 2000),
        event("mul_kernel", "CUDA", 6000, 8000),
        event("Memcpy DtoH", "CUDA", 8000, 10000),
        event("training step", "CUDA", 0, 10000),  # a mark around the step, not work of the device
    ]
    assert summary(events, 2) == [
        "operators called: 0",
        "kernels: 1",
        "copies and fills: 0",
        "launches: 1",
        "host waits: 0.5",
        "device busy: 3.00 ms",
        "idle share of the device: 40.0%",
    ]
