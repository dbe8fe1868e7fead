"""Weights by group for Ultralytics YOLO, through its own trainers.

from scalewise.integrations.ultralytics import balanced_trainer

YOLO("yolo11n.yaml").train(data="coco8.yaml", trainer=balanced_trainer(by="class"))
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.utils import DEFAULT_CFG, LOGGER

from scalewise.integrations.options import AttachError, Options
from scalewise.integrations.ultralytics_criterion import WeighedCriterion
from scalewise.integrations.ultralytics_log import SHOWN, GroupLog
from scalewise.integrations.ultralytics_loss import attach_yolo
from scalewise.weighting import LossBalancer, SchemeLike
from scalewise.weighting.groups import COCO_EDGES

if TYPE_CHECKING:

    class _Trainer:
        """What is used of Ultralytics' classes, which have no types."""

        args: Any
        model: Any
        ema: Any
        save_dir: Path
        metrics: dict[str, float]
        accumulate: int
        epoch: int
        start_epoch: int
        resume: bool

        def __init__(self, cfg: Any, overrides: Any, _callbacks: Any) -> None: ...
        def train(self) -> None: ...
        def resume_training(self, ckpt: Any) -> None: ...
        def optimizer_step(self) -> None: ...
        def save_metrics(self, metrics: dict[str, Any]) -> None: ...
        def save_model(self) -> Any: ...
        def plot_metrics(self) -> None: ...
        def on_plot(self, name: Path) -> None: ...

else:
    _Trainer = object

STATE = "scalewise"  # attribute of the saved model: the balancer's state, a dict of tensors
VARIABLE = "SCALEWISE_ULTRALYTICS"  # hands the options to the processes of several GPUs


def balanced_trainer(
    by: str | None = None,
    scheme: SchemeLike | None = None,
    interval: int | Literal["auto"] = "auto",
    normalize: Literal["auto", "mean", "loss", "positives", "lift"] = "auto",
    seed: int = 0,
    size_edges: Sequence[float] = COCO_EDGES,
    classes: Sequence[str] = (),
) -> Callable[..., BalancedTrainer]:
    """Make the `trainer=` of `YOLO.train` that weighs losses by group.

    It serves the tasks detect, segment, pose and obb.

    Args:
        by: how losses are grouped. "class" (the default), "size" and "size*class" group the
            positives by their object, "level-positives" groups them by their level. "level" groups
            everything by level, background included.
        scheme: as for `LossBalancer`, but without trained parameters. For several GPUs it must be
            words such as "rlo" or "class:platelet=2".
        interval: optimizer steps between two updates of the weights, or "auto".
        normalize: how the weights are scaled; see `LossBalancer`.
        seed: seed of the scheme's random numbers.
        size_edges: sides of objects that separate the sizes, in pixels of the training image.
        classes: names of the classes in the order of the labels; empty takes the data set's names.

    Returns:
        A function that makes a `BalancedTrainer` of the task.

    Raises:
        AttachError: an argument is out of range.

    Examples:
        >>> from ultralytics import YOLO
        >>> from scalewise.integrations.ultralytics import balanced_trainer
        >>> trainer = balanced_trainer(by="size", scheme="size:small=1.5")
        >>> YOLO("yolo11n.yaml").train(data="coco8.yaml", trainer=trainer)  # doctest: +SKIP
    """
    options = Options(
        by, scheme, interval, normalize, seed=seed, size_edges=size_edges, classes=classes
    )
    return partial(_make_trainer, options)


