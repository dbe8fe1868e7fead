"""The table of docs/frameworks.md, made from test reports by benchmarks/support.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from checks import CHECKS
from support import table

from scalewise.integrations.options import KINDS

KNOWN = (*(f"by {kind}" for kind in KINDS), *CHECKS, "1 level", "7 levels", "2 processes")


def case(framework: str, family: str, check: str) -> str:
    """One test of a report."""
    noted = {"framework": f"{framework} 1", "family": family, "way": "split", "check": check}
    inner = "".join(f'<property name="{name}" value="{own}"/>' for name, own in noted.items())
    return f"<testcase><properties>{inner}</properties></testcase>"


def test_the_table_is_the_same_for_any_order_of_the_tests(tmp_path: Path) -> None:
    cases = [
        case(framework, family, check)
        for framework, family in (("scalewise", "b"), ("torchvision", "c"), ("torchvision", "a"))
        for check in KNOWN
    ]
    lines = []
    for name, order in (("first", cases), ("second", cases[::-1])):
        (tmp_path / name).write_text(f"<testsuite>{''.join(order)}</testsuite>")
        lines.append(table([tmp_path / name])[0])
    assert lines[0] == lines[1]
    assert [line.split(" | ")[1] for line in lines[0][2:]] == ["a", "c", "b"]
    assert lines[0][0].split(" | ")[3:8] == [f"by {kind}" for kind in KINDS]
    assert sorted(lines[0][0][:-2].split(" | ")[3:]) == sorted(KNOWN)


def test_what_has_no_place_in_the_table_is_told(tmp_path: Path) -> None:
    for one, reason in (
        (case("torchvision", "a", "by colour"), "no place for check 'by colour'"),
        (case("detectron", "a", "bf16"), "no place for framework 'detectron'"),
    ):
        (tmp_path / "report").write_text(f"<testsuite>{one}</testsuite>")
        with pytest.raises(ValueError, match=reason):
            table([tmp_path / "report"])
