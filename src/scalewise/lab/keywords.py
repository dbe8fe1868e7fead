"""Turns keyword arguments into the checked options of a command."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalewise.errors import UsageError
from scalewise.lab.mistakes import explain, types_of
from scalewise.lab.training.config import TrainConfig

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


@contextlib.contextmanager
def packages(function: str) -> Iterator[None]:
    """Turn a missing package into an error that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("scalewise"):
            raise
        raise ImportError(
            f"scalewise.{function} needs the package {error.name}: pip install 'scalewise[train]'"
        ) from None


def checked(
    function: str,
    parser: ArgumentParser,
    kinds: Collection[type],
    options: Mapping[str, Any],
    without: Iterable[str] = (),
    more: Iterable[str] = (),
) -> Namespace:
    """The values of all options of a command, checked for their types.

    Args:
        function: Name of the function, for messages.
        parser: Parser of the command.
        kinds: The dataclasses whose fields are the options of the command.
        options: The options that were given, by name.
        without: Names of fields that are not options of this command.
        more: Names of options that are not fields of a dataclass.

    Raises:
        UsageError: for a name that is not an option, or a value of the wrong type.
    """
    from jsonargparse import ArgumentError

    known = {f.name for kind in kinds for f in dataclasses.fields(kind)} - {*without} | {*more}
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {sorted(known)}"
            raise UsageError(f"scalewise.{function} has no option {name!r}; {hint}")
    plain = {name: _plain(value) for name, value in options.items()}
    try:
        values: Namespace = parser.parse_object(plain)
    except (ArgumentError, TypeError, ValueError) as error:
        said = explain(str(error), types_of(kinds), known, dashes="")
        raise UsageError(f"scalewise.{function}: {said}") from None
    return values


def parser_of(kind: type) -> ArgumentParser:
    """A parser whose options are the fields of a dataclass."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    return parser


def named_options(config: TrainConfig | None) -> dict[str, Any]:
    """All options of a config by name; an empty dict for None."""
    return {} if config is None else dataclasses.asdict(config)


def given(config: TrainConfig | None, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The options that differ from the defaults, for the records of a run."""
    plain, named = named_options(TrainConfig()), named_options(config)
    yield from ((k, v) for k, v in named.items() if v != plain[k] and k not in options)
    yield from ((k, _plain(v)) for k, v in options.items())


def _plain(value: Any) -> Any:
    """A value in the form in which a YAML file holds it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | range):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value
