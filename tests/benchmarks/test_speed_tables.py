"""The tables of speed: what they compute from times, and that what they time still runs."""

from __future__ import annotations

import before_and_now
import pytest
from weighing_parts import measure


def test_a_ratio_is_computed_within_its_round() -> None:
    """A slow moment hits both sides of its round, and leaves the ratio alone."""
    before, now = [1.0, 10.0, 2.0], [0.5, 5.0, 1.0]
    row = before_and_now.table({"step": (before, now)})[-1]
    assert row == "| step | 2000.0 | 1000.0 | 0.50 | 0.50-0.50 |"


def test_a_step_is_compared_with_torchvisions_of_its_round() -> None:
    seconds = {
        "scalewise fcos, 192 px": ([1.0, 2.0], [1.0, 4.0]),
        "torchvision fcos, channels last, 192 px": ([3.0, 6.0], [2.0, 8.0]),
        "scalewise atss, 192 px": ([1.0, 1.0], [1.0, 1.0]),
    }
    rows = before_and_now.beside_torchvision(seconds)[2:]
    assert rows == ["| fcos, 192 px | 3.00 | 3.00-3.00 | 2.00 | 2.00-2.00 |"]


def test_a_side_that_ends_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="ended: see its error above"):
        before_and_now.Side(before_and_now.HERE / "tests", 1)
    assert "is not of" in capfd.readouterr().err


def test_the_parts_of_a_weighed_step_are_timed() -> None:
    seconds = measure(64, 2, 2)
    assert list(seconds) == ["step", "plain", "by level", "by size", "by class"]
    assert all(len(each) == 2 and min(each) > 0 for each in seconds.values())
