"""The controls on finished runs, and the sets on which shares mislead."""

from __future__ import annotations

import importlib
import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import controls
import misleading
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from controls import Ranking, column_weights, fit_factors, rank, shuffle, weighted_columns
from detector_batches import FACTORIES, random_batch
from detector_batches import tiny as tiny_detector
from torchvision.ops import sigmoid_focal_loss

from scalewise.cli.train import parser
from scalewise.data import ImageRecord, Split, open_split
from scalewise.data.demo_draw import overlap
from scalewise.errors import UserError
from scalewise.evaluation import ImageDetections, coco_metrics
from scalewise.evaluation.matching import Matches
from scalewise.evaluation.stored import read_detections
from scalewise.training.config import TrainConfig
from scalewise.training.fit import train
from scalewise.training.runs import load_config, load_json
from scalewise.training.trace import read_trace

Tiny = Callable[..., TrainConfig]
Boxes = Sequence[tuple[float, float, float, float]]
A, B, FAR, CROWD = (0, 0, 20, 20), (30, 0, 60, 20), (70, 70, 90, 90), (0, 50, 60, 100)


def image(number: int, boxes: Boxes, labels: list[int], crowd: list[bool]) -> ImageRecord:
    edges = np.array(boxes, np.float32).reshape(-1, 4)
    return ImageRecord(
        image_id=number,
        path=Path(f"{number}.png"),
        width=100,
        height=100,
        boxes=edges,
        labels=np.array(labels, np.int64),
        crowd=np.array(crowd, bool),
        difficult=np.zeros(len(labels), bool),
        area=(edges[:, 2:] - edges[:, :2]).prod(1),
    )


def detections(
    number: int, boxes: Boxes, scores: list[float], labels: list[int]
) -> ImageDetections:
    return ImageDetections(
        image_id=number,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
        levels=np.zeros(len(labels), np.int64),
    )


def judged(labels: list[int], scores: list[float], right: list[bool]) -> Ranking:
    """Detections of one image that are right or wrong at every IoU."""
    order = np.lexsort((-np.array(scores), np.array(labels)))
    states = np.repeat(np.array(right, np.int8)[order, None], 10, axis=1)
    matches = Matches(
        image_ids=np.zeros(1, np.int64),
        objects=np.ones((1, 1 + max(labels)), np.int32),
        labels=np.array(labels, np.int32)[order],
        images=np.zeros(len(labels), np.int32),
        states=states,
    )
    return Ranking(matches, np.array(scores)[order])


@pytest.fixture
def case() -> tuple[Split, list[ImageDetections]]:
    """Ranked over both classes: wrong (it lies on an object of the other class), right, right."""
    split = Split(
        "coco", "val", "by hand", ("a", "b"), (1, 2),
        [image(1, [A, B], [0, 1], [False, False]), image(2, [CROWD], [0], [True])],
    )  # fmt: skip
    found = [
        detections(2, [CROWD], [0.99], [0]),  # on a crowd: does not count
        detections(1, [A, A, B], [0.9, 0.95, 0.5], [0, 1, 1]),
    ]
    return split, found


def test_pooled_ap_ranks_all_classes_in_one_list(case: Any) -> None:
    split, found = case
    assert coco_metrics(split, found)["AP"] == pytest.approx((1 + 1 / 2) / 2)
    # precision is 1/2 at the first object found and 2/3 at the second, so 2/3 at every recall
    assert controls.pooled_ap(rank(split, found)) == pytest.approx(2 / 3)
    one, other = (replace(entry, labels=entry.labels * 0) for entry in found)
    alike = replace(split, records=[replace(r, labels=r.labels * 0) for r in split.records])
    expected = coco_metrics(replace(alike, classes=("a",), category_ids=(1,)), [one, other])["AP"]
    assert controls.pooled_ap(rank(split, found)) < expected  # where classes need not match


def test_the_best_threshold_is_chosen_over_all_classes(case: Any) -> None:
    # F1: 0 above 0.95, 2 / (2 + 2) from 0.9 on, 4 / (3 + 2) from 0.5 on
    assert controls.best_f1(rank(*case)) == pytest.approx((0.5, 2 / 3, 1.0))
    split, _ = case
    assert all(math.isnan(value) for value in controls.best_f1(rank(split, [])))
    tied = [detections(1, [A, A, B], [0.5, 0.5, 0.5], [0, 1, 1])]
    assert controls.best_f1(rank(split, tied)) == pytest.approx((0.5, 2 / 3, 1.0))


