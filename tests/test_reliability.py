"""Each row of the table in docs/reliability.md names an existing test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def _functions() -> dict[str, list[str]]:
    """Names of tests without `test_`, by the stem of their file."""
    found: dict[str, list[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        found.setdefault(path.stem, []).extend(name for name in names if name.startswith("test_"))
    return found


def _rows() -> list[tuple[str, str]]:
    """The fault and the cell with names of tests in each row."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith(("| fault", "| ---"))
    ]
    return [(row[0], row[-1]) for row in rows]


def _is_there(named: str, files: dict[str, list[str]]) -> bool:
    """Whether a test exists, given as `file: name`, `file` or `name`; `name...` is a beginning."""
    if named.startswith("benchmarks/"):
        return (TESTS.parent / named).is_file()
    where, _, name = named.rpartition(": ")
    if named.rpartition("/")[2] in files:
        where, name = named, "..."
    file = where.rpartition("/")[2]
    known = files.get(file, []) if file else [test for tests in files.values() for test in tests]
    begun = f"test_{name.removesuffix('...')}"
    return any(t == begun or (name.endswith("...") and t.startswith(begun)) for t in known)


def test_every_row_names_tests_that_there_are() -> None:
    files = _functions()
    missing = [
        f"{fault}: {named}"
        for fault, cell in _rows()
        for named in re.split(r",\s+", cell)
        if not _is_there(named, files)
    ]
    assert not missing, "\n".join(missing)
    assert not _is_there("test_files: no_such_test", files)


def test_the_table_has_over_a_hundred_kinds() -> None:
    faults = [fault for fault, _ in _rows()]
    assert len(set(faults)) == len(faults) > 100
