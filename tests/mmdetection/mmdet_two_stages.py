"""Configs of tiny two-stage MMDetection detectors."""

from __future__ import annotations

from mmdet_one_stage import (
    CHANNELS,
    CLASSES,
    DELTAS,
    IOU_ASSIGNER,
    NO_BORDER,
    SIGMOID,
    TEST,
    Config,
    anchors,
    sampler,
    strides,
)


def faster_rcnn(levels: int) -> Config:
    rpn: Config = {"type": "RPNHead", "in_channels": CHANNELS, "feat_channels": CHANNELS}
    rpn |= {"anchor_generator": anchors(levels, 2, 1, 3), "bbox_coder": DELTAS}
    rpn |= {"loss_cls": SIGMOID, "loss_bbox": {"type": "L1Loss"}}
    box_head: Config = {"type": "Shared2FCBBoxHead", "in_channels": CHANNELS, "fc_out_channels": 16}
    box_head |= {"roi_feat_size": 3, "num_classes": CLASSES, "bbox_coder": DELTAS}
    box_head |= {"loss_cls": {"type": "CrossEntropyLoss"}, "loss_bbox": {"type": "L1Loss"}}
    pool: Config = {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": 3, "sampling_ratio": 2},
        "out_channels": CHANNELS,
        "featmap_strides": strides(levels),
    }
    proposals: Config = {"nms_pre": 60, "max_per_img": 30, "min_bbox_size": 0}
    proposals["nms"] = {"type": "nms", "iou_threshold": 0.7}
    return {
        "type": "FasterRCNN",
        "rpn_head": rpn,
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": pool,
            "bbox_head": box_head,
        },
        "train_cfg": {
            "rpn": {"assigner": IOU_ASSIGNER, "sampler": sampler(64), **NO_BORDER},
            "rpn_proposal": proposals,
            "rcnn": {
                "assigner": IOU_ASSIGNER,
                "sampler": {**sampler(32), "add_gt_as_proposals": True},
                "pos_weight": -1,
                "debug": False,
            },
        },
        "test_cfg": {"rpn": proposals, "rcnn": {**TEST}},
    }


def cascade_mask_rcnn(levels: int) -> Config:
    """Two stages, the second with half the weight; boxes and masks do not depend on the class."""
    found = mask_rcnn(levels)
    roi, train = found["roi_head"], found["train_cfg"]
    found["roi_head"] = {
        **roi,
        "type": "CascadeRoIHead",
        "num_stages": 2,
        "stage_loss_weights": [1, 0.5],
        "bbox_head": [{**roi["bbox_head"], "reg_class_agnostic": True}] * 2,
        "mask_head": [{**roi["mask_head"], "class_agnostic": True}] * 2,
    }
    train["rcnn"] = [train["rcnn"]] * 2
    return {**found, "type": "CascadeRCNN"}


def mask_rcnn(levels: int) -> Config:
    found = faster_rcnn(levels)
    _add_masks(found["roi_head"])
    found["train_cfg"]["rcnn"]["mask_size"] = 6
    return {**found, "type": "MaskRCNN"}


def _add_masks(roi_head: Config) -> None:
    head: Config = {"type": "FCNMaskHead", "num_convs": 1, "in_channels": CHANNELS}
    head |= {"conv_out_channels": CHANNELS, "num_classes": CLASSES}
    roi_head |= {"mask_head": head, "mask_roi_extractor": roi_head["bbox_roi_extractor"]}
