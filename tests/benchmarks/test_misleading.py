"""The data sets on which the rule `share` weighs the wrong class."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import misleading
import numpy as np
import pytest

from scalewise.data import open_split
from scalewise.errors import UserError
from scalewise.lab.data.demo_draw import overlap


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(misleading, "SPLITS", {"train": 12, "val": 4})
        for name in misleading.SETS:
            misleading.make_set(folder / "one" / name, name, 3)
        misleading.make_set(folder / "again", "rare-noisy", 3)
        misleading.make_set(folder / "other", "rare-easy", 4)
    return folder


def test_the_same_seed_gives_the_same_bytes(sets: Path) -> None:
    def content(folder: Path) -> dict[Path, bytes]:
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert content(sets / "one" / "rare-noisy") == content(sets / "again")
    assert content(sets / "one" / "rare-easy") != content(sets / "other")
    with pytest.raises(UserError, match="exists; move it away"):
        misleading.make_set(sets / "other", "rare-easy", 4)


@pytest.mark.parametrize("name", misleading.SETS)
def test_sets_are_sound_and_their_rare_class_is_rare(sets: Path, name: str) -> None:
    for split_name, images in (("train", 12), ("val", 4)):
        split = open_split(str(sets / "one" / name), split_name)
        assert len(split.records) == images
        assert split.classes == tuple(misleading.class_names(misleading.SETS[name]))
        assert not split.clipped
        labels = np.concatenate([record.labels for record in split.records])
        counts = np.bincount(labels, minlength=len(split.classes))
        assert counts.argmin() == split.classes.index(misleading.RARE)
        assert counts.min() < 0.12 * counts.sum()
    clean = [
        misleading.draw_picture(np.random.default_rng([3, 0, i]), misleading.SETS[name])[1]
        for i in range(12)
    ]
    names = list(split.classes)
    stored = json.loads((sets / "one" / name / "annotations/instances_train.json").read_text())
    assert (stored == misleading.coco(clean, names)) == (name != misleading.NOISY)


def test_a_third_of_the_rare_labels_is_wrong() -> None:
    rng = np.random.default_rng(0)
    looks = misleading.SETS[misleading.NOISY]
    clean = [misleading.draw_picture(rng, looks)[1] for _ in range(60)]
    rare = misleading.class_names(looks).index(misleading.RARE)
    spoilt = misleading.spoil(rng, clean, rare)
    assert Counter(t.label for p in spoilt for t in p) == Counter(t.label for p in clean for t in p)
    labelled = [(i, t) for i, picture in enumerate(spoilt) for t in picture if t.label == rare]
    wrong = [(i, t) for i, t in labelled if t not in clean[i]]
    assert len(wrong) == round(len(labelled) / 3)
    on_others = [t for i, t in wrong if t.box in [other.box for other in clean[i]]]
    assert len(on_others) == len(wrong) // 2
    nowhere = [(i, t) for i, t in wrong if t not in on_others]
    assert all(overlap(t.box, other.box) < 0.2 for i, t in nowhere for other in clean[i])
    for before, after in zip(clean, spoilt, strict=True):
        for one, other in zip(before, after, strict=True):
            assert one == other or rare in (one.label, other.label)


@pytest.mark.parametrize("name", misleading.SETS)
def test_boxes_hug_what_is_painted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture is drawn again without its shapes; the pixels that differ are the shapes."""
    looks = tuple(look for look in misleading.SETS[name] if look.name is not None)
    drawn = [misleading.draw_picture(np.random.default_rng(seed), looks) for seed in range(10)]
    paint = misleading.paint
    monkeypatch.setattr(misleading, "paint", lambda patch, *rest: paint(patch.copy(), *rest))
    for seed, (pixels, things) in enumerate(drawn):
        empty, again = misleading.draw_picture(np.random.default_rng(seed), looks)
        assert again == things
        changed = np.abs(pixels.astype(int) - empty).max(-1) > 2
        inside = np.zeros_like(changed)
        for x1, y1, x2, y2 in (thing.box for thing in things):
            inside[y1:y2, x1:x2] = True
            for edge in (
                changed[y1, x1:x2],
                changed[y2 - 1, x1:x2],
                changed[y1:y2, x1],
                changed[y1:y2, x2 - 1],
            ):
                assert edge.any()
        assert not (changed & ~inside).any()


def test_shapes_without_a_label_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    painted: list[str | None] = []
    monkeypatch.setattr(misleading, "paint", lambda *given: painted.append(given[2].name))
    rng = np.random.default_rng(0)
    drawn = [misleading.draw_picture(rng, misleading.SETS["rare-easy"])[1] for _ in range(5)]
    assert painted.count(None) > 0
    assert sum(map(len, drawn)) == len(painted) - painted.count(None)


def test_the_plan_is_understood(tmp_path: Path) -> None:
    from scalewise.cli.compare import parser as compare_parser

    words = misleading.compare_words(tmp_path, "rare-easy", 3)
    read = compare_parser().parse_args(words[2:])
    assert read.schemes == "equal,share,avw,rlo"
    assert read.seeds == 3
