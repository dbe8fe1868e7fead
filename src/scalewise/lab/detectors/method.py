"""What differs between dense detectors: assignment, losses and box coding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from scalewise.lab.detectors.batch import Batch
from scalewise.lab.detectors.grid import Grid


class Predictions(NamedTuple):
    """The head's raw outputs for A anchors, in the order of the grid, float32.

    Attributes:
        logits: [B, A, C].
        deltas: [B, A, 4], in the method's own box coding, multiplied by the level's learned scale.
        centerness: [B, A] logits, or None for a method without centerness.
    """

    logits: Tensor
    deltas: Tensor
    centerness: Tensor | None


class AnchorLosses(NamedTuple):
    """Losses of one step, per anchor, before anything is added up.

    Attributes:
        terms: float32 [B, A] for each term.
        normalisers: float32 scalars, detached: what the method's `normalise` needs, such as the
            number of positives.
        owner: int64 [B, A], the object of each anchor, M for none.
        positive: bool [B, A].
    """

    terms: dict[str, Tensor]
    normalisers: tuple[Tensor, ...]
    owner: Tensor
    positive: Tensor


@dataclass(frozen=True)
class Method:
    """A dense detection method, given as plain functions.

    Attributes:
        name: name for messages.
        anchors: anchors per location.
        terms: names of the loss terms.
        nms_iou: overlap above which the weaker of two boxes of a class is dropped.
        losses: computes the losses per anchor from predictions and a batch.
        normalise: takes a term's name, its losses summed over anchors (float32 [...]) and the
            normalisers, and returns losses [...]; added up over all terms they are the detector's
            loss.
        decode: turns deltas [B, A, 4] to boxes in pixels, float32 [B, A, 4].
        first_delta: the deltas of an untrained head.
    """

    name: str
    anchors: int
    terms: tuple[str, ...]
    nms_iou: float
    losses: Callable[[Predictions, Grid, Batch], AnchorLosses]
    normalise: Callable[[str, Tensor, tuple[Tensor, ...]], Tensor]
    decode: Callable[[Tensor, Grid], Tensor]
    first_delta: float = 0.0
