"""Weighting schemes as options: words in, errors that name the option out."""

from __future__ import annotations

from typing import Literal, Protocol

from scalewise.errors import UsageError
from scalewise.weighting import LossBalancer, Scheme, scheme_from_words


class BalancerOptions(Protocol):
    """What a balancer is made from; the names are those of the command line."""

    @property
    def scheme(self) -> str:
        """Words."""

    @property
    def interval(self) -> int:
        """Optimizer steps between two updates."""

    @property
    def normalize(self) -> Literal["mean", "loss"]:
        """What the weights keep."""

    @property
    def accumulate(self) -> int:
        """Batches per optimizer step."""

    @property
    def seed(self) -> int:
        """Of the scheme's random numbers."""


def build_balancer(levels: int, options: BalancerOptions) -> LossBalancer:
    """The balancer that the options describe.

    Raises:
        UsageError: for a scheme that is refused, or options that do not go with it.
    """
    scheme = parse_scheme(options.scheme)
    try:
        return LossBalancer(
            levels,
            scheme,
            interval=options.interval,
            normalize=options.normalize,
            accumulate=options.accumulate,
            seed=options.seed,
        )
    except ValueError as error:
        raise UsageError(f"{options.scheme}, interval {options.interval}: {error}") from None


def parse_scheme(words: str) -> Scheme:
    """Build a scheme from an option's value.

    Raises:
        UsageError: for words that `scheme_from_words` refuses.
    """
    try:
        return scheme_from_words(words)
    except ValueError as error:
        raise UsageError(f"--scheme: {error}") from None
