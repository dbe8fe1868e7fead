"""Configs of tiny one-stage MMDetection detectors of every supported family."""

from __future__ import annotations

import itertools
from typing import Any

CHANNELS, CLASSES = 16, 3
Config = dict[str, Any]

FOCAL: Config = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25}
QUALITY: Config = {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0}
SIGMOID: Config = {"type": "CrossEntropyLoss", "use_sigmoid": True}
ENTROPY: Config = {**SIGMOID, "reduction": "sum"}
GIOU: Config = {"type": "GIoULoss", "loss_weight": 2.0}
NORM: Config = {"type": "GN", "num_groups": 4}
DELTAS: Config = {
    "type": "DeltaXYWHBBoxCoder",
    "target_means": [0.0] * 4,
    "target_stds": [0.1, 0.1, 0.2, 0.2],
}
IOU_ASSIGNER: Config = {
    "type": "MaxIoUAssigner",
    "pos_iou_thr": 0.5,
    "neg_iou_thr": 0.4,
    "min_pos_iou": 0.0,
    "ignore_iof_thr": -1,
}
NO_BORDER: Config = {"allowed_border": -1, "pos_weight": -1, "debug": False}
ATSS_TRAIN: Config = {"assigner": {"type": "ATSSAssigner", "topk": 9}, **NO_BORDER}
TEST: Config = {
    "nms_pre": 100,
    "min_bbox_size": 0,
    "score_thr": 0.05,
    "nms": {"type": "nms", "iou_threshold": 0.6},
    "max_per_img": 20,
}


def strides(levels: int) -> list[int]:
    return [8 * 2**level for level in range(levels)]


def anchors(levels: int, scale: int = 2, per_octave: int = 1, ratios: int = 1) -> Config:
    return {
        "type": "AnchorGenerator",
        "octave_base_scale": scale,
        "scales_per_octave": per_octave,
        "ratios": [1.0] if ratios == 1 else [0.5, 1.0, 2.0],
        "strides": strides(levels),
    }


def squares(levels: int) -> Config:
    return {"type": "AnchorGenerator", "ratios": [1.0], "scales": [2], "strides": strides(levels)}


def retinanet(levels: int) -> Config:
    head: Config = {"type": "RetinaHead", "anchor_generator": anchors(levels, 2, 2, 3)}
    head |= {"bbox_coder": DELTAS, "loss_cls": FOCAL, "loss_bbox": {"type": "L1Loss"}}
    return {
        "type": "RetinaNet",
        "bbox_head": head,
        "train_cfg": {"assigner": IOU_ASSIGNER, **NO_BORDER},
    }


def atss(levels: int) -> Config:
    head: Config = {"type": "ATSSHead", "anchor_generator": anchors(levels), "bbox_coder": DELTAS}
    head |= {"loss_cls": FOCAL, "loss_bbox": GIOU, "loss_centerness": SIGMOID, "norm_cfg": NORM}
    return {"type": "ATSS", "bbox_head": head, "train_cfg": ATSS_TRAIN}


def gfl(levels: int) -> Config:
    head: Config = {"type": "GFLHead", "anchor_generator": anchors(levels), "loss_cls": QUALITY}
    head |= {"loss_bbox": GIOU, "norm_cfg": NORM, "reg_max": 8}
    head["loss_dfl"] = {"type": "DistributionFocalLoss", "loss_weight": 0.25}
    return {"type": "GFL", "bbox_head": head, "train_cfg": ATSS_TRAIN}


def rtmdet(levels: int) -> Config:
    points: Config = {"type": "MlvlPointGenerator", "offset": 0, "strides": strides(levels)}
    head: Config = {"type": "RTMDetSepBNHead", "anchor_generator": points, "norm_cfg": NORM}
    head |= {"bbox_coder": {"type": "DistancePointBBoxCoder"}, "loss_cls": QUALITY}
    head |= {"loss_bbox": GIOU, "with_objectness": False, "exp_on_reg": True, "share_conv": True}
    assigner: Config = {"type": "DynamicSoftLabelAssigner", "topk": 13}
    return {
        "type": "RTMDet",
        "bbox_head": head,
        "train_cfg": {"assigner": assigner, **NO_BORDER},
    }


