"""`scalewise inspect`: its files, its page, what it refuses, and what it does not change."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from scalewise.cli import main
from scalewise.data import open_split
from scalewise.errors import UsageError
from scalewise.lab.inspection.crops import strips
from scalewise.lab.inspection.found_tables import show_inspection
from scalewise.lab.inspection.html import inspection_html
from scalewise.lab.inspection.look import look_at
from scalewise.lab.inspection.run import check_out
from scalewise.lab.training.config import TrainConfig


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "demo"
    open_split(spec := f"demo:images=24,size=96,folder={folder}")
    return spec


def files(folder: Path) -> dict[str, tuple[int, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def test_the_command_writes_a_picture_and_a_page_and_leaves_the_data_alone(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(open_split(data).source).parents[1]
    before = files(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    words = ["inspect", "--data", str(source), "--size", "96", "--anchor-scale=0.5"]
    assert main(words) == main([*words, "--out", "inspection"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "To begin with: --size" in said
    for folder in ("inspection", "inspection-2"):
        with Image.open(tmp_path / folder / "inspect.png") as image:
            assert image.width == 1200
        page = (tmp_path / folder / "inspect.html").read_text()
        assert page.startswith("<!DOCTYPE html>")
        assert "http-equiv" in page
    assert main([*words, "--out", str(source / "seen")]) == 2
    assert files(source) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "demo", "--size", "0"], "--size must be above 0"),
        (["--data", "demo", "--sise", "9"], "did you mean --size"),
        ([], "--data is missing"),
        (["--data", "nowhere"], "no such data set"),
        (["--data", "demo:images=10,size=64", "--size_edges", "5,2"], "must ascend"),
        (["--data", "demo:images=10,size=64", "--split", "trian"], "trian"),
    ],
)
def test_bad_words_end_in_one_line(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", *words]) in (1, 2)
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not (tmp_path / "inspection").exists()


def test_data_that_training_refuses_are_shown_all_the_same(data: str, tmp_path: Path) -> None:
    split = open_split(data)
    source = Path(split.source)
    table = json.loads(source.read_text())
    for one in table["images"]:
        one["file_name"] = str(split.records[0].path.parent / one["file_name"])
    for one in table["annotations"][:5]:
        one["bbox"][2] = 0
    file = tmp_path / "instances_train.json"
    file.write_text(json.dumps(table))
    found = look_at(TrainConfig(data=f"coco:{file}", size=96))
    assert "5 faults" in found.refused
    assert found.doubts[0].count == 5
    assert len(found.doubts[0].places) == 3
    assert found.metrics["objects"] == len(table["annotations"]) - 5
    console = Console(width=80, color_system=None)
    with console.capture() as held:
        show_inspection(found, console)
    assert "would stop at these data" in held.get()


def test_an_inspection_imports_no_lightning() -> None:
    code = (
        "import sys, scalewise.cli.inspect\n"
        "import scalewise.lab.inspection.run, scalewise.lab.inspection.found_tables\n"
        "assert not {'lightning', 'torchmetrics', 'tensorboard'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_inside_the_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    (tmp_path / "data" / "annotations" / "a.json").write_text("{}")
    for data in ("data", "coco:data"):
        for out in ("data", "data/seen", "data/a/b"):
            with pytest.raises(UsageError, match="inside the data set"):
                check_out(str(data).replace("data", str(tmp_path / "data")), tmp_path / out)
    check_out(str(tmp_path / "data"), tmp_path / "seen")
    check_out(str(tmp_path / "data"), tmp_path / "data-2")


def test_names_are_words_on_the_page_and_not_markup(data: str) -> None:
    found = look_at(TrainConfig(data=data, size=96))
    hostile = "<script>alert(1)</script>"
    classes = (hostile, *found.split.classes[1:])
    named = replace(found, split=replace(found.split, classes=classes))
    first, *rest = found.groups["class"]
    groups = {**found.groups, "class": (replace(first, name=hostile), *rest)}
    page = inspection_html(replace(named, groups=groups), *strips(replace(named, groups=groups)))
    assert hostile not in page
    assert "&lt;script&gt;alert(1)" in page
