"""A detector and its balancer as one Lightning module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from scalewise.lab.data.sampler import EpochSampler
from scalewise.lab.detectors.batch import Batch, Detections, pad_objects
from scalewise.lab.detectors.detector import DenseDetector
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.gradients import group_gram
from scalewise.lab.training.optimization import make_optimizer
from scalewise.lab.training.ranks import gather
from scalewise.weighting import LossBalancer

_OF_A_RANK = ("block", "running")  # the balancer's records since the last interval


class DetectionModule(L.LightningModule):
    """One training step: losses per term and group, weighted by the balancer.

    Args:
        detector: A dense detector.
        balancer: The balancer of the detector's groups.
        config: Options of the optimizer.

    Attributes:
        losses: float [terms, n], the last step's unweighted losses of the groups; [terms, n + 1]
            if positives are grouped, with the background last.
        gram: float32 [n, n], inner products of the groups' gradients if the last step measured
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
        """Tell the sampler the epoch; the order and the augmentation depend on it."""
        loader = self.trainer.train_dataloader
        sampler = loader.batch_sampler if isinstance(loader, DataLoader) else None
        assert isinstance(sampler, EpochSampler)
        sampler.set_epoch(self.current_epoch)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Weighted loss of one batch."""
        if self.config.compile:  # so that batches with different numbers of objects share graphs
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

        The next replay overwrites what a replay returned; a step copies the losses and uses the
        gradients before that. Validation stays as it is.
        """
        self._graphed = torch.compile(self.detector.losses, mode="reduce-overhead")

    def _measure(self, losses: Tensor) -> Tensor | None:
        every = self.config.gradient_every
        if not every or self.trainer.fit_loop.epoch_loop.total_batch_idx % every:
            return None
        return group_gram(losses, [p for p in self.detector.parameters() if p.requires_grad])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make the step and end the balancer's window; an epoch's last window may be short."""
        super().optimizer_step(*args, **kwargs)
        self.balancer.close_window()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient norm; for bfloat16 not by Lightning, which refuses fused optimizers."""
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
        """SGD or AdamW, with a warm-up and then the schedule, both counted in optimizer steps."""
        total = int(self.trainer.estimated_stepping_batches)
        optimizer, scheduler = make_optimizer(self, self.detector.backbone, self.config, total)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the random state, so that random layers (drop path) continue their sequence."""
        checkpoint["rng"] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["rng"]["cuda"] = torch.cuda.get_rng_state_all()
        if self.trainer.world_size > 1:
            own = {name: getattr(self.balancer, name).cpu() for name in _OF_A_RANK}
            checkpoint["ranks"] = gather(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the random state; it is set later, when nothing else draws before the training."""
        self._rng = checkpoint.get("rng")
        ranks = checkpoint.get("ranks", [])
        if len(ranks) == self.trainer.world_size:
            self._records = ranks[self.trainer.global_rank]

    def on_train_start(self) -> None:
        """Restore the random state and this rank's records from the resumed checkpoint."""
        for name, value in self._records.items():
            getattr(self.balancer, name).copy_(value)
        self._records = {}
        if self._rng is not None:
            torch.set_rng_state(self._rng["cpu"])
            if torch.cuda.is_available() and "cuda" in self._rng:
                torch.cuda.set_rng_state_all(self._rng["cuda"])
            self._rng = None