class BalancedTrainer(_Trainer):
    """Adds weights by group to one of Ultralytics' trainers; there is one subclass per task.

    Ultralytics starts one process per GPU, which imports the class by name; the options reach it
    in an environment variable.

    Args:
        cfg: as for Ultralytics' trainer.
        overrides: as for Ultralytics' trainer.
        _callbacks: as for Ultralytics' trainer.
        options: options of the weights; None takes those of the parent process, or the defaults.

    Attributes:
        weighed: the model's criterion, once training has started.

    Raises:
        AttachError: `distill_model` is set.
    """

    weighed: WeighedCriterion

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: Any = None,
        options: Options | None = None,
    ) -> None:
        if (overrides or {}).get("distill_model"):
            raise AttachError(
                "distill_model adds a loss that has no groups; train without it, or without "
                "balanced_trainer"
            )
        self.options = options or Options(**json.loads(os.environ.get(VARIABLE, "{}")))
        super().__init__(cfg, overrides, _callbacks)

    @property
    def balancer(self) -> LossBalancer:
        """The balancer, once training has started; `weights` are in the order of `names`."""
        return self.weighed.balancer

    def train(self) -> None:
        """Train, here or in one process per GPU."""
        if "," not in str(self.args.device) or "LOCAL_RANK" in os.environ:
            return super().train()
        if not isinstance(self.options.scheme, str | None):
            raise AttachError(
                "each GPU has a process of its own, which gets the scheme as words: pass 'rlo' or "
                f"'avw:strength=0.3' instead of a {type(self.options.scheme).__name__}"
            )
        os.environ[VARIABLE] = json.dumps(asdict(self.options))
        try:
            return super().train()
        finally:
            del os.environ[VARIABLE]

    def resume_training(self, ckpt: Any) -> None:
        """Put the weights in place as the last step before training, and restore their state."""
        super().resume_training(ckpt)
        model = _bare(self.model)
        attach_yolo(model, replace(self.options, accumulate=self.accumulate))
        self.weighed = model.criterion
        self._in_results = not self.resume or self._restore(ckpt)
        self.weighed.hold()
        balancer = self.balancer
        self._log = GroupLog(self.save_dir / "scalewise.csv", balancer.names, self.start_epoch)
        names = ", ".join(balancer.names[:SHOWN])
        LOGGER.info(
            f"scalewise: {balancer.scheme.name} weighs {balancer.num_groups} groups by "
            f"{balancer.by}: {names}{', ...' if balancer.num_groups > SHOWN else ''}"
        )

    def _restore(self, ckpt: Any) -> bool:
        """Restore the weights of the run that is resumed; False if it had none."""
        saved = getattr(ckpt.get("ema") or ckpt.get("model"), STATE, None)
        if saved is None:
            LOGGER.warning(
                f"scalewise: {self.args.model} was trained without weights; they start now, and "
                "are logged to scalewise.csv only"
            )
            return False
        try:
            self.balancer.load_state_dict(saved)
        except (ValueError, RuntimeError) as error:
            raise AttachError(f"{self.args.model}: {error}") from None
        return True

    def optimizer_step(self) -> None:
        """Make the optimizer step; changed weights apply from here on."""
        super().optimizer_step()
        if _bare(self.model).criterion is not self.weighed:
            raise AttachError(
                "model.criterion was replaced after training had started, so the weights have no "
                "effect; remove the callback that does it, or balanced_trainer"
            )
        self.weighed.hold()

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Add the losses and weights of the epoch to the log and to what loggers see."""
        means = self.weighed.means()
        self._log.add(self.epoch + 1, means)
        ours = {
            name.replace(",", ";"): round(value, 5)  # Ultralytics writes its CSV without quotes
            for name, value in means.items()
            if name.startswith(("loss/", "weight/"))
        }
        self.metrics.update(ours)
        theirs = {key: value for key, value in metrics.items() if key not in ours}
        few = self._in_results and self.balancer.num_groups <= SHOWN
        super().save_metrics({**theirs, **ours} if few else theirs)

    def save_model(self) -> Any:
        """Save, with the state of the weights as an attribute of the saved model."""
        state = {key: value.cpu().clone() for key, value in self.balancer.state_dict().items()}
        setattr(self.ema.ema, STATE, state)
        return super().save_model()

    def plot_metrics(self) -> None:
        """Plot Ultralytics' results and the groups."""
        super().plot_metrics()
        file = self.save_dir / "scalewise.png"
        self._log.plot(file)
        self.on_plot(file)


class BalancedDetectionTrainer(BalancedTrainer, DetectionTrainer):  # type: ignore[misc]
    """For boxes."""


class BalancedSegmentationTrainer(BalancedTrainer, SegmentationTrainer):  # type: ignore[misc]
    """For boxes with masks; the terms of the masks are not weighed."""


class BalancedPoseTrainer(BalancedTrainer, PoseTrainer):  # type: ignore[misc]
    """For boxes with keypoints; the terms of the keypoints are not weighed."""


class BalancedOBBTrainer(BalancedTrainer, OBBTrainer):  # type: ignore[misc]
    """For rotated boxes; only the term of the angle is not weighed."""


TRAINERS: dict[str, type[BalancedTrainer]] = {
    "detect": BalancedDetectionTrainer,
    "segment": BalancedSegmentationTrainer,
    "pose": BalancedPoseTrainer,
    "obb": BalancedOBBTrainer,
}


def _make_trainer(
    options: Options,
    cfg: Any = DEFAULT_CFG,
    overrides: dict[str, Any] | None = None,
    _callbacks: Any = None,
) -> BalancedTrainer:
    """Make the trainer for the task in the overrides.

    Raises:
        AttachError: the task has no boxes.
    """
    task = (overrides or {}).get("task") or "detect"
    if task not in TRAINERS:
        raise AttachError(
            f"task {task!r} has no boxes whose losses could be weighed; these tasks have: "
            f"{', '.join(TRAINERS)}"
        )
    return TRAINERS[task](cfg, overrides, _callbacks, options)


def _bare(model: Any) -> Any:
    """The model without the wrappers of `torch.compile` and data parallelism."""
    while inner := getattr(model, "_orig_mod", None) or getattr(model, "module", None):
        model = inner
    return model
