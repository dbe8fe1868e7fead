"""The benchmark of start-up times."""

from __future__ import annotations

from pathlib import Path

import pytest
import start


def test_ratios_are_taken_within_a_round() -> None:
    times = {start.TORCH: [1.0, 10.0, 2.0], "train --help": [0.5, 5.0, 1.0]}
    lines = start.table(times)
    assert lines[2] == "| `import torch` | 2.00 | 1.00 | 1.00-1.00 |"
    assert lines[3] == "| `train --help` | 1.00 | 0.50 | 0.50-0.50 |"


def test_a_call_that_ends_otherwise_than_it_should_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start.seconds("train --data nowhere", tmp_path, None) > 0
    (tmp_path / "nowhere").mkdir()
    monkeypatch.setitem(start.CALLS, "wrong", (start.COMMAND, ["train", "--data", "nowhere"], 0))
    with pytest.raises(SystemExit, match="wrong: exit status 1, not 0"):
        start.seconds("wrong", tmp_path, None)
