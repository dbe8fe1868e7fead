"""The docs page on replay: its code runs, and it shows what the command prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from scalewise.cli.replay import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "replay.md").read_text()


def test_python_blocks_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "replay.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "300 steps in losses.parquet" in printed
    assert "'P3': " in printed


def test_figures_are_those_that_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = re.findall(r"```bash\n(.*?)\n", PAGE)[0]
    shown = re.findall(r"```\n(  scheme.*?)```", PAGE, re.DOTALL)[0]
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "120")
    words = shlex.split(command)
    assert words[:2] == ["scalewise", "replay"]
    assert main([*words[2:], "--out", str(tmp_path)]) == 0
    printed = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    lines = [" ".join(line.split()) for line in shown.splitlines() if line.strip()]
    assert len(lines) > 15
    assert [line for line in lines if line not in printed] == []
