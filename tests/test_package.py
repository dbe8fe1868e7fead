"""Facts about the package that are written in several files agree."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import scalewise

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text()
VERSIONS = set(re.findall(r"Programming Language :: Python :: (3\.\d+)", PROJECT))


def test_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f'\nversion = "{scalewise.__version__}"\n' in PROJECT
    assert citation["version"] == scalewise.__version__
    assert f"## {scalewise.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_workflow_runs_what_ci_runs_on_every_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    job = workflow["jobs"]["test"]
    pythons = job["strategy"]["matrix"]["python"]
    (oldest,) = re.findall(r'requires-python = ">=(3\.\d+)"', PROJECT)
    assert pythons[0] == oldest
    assert set(pythons) >= VERSIONS
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    (needs,) = re.findall(r"^test: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    run = [step["run"].split()[1] for step in job["steps"] if "run" in step]
    assert run == needs.split()
