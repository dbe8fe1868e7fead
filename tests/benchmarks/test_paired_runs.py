"""The table that compares runs with equal-weight runs of the same seed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import paired_runs
import pytest
from scipy import stats

from scalewise.errors import UserError

EQUAL = [0.40, 0.42, 0.41]
OTHER = [0.45, 0.43, 0.46]


def write_run(folder: Path, seed: int, ap: float) -> str:
    folder.mkdir(parents=True)
    last = {"epoch": 2, "AP": ap, "AP50": 0.9, "AP/cat": ap / 2, "AP/dog": ap * 1.5}
    (folder / "config.yaml").write_text(f"seed: {seed}\n")
    (folder / "metrics.json").write_text(json.dumps({"status": "finished", "last": last}))
    return str(folder)


def write_kept(file: Path) -> str:
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, ["detector", "scheme", "seed", "AP", "AP/cat", "AP/dog"])
        writer.writeheader()
        for seed, ap in enumerate(EQUAL):
            row = {"detector": "atss", "scheme": "equal", "seed": seed, "AP": ap}
            writer.writerow(row | {"AP/cat": ap / 2, "AP/dog": ap * 1.5})
    return f"{file}:equal"


def test_the_table_has_scipys_paired_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / str(seed), seed, ap) for seed, ap in enumerate(OTHER)]
    kept = write_kept(tmp_path / "runs.csv")
    out = tmp_path / "out.csv"
    words = ["paired_runs.py", "--equal", kept, "--other", "avw", *runs, "--out", str(out)]
    monkeypatch.setattr("sys.argv", words)
    paired_runs.main()
    printed = capsys.readouterr().out
    low, high = stats.ttest_rel(OTHER, EQUAL).confidence_interval()
    line = next(line for line in printed.splitlines() if line.startswith("| avw"))
    assert f"+3.67 ({100 * low:.2f} to {100 * high:.2f})" in line
    assert line.endswith("| 3 of 3 | 44.7 | 22.3 | 67.0 |")
    monkeypatch.setattr("sys.argv", ["paired_runs.py", str(out)])
    paired_runs.main()
    assert capsys.readouterr().out == printed


def test_two_runs_of_one_seed_are_refused(tmp_path: Path) -> None:
    kept = write_kept(tmp_path / "runs.csv")
    with pytest.raises(UserError, match="same seed, 0"):
        paired_runs.last_rows([write_run(tmp_path / "a", 0, 0.5), kept])
    with pytest.raises(UserError, match="no runs of 'avw'"):
        paired_runs.last_rows([kept.replace(":equal", ":avw")])
