"""Level weights for Ultralytics YOLO, through its own trainer.

from scalewise.integrations.ultralytics import balanced_trainer

YOLO("yolo11n.yaml").train(data="coco8.yaml", trainer=balanced_trainer("rlo"))
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ultralytics.utils import DEFAULT_CFG, LOGGER

from scalewise.default import LEVEL_SCHEME
from scalewise.integrations.attached import AttachError, own_scheme
from scalewise.integrations.ultralytics_log import LevelLog
from scalewise.integrations.ultralytics_loss import LevelCriterion, attach
from scalewise.weighting import LossBalancer, SchemeLike

if TYPE_CHECKING:

    class _Trainer:
        """What is used of Ultralytics' class, which has no types."""

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
    from ultralytics.models.yolo.detect import DetectionTrainer as _Trainer

STATE = "scalewise"  # attribute of the saved model: the balancer's state, a dict of tensors
VARIABLE = "SCALEWISE_ULTRALYTICS"  # the options, on their way to the processes of several GPUs


@dataclass(frozen=True)
class Options:
    """Arguments of `balanced_trainer`."""

    scheme: SchemeLike = LEVEL_SCHEME
    interval: int = 100
    normalize: Literal["mean", "loss"] = "loss"
    seed: int = 0


def balanced_trainer(
    scheme: SchemeLike = LEVEL_SCHEME,
    interval: int = 100,
    normalize: Literal["mean", "loss"] = "loss",
    seed: int = 0,
) -> Callable[..., BalancedTrainer]:
    """What to pass as `trainer=` to `YOLO.train`, to weigh the levels by a scheme.

    Args:
        scheme: as of `LossBalancer`, but without parameters of its own; words such as "rlo" if
            several GPUs are to be used.
        interval: optimizer steps between two updates of the weights.
        normalize: what the weights keep, see `LossBalancer`.
        seed: of the scheme's random numbers.

    Returns:
        `BalancedTrainer` with these options.

    Raises:
        AttachError: an argument is out of range.
    """
    own_scheme(scheme)
    try:
        LossBalancer(1, "equal", interval, normalize)
    except ValueError as error:
        raise AttachError(str(error)) from None
    return partial(BalancedTrainer, options=Options(scheme, interval, normalize, seed))


class BalancedTrainer(_Trainer):
    """Ultralytics' detection trainer with level weights.

    Ultralytics starts one process per GPU, which imports this class by name; the options reach it
    in an environment variable.

    Args:
        cfg: as of Ultralytics' trainer.
        overrides: as of Ultralytics' trainer.
        _callbacks: as of Ultralytics' trainer.
        options: of the level weights; None takes those of the parent process, or the defaults.

    Attributes:
        levels: the model's criterion, once training has started; `levels.balancer` is its balancer.

    Raises:
        AttachError: the task is not detection, or a model is distilled.
    """

    levels: LevelCriterion

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: Any = None,
        options: Options | None = None,
    ) -> None:
        given = overrides or {}
        if given.get("task") not in (None, "detect"):
            raise AttachError(
                f"task {given['task']!r} has losses that belong to no level; level weights are for "
                "task 'detect'"
            )
        if given.get("distill_model"):
            raise AttachError(
                "distill_model adds a loss that has no level weights; train without it, or "
                "without balanced_trainer"
            )
        self.options = options or Options(**json.loads(os.environ.get(VARIABLE, "{}")))
        super().__init__(cfg, overrides, _callbacks)

    def train(self) -> None:
        """Train, here or in one process per GPU."""
        if "," not in str(self.args.device) or "LOCAL_RANK" in os.environ:
            return super().train()
        if not isinstance(self.options.scheme, str):
            raise AttachError(
                "several GPUs are separate processes, which get the scheme as words: pass 'rlo' or "
                f"'avw:strength=0.3' instead of a {type(self.options.scheme).__name__}"
            )
        os.environ[VARIABLE] = json.dumps(asdict(self.options))
        try:
            return super().train()
        finally:
            del os.environ[VARIABLE]

    def resume_training(self, ckpt: Any) -> None:
        """Put the weights in place, the last step before training, and restore their state."""
        super().resume_training(ckpt)
        model = _bare(self.model)
        self.levels = attach(model, **vars(self.options), accumulate=self.accumulate)
        self._in_results = not self.resume or self._restore(ckpt)
        self.levels.hold()
        self.strides = [int(stride) for stride in model.stride.tolist()]
        self._log = LevelLog(self.save_dir / "scalewise.csv", self.strides, self.start_epoch)
        balancer = self.levels.balancer
        LOGGER.info(
            f"scalewise: {balancer.scheme.name} weighs strides {self.strides}, "
            f"every {balancer.interval} optimizer steps"
        )

    def _restore(self, ckpt: Any) -> bool:
        """Whether the run to resume has had level weights, whose state is then restored."""
        saved = getattr(ckpt.get("ema") or ckpt.get("model"), STATE, None)
        if saved is None:
            LOGGER.warning(
                f"scalewise: {self.args.model} was trained without level weights; they start now, "
                "and are logged to scalewise.csv only"
            )
            return False
        try:
            self.levels.balancer.load_state_dict(saved)
        except (ValueError, RuntimeError) as error:
            raise AttachError(f"{self.args.model}: {error}") from None
        return True

    def optimizer_step(self) -> None:
        """Step; weights that changed since the last one apply from here on."""
        super().optimizer_step()
        if _bare(self.model).criterion is not self.levels:
            raise AttachError(
                "model.criterion was replaced after training had started, so the level weights "
                "have no effect; remove the callback that does it, or balanced_trainer"
            )
        self.levels.hold()

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Add the level losses and weights of the epoch to the log and to what loggers see."""
        means = self.levels.means()
        self._log.add(self.epoch + 1, means)
        ours = {
            f"{name}/stride{stride}": round(value, 5)
            for name, key in (("level_loss", "loss"), ("loss_weight", "weight"))
            for stride, value in zip(self.strides, means[key], strict=True)
        }
        self.metrics.update(ours)
        theirs = {key: value for key, value in metrics.items() if key not in ours}
        super().save_metrics({**theirs, **ours} if self._in_results else theirs)

    def save_model(self) -> Any:
        """Save, with the state of the weights as an attribute of the saved model."""
        balancer = self.levels.balancer
        state = {key: value.cpu().clone() for key, value in balancer.state_dict().items()}
        setattr(self.ema.ema, STATE, state)
        return super().save_model()

    def plot_metrics(self) -> None:
        """Plot Ultralytics' results and the levels."""
        super().plot_metrics()
        file = self.save_dir / "scalewise.png"
        self._log.plot(file)
        self.on_plot(file)


def _bare(model: Any) -> Any:
    """The model without the wrappers of `torch.compile` and data parallelism."""
    while inner := getattr(model, "_orig_mod", None) or getattr(model, "module", None):
        model = inner
    return model
