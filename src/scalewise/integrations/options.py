"""The options of `attach`, `balanced_trainer` and `ScalewiseHook`, and balancers made from them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scalewise.default import default_by, default_scheme
from scalewise.errors import UserError
from scalewise.weighting import (
    Grouping,
    LearnedScheme,
    LossBalancer,
    Scheme,
    SchemeLike,
    by_class,
    by_level,
    by_size,
    product,
)
from scalewise.weighting.groups import COCO_EDGES
from scalewise.weighting.words import as_scheme

KINDS = ("class", "size", "size*class", "level-positives", "level")


class AttachError(UserError, ValueError):
    """A model whose losses cannot be weighed, with the reason.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> from scalewise.integrations.options import AttachError
        >>> try:
        ...     sw.attach(torch.nn.Linear(2, 2))
        ... except AttachError as error:
        ...     print(str(error).partition(";")[0])
        Linear is not a model of torchvision, ultralytics, mmdet or transformers
    """


@dataclass(frozen=True)
class Options:
    """How the losses of another framework's model are weighed.

    Attributes:
        by: how losses are grouped. "class", "size" and "size*class" group the positives by their
            object, "level-positives" groups them by their level. "level" groups everything by
            level, background included. None takes the grouping that the scheme names, as
            "size:small=2" does, else "class".
        scheme: as for `LossBalancer`, but without trained parameters. None takes the default for
            `by`.
        interval: optimizer steps between two updates of the weights, or "auto".
        normalize: how the weights are scaled; see `LossBalancer`.
        accumulate: forward passes per optimizer step.
        seed: seed of the scheme's random numbers.
        size_edges: sides of objects that separate the sizes, in pixels, ascending.
        classes: names of the classes in the order of their labels. Empty takes the model's own
            names; if it has none, they are "class0", "class1", ...

    Raises:
        AttachError: an argument is out of range, or the scheme trains parameters.
    """

    by: str | None = None
    scheme: SchemeLike | None = None
    interval: int | Literal["auto"] = "auto"
    normalize: Literal["auto", "mean", "loss", "positives", "lift"] = "auto"
    accumulate: int = 1
    seed: int = 0
    size_edges: Sequence[float] = COCO_EDGES
    classes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise AttachError(f"by={self.by!r}: choose one of {', '.join(map(repr, KINDS))}")
        if isinstance(self.classes, str):
            raise AttachError(f"classes={self.classes!r} is one string; give a list of names")
        try:
            by_size(self.size_edges)
        except ValueError as error:
            raise AttachError(f"size_edges: {error}") from None
        self._make_scheme()
        # checks the other arguments; the scheme may need the model's groups, not known yet
        self._balancer(by_level(["P3"]) if self.positives else ["P3"], as_scheme("equal"))

    @property
    def kind(self) -> str:
        """The value of `by`, or the default if it is None."""
        if self.by is not None:
            return self.by
        return default_by(self.scheme if isinstance(self.scheme, str) else "")

    @property
    def positives(self) -> bool:
        """Whether positives are weighed, not whole levels."""
        return self.kind != "level"

    @property
    def by_objects(self) -> bool:
        """Whether the object that an anchor is assigned to decides, not the anchor's level."""
        return self.kind not in ("level", "level-positives")

    def group_objects(self, classes: Sequence[str]) -> Grouping:
        """The grouping of objects, for a model of these classes in the order of their labels.

        Raises:
            AttachError: `classes=` has another number of names.
        """
        sizes = by_size(self.size_edges)
        if self.kind == "size":
            return sizes
        if self.classes and len(self.classes) != len(classes):
            raise AttachError(
                f"classes= names {len(self.classes)} classes, the model has {len(classes)}"
            )
        named = by_class(self.classes or classes)
        return named if self.kind == "class" else product(sizes, named)

    def make_balancer(self, groups: Grouping | Sequence[str], place: int = 0) -> LossBalancer:
        """A balancer for one set of groups.

        Args:
            groups: of positives, or the names of whole levels.
            place: number of the set in its model; it gives each set its own random numbers.

        Raises:
            AttachError: there is no such scheme, it trains parameters, or an argument is out of
                range.
        """
        return self._balancer(groups, self._make_scheme(), place)

    def _make_scheme(self) -> Scheme:
        given = default_scheme(self.kind) if self.scheme is None else self.scheme
        try:
            scheme = as_scheme(copy.deepcopy(given) if isinstance(given, Scheme) else given)
        except (ValueError, TypeError) as error:
            raise AttachError(str(error)) from None
        if isinstance(scheme, LearnedScheme):
            raise AttachError(
                f"{scheme.name} trains its weights by back-propagation: they must enter the loss "
                "and the optimizer, which is not possible with this model; choose another scheme"
            )
        return scheme

    def _balancer(
        self, groups: Grouping | Sequence[str], scheme: Scheme, place: int = 0
    ) -> LossBalancer:
        names, by = (
            (groups.names, groups.by) if isinstance(groups, Grouping) else (tuple(groups), "level")
        )
        try:
            return LossBalancer(
                names,
                scheme,
                self.interval,
                self.normalize,
                self.accumulate,
                seed=self.seed + place,
                by=by,
            )
        except ValueError as error:
            raise AttachError(str(error)) from None
