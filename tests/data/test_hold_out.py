"""Setting aside some images of a split."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalewise.data import BadData, Split
from scalewise.lab.data.hold_out import hold_out
from scalewise.lab.data.image_record import Objects


def _split(count: int) -> Split:
    records = [Objects().record(10 + i, Path(f"{i}.jpg"), 8, 8) for i in range(count)]
    return Split("coco", "train", "list", ("a",), (1,), records, skipped=["x"], clipped=2)


@given(st.integers(2, 60), st.floats(0.001, 0.999))
def test_every_image_is_on_one_side_and_always_on_the_same(count: int, share: float) -> None:
    split = _split(count)
    kept, held = hold_out(split, share)
    ids = [[record.image_id for record in part.records] for part in (kept, held)]
    assert all(ids)
    assert ids[0] == sorted(ids[0])
    assert sorted(ids[0] + ids[1]) == [record.image_id for record in split.records]
    assert abs(len(ids[1]) - share * count) <= 1
    again = hold_out(_split(count), share)
    assert ids == [[record.image_id for record in part.records] for part in again]


def test_faults_are_reported_once() -> None:
    """Only the images kept carry the fault report."""
    kept, held = hold_out(_split(4), 0.5)
    assert (kept.name, held.name) == ("train-kept", "train-held-out")
    assert (kept.skipped, kept.clipped, held.skipped, held.clipped) == (["x"], 2, [], 0)


def test_one_image_cannot_be_divided() -> None:
    with pytest.raises(BadData, match="cannot be divided"):
        hold_out(_split(1), 0.5)
