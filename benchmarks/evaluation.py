"""Speed of an evaluation: images a second through the detector, and scoring beside other packages.

python benchmarks/evaluation.py --device cuda --batch 32 --bf16
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from detector_step import CLASSES, make_batch, processor, write

import scalewise as sw
from scalewise.detectors import Batch
from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation import (
    ImageDetections,
    coco_metrics,
    coco_results,
    coco_truth,
    to_original,
    voc_metrics,
)

PEERS = {
    "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
    "faster_coco_eval": ("faster_coco_eval", "faster_coco_eval", "COCOeval_faster"),
    "hotcoco": ("hotcoco", "hotcoco", "COCOeval"),
}
"""COCO's metrics elsewhere: modules of truth and evaluation. What is installed is timed."""


def made_up(images: int, each: int = 100) -> tuple[Split, list[ImageDetections]]:
    """Images with up to 15 objects, and detections: jittered objects, and as many false ones."""
    rng = np.random.default_rng(0)

    def boxes(count: int) -> npt.NDArray[np.float32]:
        corner = rng.uniform(0, 400, (count, 2))
        side = np.exp(rng.uniform(1.5, 5, (count, 2)))
        return np.concatenate([corner, corner + side], 1).astype(np.float32)

    records, found = [], []
    for image_id in range(1, images + 1):
        count = int(rng.integers(1, 16))
        own, none = boxes(count), np.zeros(count, dtype=bool)
        labels = rng.integers(0, CLASSES, count)
        area = (own[:, 2:] - own[:, :2]).prod(1)
        crowd = rng.random(count) < 0.03
        path = Path(f"{image_id}.png")
        records.append(ImageRecord(image_id, path, 640, 640, own, labels, crowd, none, area))
        near = rng.integers(0, count, each // 2)
        copies = own[near] + rng.normal(0, 4, (each // 2, 4)).astype(np.float32)
        copies[:, 2:] = np.maximum(copies[:, 2:], copies[:, :2] + 1)
        false = each - each // 2
        found.append(
            ImageDetections(
                image_id=image_id,
                boxes=np.concatenate([copies, boxes(false)]).astype(np.float32),
                scores=rng.random(each).astype(np.float32),
                labels=np.concatenate([labels[near], rng.integers(0, CLASSES, false)]),
                levels=np.zeros(each, dtype=np.int64),
            )
        )
    names = tuple(f"class {i}" for i in range(CLASSES))
    return Split("coco", "timed", "made up", names, tuple(range(1, CLASSES + 1)), records), found


def peer_ap(module: str, split: Split, found: list[ImageDetections]) -> float:
    """COCO's AP by pycocotools, the reference, or a package like it; dictionaries made anew."""
    holder, name, evaluator = PEERS[module]
    make_truth = importlib.import_module(holder).COCO
    make_evaluation = getattr(importlib.import_module(name), evaluator)
    with contextlib.redirect_stdout(io.StringIO()):
        if module == "hotcoco":
            truth = make_truth(coco_truth(split))
            loaded = truth.load_res(coco_results(split, found))
        else:
            truth = make_truth()
            truth.dataset = coco_truth(split)
            truth.createIndex()
            loaded = truth.loadRes(coco_results(split, found))
        evaluation = make_evaluation(truth, loaded, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def scoring(images: int, rounds: int) -> str:
    """A table of the processor seconds of the metrics, in turns, and how they compare."""
    split, found = made_up(images)
    ways: dict[str, Callable[[], float]] = {
        **{name: partial(peer_ap, name, split, found) for name in PEERS if find_spec(name)},
        "scalewise, COCO's metrics": lambda: coco_metrics(split, found)["AP"],
        "scalewise, VOC's metrics": lambda: voc_metrics(split, found)["VOC_AP50_area"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    figures = {}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            figures[name] = way()
            seconds[name].append(time.process_time() - start)
    theirs = {name: value for name, value in figures.items() if "VOC" not in name}
    if max(theirs.values()) - min(theirs.values()) > 1e-9:
        raise SystemExit(f"COCO's AP differs: {theirs}")
    rows = []
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(seconds["pycocotools"], taken, strict=True)]
        spread = f"{min(ratios):.1f}-{max(ratios):.1f}"
        row = (name, f"{statistics.median(taken):.3f}", f"{statistics.median(ratios):.1f}", spread)
        rows.append(f"| {' | '.join(row)} |\n")
    return f"""Scoring {100 * images} detections in {images} images, {CLASSES} classes, with the
truth; processor time, median of {rounds} rounds in turns, ratios within a round. COCO's AP is
the same for all, {theirs["pycocotools"]:.6f}.

| | seconds | times as fast as pycocotools | least and most |
| --- | ---: | ---: | ---: |
{"".join(rows)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--images", type=int, default=600, help="to score, 100 detections each")
    parser.add_argument("--rounds", type=int, default=5, help="of scoring")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.manual_seed(0)
    detector = sw.detectors.atss("mobilenet_v2", CLASSES, width=128, depth=2).to(args.device).eval()
    detector.score_threshold = 0.0  # an untrained detector would find nothing
    batch = make_batch(args.batch, args.size, 8)
    there = Batch(*(part.to(args.device) for part in batch))
    seconds, found = 0.0, []
    for number in range(args.batches + 1):
        start = time.perf_counter()
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.bf16):
            detections = detector(there)
        ids = batch.image_ids + max(0, number - 1) * args.batch
        images = to_original(detections, batch._replace(image_ids=ids))
        if number:  # the first one warms up
            seconds += time.perf_counter() - start
            found += images
    text = f"""# Evaluation, {args.device}

{processor(args.device)}; Python {platform.python_version()}, torch {torch.__version__}. ATSS on
MobileNetV2, {args.size} px, batch {args.batch}, {"bfloat16" if args.bf16 else "float32"}, random
weights, 100 detections an image, results on the host: {len(found) / seconds:.0f} images/s.

{scoring(args.images, args.rounds)}"""
    write(args.out / f"evaluation_{args.device}.md", text)
    print(text)


if __name__ == "__main__":
    main()
