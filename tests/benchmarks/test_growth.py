"""The benchmark of a step's cost: settings are what they say, and what was measured is kept."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import growth
import pytest
import torch
from detector_step import make_batch
from growth import KINDS, Setting, make_detector, name_of, settings
from PIL import Image

ARGS = argparse.Namespace(
    device="cpu", backbone="mobilenet_v3_small", width=8, depth=0, threads=1, rounds=1
)
SMALL = Setting(images=1, classes=2, levels=5, side=64)


def test_one_of_four_varies_at_a_time() -> None:
    for axis, points in settings(growth.AXES, Setting()).items():
        assert Setting() in points
        assert [getattr(point, axis) for point in points] == list(growth.AXES[axis])
        assert all(sum(asdict(p)[k] != v for k, v in asdict(Setting()).items()) < 2 for p in points)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [3, 4, 5])
def test_a_detector_of_fewer_levels_looks_at_the_finest_of_all(kind: str, levels: int) -> None:
    detector = make_detector(Setting(2, 3, levels, 64), kind, ARGS)
    images = make_batch(2, 64, 4)
    predictions, grid = detector.predict(images.images, images.sizes)
    sides = [8, 4, 2, 1, 1][:levels]  # of 64 pixels in strides from 8 on
    assert [rows for rows, _ in grid.shapes] == sides
    assert predictions.logits.shape == (2, sum(s * s for s in sides), 3)
    groups = sum(detector(images._replace(labels=images.labels % 3)).values())
    assert isinstance(groups, torch.Tensor)
    assert groups.shape == ((levels,) if kind == "equal" else (4,))  # classes and background


def test_what_was_measured_is_kept_and_only_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    along = settings({"images": (1, 2), "classes": (2, 3)}, SMALL)
    wanted = [point for points in along.values() for point in points]
    path, said = tmp_path / "growth.json", list[str]()
    growth.measured(path, wanted[:1], ARGS, said.append)
    assert len(said) == 1
    seen: list[Setting] = []

    def measure(setting: Setting, _: argparse.Namespace) -> dict[str, float]:
        seen.append(setting)
        return dict.fromkeys(KINDS, 1e-3 * setting.images)

    monkeypatch.setattr(growth, "measure", measure)
    seconds = growth.measured(path, wanted, ARGS, said.append)
    assert seen == [wanted[1], wanted[3]]  # the middle is on both axes
    assert json.loads(path.read_text())["seconds"] == seconds
    table = growth.rows(along, seconds | {name_of(SMALL): dict.fromkeys(KINDS, 5e-4)})
    assert table[2] == ["images", "2", "2.0", "2.0", "4.00", "4.00"]
    growth.draw(tmp_path / "growth.png", along, seconds)
    assert Image.open(tmp_path / "growth.png").size[0] > 600
    changed = argparse.Namespace(**vars(ARGS) | {"width": 16})
    with pytest.raises(SystemExit, match="was measured with"):
        growth.measured(path, wanted, changed, said.append)
