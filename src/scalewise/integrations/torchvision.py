"""Level weights for torchvision's detectors, in one line.

    balancer = scalewise.attach(model, scheme="rlo")

The model keeps its signature and the keys of its loss dict; each entry becomes its weighted sum
over the levels. Nothing is subclassed or patched outside of the model's own objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import (
    RetinaNetClassificationHead,
    RetinaNetHead,
    RetinaNetRegressionHead,
)
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

from scalewise.default import LEVEL_SCHEME
from scalewise.integrations.attached import (
    NAME,
    AttachedBalancer,
    AttachError,
    drop_state,
    own_scheme,
)
from scalewise.integrations.dense import Step, fcos_losses, retinanet_losses, ssd_losses
from scalewise.integrations.loops import give_back_to_broadcast, keep_from_broadcast
from scalewise.integrations.rcnn import box_losses, mask_losses, rpn_losses
from scalewise.weighting import LossBalancer, SchemeLike


def attach(
    model: nn.Module,
    scheme: SchemeLike = LEVEL_SCHEME,
    interval: int = 100,
    normalize: Literal["mean", "loss"] = "loss",
    accumulate: int = 1,
    seed: int = 0,
) -> AttachedBalancer:
    """Weigh the level losses of a torchvision detector from now on.

    RetinaNet, FCOS, SSD and SSDlite have one set of levels, "dense". Faster and Mask R-CNN have
    two: "rpn", by anchor level, and "roi", by the level that each region is pooled from.

    Args:
        model: the detector; not wrapped in data parallelism yet.
        scheme: as of `LossBalancer`; two sets of levels get a copy each.
        interval: optimizer steps between two updates of the weights.
        normalize: what the weights keep, see `LossBalancer`.
        accumulate: forward passes per optimizer step.
        seed: of the schemes' random numbers.

    Returns:
        The balancer, which is also `model.scalewise`: saved, moved and copied with the model.

    Raises:
        AttachError: the model is none of these, its loss is not torchvision's own, it has been
            attached before, or the scheme trains parameters.
    """
    wiring = _wiring(model)
    try:
        balancers = {
            name: LossBalancer(
                count, own_scheme(scheme), interval, normalize, accumulate, seed=seed + place
            )
            for place, (name, count) in enumerate(wiring.levels.items())
        }
    except ValueError as error:
        raise AttachError(str(error)) from None
    attached = AttachedBalancer(balancers).to(next(model.parameters()).device)
    attached.train(model.training)
    model.add_module(NAME, attached)
    wiring.connect(attached)
    attached.wiring = wiring
    keep_from_broadcast(model)
    return attached


def detach(model: nn.Module) -> None:
    """Undo `attach`; from then on the model also loads checkpoints saved with level weights.

    On a model that was never attached only the latter.
    """
    attached = getattr(model, NAME, None)
    if isinstance(attached, AttachedBalancer):
        attached.wiring.disconnect()
        del model._modules[NAME]
        give_back_to_broadcast(model, NAME)
    if not any(hook is drop_state for hook in _load_hooks(model)):
        cast(Any, model).register_load_state_dict_pre_hook(drop_state)


def _load_hooks(model: nn.Module) -> list[Any]:
    return [getattr(hook, "hook", hook) for hook in model._load_state_dict_pre_hooks.values()]


class Wiring(ABC):
    """Hooks and replaced methods of one model, all bound to this object so that copies work.

    Args:
        model: the detector.
        levels: number of levels of each set.
    """

    def __init__(self, model: Any, levels: dict[str, int]) -> None:
        self.model = model
        self.levels = levels
        self._handles: list[RemovableHandle] = []
        self._replaced: list[tuple[Any, str]] = []

    def connect(self, attached: AttachedBalancer) -> None:
        """Put the hooks in place."""
        self.attached = attached
        self._connect()

    @abstractmethod
    def _connect(self) -> None:
        """Set the hooks and replace the methods of this kind of model."""

    def _replace(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        setattr(owner, name, method)  # on the instance: deleting it brings the class's back
        self._replaced.append((owner, name))

    def disconnect(self) -> None:
        """Take everything back."""
        for handle in self._handles:
            handle.remove()
        for owner, name in self._replaced:
            delattr(owner, name)
        self._handles, self._replaced = [], []


class DenseWiring(Wiring):
    """RetinaNet, FCOS, SSD."""

    def __init__(self, model: Any, owner: Any, losses: Callable[..., dict[str, Tensor]]) -> None:
        self.anchors: list[int] = model.anchor_generator.num_anchors_per_location()
        super().__init__(model, {"dense": len(self.anchors)})
        self.owner = owner
        self.losses = losses
        self.counts: list[int] = []

    def _connect(self) -> None:
        self._handles.append(self.model.head.register_forward_pre_hook(self._note_levels))
        self._replace(self.owner, "compute_loss", self._compute_loss)

    def _note_levels(self, head: nn.Module, inputs: tuple[list[Tensor], ...]) -> None:
        features = inputs[0]
        self.counts = [
            a * f.shape[-2] * f.shape[-1] for a, f in zip(self.anchors, features, strict=True)
        ]

    def _compute_loss(
        self, targets: Any, outputs: Any, anchors: Any, matched: Any
    ) -> dict[str, Tensor]:
        step = Step(self.counts, targets, outputs, anchors, matched)
        return self.attached.weigh("dense", self.losses(self.owner, step))


class RCNNWiring(Wiring):
    """Faster and Mask R-CNN."""

    def __init__(self, model: Any) -> None:
        heads = model.roi_heads
        super().__init__(
            model,
            {
                "rpn": len(model.rpn.anchor_generator.num_anchors_per_location()),
                "roi": len(heads.box_roi_pool.featmap_names),
            },
        )
        self.counts: list[int] = []
        self.seen: dict[str, Any] = {}

    def _connect(self) -> None:
        heads = self.model.roi_heads
        self._replace(self.model.rpn, "compute_loss", self._rpn_loss)
        self._replace(heads, "select_training_samples", self._select)
        self._handles += [
            self.model.rpn.head.register_forward_hook(self._note_levels),
            heads.box_predictor.register_forward_hook(self._note_boxes),
            heads.register_forward_pre_hook(self._note_targets, with_kwargs=True),
            heads.register_forward_hook(self._weigh),
        ]
        if heads.has_mask():
            self._handles.append(heads.mask_predictor.register_forward_hook(self._note_masks))

    def _note_levels(self, head: nn.Module, inputs: Any, output: Any) -> None:
        self.counts = [level[0].numel() for level in output[0]]  # objectness [B, A, H, W] a level

    def _rpn_loss(
        self, objectness: Tensor, deltas: Tensor, labels: Any, wanted: Any
    ) -> tuple[Tensor, Tensor]:
        losses = rpn_losses(self.model.rpn, self.counts, objectness, deltas, labels, wanted)
        weighed = self.attached.weigh("rpn", losses)
        return weighed["loss_objectness"], weighed["loss_rpn_box_reg"]

    def _select(self, proposals: Any, targets: Any) -> Any:
        heads = self.model.roi_heads
        self.seen["sample"] = RoIHeads.select_training_samples(heads, proposals, targets)
        return self.seen["sample"]

    def _note_boxes(self, predictor: nn.Module, inputs: Any, output: Any) -> None:
        self.seen["boxes"] = output

    def _note_masks(self, predictor: nn.Module, inputs: Any, output: Any) -> None:
        self.seen["masks"] = output

    def _note_targets(self, heads: nn.Module, inputs: Any, named: Any) -> None:
        self.seen["targets"] = named.get("targets", inputs[3] if len(inputs) > 3 else None)

    def _weigh(self, heads: Any, inputs: Any, output: Any) -> Any:
        if not heads.training:
            self.seen = {}
            return None
        found, losses = output
        regions, matched, labels, wanted = self.seen["sample"]
        logits, deltas = self.seen["boxes"]
        count = self.levels["roi"]
        level = heads.box_roi_pool.map_levels(regions)
        own = box_losses(logits, deltas, torch.cat(labels), torch.cat(wanted), level, count)
        if heads.has_mask():
            positive = [torch.where(label > 0)[0] for label in labels]
            boxes = [region[at] for region, at in zip(regions, positive, strict=True)]
            objects = [match[at] for match, at in zip(matched, positive, strict=True)]
            targets = self.seen["targets"]
            own |= mask_losses(
                self.seen["masks"],
                boxes,
                [t["masks"] for t in targets],
                [t["labels"] for t in targets],
                objects,
                heads.mask_roi_pool.map_levels(boxes),
                count,
            )
        self.seen = {}
        return found, losses | self.attached.weigh("roi", own)


def _wiring(model: nn.Module) -> Wiring:
    """What fits the model.

    Raises:
        AttachError: nothing does.
    """
    if getattr(model, NAME, None) is not None:
        raise AttachError("this model has level weights already; detach it first")
    if isinstance(model, RetinaNet):
        head = model.head
        _require(head, RetinaNetHead, "compute_loss")
        _require(head.classification_head, RetinaNetClassificationHead, "compute_loss")
        _require(head.regression_head, RetinaNetRegressionHead, "compute_loss")
        _require(model, RetinaNet, "compute_loss", "forward")
        return DenseWiring(model, head, retinanet_losses)
    if isinstance(model, FCOS):
        _require(model.head, FCOSHead, "compute_loss")
        _require(model, FCOS, "compute_loss", "forward")
        return DenseWiring(model, model.head, fcos_losses)
    if isinstance(model, SSD):
        _require(model, SSD, "compute_loss", "forward")
        return DenseWiring(model, model, ssd_losses)
    if isinstance(model, FasterRCNN):
        return _rcnn(model)
    raise AttachError(
        f"{type(model).__name__} is none of torchvision's RetinaNet, FCOS, SSD, SSDlite, Faster "
        "R-CNN and Mask R-CNN; call a LossBalancer in its loss, with split_levels or "
        "scale_gradients where the loss is flat"
    )


def _rcnn(model: Any) -> Wiring:
    heads = model.roi_heads
    _require(model, MaskRCNN if isinstance(model, MaskRCNN) else FasterRCNN, "forward")
    _require(model.rpn, RegionProposalNetwork, "compute_loss", "forward")
    _require(heads, RoIHeads, "select_training_samples", "forward")
    if heads.has_keypoint():
        raise AttachError("Keypoint R-CNN's keypoint loss has no levels here; it is not supported")
    for name in ("box_roi_pool", "mask_roi_pool"):
        pool = getattr(heads, name, None)
        if pool is not None and not isinstance(pool, MultiScaleRoIAlign):
            raise AttachError(
                f"{name} is a {type(pool).__name__}, not MultiScaleRoIAlign: the level of a region "
                "is not known"
            )
    return RCNNWiring(model)


def _require(owner: Any, kind: type, *methods: str) -> None:
    """Refuse an object whose methods are not torchvision's own."""
    if not isinstance(owner, kind):
        raise AttachError(f"{type(owner).__name__} is no {kind.__name__}: its loss is not known")
    for name in methods:
        if name in vars(owner) or getattr(type(owner), name) is not getattr(kind, name):
            raise AttachError(
                f"{type(owner).__name__}.{name} is not torchvision's {kind.__name__}.{name}: its "
                "levels cannot be told apart; call a LossBalancer in that method instead"
            )
