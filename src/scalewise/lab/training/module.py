"""A detector and its balancer as Lightning trains them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from scalewise.lab.data.loader import EpochSampler
from scalewise.lab.detectors import DenseDetector
from scalewise.lab.detectors.batch import Batch, Detections, pad_objects
from scalewise.lab.training.checkpoints import gather
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.gradients import group_gram
from scalewise.weighting import LossBalancer

_OF_A_RANK = ("block", "running")  # the balancer's records since the last interval


class DetectionModule(L.LightningModule):
    """One training step: losses per term and group, weighted by the balancer.

    Args:
        detector: A dense detector.
        balancer: Of the detector's groups.
        config: Options of the optimizer.

    Attributes:
        losses: float [terms, n], the last step's unweighted losses of the groups; [terms, n + 1]
            with the background's where positives are grouped.
        gram: float32 [n, n], inner products of the groups' gradients where the last step measured
            them, else None.
    """

    losses: Tensor
    gram: Tensor | None

    def __init__(
        self, detector: DenseDetector, balancer: LossBalancer, config: TrainConfig
    ) -> None:
        super().__init__()
        self.detector = detector
        self.balancer = balancer
        self.config = config
        self._graphed: Callable[[Batch], dict[str, Tensor]] | None = None
        self._rng: dict[str, Any] | None = None
        self._records: dict[str, Tensor] = {}
        # DDP copies rank 0's buffers to all ranks before each forward pass, which would replace
        # every rank's recorded losses by rank 0's; the balancer merges them itself.
        self._ddp_params_and_buffers_to_ignore = [
            f"balancer.{name}" for name, _ in balancer.named_buffers()
        ]

    def on_train_epoch_start(self) -> None:
        """Tell the sampler the epoch, on which order and augmentation depend."""
        loader = self.trainer.train_dataloader
        sampler = loader.batch_sampler if isinstance(loader, DataLoader) else None
        assert isinstance(sampler, EpochSampler)
        sampler.set_epoch(self.current_epoch)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Weighted loss of one batch."""
        if self.config.compile:  # so that batches of many counts of objects share a few graphs
            batch = pad_objects(batch)
        terms = self._terms(batch)
        losses = torch.stack([terms[term] for term in self.detector.terms])
        self.losses = losses.detach()
        groups = losses.sum(0)  # [n], or [n + 1] with the background
        self.gram = self._measure(groups[: len(self.detector.group_names)])
        return self.balancer(groups, self.detector.positives)

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        if self._graphed is None:
            terms: dict[str, Tensor] = self.detector(batch)
            return terms
        begin: Callable[[], None] = torch.compiler.cudagraph_mark_step_begin
        begin()
        return self._graphed(batch)

    def graph_losses(self) -> None:
        """Compile the losses of a training step and replay them as CUDA graphs from now on.

        What a replay returns is overwritten by the next one: a step copies it, and its gradients
        are used up before. Validation stays as it is.
        """
        self._graphed = torch.compile(self.detector.losses, mode="reduce-overhead")

    def _measure(self, losses: Tensor) -> Tensor | None:
        every = self.config.gradient_every
        if not every or self.trainer.fit_loop.epoch_loop.total_batch_idx % every:
            return None
        return group_gram(losses, [p for p in self.detector.parameters() if p.requires_grad])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and end the balancer's window: an epoch's last one may be short."""
        super().optimizer_step(*args, **kwargs)
        self.balancer.close_window()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm, for bfloat16 without Lightning, which refuses fused optimizers there."""
        if gradient_clip_val and self.config.precision == "bf16-mixed":
            parameters = self.trainer.precision_plugin.main_params(optimizer)
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        else:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )

    def validation_step(self, batch: Batch, index: int) -> dict[str, Detections]:
        """Detections of one batch."""
        return {"detections": self.detector(batch)}

    def configure_optimizers(self) -> Any:
        """SGD or AdamW, a warm-up, then the schedule, stepped with the optimizer."""
        config = self.config
        groups = parameter_groups(self, config)
        # Fused updates unscale float16's gradients themselves, which leaves nothing to clip before.
        fused = config.precision != "16-mixed"
        optimizer: torch.optim.Optimizer
        if config.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=fused)
        else:
            optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
        total = int(self.trainer.estimated_stepping_batches)
        if total <= config.warmup:
            warnings.warn(
                f"--warmup {config.warmup} is no shorter than the {total} steps of the whole "
                f"training, which ends before the learning rate has reached --lr {config.lr:g}: "
                f"take --warmup {total // 10}, for example",
                stacklevel=1,  # Lightning, which called this, would name its own file
            )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate(step, total, config.warmup, config.schedule)
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state, so that layers that draw (drop path) continue their sequence."""
        checkpoint["rng"] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["rng"]["cuda"] = torch.cuda.get_rng_state_all()
        if self.trainer.world_size > 1:
            own = {name: getattr(self.balancer, name).cpu() for name in _OF_A_RANK}
            checkpoint["ranks"] = gather(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the random state; it is set when training starts, after all that draws from it."""
        self._rng = checkpoint.get("rng")
        ranks = checkpoint.get("ranks", [])
        if len(ranks) == self.trainer.world_size:
            self._records = ranks[self.trainer.global_rank]

    def on_train_start(self) -> None:
        """Set the random state and this rank's records of the checkpoint that is resumed."""
        for name, value in self._records.items():
            getattr(self.balancer, name).copy_(value)
        self._records = {}
        if self._rng is not None:
            torch.set_rng_state(self._rng["cpu"])
            if torch.cuda.is_available() and "cuda" in self._rng:
                torch.cuda.set_rng_state_all(self._rng["cuda"])
            self._rng = None


def parameter_groups(module: DetectionModule, config: TrainConfig) -> list[dict[str, Any]]:
    """Weight decay for convolutions only; the backbone learns at its own rate.

    Norms, biases and the per-level scales are vectors: decaying them pulls them away from where
    they have to be and buys nothing.
    """
    backbone = {id(p) for p in module.detector.backbone.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            lr = config.lr * (config.backbone_lr if id(parameter) in backbone else 1.0)
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": params, "lr": lr, "weight_decay": decay}
        for (lr, decay), params in groups.items()
    ]


def rate(step: int, total: int, warmup: int, schedule: str) -> float:
    """Factor on the learning rate at an optimizer step.

    Args:
        step: Optimizer steps done.
        total: Optimizer steps of the whole run.
        warmup: Steps of linear warm-up, from 1 / (warmup + 1).
        schedule: "cosine", "step" or "constant".

    Returns:
        The factor, in 0..1. "step" is the published 1x schedule, 8 and 11 of 12 epochs.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "cosine":
        done = (step - warmup) / max(1, total - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if schedule == "step":
        return 0.1 ** ((step >= total * 8 / 12) + (step >= total * 11 / 12))
    return 1.0