def test_calibration_error_of_two_filled_bins() -> None:
    scores = [0.7] * 10 + [0.25] * 4 + [0.9]
    right = [True] * 6 + [False] * 4 + [True, True, False, False] + [True]
    ranking = judged([0] * 14 + [1], scores, right)
    assert controls.calibration_error(ranking, 0) == pytest.approx((10 * 0.1 + 4 * 0.25) / 14)
    assert controls.calibration_error(ranking, 1) == pytest.approx(0.1)
    assert math.isnan(controls.calibration_error(ranking, 2))


def test_the_factors_undo_a_known_miscalibration() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40000)
    chance = rng.random(len(labels))
    right = rng.random(len(labels)) < chance
    odds = chance / (1 - chance) * np.array([4.0, 0.2])[labels]
    scores = odds / (1 + odds)
    labels, scores, right = (
        np.append(v, w) for v, w in ((labels, 2), (scores, 0.3), (right, False))
    )
    ranking = judged(labels.tolist(), scores.tolist(), right.tolist())
    factors = fit_factors(ranking, 4)
    assert factors == pytest.approx([1 / 4, 5, 1, 1], rel=0.05)  # 1: nothing right, nothing found
    boxes = [FAR] * len(labels)
    (after,) = controls.rescale([detections(1, boxes, scores.tolist(), labels.tolist())], factors)
    for label in (0, 1):
        own = labels == label
        assert after.scores[own].mean() == pytest.approx(right[own].mean(), abs=1e-4)
    assert after.scores[:-1] == pytest.approx(chance, abs=0.02)


def test_rescaling_leaves_ap_but_for_the_cap(case: Any) -> None:
    split, found = case
    scaled = controls.rescale(found, np.array([50.0, 0.02]))
    assert coco_metrics(split, scaled)["AP"] == coco_metrics(split, found)["AP"]
    # now ranked right, wrong, right
    assert controls.pooled_ap(rank(split, scaled)) == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    crowded = detections(1, [FAR] * 120 + [A], [0.8] * 120 + [0.4], [1] * 120 + [0])
    assert 0 not in controls.capped([crowded])[0].labels
    assert 0 in controls.capped(controls.rescale([crowded], np.array([9.0, 1.0])))[0].labels
    assert len(controls.above([crowded], 0.5)[0].scores) == 120


def test_as_few_groups_as_possible_keep_their_weight() -> None:
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    drawn = [shuffle(weights, draw) for draw in range(20)]
    for given in drawn:
        assert sorted(given) == sorted(weights)
        assert (given != weights).all()
    assert len({tuple(given) for given in drawn}) > 3
    assert (shuffle(weights, 3) == drawn[3]).all()
    many = np.array([1.0, 1.0, 1.0, 2.0, 3.0])  # two get another weight, and two take theirs
    assert (shuffle(many, 0) != many).sum() == 4
    assert shuffle(np.array([2.0]), 0) == 2


@pytest.mark.parametrize("power", [0.25, 0.5])
def test_column_weights_are_those_of_ultralytics(power: float) -> None:
    train_module: Any = pytest.importorskip("ultralytics.models.yolo.detect.train")
    counts = np.array([900, 80, 0, 20], np.float32)
    trainer = SimpleNamespace(args=SimpleNamespace(cls_pw=power))
    theirs = train_module.DetectionTrainer.compute_class_weights(trainer, counts)
    np.testing.assert_allclose(
        column_weights(counts.tolist(), power), theirs / theirs.mean(), rtol=1e-6
    )
    assert (column_weights([5, 0, 7], 0) == 1).all()


@pytest.mark.parametrize("name", FACTORIES)
def test_columns_of_weight_one_are_the_plain_loss(name: str) -> None:
    detector, batch = tiny_detector(name), random_batch(0, 2, 4, 32, 64)
    plain = detector.losses(batch)
    with weighted_columns(name, column_weights([3, 1, 4, 1, 5], 0)):
        same = detector.losses(batch)
    weights = np.random.default_rng(0).random(5) * 3
    with weighted_columns(name, weights):
        other = detector.losses(batch)
    for term in detector.terms:
        assert torch.equal(same[term], plain[term])
        assert torch.equal(other[term], plain[term]) == (term != "classification")
    assert torch.equal(detector.losses(batch)["classification"], plain["classification"])


