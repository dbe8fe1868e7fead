"""Weights on the matched queries of `transformers`' detectors: DETR and its kin.

Each of them matches queries to objects and hands every decoder layer's predictions, together with
the match, to its criterion's `get_loss`. There the gradients of the matched queries' predictions
are multiplied by the weight of their object's group. Each term of these losses has a gradient for
the predictions of one query only, and the normaliser has no gradient, so the result is the gradient
of the weighted loss. The loss itself is reported without weights.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from scalewise.integrations.attached import NAME, AttachedBalancer, uncompiled
from scalewise.integrations.detr_terms import (
    ClassTerm,
    Matched,
    box_terms,
    cross_entropy,
    focal,
    matching_aware,
    overlap_aware,
    varifocal,
)
from scalewise.integrations.late import LateWeights
from scalewise.integrations.loops import keep_from_broadcast
from scalewise.integrations.options import AttachError, Options
from scalewise.weighting import Grouping, sum_groups

SET = "queries"  # the name of the one set of groups
PREDICTIONS = ("logits", "pred_boxes", "pred_corners")  # what the criteria take gradients of
# For each loss function: the criterion's name of the class loss, its key in the losses, its terms
LOSSES: dict[str, tuple[str, str, ClassTerm]] = {
    "ForObjectDetectionLoss": ("labels", "loss_ce", cross_entropy),
    "DeformableDetrForObjectDetectionLoss": ("labels", "loss_ce", focal),
    "LwDetrForObjectDetectionLoss": ("labels", "loss_ce", overlap_aware),
    "RTDetrForObjectDetectionLoss": ("vfl", "loss_vfl", varifocal),
    "DFineForObjectDetectionLoss": ("vfl", "loss_vfl", varifocal),
    "Deimv2ForObjectDetectionLoss": ("mal", "loss_mal", matching_aware),
}


def attach_detr(model: Any, options: Options) -> AttachedBalancer:
    """Weigh the matched queries of a `transformers` detector from now on.

    All decoder layers, the encoder's proposals and the denoising queries are weighed. Statistics
    come from the last decoder layer. Sizes are in pixels of the original image if the labels hold
    `orig_size`, as the image processors of `transformers` write it; else in pixels of `size`.

    Args:
        model: such as `RTDetrForObjectDetection`, before it is wrapped for data parallelism.
        options: grouped by "class", "size" or "size*class".

    Returns:
        The balancer, which is also `model.scalewise`: saved, moved and copied with the model.

    Raises:
        AttachError: the model's loss cannot be weighed, the model has weights already, or the
            options do not fit it.

    Examples:
        >>> from transformers import RTDetrConfig, RTDetrForObjectDetection
        >>> model = RTDetrForObjectDetection(RTDetrConfig())  # doctest: +SKIP
        >>> balancer = attach_detr(model, Options("size"))  # doctest: +SKIP
    """
    if getattr(model, NAME, None) is not None:
        raise AttachError("this model has weights already; detach it first")
    if not options.by_objects:
        raise AttachError(
            f"by={options.kind!r}: the queries of {type(model).__name__} belong to no level of a "
            "pyramid; choose 'class', 'size' or 'size*class'"
        )
    _check_loss(model)
    groups = options.group_objects(_class_names(model.config))
    balancer = options.make_balancer(groups)
    attached = AttachedBalancer({SET: balancer}).to(next(model.parameters()).device)
    attached.train(model.training)
    attached.wiring = QueryWiring(model, attached, groups)
    model.add_module(NAME, attached)
    keep_from_broadcast(model)
    return attached


def _check_loss(model: Any) -> None:
    """Refuse a loss function that is not known."""
    kind = type(model).__name__
    loss = getattr(model, "loss_function", None)
    name = getattr(loss, "__name__", type(loss).__name__)
    if loss is None or not str(getattr(loss, "__module__", "")).startswith("transformers.loss."):
        raise AttachError(
            f"the loss function of {kind}, {name}, is not transformers' own, so it is not known "
            "which query each of its terms belongs to; call sw.weigh_positives in it instead"
        )
    if name not in LOSSES:
        raise AttachError(
            f"{name}, the loss function of {kind}, cannot be weighed (losses of masks cannot, nor "
            "those of classes named by text); these can: " + ", ".join(LOSSES)
        )
    setter = getattr(type(model).loss_function, "fset", None)
    if setter is None:
        raise AttachError(
            f"the loss function of {kind} cannot be replaced in this version of transformers; "
            "upgrade it: pip install -U transformers"
        )


def _class_names(config: Any) -> list[str]:
    """Class names in the order of the labels; a name used twice, such as "N/A", gets numbers."""
    names = [str(config.id2label.get(i, f"class{i}")) for i in range(config.num_labels)]
    return [n if names.count(n) == 1 else f"{n} {i}" for i, n in enumerate(names)]


class QueryWiring:
    """The change to one model: its loss function runs while its criterion is watched.

    Args:
        model: the detector.
        attached: its balancer.
        groups: the grouping of the objects.
    """

    def __init__(self, model: Any, attached: AttachedBalancer, groups: Grouping) -> None:
        self.model = model
        self.attached = attached
        self.groups = groups
        self.theirs = model.loss_function
        self.pixel_mask: Tensor | None = None
        self._names = list(inspect.signature(model.forward).parameters)
        self._own = "_loss_function" in vars(model)
        self._handle = model.register_forward_pre_hook(self._note_padding, with_kwargs=True)
        model.loss_function = self._loss

    def disconnect(self) -> None:
        """Undo all changes."""
        self._handle.remove()
        if self._own:
            self.model.loss_function = self.theirs
        else:
            del self.model._loss_function

    def _note_padding(self, model: nn.Module, inputs: Sequence[Any], named: dict[str, Any]) -> None:
        self.pixel_mask = (dict(zip(self._names, inputs, strict=False)) | named).get("pixel_mask")

    @uncompiled
    def _loss(self, *inputs: Any, **named: Any) -> Any:
        if not (self.model.training and torch.is_grad_enabled()):
            return self.theirs(*inputs, **named)
        seen: list[CriterionCall] = []
        thread = threading.get_ident()

        def observe(module: nn.Module, arguments: Any) -> None:
            if hasattr(module, "get_loss") and threading.get_ident() == thread:
                seen.append(CriterionCall(self, module, *arguments))

        # the loss function makes a new criterion at each call, which no other hook can reach
        handle = register_module_forward_pre_hook(observe)
        try:
            result = self.theirs(*inputs, **named)
        finally:
            handle.remove()
            self.pixel_mask = None
        if len(seen) != 1:
            raise AttachError(
                f"{self.theirs.__name__} called {len(seen)} criteria instead of one: this version "
                "of transformers computes its loss in another way; use a tested one "
                "(docs/huggingface.md)"
            )
        call = seen[0]
        self.attached.weigh(SET, call.losses, call.positives)
        return result


class CriterionCall:
    """One call of a criterion, for the predictions of all decoder layers of a batch of B images.

    Args:
        wiring: the model's.
        criterion: made for this call; its `get_loss` is replaced.
        outputs: outputs of the last decoder layer: logits [B, Q, C], pred_boxes [B, Q, 4] and more.
        targets: B dicts with class_labels int64 [k] and boxes [k, 4].

    Attributes:
        losses: losses of the last decoder layer by group: [n + 1] under each loss's name.
        positives: number of the layer's matched queries in each group, [n].
    """

    def __init__(
        self,
        wiring: QueryWiring,
        criterion: Any,
        outputs: dict[str, Any],
        targets: list[dict[str, Any]],
    ) -> None:
        self.criterion = criterion
        self.outputs = outputs
        self.labels = torch.cat([t["class_labels"] for t in targets])  # [K]
        self.boxes = torch.cat([t["boxes"] for t in targets])  # [K, 4]
        counts = [len(t["class_labels"]) for t in targets]
        self.starts = [sum(counts[:i]) for i in range(len(counts))]
        pixels = self.boxes
        if wiring.groups.by != "class":
            pixels = _pixels(self.boxes, counts, _sizes(targets, self.boxes, wiring.pixel_mask))
        assert wiring.groups.group_of is not None
        self.object_groups = wiring.groups.group_of(pixels, self.labels)  # [K]
        # padding also copies: recording may change the weights before the backward pass
        self.weights = F.pad(wiring.attached[SET].weights, (0, 1), value=1.0)
        self.groups = len(self.weights) - 1
        self.config = wiring.model.config
        self.class_loss, self.class_key, self.class_term = LOSSES[wiring.theirs.__name__]
        self.losses: dict[str, Tensor] = {}
        self.positives = self.weights.new_zeros(self.groups)
        self.theirs: Callable[..., dict[str, Tensor]] = criterion.get_loss
        self._last: tuple[Any, Any, dict[str, Any], Matched, Tensor] | None = None
        criterion.get_loss = self.get_loss

    def get_loss(
        self, loss: str, outputs: dict[str, Any], targets: Any, indices: Any, num_boxes: float
    ) -> dict[str, Tensor]:
        """The criterion's own loss, from predictions whose gradients will be weighed."""
        last = self._last
        if last is None or last[0] is not outputs or last[1] is not indices:
            self._last = last = (outputs, indices, *self._weigh(outputs, indices))
        _, _, passed, matched, ids = last
        if outputs is self.outputs:
            self._note(loss, matched, ids, num_boxes)
        return self.theirs(loss, passed, targets, indices, num_boxes)

    def _weigh(
        self, outputs: dict[str, Any], indices: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[dict[str, Any], Matched, Tensor]:
        """The predictions to pass on, the matches, and the group of each query, int64 [B, Q]."""
        logits = outputs["logits"]
        images = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(indices)])
        objects = torch.cat([k + at for (_, k), at in zip(indices, self.starts, strict=True)])
        queries = torch.cat([q for q, _ in indices])
        image, query, at = torch.stack((images, queries, objects)).to(logits.device)
        matched = Matched((image, query), self.labels[at], self.boxes[at])
        ids = torch.full(logits.shape[:2], self.groups, device=logits.device)
        ids[image, query] = self.object_groups[at]
        late = LateWeights()
        late.values = self.weights[ids][..., None]
        passed = {k: late.pass_on(outputs[k]) for k in PREDICTIONS if outputs.get(k) is not None}
        return outputs | passed, matched, ids

    @torch.no_grad()
    def _note(self, loss: str, matched: Matched, ids: Tensor, num_boxes: float) -> None:
        """Keep the last decoder layer's losses by group."""
        if loss == self.class_loss:
            each = self.class_term(self.criterion, self.outputs, matched, num_boxes)  # [B, Q]
            sums = sum_groups(torch.stack((each, torch.ones_like(each))), ids, self.groups)
            self.losses[self.class_key] = sums[0] * self._factor(
                self.class_key, "class_loss_coefficient"
            )
            self.positives = sums[1, :-1]
        elif loss == "boxes":
            terms = torch.stack(box_terms(self.outputs, matched, num_boxes))[:, None]  # [2, 1, M]
            sums = sum_groups(terms, ids[matched.at][None], self.groups)
            for key, groups in zip(("loss_bbox", "loss_giou"), sums, strict=True):
                self.losses[key] = groups * self._factor(key, f"{key[5:]}_loss_coefficient")

    def _factor(self, key: str, name: str) -> float:
        """The factor of a loss in the total; the criterion knows it, else the config."""
        known = getattr(self.criterion, "weight_dict", {})
        return float(known[key] if key in known else getattr(self.config, name, 1.0))


