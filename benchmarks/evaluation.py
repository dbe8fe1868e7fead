"""Speed of an evaluation: images a second through the detector, and through COCO's scoring.

python benchmarks/evaluation.py --device cuda --batch 32 --bf16
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch
from detector_step import CLASSES, make_batch, processor, write

import scalewise as sw
from scalewise.data.split import ImageRecord, Split
from scalewise.detectors import Batch
from scalewise.evaluation import coco_metrics, to_original


def split_of(batch: Batch, copies: int) -> Split:
    """A split whose images are those of the batch, `copies` times."""
    size = batch.images.shape[-1]
    records = []
    for number in range(copies * len(batch.images)):
        row = number % len(batch.images)
        boxes = batch.boxes[row][batch.valid[row]].numpy()  # [k, 4]
        none = np.zeros(len(boxes), dtype=bool)
        records.append(
            ImageRecord(
                image_id=number,
                path=Path(f"{number}.png"),
                width=size,
                height=size,
                boxes=boxes,
                labels=batch.labels[row][batch.valid[row]].numpy(),
                crowd=none,
                difficult=none,
                area=(boxes[:, 2:] - boxes[:, :2]).prod(1),
            )
        )
    names = tuple(f"class {i}" for i in range(CLASSES))
    return Split("coco", "timed", "made up", names, tuple(range(CLASSES)), records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=10)
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
    start = time.perf_counter()
    coco_metrics(split_of(batch, args.batches), found)
    scoring = time.perf_counter() - start
    text = f"""# Evaluation, {args.device}

{processor(args.device)}; Python {platform.python_version()}, torch {torch.__version__}. ATSS on
MobileNetV2, {args.size} px, batch {args.batch}, {"bfloat16" if args.bf16 else "float32"}, random
weights, 100 detections an image, {len(found)} images.

| part | images/s |
| --- | ---: |
| detection, results on the host | {len(found) / seconds:.0f} |
| COCO's metrics | {len(found) / scoring:.0f} |
"""
    write(args.out / f"evaluation_{args.device}.md", text)
    print(text)


if __name__ == "__main__":
    main()
