"""Images of a split held out of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scalewise.lab.data.faults import BadData
from scalewise.lab.data.split import Split


def hold_out(split: Split, share: float) -> tuple[Split, Split]:
    """Divide a split's images in two, the same way every time.

    Args:
        split: What to divide.
        share: Of the images, between 0 and 1, for the second part; at least one image each.

    Returns:
        The images kept and the images held out, in their order.

    Raises:
        BadData: when the split has fewer than two images.
    """
    count = len(split.records)
    if count < 2:
        raise BadData(f"{split.source}: {count} image cannot be divided; leave out the hold-out")
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
