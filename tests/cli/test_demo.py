from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from scalewise.cli import demo, main
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.runs import load_json


def test_the_whole_demo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny: Callable[..., TrainConfig],
) -> None:
    """The demo prints the figures that its runs recorded (with small data and a small detector)."""
    data = f"demo:kind=cells,images=40,size=64,folder={tmp_path}/cells"
    usual = demo.config
    small = tiny(tmp_path, anchor_scale=0.2)
    changes = {
        name: getattr(small, name)
        for name in ("backbone", "width", "size", "batch_size", "accelerator")
    }
    monkeypatch.setattr(demo, "DATA", data)
    monkeypatch.setattr(demo, "config", lambda options: replace(usual(options), **changes))
    assert main(["demo", "--epochs", "1", "--out", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    study = tmp_path / "runs" / "demo"
    recorded = [
        load_json(study / "runs" / "atss" / scheme / "seed-0" / "metrics.json")
        for scheme in ("equal", "avw")
    ]
    assert [metrics["split"] for metrics in recorded] == ["val", "val"]
    for name in ("red cell", "white cell", "platelet"):
        row = next(line for line in printed.splitlines() if re.match(rf"\W*{name} ", line))
        shown = [float(figure) for figure in re.findall(r"[+-]?\d+\.\d", row)]
        equal, balanced = (100 * metrics["last"][f"AP/{name}"] for metrics in recorded)
        assert shown == pytest.approx([equal, balanced, balanced - equal], abs=0.051)
    assert all(len(line) <= 80 for line in printed.splitlines() if str(tmp_path) not in line)
    assert f"report:  {study / 'report.html'}" in printed
    with Image.open(study / "demo.png") as picture:
        assert picture.width > picture.height > 500
    report = (study / "report.html").read_text(encoding="utf-8")
    assert "platelet" in report


def test_the_demo_weighs_classes_at_the_default_scheme() -> None:
    options = demo.DemoRun()
    config = demo.config(options)
    assert (options.scheme, config.by) == (TrainConfig().scheme, TrainConfig().by)