def tood(levels: int) -> Config:
    head: Config = {
        "type": "TOODHead",
        "anchor_type": "anchor_free",
        "anchor_generator": anchors(levels),
    }
    head |= {"bbox_coder": DELTAS, "loss_bbox": GIOU, "norm_cfg": NORM}
    head["initial_loss_cls"] = {**FOCAL, "activated": True}
    head["loss_cls"] = {**QUALITY, "activated": True}
    train: Config = {
        "initial_epoch": 0,
        "initial_assigner": {"type": "ATSSAssigner", "topk": 9},
        "assigner": {"type": "TaskAlignedAssigner", "topk": 13},
        "alpha": 1,
        "beta": 6,
        **NO_BORDER,
    }
    return {"type": "TOOD", "bbox_head": head, "train_cfg": train}


def ddod(levels: int) -> Config:
    head: Config = {"type": "DDODHead", "anchor_generator": anchors(levels), "bbox_coder": DELTAS}
    head |= {"loss_cls": FOCAL, "loss_bbox": GIOU, "loss_iou": SIGMOID, "norm_cfg": NORM}
    train: Config = {
        "assigner": {"type": "ATSSAssigner", "topk": 9, "alpha": 0.8},
        "reg_assigner": {"type": "ATSSAssigner", "topk": 9, "alpha": 0.5},
        **NO_BORDER,
    }
    return {"type": "DDOD", "bbox_head": head, "train_cfg": train}


def fsaf(levels: int) -> Config:
    head: Config = {
        "type": "FSAFHead",
        "reg_decoded_bbox": True,
        "anchor_generator": anchors(levels, 1),
    }
    head["bbox_coder"] = {"type": "TBLRBBoxCoder", "normalizer": 4.0}
    head["loss_cls"] = {**FOCAL, "reduction": "none"}
    head["loss_bbox"] = {"type": "IoULoss", "eps": 1e-6, "reduction": "none"}
    assigner: Config = {"type": "CenterRegionAssigner", "pos_scale": 0.2, "neg_scale": 0.2}
    assigner["min_pos_iof"] = 0.01
    return {"type": "FSAF", "bbox_head": head, "train_cfg": {"assigner": assigner, **NO_BORDER}}


def reppoints(levels: int) -> Config:
    head: Config = {"type": "RepPointsHead", "point_feat_channels": CHANNELS, "point_base_scale": 2}
    head |= {"point_strides": strides(levels), "transform_method": "moment", "loss_cls": FOCAL}
    smooth: Config = {"type": "SmoothL1Loss", "beta": 0.11}
    head |= {"loss_bbox_init": {**smooth, "loss_weight": 0.5}, "loss_bbox_refine": smooth}
    head |= {"num_points": 9, "norm_cfg": NORM}
    points: Config = {"type": "PointAssigner", "scale": 2, "pos_num": 1}
    train: Config = {
        "init": {"assigner": points, **NO_BORDER},
        "refine": {"assigner": IOU_ASSIGNER, **NO_BORDER},
    }
    return {"type": "RepPointsDetector", "bbox_head": head, "train_cfg": train}


def yolov3(levels: int) -> Config:
    sizes = [[(8 * 2**i, 8 * 2**i), (12 * 2**i, 6 * 2**i)] for i in range(levels)]
    head: Config = {"type": "YOLOV3Head", "featmap_strides": strides(levels)}
    head |= {"in_channels": [CHANNELS] * levels, "out_channels": [CHANNELS] * levels}
    head["anchor_generator"] = {
        "type": "YOLOAnchorGenerator",
        "base_sizes": sizes,
        "strides": strides(levels),
    }
    head |= {"bbox_coder": {"type": "YOLOBBoxCoder"}, "norm_cfg": NORM}
    head |= {f"loss_{kind}": ENTROPY for kind in ("cls", "conf", "xy")}
    head["loss_wh"] = {"type": "MSELoss", "reduction": "sum"}
    assigner: Config = {
        "type": "GridAssigner",
        "pos_iou_thr": 0.5,
        "neg_iou_thr": 0.5,
        "min_pos_iou": 0,
    }
    return {"type": "YOLOV3", "bbox_head": head, "train_cfg": {"assigner": assigner}}


