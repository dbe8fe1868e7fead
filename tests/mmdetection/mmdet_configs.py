"""Configs of tiny MMDetection detectors of every supported family."""

from __future__ import annotations

from collections.abc import Callable

from mmdet_one_stage import (
    CHANNELS,
    CLASSES,
    TEST,
    Config,
    atss,
    ddod,
    fcos,
    fovea,
    fsaf,
    gfl,
    guided,
    reppoints,
    retinanet,
    rtmdet,
    sabl,
    tood,
    vfnet,
    yolov3,
    yolox,
)
from mmdet_two_stages import cascade_mask_rcnn, faster_rcnn, mask_rcnn

SIDE = 64  # side of the images in pixels
EDGES = (14.0, 26.0)  # limits between small, medium and large

LISTS: dict[str, Callable[[int], Config]] = {
    "RetinaNet": retinanet,
    "ATSS": atss,
    "GFL": gfl,
    "RTMDet": rtmdet,
    "TOOD": tood,
    "DDOD": ddod,
    "FSAF": fsaf,
    "RepPoints": reppoints,
    "YOLOv3": yolov3,
    "SABL": sabl,
    "GA-RetinaNet": guided,
    "Faster R-CNN": faster_rcnn,
    "Mask R-CNN": mask_rcnn,
    "Cascade Mask R-CNN": cascade_mask_rcnn,
}
SCALARS: dict[str, Callable[[int], Config]] = {
    "FCOS": fcos,
    "VFNet": vfnet,
    "FoveaBox": fovea,
    "YOLOX": yolox,
}
FAMILIES = {**LISTS, **SCALARS}


def config(family: str, levels: int = 3) -> Config:
    """The config of a detector with that many levels."""
    body = {"type": "TinyPyramid", "levels": levels}
    found: Config = {"backbone": body, "neck": None, "test_cfg": TEST}
    found |= FAMILIES[family](levels)
    if "bbox_head" in found:
        common = {"num_classes": CLASSES, "in_channels": CHANNELS, "feat_channels": CHANNELS}
        common["stacked_convs"] = 1
        if family == "YOLOv3":
            common = {"num_classes": CLASSES}
        found["bbox_head"] = {**common, **found["bbox_head"]}
    return found
