"""From words on the command line to a checked dataclass."""

from __future__ import annotations

import dataclasses
from argparse import Action
from collections.abc import Collection
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from scalewise.errors import UsageError
from scalewise.lab.mistakes import explain, types_of
from scalewise.lab.training.config import GROUPS, TrainConfig

FIRST = ("data", "size", "batch_size", "detector", "weights_backbone", "by", "scheme", "epochs",
         "lr", "out")  # fmt: skip
SWITCH = ("true", "false", "yes", "no", "on", "off")
NO_DEFAULT = " (default: %(default)s)"


class FirstOptions(TrainConfig):
    """What most trainings set."""


class ShortHelp(DefaultHelpFormatter):
    """Help without the types, which the texts, the choices and the defaults show."""

    def _get_type_str(self, action: Action) -> str | None:
        return None

    def _format_action_invocation(self, action: Action) -> str:
        """Without `--schemes+` and the like, which add to lists, and without rare flags."""
        if "--print_config" in action.option_strings:
            return "--print_config"
        shown = str(super()._format_action_invocation(action))
        return ", ".join(part for part in shown.split(", ") if "+ " not in part)

    def _get_help_string(self, action: Action) -> str:
        """Without a default that is nothing."""
        if "--print_config" in action.option_strings:
            return "print all options as YAML, for --config, and run nothing"
        words = str(super()._get_help_string(action))
        return words if action.default not in (None, "") else words.replace(NO_DEFAULT, "")


def command_parser(
    command: str, description: str, usage: str | None = None, epilog: str | None = None
) -> ArgumentParser:
    """A parser that raises what is wrong with its words.

    Args:
        command: As after `scalewise`.
        description: One line of its help.
        usage: Its first line, where it is not to list every option.
        epilog: Stands below the options.
    """
    return ArgumentParser(
        prog=f"scalewise {command}",
        description=description,
        usage=usage,
        epilog=epilog,
        exit_on_error=False,
        allow_abbrev=False,  # an abbreviation may come to mean another option
        formatter_class=ShortHelp,
    )


def add_run_options(parser: ArgumentParser, skip: Collection[str] = ()) -> None:
    """Add every option of a run by theme, and before all those that most people need.

    Args:
        parser: What they are added to.
        skip: Names of options to leave out.
    """
    every = {field.name for field in dataclasses.fields(TrainConfig)}
    parser.add_class_arguments(FirstOptions, skip=every - ({*FIRST} - {*skip}))
    for group in GROUPS:
        own = {field.name for field in dataclasses.fields(group)}
        parser.add_class_arguments(group, skip=own & {*FIRST, *skip})


def with_underscores(words: list[str], flags: set[str]) -> list[str]:
    """Take `--skip-bad` for `--skip_bad`, and `--flag` alone for `--flag true`."""
    out = []
    for position, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = "--" + name[2:].replace("-", "_") + equals + value
            follows = words[position + 1] if position + 1 < len(words) else "--"
            if word[2:] in flags and follows.lower() not in SWITCH:
                word += "=true"
        out.append(word)
    return out


def parse(parser: ArgumentParser, words: list[str], *options: type) -> Namespace:
    """Parse, and say in plain words what cannot be parsed.

    Args:
        parser: Built with `exit_on_error=False`.
        words: The words after the command.
        options: The dataclasses whose fields the parser has.

    Raises:
        UsageError: naming the word, what is allowed, and the nearest name or value.
    """
    fields = {f.name: f.type for o in options for f in dataclasses.fields(o)}
    flags = {name for name, kind in fields.items() if kind == "bool"}
    try:
        return parser.parse_args(with_underscores(words, flags))
    except ArgumentError as error:
        said = explain(str(error), types_of(options), list(parser.get_defaults().keys()))
        raise UsageError(said if said.endswith("?") else f"{said}; --help says more") from None


def build(kind: type, values: Namespace) -> Any:
    """Make the dataclass `kind` from the parsed values of its fields."""
    return kind(**{f.name: values[f.name] for f in dataclasses.fields(kind)})
