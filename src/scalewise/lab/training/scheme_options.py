"""Weighting schemes as options: words in, errors that name the option out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from scalewise.errors import UsageError
from scalewise.lab.training.config import TrainConfig
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
        """What the weights keep."""

    @property
    def accumulate(self) -> int:
        """Batches per optimizer step."""

    @property
    def seed(self) -> int:
        """Of the scheme's random numbers."""

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
        groups: Their number or names.
        options: The options.
        objects: Of each group in the training set, where known.

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


OBJECTIVES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")


def check_objective(config: TrainConfig, balancer: LossBalancer, classes: Sequence[str]) -> None:
    """Refuse an objective that is no metric, or a policy that would learn from the reported split.

    Raises:
        UsageError: naming the option.
    """
    known = [*OBJECTIVES, *(f"class:{name}" for name in classes)]
    if config.objective not in known:
        raise UsageError(f"--objective {config.objective}: there are {', '.join(known)}")
    learns = getattr(balancer.scheme, "reward", None) == "validation"
    if learns and not config.holdout:
        raise UsageError(
            f"--scheme {config.scheme} learns from validation, which must not be the split that is "
            "reported: keep a part of the training split out with --holdout 0.1"
        )
    if config.objective != "AP" and not learns:
        raise UsageError(
            f"--objective {config.objective} is for --scheme rlo:reward=validation; "
            f"{config.scheme} learns from no validation"
        )
