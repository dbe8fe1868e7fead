"""Two processes train one model, score every image once, and make one run folder."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from scalewise.lab.inference.scored import evaluate
from scalewise.lab.inference.trained import load_run
from scalewise.lab.training.config import TrainConfig


def test_two_processes(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = tiny(tmp_path / "runs", epochs=1, devices=2, strategy="ddp", batch_size=2, name="ddp")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config)))
    script = tmp_path / "train.py"
    script.write_text("import sys\nfrom scalewise.cli import main\nsys.exit(main())\n")
    # With torchrun, which keeps the port that it picks. Lightning's own launcher picks a port
    # seconds before it uses it, and on a busy machine another program may take it.
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, str(script), "train", "--config", str(tmp_path / "run.yaml")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["ddp"]
    assert done.stdout.count("run folder:") == 2, "once at the start, once at the end"
    run = tmp_path / "runs" / "ddp"
    assert pq.read_table(run / "trace.parquet")["step"].to_pylist() == [0, 1, 2, 3, 4]
    best = json.loads((run / "metrics.json").read_text())["best"]
    _, alone = evaluate(load_run(run, device="cpu"), None, None)
    assert alone["AP"] == pytest.approx(best["AP"], abs=1e-6)
    assert alone["AR_100"] == pytest.approx(best["AR_100"], abs=1e-6)
