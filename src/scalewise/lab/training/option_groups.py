"""The options of a training run in their groups, each typed and documented once.

No torch here: `scalewise train --help` must answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

By = Literal["auto", "level", "level-positives", "size", "class", "size*class"]


@dataclass(kw_only=True)
class DataOptions:
    """Data.

    Args:
        data: Data set: a VOC folder, a COCO folder or JSON, a YOLO folder or YAML, or "demo". The
            format is detected; force it with "voc:PATH", "coco:PATH" or "yolo:PATH". Required,
            except with --resume.
        train_split: Name of the split to train on.
        val_split: Name of the split to validate on after each epoch.
        holdout: Share of the training split to keep out of training and validate on instead of
            val_split, for choices that must not see val_split. The images do not depend on the
            seed.
        size: Longer side, in pixels, to which images are resized.
        batch_size: Images per device and step.
        workers: Loader processes per device; "auto" is half of the device's part of the cores, 1 to
            8.
        cache: "ram" keeps decoded images in memory, "device" on the GPU, which augments them there.
        skip_bad: Train on the rest, however many files or boxes are broken. Without it, training
            goes on only if less than 1 % of the images and of the boxes are broken.
        strict: Stop at any broken file or box.
        flip: Probability of a horizontal flip.
        color_jitter: Strength of the brightness, contrast and saturation jitter; 0 turns it off.
        scale_jitter: Largest relative change of scale; 0.5 draws scales from 0.5 to 1.5.
        mosaic: Replace half of the images of a batch by collages of four of them, except in the
            last tenth of the epochs (at least one epoch).

    Examples:
        >>> from scalewise.lab.training.config import TrainConfig
        >>> TrainConfig(data="my-data", size=640, mosaic=True).batch_size
        16
    """

    data: str = ""
    train_split: str = "train"
    val_split: str = "val"
    holdout: float = 0.0
    size: int = 320
    batch_size: int = 16
    workers: int | Literal["auto"] = "auto"
    cache: Literal["none", "ram", "device"] = "none"
    skip_bad: bool = False
    strict: bool = False
    flip: float = 0.5
    color_jitter: float = 0.2
    scale_jitter: float = 0.25
    mosaic: bool = False


@dataclass(kw_only=True)
class DetectorOptions:
    """Detector.

    Args:
        detector: Assignment and losses.
        backbone: "mobilenet_v2", "resnet18", "resnet50", or any torchvision or timm feature
            extractor.
        weights_backbone: Backbone weights: "imagenet", a torchvision or timm weights name, or the
            path of a local .pth or .safetensors file. Default: random weights. With loaded weights,
            BatchNorm and all layers up to stride 4 stay fixed.
        width: Channels of the pyramid and of the head.
        depth: Convolutions of each head tower.
        anchor_scale: Factor on the object sizes that the levels are meant for (anchors, or FCOS's
            ranges). 0.4 at --size 128 spreads the objects over the levels as 1 does at 320.

    Examples:
        >>> from scalewise.lab.training.config import TrainConfig
        >>> TrainConfig(data="my-data", detector="retinanet", weights_backbone="imagenet").backbone
        'mobilenet_v2'
    """

    detector: Literal["atss", "fcos", "retinanet"] = "atss"
    backbone: str = "mobilenet_v2"
    weights_backbone: str | None = None
    width: int = 256
    depth: int = 4
    anchor_scale: float = 1.0


@dataclass(kw_only=True)
class WeightingOptions:
    """Loss weights.

    Args:
        by: What is weighed. "class", "size", "size*class" and "level-positives" (the anchor's
            level) weigh the positives of objects and leave the background alone; "level" weighs
            whole levels. "auto" is what the scheme names, as "size:small=1.5" does, else "class".
        scheme: Weighting scheme: "auto" for the default, or equal, avw, rlo, share, effective,
            loss, static, a peer (random, dwa, inverse, cov, uncertainty) or a control (permuted).
            Arguments follow a colon: "share:power=0.25",
            "rlo:actions=equal+avw+share:explore=0.2". Weights by name:
            "class:platelet=2", "size:small=1.5".
        interval: Optimizer steps between two updates of the weights; "auto" is 100 for whole
            levels, else a tenth of the steps so far, from 5 to 100.
        normalize: How the weights are scaled: "loss" keeps the mean loss as without weights, "mean"
            keeps the mean weight at 1, "positives" keeps the mean weight over the positives at 1;
            "lift" then also raises weights below 1 to 1. "auto" is "loss" for whole levels, else
            "lift".
        objective: The metric that `rlo:reward=validation` tries to raise, measured on the held-out
            part of the training split (--holdout): AP, AP50, AP_small, ... or a class,
            "class:platelet".
        size_edges: Sides in pixels of the original image that separate small, medium and large:
            "coco" (32,96), "thirds" of the training objects, or numbers separated by commas.
        object_power: Each positive weighs 1 / (positives of its object) to this power. 0 leaves the
            loss as it is; with 1 every object counts the same.
        least_weight: Least weight of a group of positives, before the last scaling.
        largest_weight: Largest weight of a group of positives, before the last scaling.

    Examples:
        >>> from scalewise.lab.training.config import TrainConfig
        >>> TrainConfig(data="my-data", scheme="size:small=1.5").by
        'size'
    """

    by: By = "auto"
    scheme: str = "auto"
    interval: int | Literal["auto"] = "auto"
    normalize: Literal["auto", "mean", "loss", "positives", "lift"] = "auto"
    objective: str = "AP"
    size_edges: str = "coco"
    object_power: float = 0.0
    least_weight: float = 0.25
    largest_weight: float = 8.0


@dataclass(kw_only=True)
class OptimizerOptions:
    """Optimisation.

    Args:
        epochs: Passes over the training split.
        val_every: Epochs between two validations; must divide --epochs, so that the last epoch is
            validated.
        optimizer: Update rule.
        lr: Peak learning rate.
        backbone_lr: Factor on the learning rate for the backbone.
        momentum: Momentum of SGD; ignored by AdamW.
        weight_decay: Weight decay of convolutions; norms and biases have none.
        schedule: Learning rate after the warm-up: "cosine" to 0, "step" (a tenth after 2/3 and
            again after 11/12 of the steps) or "constant".
        warmup: Steps of linear warm-up.
        clip_norm: Largest gradient norm; 0 turns clipping off.
        accumulate: Batches whose gradients are added up before an optimizer step.
        ema: Decay of the moving average of the weights that is evaluated and saved; 0 turns it off.
        patience: Validations without a better AP after which training stops; 0 never stops early.

    Examples:
        >>> from scalewise.lab.training.config import TrainConfig
        >>> TrainConfig(data="my-data", optimizer="sgd", lr=0.01).momentum
        0.9
    """

    epochs: int = 12
    val_every: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    backbone_lr: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 0.05
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: int = 100
    clip_norm: float = 10.0
    accumulate: int = 1
    ema: float = 0.0
    patience: int = 0


@dataclass(kw_only=True)
class RunOptions:
    """Run.

    Args:
        out: Folder in which run folders are made.
        name: Name of the run folder; a suffix is added if it exists. Default: detector-scheme.
        seed: Seed of initial weights, data order, augmentation and policy.
        precision: Arithmetic, as Lightning names it.
        accelerator: "auto", "cpu", "gpu", "mps", as Lightning names it.
        devices: Number of devices, or "auto".
        nodes: Number of machines.
        strategy: "auto", "ddp" or another of Lightning's strategies.
        compile: true compiles the detector's step with torch.compile, "graphs" also replays it as
            CUDA graphs, for small detectors on one GPU; not with --accumulate.
        deterministic: Use deterministic kernels only; else a GPU tries out which are fastest.
        log_every: Steps between two log records.
        gradient_every: Steps between two measurements of each group's gradient, which take about
            one more backward pass per group; 0 never measures.
        checkpoint_every: Steps between two checkpoints within an epoch; 0 saves once an epoch.
        progress: Progress display; "auto" draws a bar on a terminal and plain lines elsewhere.

    Examples:
        >>> from scalewise.lab.training.config import TrainConfig
        >>> TrainConfig(data="my-data", name="first", seed=3).out
        'runs'
    """

    out: str = "runs"
    name: str | None = None
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: str = "auto"
    devices: int | Literal["auto"] = "auto"
    nodes: int = 1
    strategy: str = "auto"
    compile: bool | Literal["graphs"] = False
    deterministic: bool = False
    log_every: int = 20
    gradient_every: int = 0
    checkpoint_every: int = 500
    progress: Literal["auto", "bar", "plain"] = "auto"
