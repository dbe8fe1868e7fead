"""Weights by class with `transformers.Trainer`; trains on drawn images in seconds.

python examples/huggingface_trainer.py --out runs/hf --steps 8
python examples/huggingface_trainer.py --out runs/hf --steps 16    # continues after step 8
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

import scalewise as sw
from scalewise.data import Collate, DetectionDataset, Item, Request, open_split
from scalewise.detectors import Batch
from scalewise.integrations.transformers import log_groups


class MyDetector(nn.Module):
    """Returns its loss, as Trainer needs it. No **kwargs: see docs/huggingface.md."""

    def __init__(self, classes: Sequence[str], accumulate: int) -> None:
        super().__init__()
        self.detector = sw.detectors.atss(
            "mobilenet_v3_small", len(classes), width=16, depth=1, grouping=sw.by_class(classes)
        )
        self.detector.to(memory_format=torch.contiguous_format)  # safetensors needs this layout
        self.balancer = sw.LossBalancer(
            classes, by="class", scheme="rlo", interval=3, accumulate=accumulate
        )

    def forward(
        self,
        images: Tensor,
        boxes: Tensor,
        labels: Tensor,
        valid: Tensor,
        sizes: Tensor,
        scales: Tensor,
        image_ids: Tensor,
    ) -> dict[str, Tensor]:
        """Weighted loss of a batch."""
        terms = self.detector(Batch(images, boxes, labels, valid, sizes, scales, image_ids))
        losses = torch.stack(list(terms.values())).sum(0)  # [classes + 1]
        return {"loss": self.balancer(losses, self.detector.positives)}


class Images(Dataset[Item]):
    """A detection data set with items that are read by index."""

    def __init__(self, data: DetectionDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        return self.data[Request(index, seed=index)]


def collate(items: list[Item]) -> dict[str, Tensor]:
    """The arguments of the model's `forward`."""
    batch = Collate(size=96)(items)
    return {name: getattr(batch, name) for name in Batch._fields}


def train(out: Path, steps: int, images: int, **options: Any) -> MyDetector:
    """Train until `steps` are done, from the last checkpoint in `out` if there is one.

    Args:
        out: where checkpoints and drawn images go.
        steps: optimizer steps.
        images: number of images to draw.
        options: further arguments of `TrainingArguments`.

    Returns:
        The trained model.
    """
    split = open_split(f"demo:images={images},size=96,folder={out / 'demo'}")
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=4,
        save_steps=4,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    set_seed(0)
    model = MyDetector(split.classes, arguments.gradient_accumulation_steps)
    data = Images(DetectionDataset(split, 96, augment=True))
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=data)
    log_groups(trainer)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out)))
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/huggingface_trainer"))
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 autocast")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    options = vars(parser.parse_args())
    train(**options)
