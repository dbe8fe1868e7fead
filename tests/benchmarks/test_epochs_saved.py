"""The epoch in which a run reaches the AP of another run."""

from __future__ import annotations

import json
from pathlib import Path

import epochs_saved
import pytest

from scalewise.errors import UserError


def run(folder: Path, aps: list[float], every: int = 1) -> Path:
    folder.mkdir()
    history = [{"epoch": every * i, "AP": ap} for i, ap in enumerate(aps, 1)]
    (folder / "metrics.json").write_text(json.dumps({"status": "finished", "history": history}))
    return folder


def test_the_first_epoch_at_or_above_the_last_of_equal_weights(tmp_path: Path) -> None:
    equal = {0: run(tmp_path / "a", [0.1, 0.4, 0.3]), 1: run(tmp_path / "b", [0.1, 0.2, 0.5])}
    other = {0: run(tmp_path / "c", [0.3, 0.2, 0.6]), 1: run(tmp_path / "d", [0.1, 0.2, 0.4])}
    assert epochs_saved.rows(equal, other) == [
        ["0", "30.0", "60.0", "2", "1", "3"],
        ["1", "50.0", "40.0", "3", "never", "3"],
    ]


def test_runs_validated_now_and_then_are_refused(tmp_path: Path) -> None:
    seldom = run(tmp_path / "seldom", [0.1, 0.2], every=2)
    with pytest.raises(UserError, match=r"after epochs \[2, 4\]; --val_every 1"):
        epochs_saved.aps(seldom)
