"""Where MMDetection's heads have their losses, and where they assign objects to anchors.

A head is known by the class that defines its `loss_by_feat`, so subclasses count as long as they
inherit it. The length of a list of losses cannot tell: SSD's lists have one entry per image, a
decoder's have one per layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from scalewise.integrations.options import AttachError


@dataclass(frozen=True)
class Term:
    """One loss of a head.

    Attributes:
        modules: names of the head's attributes with the modules that compute it, one at a time.
        positives: whether it has rows for the positive anchors only, not for all.
        rows: number of rows of each anchor.
        targets: number of the assignment that it follows, see `Anchors.targets`.
        doubted: whether the head weighs each row by how well the object is found so far.
    """

    modules: tuple[str, ...]
    positives: bool = False
    rows: int = 1
    targets: int = 0
    doubted: bool = False


@dataclass(frozen=True)
class Anchors:
    """A head whose losses are sums over anchors; each term depends on its anchor's predictions.

    Attributes:
        losses: the losses by name.
        predictions: for each kind that `loss_by_feat` takes, the number of its assignment.
        targets: the head's methods that assign objects to anchors, one for each assignment.
        labels: place of the labels of all anchors, by level, in the result of `targets`.
        boxes: what tells the object's box: the head's sampler, distances that follow the labels in
            the result of `targets`, or nothing.
        by_level: methods that compute one level's losses, which are then lists by level; none where
            losses are scalars.
        by_image: whether `targets` is called once per image and returns a mask, and rows run image
            by image and then by level, not the other way around.
        soft: if the head divides its losses by the sum of soft targets: the place of these targets,
            of all anchors by level, in the result of `targets`. None if it divides the class loss
            by the number of positives.
    """

    losses: Mapping[str, Term]
    predictions: tuple[int, ...]
    targets: tuple[str, ...] = ("get_targets",)
    labels: int = 0
    boxes: Literal["sampler", "distances"] | None = "sampler"
    by_level: tuple[str, ...] = ("loss_by_feat_single",)
    by_image: bool = False
    soft: int | None = None


_ALL = {"loss_cls": Term(("loss_cls",)), "loss_bbox": Term(("loss_bbox",))}
_POSITIVE = {"loss_cls": Term(("loss_cls",)), "loss_bbox": Term(("loss_bbox",), positives=True)}
_DOUBTED = _ALL | {"loss_bbox": Term(("loss_bbox",), positives=True, doubted=True)}
_CENTER = {"loss_centerness": Term(("loss_centerness",), positives=True)}

KNOWN: dict[str, Anchors] = {
    "AnchorHead": Anchors(_ALL, (0, 0)),
    "RPNHead": Anchors(
        {"loss_rpn_cls": Term(("loss_cls",)), "loss_rpn_bbox": Term(("loss_bbox",))}, (0, 0)
    ),
    "ATSSHead": Anchors(_POSITIVE | _CENTER, (0, 0, 0), labels=1),
    "DDODHead": Anchors(
        {
            "loss_cls": Term(("loss_cls",)),
            "loss_bbox": Term(("loss_bbox",), positives=True, targets=1),
            "loss_iou": Term(("loss_iou",), targets=1),
        },
        (0, 1, 1),
        targets=("get_cls_targets", "get_reg_targets"),
        labels=1,
        by_level=("loss_cls_by_feat_single", "loss_reg_by_feat_single"),
    ),
    "GFLHead": Anchors(
        _DOUBTED | {"loss_dfl": Term(("loss_dfl",), positives=True, rows=4, doubted=True)},
        (0, 0),
        labels=1,
    ),
    "RTMDetHead": Anchors(_POSITIVE, (0, 0), labels=1, soft=4),
    "TOODHead": Anchors(
        {**_POSITIVE, "loss_cls": Term(("loss_cls", "initial_loss_cls"))},
        (0, 0),
        labels=1,
        soft=4,
    ),
    "FCOSHead": Anchors(_POSITIVE | _CENTER, (0, 0, 0), boxes="distances", by_level=()),
    "FoveaHead": Anchors(_POSITIVE, (0, 0), boxes=None, by_level=()),
    "VFNetHead": Anchors(
        _DOUBTED | {"loss_bbox_rf": Term(("loss_bbox_refine",), positives=True, doubted=True)},
        (0, 0, 0),
        by_level=(),
    ),
    "YOLOXHead": Anchors(
        {
            "loss_cls": Term(("loss_cls",), positives=True),
            "loss_bbox": Term(("loss_bbox",), positives=True),
            "loss_obj": Term(("loss_obj",)),
            "loss_l1": Term(("loss_l1",), positives=True),
        },
        (0, 0, 0),
        targets=("_get_targets_single",),
        by_level=(),
        by_image=True,
    ),
}

LEVELS_ONLY: dict[str, tuple[str, ...]] = {  # losses that are lists by level
    "FSAFHead": ("loss_cls", "loss_bbox"),
    "GuidedAnchorHead": ("loss_cls", "loss_bbox", "loss_shape", "loss_loc"),
    "RepPointsHead": ("loss_cls", "loss_pts_init", "loss_pts_refine"),
    "SABLRetinaHead": ("loss_cls", "loss_bbox_cls", "loss_bbox_reg"),
    "YOLOV3Head": ("loss_cls", "loss_conf", "loss_xy", "loss_wh"),
}
_NO_POSITIVES = {
    "FSAFHead": "it chooses the positives by their losses",
    "GuidedAnchorHead": "its four losses have three kinds of positives, of guided anchors as well",
    "RepPointsHead": "its loss has a parameter, which would not see the weights",
    "SABLRetinaHead": "its boxes are learned in buckets, whose objects are not read here",
    "YOLOV3Head": "its targets are maps that do not tell the objects",
}
_REFUSED = {
    "AutoAssignHead": "its loss is of bags of locations that run over all levels",
    "CenterNetHead": "it predicts on one level",
    "FreeAnchorRetinaHead": "its loss is of bags of anchors that run over all levels",
    "SSDHead": "its lists are per image, and it mines negatives over all levels",
    "YOLACTHead": "its lists are per image where it mines negatives",
    "YOLOFHead": "it predicts on one level",
}


def find_dense(model: nn.Module) -> tuple[str, Any]:
    """The head on the levels of an MMDetection model.

    Returns:
        The name of its set of groups, "dense", or "rpn" for two stages, and the head.

    Raises:
        AttachError: there is none.
    """
    for name, attribute in (("rpn", "rpn_head"), ("dense", "bbox_head")):
        head = getattr(model, attribute, None)
        if head is not None:
            return name, head
    raise AttachError(
        f"{type(model).__name__} has neither bbox_head nor rpn_head; "
        'name the losses that are lists per level: losses=("loss_cls", ...)'
    )


def list_names(head: Any) -> tuple[str, ...] | None:
    """Losses of a known head that are lists with one entry per level; None where they are scalars.

    Raises:
        AttachError: its loss is not known.
    """
    own = defining(head, "loss_by_feat")
    if _is_mmdet(own) and own.__name__ in LEVELS_ONLY:
        return LEVELS_ONLY[own.__name__]
    place = KNOWN.get(own.__name__) if _is_mmdet(own) else None
    if place is None:
        raise _unknown(head, own)
    return tuple(place.losses) if place.by_level else None


def find_anchors(head: Any) -> Anchors:
    """Where a known head assigns objects to anchors.

    Raises:
        AttachError: its loss is not known, or not as a sum over anchors.
    """
    own = defining(head, "loss_by_feat")
    if _is_mmdet(own) and own.__name__ in KNOWN:
        place = KNOWN[own.__name__]
        for method in place.by_level:
            if method in vars(head) or not _is_mmdet(defining(head, method)):
                raise AttachError(
                    f"{type(head).__name__}: {method} is not MMDetection's own, so it is not known "
                    "which anchors its terms depend on, and nothing was changed; by='level' works"
                )
        return place
    if _is_mmdet(own) and own.__name__ in _NO_POSITIVES:
        raise AttachError(
            f"{type(head).__name__}: {_NO_POSITIVES[own.__name__]}, so its positives cannot be "
            "weighed and nothing was changed; by='level' works"
        )
    raise _unknown(head, own)


def count_levels(head: Any) -> int:
    """Number of levels that the head predicts on."""
    for attribute in ("prior_generator", "square_anchor_generator"):
        generator = getattr(head, attribute, None)
        if generator is not None:
            return int(generator.num_levels)
    raise AttachError(f"{type(head).__name__} has no prior_generator, which tells its levels")


def of_rpn(name: str) -> str:
    """A loss's name as TwoStageDetector renames it."""
    return name if "rpn" in name else f"rpn_{name}"


def defining(head: Any, method: str) -> type:
    """The class that defines a method of the head."""
    return next((c for c in type(head).__mro__ if method in vars(c)), type(head))


def _is_mmdet(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "mmdet"


def _unknown(head: Any, own: type) -> AttachError:
    reason = _REFUSED.get(own.__name__, f"the loss code of {own.__name__} is not known")
    return AttachError(
        f"{type(head).__name__}: {reason}, so nothing was changed. If it returns lists with one "
        'loss per level, name them: losses=("loss_cls", ...); known are '
        f"{', '.join(sorted({*KNOWN, *LEVELS_ONLY}))} and what inherits their loss_by_feat"
    )