def sabl(levels: int) -> Config:
    head: Config = {"type": "SABLRetinaHead", "approx_anchor_generator": anchors(levels, 2, 3, 3)}
    head["square_anchor_generator"] = squares(levels)
    head["bbox_coder"] = {"type": "BucketingBBoxCoder", "num_buckets": 14, "scale_factor": 3.0}
    head |= {"loss_cls": FOCAL, "loss_bbox_cls": SIGMOID}
    head["loss_bbox_reg"] = {"type": "SmoothL1Loss", "beta": 1 / 9}
    assigner: Config = {**IOU_ASSIGNER, "type": "ApproxMaxIoUAssigner"}
    return {
        "type": "RetinaNet",
        "bbox_head": head,
        "train_cfg": {"assigner": assigner, **NO_BORDER},
    }


def guided(levels: int) -> Config:
    head: Config = {"type": "GARetinaHead", "approx_anchor_generator": anchors(levels, 2, 3, 3)}
    head |= {"square_anchor_generator": squares(levels), "anchor_coder": DELTAS}
    head |= {"bbox_coder": DELTAS, "loss_loc": FOCAL, "loss_cls": FOCAL, "deform_groups": 1}
    head["loss_shape"] = {"type": "BoundedIoULoss", "beta": 0.2}
    head["loss_bbox"] = {"type": "SmoothL1Loss", "beta": 0.04}
    train: Config = {
        "ga_assigner": {**IOU_ASSIGNER, "type": "ApproxMaxIoUAssigner", "min_pos_iou": 0.4},
        "ga_sampler": sampler(64),
        "assigner": IOU_ASSIGNER,
        "center_ratio": 0.2,
        "ignore_ratio": 0.5,
        **NO_BORDER,
    }
    return {"type": "RetinaNet", "bbox_head": head, "train_cfg": train}


def fcos(levels: int) -> Config:
    edges = [-1, *(16 * 2**level for level in range(levels - 1)), 1e8]
    head: Config = {"type": "FCOSHead", "strides": strides(levels), "norm_cfg": NORM}
    head |= {"regress_ranges": tuple(itertools.pairwise(edges)), "loss_cls": FOCAL}
    head |= {"loss_bbox": {"type": "IoULoss"}, "loss_centerness": SIGMOID}
    return {"type": "FCOS", "bbox_head": head}


def vfnet(levels: int) -> Config:
    edges = [-1, *(16 * 2**level for level in range(levels - 1)), 1e8]
    head: Config = {"type": "VFNetHead", "strides": strides(levels), "norm_cfg": NORM}
    head |= {"regress_ranges": tuple(itertools.pairwise(edges)), "loss_bbox": GIOU}
    head["loss_cls"] = {"type": "VarifocalLoss", "use_sigmoid": True, "iou_weighted": True}
    head["loss_bbox_refine"] = GIOU
    head["anchor_generator"] = {**anchors(levels), "center_offset": 0.0}
    return {"type": "VFNet", "bbox_head": head, "train_cfg": ATSS_TRAIN}


def fovea(levels: int) -> Config:
    head: Config = {
        "type": "FoveaHead",
        "strides": strides(levels),
        "sigma": 0.4,
        "loss_cls": FOCAL,
    }
    head["base_edge_list"] = [8 * 2**level for level in range(levels)]
    head["scale_ranges"] = [(4 * 2**level, 32 * 2**level) for level in range(levels)]
    head |= {"loss_bbox": {"type": "SmoothL1Loss", "beta": 0.11}, "norm_cfg": NORM}
    return {"type": "FOVEA", "bbox_head": head, "train_cfg": {}}


def yolox(levels: int) -> Config:
    head: Config = {"type": "YOLOXHead", "strides": strides(levels), "norm_cfg": NORM}
    head |= {"loss_cls": ENTROPY, "loss_obj": ENTROPY}
    head["loss_bbox"] = {"type": "IoULoss", "mode": "square", "eps": 1e-16, "reduction": "sum"}
    head["loss_l1"] = {"type": "L1Loss", "reduction": "sum"}
    assigner: Config = {"type": "SimOTAAssigner", "center_radius": 2.5}
    return {"type": "YOLOX", "bbox_head": head, "train_cfg": {"assigner": assigner}}


def sampler(count: int) -> Config:
    return {
        "type": "RandomSampler",
        "num": count,
        "pos_fraction": 0.5,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": False,
    }