def _sizes(targets: list[dict[str, Any]], like: Tensor, pixel_mask: Tensor | None) -> Tensor:
    """Height and width that the boxes are relative to, in pixels of the original images: [B, 2].

    The image processors make boxes relative to the padded image and set `size` to it, but leave
    `orig_size` without padding; the mask tells how much of the image is padding.
    """

    def of(key: str) -> Tensor:
        try:
            return torch.stack([torch.as_tensor(t[key], device=like.device) for t in targets])
        except KeyError:
            raise AttachError(
                "the sizes of objects need the size of their image: each entry of labels must hold "
                "orig_size or size (height, width), as transformers' image processors write them"
            ) from None

    if any("orig_size" not in t for t in targets):
        return of("size").to(like.dtype)
    sizes = of("orig_size").to(like.dtype)
    if pixel_mask is None or any("size" not in t for t in targets):
        return sizes
    height, width = pixel_mask.shape[-2:]
    seen = torch.stack((pixel_mask.any(2).sum(1) / height, pixel_mask.any(1).sum(1) / width), 1)
    padded = torch.stack([of("size")[:, 0] == height, of("size")[:, 1] == width], 1)
    return torch.where(padded.all(1, keepdim=True), sizes / seen, sizes)


def _pixels(boxes: Tensor, counts: list[int], sizes: Tensor) -> Tensor:
    """Corners, in pixels, of boxes that are relative to their image: [K, 4]."""
    image = torch.repeat_interleave(torch.tensor(counts)).to(sizes.device)
    scale = sizes.flip(1)[image]  # width, height
    centre, half = boxes[:, :2] * scale, boxes[:, 2:] * scale / 2
    return torch.cat((centre - half, centre + half), 1)
