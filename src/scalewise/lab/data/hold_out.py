"""Setting aside some images of a split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scalewise.lab.data.faults import BadData
from scalewise.lab.data.split import Split


def hold_out(split: Split, share: float) -> tuple[Split, Split]:
    """Divide a split's images into two parts, the same way every time.

    Args:
        split: the split to divide.
        share: share of the images for the second part, between 0 and 1. Each part gets at least
            one image.

    Returns:
        The images kept and the images held out, each in the order of the split.

    Raises:
        BadData: the split has fewer than two images.
    """
    count = len(split.records)
    if count < 2:
        raise BadData(
            f"{split.source}: {count} image cannot be divided into two parts; leave out --holdout"
        )
    drawn = np.random.default_rng(0).permutation(count)
    out = set(drawn[: min(count - 1, max(1, round(share * count)))].tolist())
    kept = [record for i, record in enumerate(split.records) if i not in out]
    held = [record for i, record in enumerate(split.records) if i in out]
    return (
        replace(split, name=f"{split.name}-kept", records=kept),
        replace(
            split,
            name=f"{split.name}-held-out",
            records=held,
            skipped=[],
            skipped_counts={},
            clipped=0,
            unlabelled=0,
        ),
    )
