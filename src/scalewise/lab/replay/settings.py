"""The settings of balancers that a replay compares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from scalewise.errors import UsageError
from scalewise.lab.training.scheme_options import parse_scheme
from scalewise.weighting import LearnedScheme


@dataclass(frozen=True)
class Setting:
    """The settings of a balancer; the fields are the training options of the same names.

    Examples:
        >>> from scalewise.lab.replay.settings import Setting
        >>> Setting("share", by="class").interval
        'auto'
    """

    scheme: str
    interval: int | Literal["auto"] = "auto"
    normalize: Literal["auto", "mean", "loss", "positives", "lift"] = "auto"
    accumulate: int = 1
    seed: int = 0
    by: str = "level"
    least_weight: float = 0.25
    largest_weight: float = 8.0


def grid(schemes: str, intervals: str, base: Setting) -> list[Setting]:
    """Combine every scheme with every interval.

    Args:
        schemes: Schemes as `--scheme` takes them, separated by commas.
        intervals: Whole numbers above 0 or "auto", separated by commas.
        base: Values of all other fields.

    Raises:
        UsageError: a word is not understood, or a scheme cannot be replayed.
    """
    lengths: list[int | Literal["auto"]] = []
    for word in _words(intervals, "--interval"):
        if word == "auto":
            lengths.append("auto")
        elif word.isdecimal() and int(word) >= 1:
            lengths.append(int(word))
        else:
            raise UsageError(f"--interval: {word!r} is neither a whole number above 0 nor auto")
    settings = [
        replace(base, scheme=scheme, interval=length)
        for scheme in _words(schemes, "--schemes")
        for length in lengths
    ]
    for setting in settings:
        if isinstance(parse_scheme(setting.scheme), LearnedScheme):
            raise UsageError(
                f"--schemes: {setting.scheme} cannot be replayed: its weights are trained by "
                "back-propagation and depend on the optimizer and its learning rate, which a "
                "record of losses does not hold"
            )
    return settings


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} {text!r}: there is an empty entry between commas")
    return words