def test_random_columns_weigh_positives_and_negatives() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 30, 4), torch.randint(0, 5, (2, 30))
    weights = [0.3, 1.0, 2.5, 0.2]
    module = importlib.import_module("scalewise.detectors.atss")
    with weighted_columns("atss", np.array(weights)):
        found = module.focal_loss(logits, labels)
    expected = torch.zeros(2, 30)
    for i, j, c in np.ndindex(2, 30, 4):
        target = (labels[i, j] == c).float()
        expected[i, j] += weights[c] * sigmoid_focal_loss(logits[i, j, c], target)
    torch.testing.assert_close(found, expected)


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with equal weights and one with shares, one epoch each."""
    out = tmp_path_factory.mktemp("runs")
    return {
        scheme: train(tiny(out, scheme=scheme, by="class", epochs=1, interval=2))
        for scheme in ("equal", "share")
    }


def test_the_table_of_two_runs(trained: dict[str, Path]) -> None:
    equal, share = trained["equal"], trained["share"]
    runs = {name: controls.by_seed([run]) for name, run in (("equal", equal), ("balanced", share))}
    text = controls.make_table(runs, "test")
    split = open_split(load_config(equal).data, "val")
    wide = controls.wide_detections(equal, split)
    ours = controls.capped(controls.above(wide, controls.SCORE))
    for one, other in zip(ours, read_detections(equal / "detections.parquet"), strict=True):
        assert all(np.array_equal(v, asdict(other)[k]) for k, v in asdict(one).items())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    by_run = {tuple(row[:2]): row[2:] for row in rows if len(row) == 2 + len(controls.COLUMNS)}
    assert len([row for row in by_run if row[1] == "0"]) == 3
    recorded = load_json(share / "metrics.json")["last"]["AP"]
    assert float(by_run["balanced", "0"][0]) == pytest.approx(100 * recorded, abs=0.01)
    assert [row[0] for row in rows if row and row[0] in split.classes] == list(split.classes)
    with pytest.raises(UserError, match="--tune val shares 4 images with val"):
        controls.make_table(runs, "val")
    with pytest.raises(UserError, match="have the same seed, 0"):
        controls.by_seed([equal, share])


def test_the_table_on_the_command_line(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, (equal, share) = tmp_path / "controls.md", map(str, trained.values())
    words = ["--tune", "test", "--equal", equal, "--balanced", share, "--other", "again", equal]
    monkeypatch.setattr("sys.argv", ["controls.py", "table", *words, "--out", str(out)])
    controls.main()
    lines = out.read_text().splitlines()
    names = [line.split("|")[1].strip() for line in lines if "| 0 |" in line]
    assert names == ["equal", "equal, rescaled", "balanced", "again"]


def test_runs_of_other_options_are_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "run"
    other.mkdir()
    text = (trained["share"] / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("lr: 0.001", "lr: 0.002"))
    controls.check_alike(trained["equal"], trained["share"])
    with pytest.raises(UserError, match="they differ in lr"):
        controls.check_alike(trained["equal"], other)
    with pytest.raises(UserError, match="is not finished"):
        controls.by_seed([other])


def test_the_commands_train_with_fixed_weights(
    trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained["share"]
    controls.train_shuffled(run, 1, tmp_path, train_now=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[::2]] == ["# static", "# shuffled", "# uniform"]
    read = [parser().parse_args(shlex.split(line)[2:]) for line in lines[1::2]]
    trace = read_trace(run / "trace.parquet")
    classes = load_json(run / "environment.json")["classes"]
    means = [f"{trace[f'weight/{name}'].to_numpy().mean():.4g}" for name in classes]
    static, shuffled, uniform = (
        [pair.split("=") for pair in one.scheme.split(":")[1:]] for one in read
    )
    assert static == [[name, weight] for name, weight in zip(classes, means, strict=True)]
    assert Counter(weight for _, weight in shuffled) == Counter(means)
    assert shuffled != static
    assert len({weight for _, weight in uniform}) == 1
    positives = np.array([trace[f"positives/{name}"].to_numpy().sum() for name in classes])
    level = positives @ np.array(means, float) / positives.sum()
    assert float(uniform[0][1]) == pytest.approx(level, rel=1e-3)
    for one in read:
        changed = {k for k, v in asdict(load_config(run)).items() if one[k] != v}
        assert changed == {"scheme", "out", "name"}


def test_cls_pw_of_power_zero_is_the_plain_training(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    plain = read_trace(trained["equal"] / "trace.parquet")
    same = controls.train_cls_pw(trained["equal"], 0, tmp_path)
    assert pq.read_table(same / "trace.parquet").equals(plain)
    assert set(load_json(same / "control.json")["weights"].values()) == {1.0}


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
    """The picture is drawn again without its shapes: what differs is the shapes."""
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
