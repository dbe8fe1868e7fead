"""Train torchvision's FCOS or RetinaNet on a VOC folder, with weights for its classes.

python examples/torchvision_bccd.py --data data/bccd --backbone mobilenet_v2-b0353104.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models import mobilenet_v2
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import scalewise as sw
from scalewise.data import ImageRecord, load_image, open_split
from scalewise.lab.evaluation import ImageDetections, coco_metrics


def model(name: str, classes: int, size: int, weights: Path | None) -> Any:
    """The detector with this name on MobileNetV2, with anchors for small images."""
    body = mobilenet_v2(norm_layer=FrozenBatchNorm2d)
    if weights is not None:
        body.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    layers = {"6": "0", "13": "1", "17": "2"}
    extra = LastLevelP6P7(128, 128)
    backbone = BackboneWithFPN(body.features, layers, [32, 96, 320], 128, extra)
    sides = [8 * 2**level for level in range(5)]
    if name == "fcos":
        return FCOS(
            backbone,
            classes,
            anchor_generator=AnchorGenerator(tuple((s,) for s in sides), ((1.0,),) * 5),
            min_size=size,
            max_size=size,
            score_thresh=0.05,
        )
    sizes = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in sides)
    return RetinaNet(
        backbone,
        classes,
        anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),
        min_size=size,
        max_size=size,
    )


def example(record: ImageRecord) -> tuple[Tensor, dict[str, Tensor]]:
    """An image and its objects in the form of torchvision."""
    image = torch.from_numpy(load_image(record.path)).permute(2, 0, 1).float() / 255
    boxes, labels = torch.from_numpy(record.boxes), torch.from_numpy(record.labels)
    return image, {"boxes": boxes, "labels": labels}


@torch.no_grad()
def detections(detector: Any, record: ImageRecord) -> ImageDetections:
    """The detections in one image."""
    (found,) = detector([example(record)[0]])
    boxes, scores, labels = (found[key].numpy() for key in ("boxes", "scores", "labels"))
    return ImageDetections(record.image_id, boxes, scores, labels, np.zeros_like(labels))


def main() -> None:
    """Train, print the weights after each epoch, and evaluate at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="VOC folder")
    parser.add_argument("--detector", choices=["fcos", "retinanet"], default="fcos")
    parser.add_argument("--backbone", type=Path, help="MobileNetV2 weights, a .pth file")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--size", type=int, default=192, help="shorter side in pixels")
    parser.add_argument("--by", default="class")
    parser.add_argument("--scheme", help="such as equal, share or class:Platelets=2")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    training = open_split(options.data, "trainval", skip_bad=True)
    held_out = open_split(options.data, "test", skip_bad=True)
    detector = model(options.detector, len(training.classes), options.size, options.backbone)

    balancer = sw.attach(  # the only added line
        detector, options.by, options.scheme, seed=options.seed, classes=training.classes
    )

    optimizer = torch.optim.AdamW(detector.parameters(), lr=options.lr)
    for epoch in range(options.epochs):
        detector.train()
        for picked in torch.randperm(len(training.records)).split(8):
            images, targets = zip(*(example(training.records[i]) for i in picked), strict=True)
            loss = torch.stack(list(detector(images, targets).values())).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(detector.parameters(), 10)
            optimizer.step()
        weights = ", ".join(f"{w:.3f}" for w in balancer.weights["dense"].tolist())
        print(f"epoch {epoch + 1}  last loss {loss.item():.3f}  weights {weights}", flush=True)
    metrics = coco_metrics(held_out, [detections(detector.eval(), r) for r in held_out.records])
    for name in ("AP", "AP50", "AP75", *(f"AP/{c}" for c in held_out.classes)):
        print(f"{name:14} {100 * metrics[name]:5.1f}")


if __name__ == "__main__":
    main()
