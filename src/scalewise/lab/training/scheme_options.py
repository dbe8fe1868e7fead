"""Makes weighting schemes from options; errors name the option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from scalewise.errors import UsageError
from scalewise.weighting import LossBalancer, Scheme, scheme_from_words


class BalancerOptions(Protocol):
    """What a balancer is made from; the names are those of the command line."""

    @property
    def scheme(self) -> str:
        """Words."""

    @property
    def interval(self) -> int | Literal["auto"]:
        """Optimizer steps between two updates."""

    @property
    def normalize(self) -> Literal["auto", "mean", "loss", "positives", "lift"]:
        """How the weights are scaled."""

    @property
    def accumulate(self) -> int:
        """Batches per optimizer step."""

    @property
    def seed(self) -> int:
        """Seed of the scheme's random numbers."""

    @property
    def by(self) -> str:
        """What is weighed."""

    @property
    def least_weight(self) -> float:
        """Least weight of a group of positives."""

    @property
    def largest_weight(self) -> float:
        """Largest weight of a group of positives."""


def build_balancer(
    groups: int | Sequence[str],
    options: BalancerOptions,
    objects: Sequence[float] | None = None,
) -> LossBalancer:
    """The balancer that the options describe.

    Args:
        groups: Number or names of the groups.
        options: The options.
        objects: Number of objects of each group in the training set, if known.

    Raises:
        UsageError: for a scheme that is refused, or options that do not go with it.
    """
    scheme = parse_scheme(options.scheme)
    try:
        return LossBalancer(
            groups,
            scheme,
            interval=options.interval,
            normalize=options.normalize,
            accumulate=options.accumulate,
            seed=options.seed,
            by=options.by,
            clip=(options.least_weight, options.largest_weight),
            objects=objects,
        )
    except ValueError as error:
        raise UsageError(
            f"--scheme {options.scheme} --by {options.by} --interval {options.interval}: {error}"
        ) from None


def parse_scheme(words: str) -> Scheme:
    """Build a scheme from an option's value.

    Raises:
        UsageError: for words that `scheme_from_words` refuses.
    """
    try:
        return scheme_from_words(words)
    except ValueError as error:
        raise UsageError(f"--scheme: {error}") from None
