"""Weights by class in a plain PyTorch loop, saved and resumed; trains on drawn images in seconds.

python examples/plain_loop.py --out runs/plain --epochs 2
python examples/plain_loop.py --out runs/plain --epochs 4    # continues after epoch 2
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import scalewise as sw
from scalewise.data import DetectionDataset, make_loader, open_split


def train(out: Path, epochs: int, images: int) -> sw.LossBalancer:
    """Train until `epochs` are done, from the checkpoint in `out` if there is one."""
    split = open_split(f"demo:images={images},size=96,folder={out / 'demo'}")
    loader = make_loader(DetectionDataset(split, 96, augment=True), batch_size=4, shuffle=True)
    sampler: Any = loader.batch_sampler

    torch.manual_seed(0)
    detector = sw.detectors.atss(
        "mobilenet_v3_small",
        len(split.classes),
        width=16,
        depth=1,
        grouping=sw.by_class(split.classes),
    )
    balancer = sw.LossBalancer(split.classes, by="class", scheme="rlo", interval=3)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)

    parts: dict[str, Any] = {"detector": detector, "balancer": balancer, "optimizer": optimizer}
    checkpoint, first = out / "last.pt", 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        first = saved["epoch"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    for epoch in range(first, epochs):
        sampler.set_epoch(epoch)
        for batch in loader:
            terms = detector(batch)  # losses [classes + 1] by term: classification, box, centerness
            total = balancer(torch.stack(list(terms.values())).sum(0), detector.positives)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}  weights {[round(w, 3) for w in balancer.weights.tolist()]}")
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({"epoch": epoch + 1, **states}, checkpoint)
    return balancer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/plain_loop"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=40)
    options = parser.parse_args()
    train(options.out, options.epochs, options.images)
