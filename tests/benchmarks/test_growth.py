"""The benchmark of step cost: it uses the settings it names, and keeps what it measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
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
    sides = [8, 4, 2, 1, 1][:levels]  # 64 pixels divided by the strides 8, 16, ...
    assert [rows for rows, _ in grid.shapes] == sides
    assert predictions.logits.shape == (2, sum(s * s for s in sides), 3)
    groups = sum(detector(images._replace(labels=images.labels % 3)).values())
    assert isinstance(groups, torch.Tensor)
    assert groups.shape == ((levels,) if kind == "equal" else (4,))  # classes and background


def test_rounds_that_are_done_are_kept_and_only_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    along = settings({"images": (1, 2), "classes": (2, 3)}, SMALL)
    wanted = list(dict.fromkeys(point for points in along.values() for point in points))
    path, steps = tmp_path / "growth.json", list[tuple[str, str]]()

    def make_step(setting: Setting, kind: str, _: argparse.Namespace) -> Callable[[], None]:
        return lambda: steps.append((name_of(setting), kind))

    monkeypatch.setattr(growth, "make_step", make_step)
    each = {(name_of(setting), kind) for setting in wanted for kind in KINDS}
    assert len(each) == 6  # three settings, since the central one is on both axes; two kinds
    growth.measured(path, wanted, ARGS)
    more = argparse.Namespace(**vars(ARGS) | {"rounds": 3})
    seconds = growth.measured(path, wanted, more)
    taken = [steps[i : i + 6] for i in range(0, len(steps), 6)]
    assert [set(turn) for turn in taken] == [each] * 5  # each call warms up first
    assert taken[1] != taken[3] != taken[4]  # rounds differ in their order
    assert growth.measured(path, wanted, more) == seconds
    assert len(steps) == 30
    assert json.loads(path.read_text())["rounds"] == seconds
    assert {len(found) for kinds in seconds.values() for found in kinds.values()} == {3}
    changed = argparse.Namespace(**vars(ARGS) | {"width": 16})
    for other, points in ((changed, wanted), (more, wanted[:2])):
        with pytest.raises(SystemExit, match="holds other settings or was measured on"):
            growth.measured(path, points, other)


def test_times_are_medians_and_ratios_those_within_a_round(tmp_path: Path) -> None:
    along = settings({"images": (1, 2)}, SMALL)
    first, second = (name_of(point) for point in along["images"])
    slow = [1e-3, 9e-3, 2e-3]  # the machine was busy in the second round
    seconds = {
        first: dict.fromkeys(KINDS, slow),
        second: {kind: [3 * s for s in slow] for kind in KINDS},
    }
    table = growth.rows(along, seconds)
    assert table[2] == ["images", "2", "6.0", "6.0", "3.00", "3.00"]
    growth.draw(tmp_path / "growth.png", along, seconds)
    assert Image.open(tmp_path / "growth.png").size[0] > 600


def test_a_step_of_the_smallest_setting_trains() -> None:
    for kind in KINDS:
        assert growth.seconds_of(growth.make_step(SMALL, kind, ARGS), "cpu") > 0
