"""The examples in the method's documentation run as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "method.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


# What each prints at the end; the last one asserts instead.
ENDS = ["2", "])", "2", ""]


@pytest.mark.parametrize(("number", "end"), list(enumerate(ENDS)))
def test_example_runs(number: int, end: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    exec(EXAMPLES[number], {"__name__": "__main__"})
    assert capsys.readouterr().out.rstrip().endswith(end)


def test_all_examples_are_run() -> None:
    assert len(EXAMPLES) == len(ENDS)
