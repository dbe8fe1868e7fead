"""Where MMDetection's heads have the losses of their levels.

A head is known by the class that defines its `loss_by_feat`, so subclasses count as long as they
inherit it. The length of a list says nothing: SSD's lists are per image, a decoder's per layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from scalewise.integrations.attached import AttachError


@dataclass(frozen=True)
class Lists:
    """Losses that come as lists with one entry per level.

    Attributes:
        losses: their names.
    """

    losses: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """Scalar losses, computed by the head's loss modules from rows of all levels.

    Attributes:
        losses: names of the losses, and the head's attribute of the module that computes each.
        targets: the head's method that tells the positive rows, by its first result.
        by_image: rows run image by image and then by level, not the other way around; `targets` is
            then called once per image and returns a mask, else it returns labels.
    """

    losses: Mapping[str, str]
    targets: str
    by_image: bool = False


_BOXES = {"loss_cls": "loss_cls", "loss_bbox": "loss_bbox"}

KNOWN: dict[str, Lists | Rows] = {
    "AnchorHead": Lists(("loss_cls", "loss_bbox")),
    "ATSSHead": Lists(("loss_cls", "loss_bbox", "loss_centerness")),
    "DDODHead": Lists(("loss_cls", "loss_bbox", "loss_iou")),
    "FSAFHead": Lists(("loss_cls", "loss_bbox")),
    "GFLHead": Lists(("loss_cls", "loss_bbox", "loss_dfl")),
    "GuidedAnchorHead": Lists(("loss_cls", "loss_bbox", "loss_shape", "loss_loc")),
    "RepPointsHead": Lists(("loss_cls", "loss_pts_init", "loss_pts_refine")),
    "RPNHead": Lists(("loss_rpn_cls", "loss_rpn_bbox")),
    "RTMDetHead": Lists(("loss_cls", "loss_bbox")),
    "SABLRetinaHead": Lists(("loss_cls", "loss_bbox_cls", "loss_bbox_reg")),
    "TOODHead": Lists(("loss_cls", "loss_bbox")),
    "YOLOV3Head": Lists(("loss_cls", "loss_conf", "loss_xy", "loss_wh")),
    "FCOSHead": Rows({**_BOXES, "loss_centerness": "loss_centerness"}, "get_targets"),
    "FoveaHead": Rows(_BOXES, "get_targets"),
    "VFNetHead": Rows({**_BOXES, "loss_bbox_rf": "loss_bbox_refine"}, "get_targets"),
    "YOLOXHead": Rows(
        {**_BOXES, "loss_obj": "loss_obj", "loss_l1": "loss_l1"},
        "_get_targets_single",
        by_image=True,
    ),
}

_REFUSED = {
    "AutoAssignHead": "its loss is of bags of locations that run over all levels",
    "CenterNetHead": "it predicts on one level",
    "FreeAnchorRetinaHead": "its loss is of bags of anchors that run over all levels",
    "SSDHead": "its lists are per image, and it mines negatives over all levels",
    "YOLACTHead": "its lists are per image where it mines negatives",
    "YOLOFHead": "it predicts on one level",
}


def find_heads(model: nn.Module) -> dict[str, tuple[Any, Lists | Rows]]:
    """The head with level losses of an MMDetection model.

    Args:
        model: the detector.

    Returns:
        The head and where its losses are, by set of levels: "dense", or "rpn" for two stages.

    Raises:
        AttachError: there is none, or its losses by level are not known.
    """
    for name, attribute in (("rpn", "rpn_head"), ("dense", "bbox_head")):
        head = getattr(model, attribute, None)
        if head is not None:
            return {name: (head, _place(head, attribute))}
    raise AttachError(
        f"{type(model).__name__} has neither bbox_head nor rpn_head; "
        'name the losses that are lists per level: losses=("loss_cls", ...)'
    )


def count_levels(head: Any) -> int:
    """Number of levels that the head predicts on."""
    for attribute in ("prior_generator", "square_anchor_generator"):
        generator = getattr(head, attribute, None)
        if generator is not None:
            return int(generator.num_levels)
    raise AttachError(f"{type(head).__name__} has no prior_generator, which tells its levels")


def _place(head: Any, attribute: str) -> Lists | Rows:
    own = next((c for c in type(head).__mro__ if "loss_by_feat" in vars(c)), type(head))
    known = KNOWN.get(own.__name__) if own.__module__.split(".")[0] == "mmdet" else None
    if known is None:
        reason = _REFUSED.get(own.__name__, f"the loss code of {own.__name__} is not known")
        raise AttachError(
            f"{attribute} is a {type(head).__name__}: {reason}, so nothing was changed. If it "
            'returns lists with one loss per level, name them: losses=("loss_cls", ...); '
            f"known are {', '.join(sorted(KNOWN))} and what inherits their loss_by_feat"
        )
    if attribute != "rpn_head":
        return known
    # as TwoStageDetector renames them
    if isinstance(known, Lists):
        return Lists(tuple(_of_rpn(name) for name in known.losses))
    losses = {_of_rpn(name): module for name, module in known.losses.items()}
    return Rows(losses, known.targets, known.by_image)


def _of_rpn(name: str) -> str:
    return name if "rpn" in name else f"rpn_{name}"
