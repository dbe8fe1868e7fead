"""Train a small ATSS of MMDetection, from scratch, on a VOC folder, with weights for its classes.

python examples/mmdet_bccd.py --data BCCD_Dataset/BCCD --out runs/mmdet --epochs 12
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner

from scalewise.integrations.mmengine import ScalewiseHook

CLASSES = ("RBC", "WBC", "Platelets")
STRIDES = [8, 16, 32, 64, 128]


def model() -> dict[str, Any]:
    """ATSS on a ResNet-18 with a quarter of the usual width."""
    return {
        "type": "ATSS",
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
            "bgr_to_rgb": True,
            "pad_size_divisor": 32,
        },
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 16, "stem_channels": 16},
        "neck": {
            "type": "FPN",
            "in_channels": [16, 32, 64, 128],
            "out_channels": 64,
            "start_level": 1,
            "add_extra_convs": "on_output",
            "num_outs": len(STRIDES),
        },
        "bbox_head": {
            "type": "ATSSHead",
            "num_classes": len(CLASSES),
            "in_channels": 64,
            "feat_channels": 64,
            "stacked_convs": 2,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "ratios": [1.0],
                "octave_base_scale": 4,
                "scales_per_octave": 1,
                "strides": STRIDES,
            },
            "bbox_coder": {
                "type": "DeltaXYWHBBoxCoder",
                "target_means": [0.0, 0.0, 0.0, 0.0],
                "target_stds": [0.1, 0.1, 0.2, 0.2],
            },
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25},
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
            "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        },
        "train_cfg": {
            "assigner": {"type": "ATSSAssigner", "topk": 9},
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "test_cfg": {
            "nms_pre": 1000,
            "min_bbox_size": 0,
            "score_thr": 0.05,
            "nms": {"type": "nms", "iou_threshold": 0.6},
            "max_per_img": 100,
        },
    }


def loader(data: Path, split: str, size: int, train: bool) -> dict[str, Any]:
    """Batches of a split; training images are flipped."""
    resize = {"type": "Resize", "scale": (size, size), "keep_ratio": True}
    boxes = {"type": "LoadAnnotations", "with_bbox": True}
    # in evaluation boxes are not resized, since detections are scaled back to the full image
    steps = [boxes, resize, {"type": "RandomFlip", "prob": 0.5}] if train else [resize, boxes]
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    pack = {"type": "PackDetInputs", "meta_keys": keys + ("flip", "flip_direction") * train}
    return {
        "batch_size": 4,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": train},
        "dataset": {
            "type": "VOCDataset",
            "data_root": str(data),
            "ann_file": f"ImageSets/Main/{split}.txt",
            "data_prefix": {"sub_data_root": ""},
            "metainfo": {"classes": CLASSES},
            "test_mode": not train,
            "pipeline": [{"type": "LoadImageFromFile"}, *steps, pack],
        },
    }


def main() -> None:
    """Train, evaluate at the end, and print the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with ImageSets/Main")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=256, help="longer side in pixels")
    parser.add_argument("--scheme", help="such as equal, share or class:Platelets=2")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    register_all_modules()
    runner = Runner.from_cfg(
        Config(
            {
                "default_scope": "mmdet",
                "model": model(),
                "train_dataloader": loader(options.data, "train", options.size, train=True),
                "val_dataloader": loader(options.data, "val", options.size, train=False),
                "val_evaluator": {"type": "VOCMetric", "metric": "mAP", "eval_mode": "area"},
                "train_cfg": {
                    "by_epoch": True,
                    "max_epochs": options.epochs,
                    "val_interval": options.epochs,
                },
                "val_cfg": {},
                "optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 1e-3}},
                "param_scheduler": [{"type": "CosineAnnealingLR", "T_max": options.epochs}],
                "custom_hooks": [
                    {"type": ScalewiseHook.__name__, "by": "class", "scheme": options.scheme}
                ],
                "default_hooks": {"logger": {"type": "LoggerHook", "interval": 25}},
                "work_dir": str(options.out),
                "randomness": {"seed": options.seed},
            }
        )
    )
    runner.train()
    for name in CLASSES:
        weight = runner.message_hub.get_scalar(f"train/dense/weight_{name}").current()
        print(f"{name}: weight {weight:.3f}")


if __name__ == "__main__":
    main()
