"""`scalewise replay` from words to files."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from scalewise.cli.replay import LIMITS, main
from scalewise.errors import UserError

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A run folder with the first 230 steps of a recorded run, whose interval is 50."""
    run = tmp_path / "short"
    run.mkdir()
    shutil.copy(RECORDED / "config.yaml", run)
    table = pq.read_table(RECORDED / "trace.parquet")
    pq.write_table(table.slice(0, 230), run / "trace.parquet")
    return run


def test_weights_and_picture(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--schemes", "avw:temperature=2,rlo", "--shuffles=2", "--out", str(out)]
    assert main([str(short), *words]) == 0
    assert main([str(short), *words, "--interval", "20,100"]) == 0
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(LIMITS)
    assert "230 rows, normalize mean, accumulate 1, seed 0" in printed
    assert "rlo, interval 50 drew: equal " in printed
    assert sorted(p.name for p in out.iterdir()) == ["short", "short-2"]
    for folder, sides in (("short", 1), ("short-2", 2)):
        assert {p.name for p in (out / folder).iterdir()} == {"weights.csv", "weights.png"}
        picture = Image.open(out / folder / "weights.png")
        assert picture.width == pytest.approx(110 * (1 + 3.6 * sides), abs=1)
    with (out / "short" / "weights.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["scheme"], line["step"]) for line in lines] == [
        (scheme, str(50 * number)) for scheme in ("avw:temperature=2", "rlo") for number in range(5)
    ]
    recorded = pq.read_table(short / "trace.parquet").to_pylist()
    for line in lines[5:]:  # the run's own scheme, interval and seed
        row = recorded[int(line["step"])]
        assert line["action"] == (row["action"] or "")
        assert float(line["weight/P3"]) == pytest.approx(row["weight/P3"], rel=1e-5)
        assert float(line["probability/equal"]) == pytest.approx(row["probability/equal"], rel=1e-5)
    assert lines[4]["mean/P3"] == ""  # its interval has not ended
    assert lines[0]["action"] == ""


def test_several_traces_without_comparison(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("P3,P4\n" + "".join(f"{1 + n % 3},{2 + n % 5}\n" for n in range(100)))
    out = tmp_path / "out"
    words = [str(short), str(table), "--schemes=dwa", "--shuffles", "0", "--out", str(out)]
    assert main(words) == 0
    assert capsys.readouterr().out.count(LIMITS) == 1
    assert sorted(p.name for p in out.iterdir()) == ["mine", "short"]
    # The run's own interval is 50 rows; without a run it is 100, which ends with the last row.
    assert len((out / "short" / "weights.csv").read_text().splitlines()) == 1 + 5
    assert len((out / "mine" / "weights.csv").read_text().splitlines()) == 1 + 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schemes", "uncertainty"], "cannot be replayed"),
        (["--interval", "1000"], "choose a shorter --interval"),
        (["--shuffles", "-1"], "must not be negative"),
        (["--schmes", "avw"], "did you mean 'schemes'"),
        (["--tags", "x/{level}"], "nothing is named like"),
    ],
)
def test_wrong_words_leave_nothing(
    short: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        main([str(short), "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()
