"""Train a small RT-DETR of transformers, from scratch, on a VOC folder, with class weights.

python examples/transformers_bccd.py --data data/bccd --epochs 12
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as F
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

import scalewise as sw
from scalewise.data import ImageRecord, Split, load_image, open_split
from scalewise.lab.evaluation import ImageDetections, coco_metrics


def model(classes: tuple[str, ...]) -> Any:
    """RT-DETR with a ResNet-18 of a quarter of the usual width and a decoder of two layers."""
    body = RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=body,
        id2label=dict(enumerate(classes)),
        encoder_in_channels=[32, 64, 128],
        encoder_hidden_dim=64,
        encoder_ffn_dim=128,
        d_model=64,
        decoder_in_channels=[64, 64, 64],
        decoder_ffn_dim=128,
        decoder_layers=2,
        decoder_attention_heads=4,
        encoder_attention_heads=4,
        num_queries=60,
        num_denoising=40,
        freeze_backbone_batch_norms=False,
    )
    return RTDetrForObjectDetection(config)


def example(record: ImageRecord, size: int, flip: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """An image [3, size, size] and its objects, with boxes relative to the image."""
    image = torch.from_numpy(load_image(record.path)).permute(2, 0, 1)
    height, width = image.shape[-2:]
    boxes = torch.from_numpy(record.boxes) / torch.tensor([width, height, width, height])
    boxes = box_convert(boxes.float(), "xyxy", "cxcywh")
    if flip:
        image, boxes[:, 0] = image.flip(-1), 1 - boxes[:, 0]
    pixels = F.resize(image, [size, size], antialias=True).float() / 255
    return pixels, {
        "class_labels": torch.from_numpy(record.labels).long(),
        "boxes": boxes,
        "orig_size": torch.tensor([height, width]),
    }


@torch.no_grad()
def detections(detector: Any, record: ImageRecord, size: int) -> ImageDetections:
    """The 100 best detections in an image, with boxes in pixels of the image."""
    pixels, target = example(record, size, flip=False)
    found = detector(pixel_values=pixels[None])
    scores = found.logits[0].sigmoid()  # [queries, classes]
    best = scores.flatten().topk(min(100, scores.numel()))
    query, label = best.indices // scores.shape[1], best.indices % scores.shape[1]
    height, width = target["orig_size"].tolist()
    boxes = box_convert(found.pred_boxes[0][query], "cxcywh", "xyxy")
    boxes = boxes * torch.tensor([width, height, width, height])
    return ImageDetections(
        record.image_id, boxes.numpy(), best.values.numpy(), label.numpy(), np.zeros(len(label))
    )


def train(detector: Any, balancer: Any, data: Split, epochs: int, lr: float, size: int) -> None:
    """Train with AdamW and a one-cycle learning rate; print the weights after each epoch."""
    steps = epochs * -(-len(data.records) // 8)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    for epoch in range(epochs):
        detector.train()
        for picked in torch.randperm(len(data.records)).split(8):
            flips = (torch.rand(len(picked)) < 0.5).tolist()
            pairs = [
                example(data.records[i], size, flip) for i, flip in zip(picked, flips, strict=True)
            ]
            images, labels = zip(*pairs, strict=True)
            loss = detector(pixel_values=torch.stack(images), labels=list(labels)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        weights = ", ".join(f"{w:.3f}" for w in balancer.weights["queries"].tolist())
        print(f"epoch {epoch + 1}  last loss {loss.item():.3f}  weights {weights}", flush=True)


def main() -> None:
    """Train, and evaluate at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="VOC folder")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--size", type=int, default=192, help="side in pixels")
    parser.add_argument("--by", default="class")
    parser.add_argument("--scheme", help="such as equal, share or class:Platelets=2")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    training = open_split(options.data, "trainval", skip_bad=True)
    held_out = open_split(options.data, "test", skip_bad=True)
    detector = model(training.classes)

    balancer = sw.attach(detector, options.by, options.scheme, seed=options.seed)  # the added line

    train(detector, balancer, training, options.epochs, options.lr, options.size)
    detector.eval()
    found = [detections(detector, record, options.size) for record in held_out.records]
    metrics = coco_metrics(held_out, found)
    for name in ("AP", "AP50", "AP75", *(f"AP/{c}" for c in held_out.classes)):
        print(f"{name:14} {100 * metrics[name]:5.1f}")


if __name__ == "__main__":
    main()
