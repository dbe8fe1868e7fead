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

# For each package that defines models: the adapter's module and its function
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

    The model may come from torchvision, Ultralytics, MMDetection or transformers. The page of each
    framework in docs/ lists its models and the values of `by` that work for them. The model's
    losses keep their names.

    Args:
        model: the detector, before it is wrapped for data parallelism.
        by: how losses are grouped. "class", "size" and "size*class" group the positives by their
            object, "level-positives" groups them by their level. "level" groups everything by
            level, background included. None takes the grouping that the scheme names, as
            "size:small=2" does, else "class".
        scheme: as for `LossBalancer`, but without trained parameters; a copy is used. None takes
            the default for `by`. Weights by name, such as "class:platelet=2", are used unchanged.
        interval: optimizer steps between two updates of the weights, or "auto".
        normalize: how the weights are scaled; see `LossBalancer`.
        accumulate: forward passes per optimizer step.
        seed: seed of the scheme's random numbers.
        size_edges: sides of objects that separate the sizes, ascending: in pixels of the original
            image if the framework knows it, else of the training image.
        classes: names of the classes in the order of their labels. Empty takes the model's own
            names; if it has none, they are "class0", "class1", ...
        losses: only for mmengine models that are not a known MMDetection detector: names of the
            losses that are lists with one entry per level.

    Returns:
        An object that holds the balancers. `weights` has float32 [n] for each set of groups, such
        as "dense". `group_losses` has the last losses of the groups, under the model's name of each
        loss. `attached["dense"]` is a `LossBalancer`. In models of torchvision and transformers the
        object is also a submodule, `model.scalewise`.

    Raises:
        AttachError: the losses of this model cannot be weighed, the model has weights already, or
            an argument does not fit it. The model is left as it was.

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
        >>> attached.weights  # they change after the first interval
        {'dense': tensor([1., 1.])}
        >>> sw.detach(model)
    """
    adapter = _adapter(model)
    if adapter is None:
        raise AttachError(
            f"{type(model).__name__} is not a model of torchvision, ultralytics, mmdet or "
            "transformers; pass their model itself, not a module that wraps it, or call "
            "sw.weigh_positives in your own loss"
        )
    options = Options(by, scheme, interval, normalize, accumulate, seed, size_edges, classes)
    if losses and adapter[1] != "attach_mmdet":
        raise AttachError(f"losses= is for mmengine models, not for {type(model).__name__}")
    named: dict[str, Any] = {"losses": losses} if losses else {}
    attached: AttachedBalancer | GroupWeights = _function(*adapter)(model, options, **named)
    return attached


def detach(model: nn.Module) -> None:
    """Undo `attach`. From then on the model also loads checkpoints that were saved with weights.

    A model that was never attached only learns to load such checkpoints.

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
