"""Weights for torchvision's detectors; `scalewise.attach` calls `attach_torchvision`.

The model keeps its signature and the keys of its loss dict; each entry becomes its weighted sum
over the groups. Nothing is subclassed or patched outside of the model's own objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
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

from scalewise.integrations.attached import NAME, AttachedBalancer
from scalewise.integrations.dense import Step, fcos_terms, retinanet_terms, ssd_terms
from scalewise.integrations.loops import keep_from_broadcast
from scalewise.integrations.options import AttachError, Options
from scalewise.integrations.torchvision_wiring import DenseWiring, Groups, RCNNWiring, Wiring

Terms = Callable[[Any, Step], dict[str, Tensor]]


def attach_torchvision(model: nn.Module, options: Options) -> AttachedBalancer:
    """Weigh the losses of a torchvision detector by group from now on.

    RetinaNet, FCOS, SSD and SSDlite have one set of groups, "dense". Faster and Mask R-CNN have
    two: "rpn", whose levels are those of the anchors, and "roi", whose levels are those that the
    regions are pooled from. By class and by size*class there is only "roi", and the RPN's loss
    stays as it is. Sizes are in pixels of the images that the model is given, before it resizes
    them.

    Args:
        model: the detector, before it is wrapped for data parallelism.
        options: what is weighed and how; if there are two sets, each gets a copy of the scheme.
            `classes` holds the names of labels 1, 2, ...; a name for label 0 may come first.

    Returns:
        The balancer, which is also `model.scalewise`: saved, moved and copied with the model.

    Raises:
        AttachError: the model is not one of these, its loss is not torchvision's own, it has
            weights already, or an option does not fit it. The model is left as it was.

    Examples:
        >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
        >>> model = ssdlite320_mobilenet_v3_large(
        ...     weights=None, weights_backbone=None, num_classes=3
        ... )
        >>> attach_torchvision(model, Options("class", classes=["cat", "dog"]))["dense"].names
        ('cat', 'dog')
    """
    if getattr(model, NAME, None) is not None:
        raise AttachError("this model has weights already; detach it first")
    wiring = _wiring(model, options)
    balancers = {
        name: options.make_balancer(wiring.groups.of_set(levels), place)
        for place, (name, levels) in enumerate(wiring.levels.items())
    }
    attached = AttachedBalancer(balancers).to(next(model.parameters()).device)
    attached.train(model.training)
    model.add_module(NAME, attached)
    wiring.connect(attached)
    keep_from_broadcast(model)
    return attached


def _wiring(model: Any, options: Options) -> Wiring:
    """The wiring that fits the model.

    Raises:
        AttachError: there is none.
    """
    if isinstance(model, RetinaNet):
        head = model.head
        _require(head, RetinaNetHead, "compute_loss")
        _require(head.classification_head, RetinaNetClassificationHead, "compute_loss")
        _require(head.regression_head, RetinaNetRegressionHead, "compute_loss")
        _require(model, RetinaNet, "compute_loss", "forward")
        return _dense(model, options, head, retinanet_terms)
    if isinstance(model, FCOS):
        _require(model.head, FCOSHead, "compute_loss")
        _require(model, FCOS, "compute_loss", "forward")
        return _dense(model, options, model.head, fcos_terms)
    if isinstance(model, SSD):
        _require(model, SSD, "compute_loss", "forward")
        return _dense(model, options, model, ssd_terms)
    if isinstance(model, FasterRCNN):
        return _rcnn(model, options)
    raise AttachError(
        f"{type(model).__name__} is not torchvision's RetinaNet, FCOS, SSD, SSDlite, Faster R-CNN "
        "or Mask R-CNN; call sw.weigh_positives in its loss instead"
    )


def _dense(model: Any, options: Options, owner: Any, terms: Terms) -> Wiring:
    head = model.head.classification_head
    labels = head.num_columns if isinstance(model, SSD) else head.num_classes
    groups = _groups(options, labels, background=isinstance(model, SSD))
    return DenseWiring(model, groups, owner, terms)


def _rcnn(model: Any, options: Options) -> Wiring:
    heads = model.roi_heads
    _require(model, MaskRCNN if isinstance(model, MaskRCNN) else FasterRCNN, "forward")
    _require(
        model.rpn, RegionProposalNetwork, "assign_targets_to_anchors", "compute_loss", "forward"
    )
    _require(heads, RoIHeads, "select_training_samples", "forward")
    if heads.has_keypoint():
        raise AttachError("Keypoint R-CNN is not supported: its keypoint loss cannot be grouped")
    for name in ("box_roi_pool", "mask_roi_pool"):
        pool = getattr(heads, name, None)
        if pool is not None and not isinstance(pool, MultiScaleRoIAlign):
            raise AttachError(
                f"{name} is a {type(pool).__name__}, not MultiScaleRoIAlign: the level of a region "
                "is not known"
            )
    scores = getattr(heads.box_predictor, "cls_score", None)
    return RCNNWiring(model, _groups(options, getattr(scores, "out_features", None), True))


def _groups(options: Options, labels: int | None, background: bool) -> Groups:
    """The groups of a model with that many labels, counted from 0.

    Args:
        options: as given.
        labels: number of labels; None if the model does not tell it.
        background: whether label 0 is the background. RetinaNet and FCOS leave that to the user.

    Raises:
        AttachError: `classes` has a wrong number of names, or is empty where the model does not
            tell the number of labels.
    """
    if "class" not in options.kind:
        return Groups(options)
    names = list(options.classes)
    if labels is None:
        if not names:
            raise AttachError(
                "the number of classes of this model's box_predictor is not known; name them in "
                "the order of labels 1, 2, ...: classes=[...]"
            )
        labels = len(names) + 1
    if not names:
        names = [f"class{label}" for label in range(labels)]
    if len(names) not in (labels, labels - 1):
        raise AttachError(
            f"classes= names {len(names)} classes, the model has {labels} labels, the background's "
            f"label 0 among them: name {labels - 1} classes"
        )
    first = labels - len(names)
    if background and not first:
        first, names = 1, names[1:]
    # a name used more than once, as "N/A" in torchvision's own lists, gets numbers
    names = [n if names.count(n) == 1 else f"{n} {i + first}" for i, n in enumerate(names)]
    return Groups(replace(options, classes=names), first)


def _require(owner: Any, kind: type, *methods: str) -> None:
    """Refuse an object whose methods are not torchvision's own."""
    if not isinstance(owner, kind):
        raise AttachError(f"{type(owner).__name__} is not a {kind.__name__}: its loss is not known")
    for name in methods:
        if name in vars(owner) or getattr(type(owner), name) is not getattr(kind, name):
            raise AttachError(
                f"{type(owner).__name__}.{name} is not torchvision's {kind.__name__}.{name}: its "
                "terms cannot be told apart; call sw.weigh_positives or a LossBalancer in that "
                "method instead"
            )
