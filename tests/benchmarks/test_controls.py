"""The table of the control runs, made from finished runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import controls
import numpy as np
import pytest
from score_figures import above, capped

from scalewise.data import open_split
from scalewise.errors import UserError
from scalewise.lab.evaluation.stored import read_detections
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.run_options import load_config
from scalewise.lab.training.runs import load_json

Tiny = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run with equal weights and one with the scheme `share`, one epoch each."""
    out = tmp_path_factory.mktemp("runs")
    return {
        scheme: train(tiny(out, scheme=scheme, by="class", epochs=1, interval=2))
        for scheme in ("equal", "share")
    }


def test_the_table_of_two_runs(trained: dict[str, Path]) -> None:
    equal, share = trained["equal"], trained["share"]
    runs = {name: controls.by_seed([run]) for name, run in (("equal", equal), ("balanced", share))}
    text = controls.make_table(runs, "test")
    split = open_split(load_config(equal).data, "val")
    wide = controls.wide_detections(equal, split)
    ours = capped(above(wide, controls.SCORE))
    for one, other in zip(ours, read_detections(equal / "detections.parquet"), strict=True):
        assert all(np.array_equal(v, asdict(other)[k]) for k, v in asdict(one).items())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    by_run = {tuple(row[:2]): row[2:] for row in rows if len(row) == 2 + len(controls.COLUMNS)}
    assert len([row for row in by_run if row[1] == "0"]) == 3
    recorded = load_json(share / "metrics.json")["last"]["AP"]
    assert float(by_run["balanced", "0"][0]) == pytest.approx(100 * recorded, abs=0.01)
    assert [row[0] for row in rows if row and row[0] in split.classes] == list(split.classes)
    with pytest.raises(UserError, match="--tune val shares 4 images with val"):
        controls.make_table(runs, "val")
    with pytest.raises(UserError, match="have the same seed, 0"):
        controls.by_seed([equal, share])


def test_the_table_on_the_command_line(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, (equal, share) = tmp_path / "controls.md", map(str, trained.values())
    words = ["--tune", "test", "--equal", equal, "--balanced", share, "--other", "again", equal]
    monkeypatch.setattr("sys.argv", ["controls.py", *words, "--out", str(out)])
    controls.main()
    lines = out.read_text().splitlines()
    names = [line.split("|")[1].strip() for line in lines if "| 0 |" in line]
    assert names == ["equal", "equal, rescaled", "balanced", "again"]


def test_runs_of_other_options_are_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "run"
    other.mkdir()
    text = (trained["share"] / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("lr: 0.001", "lr: 0.002"))
    controls.check_alike(trained["equal"], trained["share"])
    with pytest.raises(UserError, match="they differ in lr"):
        controls.check_alike(trained["equal"], other)
    with pytest.raises(UserError, match="is not finished"):
        controls.by_seed([other])
