"""Commands and code in the README and in the configs can be run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from scalewise.cli import COMMANDS
from scalewise.cli.compare import StudyOptions
from scalewise.cli.compare import parser as compare_parser
from scalewise.cli.parsing import build, parse
from scalewise.cli.train import parser as train_parser
from scalewise.lab.study.plan import GridOptions, make_plan
from scalewise.lab.training.config import GROUPS, TrainConfig
from scalewise.lab.training.option_check import check
from scalewise.lab.training.scheme_options import parse_scheme

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


PROJECT = (ROOT / "pyproject.toml").read_text()
ULTRALYTICS = (ROOT / "docs" / "ultralytics.md").read_text()
TORCHVISION = (ROOT / "docs" / "torchvision.md").read_text()


@pytest.mark.parametrize(
    "code", re.findall(r"```python\n(.*?)```", README + TORCHVISION, re.DOTALL)
)
def test_python_blocks_run(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("change", re.findall(r"```diff\n(.*?)```", README, re.DOTALL))
def test_a_change_of_a_training_runs(change: str) -> None:
    """The code after the change, without the removed lines, runs."""
    code = "".join(line[2:] for line in change.splitlines(keepends=True) if line[0] != "-")
    if "YOLO(" in code:  # it needs a data set; test_ultralytics runs the line
        assert compile(code, "README.md", "exec")
        assert "trainer=balanced_trainer(by=" in ULTRALYTICS
        return
    made: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), made)
    assert made["balancer"].weights["dense"].tolist() == [1.0] * 4


def commands(text: str = README) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def test_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    found = [words for words in commands() if words]
    assert {words[0] for words in found} == {"make", "scalewise", "pip"}
    extras = re.findall(r"^(\w+) = \[", PROJECT.split("[project.optional-dependencies]")[1], re.M)
    for program, name, *more in found:
        if program == "pip":
            assert name == "install"
            assert all(extra in extras for extra in re.findall(r"\[(.*)\]", more[0]))
            continue
        if program == "make":
            assert re.search(rf"^{name}:", makefile, re.MULTILINE)
        else:
            assert name in COMMANDS


def test_train_commands_parse() -> None:
    for program, name, *words in commands():
        if (program, name) == ("scalewise", "train"):
            values = parse(train_parser(), words, *GROUPS)
            if not values.resume:
                check(build(TrainConfig, values))


def test_compare_commands_parse() -> None:
    for text in (README, (ROOT / "docs" / "compare.md").read_text()):
        for program, name, *words in commands(text):
            if (program, name) == ("scalewise", "compare") and "--data" in words:
                values = parse(compare_parser(), words, StudyOptions, GridOptions, *GROUPS)
                make_plan(build(GridOptions, values), TrainConfig(data=values.data))


@pytest.mark.parametrize("spec", re.findall(r"`((?:avw|rlo):[^`]+)`", README))
def test_scheme_examples_parse(spec: str) -> None:
    assert parse_scheme(spec).name


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_configs_are_valid(path: Path) -> None:
    values = parse(train_parser(), ["--config", str(path)], *GROUPS)
    check(build(TrainConfig, values))


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith(("http", "#")):
            assert (ROOT / target).is_file(), target
