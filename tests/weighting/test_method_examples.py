"""The examples in the docs of the method print what the docs show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = [
    code
    for page in ("method.md", "details.md")
    for code in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
]


# The end of what each example prints; the last one has asserts instead.
ENDS = ["[1.0, 2.41, 4.83]", "2", "2", ""]


@pytest.mark.parametrize(("number", "end"), list(enumerate(ENDS)))
def test_example_runs(number: int, end: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    exec(EXAMPLES[number], {"__name__": "__main__"})
    assert capsys.readouterr().out.rstrip().endswith(end)


def test_all_examples_are_run() -> None:
    assert len(EXAMPLES) == len(ENDS)
