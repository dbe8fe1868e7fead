"""Names that have a special meaning in a spreadsheet, a terminal, Markdown or TensorBoard."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scalewise.cli.display import show_metrics, show_run
from scalewise.data import open_split
from scalewise.errors import UserError
from scalewise.lab.report.build import report_csv, write_report
from scalewise.lab.report.reading_subjects import load_subjects
from scalewise.lab.study.csv_tables import safe
from scalewise.lab.study.study_tables import markdown_cell
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.run_metrics import load_metrics

Tiny = Callable[..., TrainConfig]
NAMES = ["=1+2", "</script><script>alert(1)</script>", "a|b\nc", "\x1b[31mred[/red]", "@SUM(A1)"]
RUN = "=HYPERLINK(1) [bold]x"


def _renamed(tiny: Tiny, folder: Path, names: list[str]) -> TrainConfig:
    """Options of a run on a copy of the demo set with other class names."""
    config = tiny(folder / "runs", name=RUN, epochs=1, by="class")
    source = Path(open_split(config.data, "train").source).parent.parent
    shutil.copytree(source, folder / "set")
    for path in (folder / "set" / "annotations").iterdir():
        table = json.loads(path.read_text())
        for category, name in zip(table["categories"], names, strict=True):
            category["name"] = name
        path.write_text(json.dumps(table))
    return dataclasses.replace(config, data=str(folder / "set"))


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(_renamed(tiny, tmp_path_factory.mktemp("hostile"), NAMES))


def test_the_terminal_shows_them_as_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    show_run(run)
    metrics = load_metrics(run)["last"]
    show_metrics({k: v for k, v in metrics.items() if isinstance(v, float)}, f"{RUN}\x1b[2J")
    printed = capsys.readouterr().out
    assert "\x1b[31m" not in printed
    assert "\x1b[2J" not in printed
    assert "\\x1b[31mred[/red]" in printed
    assert "[bold]x" in printed


def test_no_cell_of_a_table_is_a_formula(run: Path, tmp_path: Path) -> None:
    paths = write_report([run], tmp_path / "report.html")
    text = report_csv(load_subjects([run], None))
    rows = list(csv.reader(io.StringIO(text)))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@", "\t"))]
    assert rows[1][1] == f"'{RUN}"
    assert {row[5] for row in rows} >= {f"AP/{name}" for name in NAMES}
    page = next(path for path in paths if path.suffix == ".html").read_text()
    assert "<script>alert(1)" not in page


def test_tensorboard_has_every_name_as_it_is(run: Path) -> None:
    log = EventAccumulator(str(run / "logs" / "attempt-1"))
    log.Reload()
    assert {f"weight/{name}" for name in NAMES} <= set(log.Tags()["scalars"])


def test_cells() -> None:
    assert [safe(x) for x in ("=1", "-x", "+x", "@x", "\tx", "x=1", -0.5, None, "")] == [
        "'=1", "'-x", "'+x", "'@x", "'\tx", "x=1", -0.5, None, "",
    ]  # fmt: skip
    assert markdown_cell("a|b\n<i>c") == "a\\|b &lt;i>c"


def test_half_a_character_is_refused_before_a_folder_is_made(tiny: Tiny, tmp_path: Path) -> None:
    config = _renamed(tiny, tmp_path, [*NAMES[:4], "\ud800"])
    with pytest.raises(UserError, match="half of a character"):
        train(config)
    assert not (tmp_path / "runs").exists()
