"""Writes matches to files and reads them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scalewise.errors import UserError
from scalewise.files import whole
from scalewise.lab.evaluation.matching import THRESHOLDS, Matches


def save_matches(path: Path, matches: Matches) -> None:
    """Write matches as a compressed .npz without pickled objects."""
    with whole(path) as aside:
        np.savez_compressed(aside, **vars(matches))


def load_matches(path: Path) -> Matches:
    """Read what `save_matches` wrote.

    Raises:
        UserError: the file is missing, damaged or not a file of matches.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = Matches(**{name: stored[name] for name in Matches.__dataclass_fields__})
            _require_shapes(found)
    except Exception as error:  # a damaged file can make the readers raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} holds no stored matches: {reason}") from None
    return found


def _require_shapes(matches: Matches) -> None:
    images, detections = len(matches.image_ids), len(matches.labels)
    if (
        matches.objects.shape[:1] != (images,)
        or matches.objects.ndim != 2
        or matches.images.shape != (detections,)
        or matches.states.shape != (detections, len(THRESHOLDS))
        or (detections and not 0 <= matches.images.min() <= matches.images.max() < images)
    ):
        raise ValueError("its parts do not fit each other")
