"""Weights by class in your own LightningModule; trains on drawn images in seconds.

python examples/lightning_module.py --out runs/lightning --epochs 2
python examples/lightning_module.py --out runs/lightning --epochs 4    # continues after epoch 2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

import scalewise as sw
from scalewise.data import DetectionDataset, make_loader, open_split
from scalewise.detectors import Batch
from scalewise.integrations.lightning import BalancerCallback


class MyDetector(L.LightningModule):
    """The balancer is a submodule, so it is moved and saved with the rest."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.detector = sw.detectors.atss(
            "mobilenet_v3_small", len(classes), width=16, depth=1, grouping=sw.by_class(classes)
        )
        self.balancer = sw.LossBalancer(classes, by="class", scheme="rlo", interval=3)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Weighted loss of one batch."""
        terms = self.detector(batch)  # losses [classes + 1] by term
        losses = torch.stack(list(terms.values())).sum(0)
        total = self.balancer(losses, self.detector.positives)
        self.log("total", total)
        return total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer for all parameters."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)

    def on_train_epoch_start(self) -> None:
        """Use a new order and new augmentation in each epoch."""
        loader: Any = self.trainer.train_dataloader
        loader.batch_sampler.set_epoch(self.current_epoch)


def train(out: Path, epochs: int, images: int) -> MyDetector:
    """Train until `epochs` are done, from the checkpoint in `out` if there is one."""
    split = open_split(f"demo:images={images},size=96,folder={out / 'demo'}")
    loader = make_loader(DetectionDataset(split, 96, augment=True), batch_size=4, shuffle=True)
    L.seed_everything(0)
    module = MyDetector(split.classes)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[BalancerCallback()],
        logger=CSVLogger(out, name="log"),
        log_every_n_steps=3,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    checkpoint = out / "last.ckpt"
    trainer.fit(module, loader, ckpt_path=checkpoint if checkpoint.is_file() else None)
    trainer.save_checkpoint(checkpoint)
    print(f"weights {[round(w, 3) for w in module.balancer.weights.tolist()]}")
    return module


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/lightning_module"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=40)
    options = parser.parse_args()
    train(options.out, options.epochs, options.images)
