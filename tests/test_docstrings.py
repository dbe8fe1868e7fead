"""Every public class and function is in the API reference and has an example that runs."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import scalewise

API = Path(__file__).parents[1] / "docs" / "api"
NAMES = [
    name
    for page in sorted(API.glob("*.md"))
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
]
# Examples that name this folder need a trained run.
RUN = "runs/first"


def load(name: str) -> Any:
    """The object of a dotted name; skip if it needs a package that is not installed."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        if str(error.name).startswith("scalewise"):
            raise
        pytest.skip(f"{error.name or error} is not installed")


def missing(text: str) -> str:
    """The first package that an example imports and that is not installed, or ""."""
    imported = re.findall(r"^\s*>>> (?:import|from) (\w+)", text, re.MULTILINE)
    return next((name for name in imported if importlib.util.find_spec(name) is None), "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture
def trained(folder: Path, tiny: Callable[..., Any]) -> None:
    """Make a short run in the folder where examples look for it."""
    if not (folder / RUN).exists():
        from scalewise.lab.training.fit import train

        train(replace(tiny(folder / "runs", name="first"), epochs=1))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xdist_group("docstrings"), id=name)
        for name in sorted(NAMES)
    ],
)
def test_example_runs(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    found = load(name)
    text = inspect.getdoc(found) or ""
    if missing(text):
        pytest.skip(f"{missing(text)} is not installed")
    monkeypatch.setattr("scalewise.weighting.scheme._BY_NAME", dict(known_schemes()))
    if RUN in text:
        request.getfixturevalue("trained")
    monkeypatch.chdir(folder)
    (example,) = doctest.DocTestFinder(recurse=False).find(found, name, globs={})
    calls = [step.source for step in example.examples if not skipped(step)]
    assert calls, f"{name} has no example that runs"
    assert "Examples:\n" in text, f"{name}: put the example under 'Examples:'"
    said: list[str] = []
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=options, verbose=False)
    runner.run(example, out=said.append)
    assert not runner.failures, "".join(said)


def skipped(step: doctest.Example) -> bool:
    """Whether a line of an example only imports, or has the option SKIP."""
    return step.options.get(doctest.SKIP, False) or step.source.startswith(("import ", "from "))


def known_schemes() -> dict[str, Any]:
    from scalewise.weighting import scheme_class, scheme_names

    return {name: scheme_class(name) for name in scheme_names()}


def public() -> list[str]:
    """Dotted names that `scalewise` and its packages offer."""
    names = {f"scalewise.{name}": name for name in dir(scalewise) if not name.startswith("_")}
    for package in pkgutil.iter_modules(scalewise.__path__, "scalewise."):
        try:
            module = importlib.import_module(package.name)
        except ImportError:  # it needs a package that is not installed
            continue
        names |= {f"{package.name}.{name}": name for name in getattr(module, "__all__", ())}
    return sorted(names)


def test_every_public_name_is_in_the_reference() -> None:
    listed = {load(name) for name in NAMES if not needs_more(name)}
    offered = {name: load(name) for name in public()}
    absent = [
        name
        for name, found in offered.items()
        if (inspect.isclass(found) or inspect.isfunction(found))
        and found.__module__.startswith("scalewise")
        and found not in listed
    ]
    assert not absent, f"write '::: {absent[0]}' in one of the pages of docs/api"


def needs_more(name: str) -> bool:
    try:
        importlib.import_module(name.rpartition(".")[0])
    except ImportError:
        return True
    return False
