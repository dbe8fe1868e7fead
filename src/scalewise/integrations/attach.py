"""`scalewise.attach` and `scalewise.detach`: one call for the models of every framework."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import nn

from scalewise.integrations.attached import NAME, AttachedBalancer, drop_state
from scalewise.integrations.loops import give_back_to_broadcast
from scalewise.integrations.options import AttachError, Options
from scalewise.weighting import SchemeLike
from scalewise.weighting.groups import COCO_EDGES

if TYPE_CHECKING:
    from scalewise.integrations.mmengine_weights import GroupWeights

# The adapter's module and function by the package that defines the model's class
ADAPTERS = {
    "torchvision": ("torchvision", "attach_torchvision"),
    "ultralytics": ("ultralytics_loss", "attach_yolo"),
    "mmdet": ("mmengine", "attach_mmdet"),
    "mmengine": ("mmengine", "attach_mmdet"),
    "transformers": ("detr", "attach_detr"),
}
OTHERS = {  # what undoes an adapter that leaves no submodule in the model
    "attach_yolo": "detach_yolo",
    "attach_mmdet": "detach_mmdet",
}


def attach(
    model: nn.Module,
    by: str | None = None,
    scheme: SchemeLike | None = None,
    interval: int | Literal["auto"] = "auto",
    normalize: Literal["auto", "mean", "loss", "positives", "lift"] = "auto",
    accumulate: int = 1,
    seed: int = 0,
    size_edges: Sequence[float] = COCO_EDGES,
    classes: Sequence[str] = (),
    losses: Sequence[str] = (),
) -> AttachedBalancer | GroupWeights:
    """Weigh the losses of a detector by group from now on, in a training loop of your own.

    The model may be of torchvision, Ultralytics, MMDetection or transformers; their pages in docs/
    say which of their models, and what `by` they serve. Its losses keep their names.

    Args:
        model: the detector, not wrapped in data parallelism yet.
        by: "class", "size", "size*class" or "level-positives" for the positives by their object;
            "level" for whole levels, with all that lies on them. None is what the scheme names, as
            "size:small=2" does, else "class".
        scheme: as of `LossBalancer`, but without parameters of its own, and copied. None is the
            default for `by`. Weights by name, such as "class:platelet=2", are used as they are.
        interval: optimizer steps between two updates of the weights, or "auto".
        normalize: what the weights keep, see `LossBalancer`.
        accumulate: forward passes per optimizer step.
        seed: of the scheme's random numbers.
        size_edges: ascending sides between the sizes, in pixels: of the original image where the
            framework knows it, else of the training image.
        classes: names of the classes in the order of their labels; empty takes what the model
            knows, else "class0", "class1", ...
        losses: for mmengine models that are no known MMDetection detector: names of the losses that
            are lists with one entry per level.

    Returns:
        The balancers: `weights` (float32 [n] by set of groups, such as "dense"), `group_losses`
        (the last losses of the groups, by the model's name of the loss), and `attached["dense"]`, a
        `LossBalancer`. For torchvision and transformers also a submodule, `model.scalewise`.

    Raises:
        AttachError: the model is none that can be weighed so, it has been attached before, or an
            argument does not fit it. The model is left as it was.

    Examples:
        >>> import torch, torchvision, scalewise as sw
        >>> model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        ...     weights=None, weights_backbone=None, num_classes=3
        ... )
        >>> attached = sw.attach(model, by="class", classes=["cat", "dog"])
        >>> objects = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]), "labels": torch.tensor([2])}
        >>> losses = model(list(torch.rand(2, 3, 64, 64)), [objects, objects])
        >>> sum(losses.values()).backward()
        >>> attached["dense"].names
        ('cat', 'dog')
        >>> attached.group_losses["bbox_regression"] > 0  # of cats, dogs and the background
        tensor([False,  True, False])
        >>> attached.weights  # from the next interval on by what was seen
        {'dense': tensor([1., 1.])}
        >>> sw.detach(model)
    """
    adapter = _adapter(model)
    if adapter is None:
        raise AttachError(
            f"{type(model).__name__} is no model of torchvision, ultralytics, mmdet or "
            "transformers; give their model itself, not one that wraps it, or call "
            "sw.weigh_positives in your own loss"
        )
    options = Options(by, scheme, interval, normalize, accumulate, seed, size_edges, classes)
    if losses and adapter[1] != "attach_mmdet":
        raise AttachError(f"losses= is for mmengine models, not for {type(model).__name__}")
    named: dict[str, Any] = {"losses": losses} if losses else {}
    attached: AttachedBalancer | GroupWeights = _function(*adapter)(model, options, **named)
    return attached


def detach(model: nn.Module) -> None:
    """Undo `attach`; from then on the model also loads checkpoints saved with weights.

    On a model that was never attached only the latter.

    Examples:
        >>> import torchvision
        >>> import scalewise as sw
        >>> model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        ...     weights=None, weights_backbone=None, num_classes=3
        ... )
        >>> attached = sw.attach(model, scheme="size:small=2")
        >>> sw.detach(model)
        >>> any(name.startswith("scalewise") for name in model.state_dict())
        False
    """
    place, name = _adapter(model) or ("", "")
    if name in OTHERS:
        _function(place, OTHERS[name])(model)
        return
    attached = getattr(model, NAME, None)
    if isinstance(attached, AttachedBalancer):
        attached.wiring.disconnect()
        del model._modules[NAME]
        give_back_to_broadcast(model, NAME)
    if not any(hook is drop_state for hook in _load_hooks(model)):
        cast(Any, model).register_load_state_dict_pre_hook(drop_state)


def _adapter(model: nn.Module) -> tuple[str, str] | None:
    """The module and the function for a model, or a subclass of one."""
    roots = (kind.__module__.partition(".")[0] for kind in type(model).__mro__)
    return next((ADAPTERS[root] for root in roots if root in ADAPTERS), None)


def _function(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"scalewise.integrations.{module}"), name)


def _load_hooks(model: nn.Module) -> list[Any]:
    return [getattr(hook, "hook", hook) for hook in model._load_state_dict_pre_hooks.values()]
