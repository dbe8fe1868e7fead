"""The examples in the method's documentation run as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "method.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(3))
def test_example_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    exec(EXAMPLES[number], {"__name__": "__main__"})
    printed = capsys.readouterr().out
    if number < 2:
        assert printed.rstrip().endswith("2")


def test_all_examples_are_run() -> None:
    assert len(EXAMPLES) == 3
