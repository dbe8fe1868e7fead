"""`scalewise replay`, from its options to its files."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from scalewise.cli.replay import LIMITS, main
from scalewise.errors import UserError
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.run_options import save_config
from scalewise.lab.training.trace import Trace, TraceInterval

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


def test_the_defaults_in_the_help_are_those_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a record that is not from a run; a test above covers the settings of a run."""
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    stated = {
        part.split()[0]: found[1] or found[2]
        for part in re.split(r" --(?=\w+ [A-Z]+ )", said)[1:]
        if (found := re.search(r"(?:the run's own, else (\w+)\.|default: (avw\S+|5)\))", part))
    }
    assert set(stated) == {
        "interval", "normalize", "by", "accumulate", "seed", "schemes", "shuffles"
    }  # fmt: skip
    table = tmp_path / "mine.csv"
    table.write_text("P3,P4\n" + "".join(f"{1 + n % 3},{2 + n % 5}\n" for n in range(250)))
    monkeypatch.setattr("scalewise.lab.replay.output.draw_weights", lambda *_: None)

    def written(**options: str) -> str:
        words = [f"--{name}={value}" for name, value in options.items()]
        before = set(tmp_path.glob("out/*"))
        assert main([str(table), "--out", str(tmp_path / "out"), *words]) == 0
        (folder,) = set(tmp_path.glob("out/*")) - before
        said = capsys.readouterr().out
        printed = re.findall(r"\d+ rows, normalize \w+, accumulate \d+, seed \d+", said)
        return "\n".join(printed) + (folder / "weights.csv").read_text()

    plain = written()
    assert written(**stated) == plain
    for name, other in {
        "interval": "20", "normalize": "loss", "accumulate": "2", "seed": "1", "schemes": "avw",
    }.items():  # fmt: skip
        assert written(**{name: other}) != plain, name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schemes", "uncertainty"], "cannot be replayed"),
        (["--interval", "1000"], "choose a shorter --interval"),
        (["--shuffles", "-1"], "must not be negative"),
        (["--schmes", "avw"], "did you mean --schemes"),
        (["--tags", "x/{group}"], "nothing is named like"),
    ],
)
def test_wrong_words_leave_nothing(
    short: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        main([str(short), "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_a_run_by_class_under_every_kind_of_scheme(
    tiny: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scheme of the run gives the recorded weights; the others give what they must."""
    run = train(tiny(tmp_path, scheme="rlo", by="class", interval="auto", epochs=4))
    table = pq.read_table(run / "trace.parquet").to_pydict()
    classes = [name.removeprefix("weight/") for name in table if name.startswith("weight/")]
    scheme = f"class:{classes[0]}=2"
    out = tmp_path / "out"
    words = ["--schemes", f"avw,share,rlo,{scheme},dwa", "--shuffles=1", "--out", str(out)]
    capsys.readouterr()
    assert main([str(run), *words]) == 0
    printed = capsys.readouterr().out
    assert "mean weight of each class" in printed
    assert "chosen weights of all classes" in printed
    assert "level" not in printed
    (folder,) = out.iterdir()
    lines = list(csv.DictReader((folder / "weights.csv").open()))
    begins = [table["interval"].index(i) for i in range(table["interval"][-1] + 1)]
    own = [line for line in lines if line["scheme"] == "rlo"]
    assert [int(line["step"]) for line in own if line["step"]] == begins
    for line, row in zip(own, begins, strict=False):
        for name in classes:
            recorded = table[f"weight/{name}"][row]
            assert float(line[f"weight/{name}"]) == pytest.approx(recorded, rel=1e-5)
    given = [line for line in lines if line["scheme"] == scheme]
    assert {line[f"weight/{classes[0]}"] for line in given} == {"2"}
    assert {line[f"weight/{classes[1]}"] for line in given} == {"1"}
    # the moments of the first interval, per positive, by hand
    name = classes[0]
    counts = np.array([table[f"positives/{n}"][: begins[1]] for n in classes])
    terms = {column.split("/")[1] for column in table if column.startswith("loss/")}
    losses = np.sum([table[f"loss/{term}/{name}"][: begins[1]] for term in terms], axis=0)
    share = (counts[0] / counts.sum(0).clip(1)).mean()
    mean = losses[counts[0] > 0].sum() / len(losses) / share if share else 0.0
    assert float(own[0][f"mean/{name}"]) == pytest.approx(mean, rel=1e-4)
    with pytest.raises(UserError, match="how many objects each group has") as refused:
        main([str(run), "--schemes", "effective", "--out", str(tmp_path / "none")])
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "none").exists()


def test_eighty_classes_stand_below_each_other_and_ten_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn: list[Figure]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_config(run, TrainConfig(data="x", by="class", interval=10))
    names = ["total", "a/b", "[red]", "$", *(f"class {i}" for i in range(4, 80))]
    trace = Trace(run / "trace.parquet", ["class"], names)
    draw = torch.Generator().manual_seed(0)
    counts = torch.logspace(2, 0, 80)
    for step in range(60):
        losses = counts[None] * torch.rand(1, 80, generator=draw)
        trace.add(step, 0, 0.1, losses, counts, TraceInterval(step // 10, torch.ones(80)))
    trace.save()
    words = ["--schemes", "class:a/b=4,equal", "--shuffles=0", "--out", str(tmp_path / "out")]
    assert main([str(run), *words]) == 0
    printed = capsys.readouterr().out
    assert "10 of 80 classes: those whose weights went furthest from 1" in " ".join(printed.split())
    # first the class that was weighed, then the others by their share of the positives
    shown = ["total", "a/b", "[red]", "$", *(f"class {i}" for i in range(4, 10))]
    rows = printed[printed.index("mean weight") : printed.index("signal or chance")].splitlines()
    listed = [re.split(r"\s{2,}", line.strip()) for line in rows]
    found = [cells for cells in listed if cells[0] in names]
    assert [cells[0] for cells in found] == shown
    whole = np.stack(
        [np.array(pq.read_table(run / "trace.parquet")[f"loss/class/{n}"]) for n in names]
    )
    share = whole.sum(1) / whole.sum()
    assert found[1][1] == f"{share[1]:.1%}"
    assert found[1][2] == f"4.00 {4 * share[1] / (1 + 3 * share[1]):.1%}"
    upper, lower = drawn[0].axes
    assert len(upper.lines) == len(lower.lines) == 10 + 1
    assert set(np.asarray(upper.lines[1].get_ydata(), float)) == {4.0}
    (legend,) = drawn[0].legends
    assert legend.get_title().get_text().startswith("10 of 80 classes")


def test_what_a_table_is_of_is_called_a_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("P3,P4\n" + "".join(f"{1 + n % 3},{2 + n % 5}\n" for n in range(40)))
    words = ["--schemes=dwa", "--interval=10", "--shuffles=0", "--out", str(tmp_path / "out")]
    assert main([str(table), *words]) == 0
    assert "mean weight of each group" in capsys.readouterr().out
    assert main([str(table), *words, "--by", "level"]) == 0
    assert "mean weight of each level" in capsys.readouterr().out
