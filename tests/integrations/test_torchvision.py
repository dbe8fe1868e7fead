"""Attached torchvision models against torchvision's own losses and gradients."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision_models import FAMILIES, Pyramid, batch, make, step

import scalewise as sw
from scalewise.integrations.torchvision import AttachError, attach, detach
from scalewise.weighting import scale_gradients

BATCHES = {"objects": (3, 1), "one empty": (2, 0), "all empty": (0, 0), "one image": (4,)}


def _close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        scale = float(value.abs().max()) if value.numel() else 0.0
        torch.testing.assert_close(found[name], value, rtol=2e-5, atol=2e-6 * (1 + scale), msg=name)


@pytest.mark.parametrize("counts", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_at_weight_one_it_is_the_framework(family: str, counts: tuple[int, ...]) -> None:
    data = batch(counts)
    plain, attached = make(family), make(family)
    attach(attached, "equal")
    for mine, own in zip(step(attached, data), step(plain, data), strict=True):
        _close(mine, own)


@pytest.mark.parametrize("levels", [1, 2, 6])
def test_any_number_of_levels(levels: int) -> None:
    data = batch((3, 2))
    plain, attached = make("fcos", levels), make("fcos", levels)
    balancer = attach(attached, "equal")
    assert balancer["dense"].num_levels == levels
    for mine, own in zip(step(attached, data), step(plain, data), strict=True):
        _close(mine, own)


@pytest.mark.parametrize("counts", [(3, 1), (0, 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_give_the_gradients_of_weighted_predictions(
    family: str, counts: tuple[int, ...]
) -> None:
    """The reference leaves torchvision's loss alone and weighs the gradients of its predictions."""
    data = batch(counts)
    plain, attached = make(family), make(family)
    balancer = attach(attached, "equal")
    draw = torch.Generator().manual_seed(3)
    for weights in balancer.weights.values():
        weights.copy_(0.2 + 1.6 * torch.rand(len(weights), generator=draw))
    _weigh_predictions(plain, balancer.weights)
    losses, gradients = step(attached, data)
    _, expected = step(plain, data)
    _close(gradients, expected)
    for key, levels in balancer.level_losses.items():
        name = "dense" if "dense" in balancer.weights else "rpn"
        if key in ("loss_classifier", "loss_box_reg", "loss_mask"):
            name = "roi"
        torch.testing.assert_close(losses[key], (levels * balancer.weights[name]).sum())


def _weigh_predictions(model: Any, weights: dict[str, Tensor]) -> None:
    if "dense" in weights:
        model.head.register_forward_hook(_Flat(model, weights["dense"]))
        return

    def rpn(module: nn.Module, inputs: Any, output: Any) -> Any:
        return tuple(scale_gradients(part, weights["rpn"]) for part in output)

    def rows(pool: Any, regions: Any) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            levels = pool.map_levels(regions[-1])
            parts = output if isinstance(output, tuple) else (output,)
            weighed = tuple(_by_row(part, weights["roi"][levels]) for part in parts)
            return weighed if isinstance(output, tuple) else weighed[0]

        return hook

    model.rpn.head.register_forward_hook(rpn)
    heads = model.roi_heads
    for pool, predictor in (
        (heads.box_roi_pool, heads.box_predictor),
        (heads.mask_roi_pool, heads.mask_predictor),
    ):
        if predictor is not None:
            regions: list[Any] = []
            pool.register_forward_pre_hook(lambda _, args, kept=regions: kept.append(args[1]))
            predictor.register_forward_hook(rows(pool, regions))


def _by_row(values: Tensor, weights: Tensor) -> Tensor:
    shape = (len(values),) + (1,) * (values.ndim - 1)
    kept: Tensor = values.detach()
    return kept + (values - kept) * weights.view(shape)


class _Flat:
    def __init__(self, model: Any, weights: Tensor) -> None:
        self.anchors = model.anchor_generator.num_anchors_per_location()
        self.weights = weights

    def __call__(self, head: nn.Module, inputs: Any, output: dict[str, Tensor]) -> Any:
        counts = [
            a * f.shape[-1] * f.shape[-2] for a, f in zip(self.anchors, inputs[0], strict=True)
        ]
        return {
            key: torch.cat(scale_gradients(torch.split(flat, counts, dim=1), self.weights), dim=1)
            for key, flat in output.items()
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_move_and_detections_stay_the_framework(family: str) -> None:
    model = make(family)
    balancer = attach(model, "avw", interval=2)
    for seed in range(5):
        step(model, batch((3, 2), seed))
    for name in balancer.weights:
        assert balancer[name].intervals == 2
    assert any((w != 1).any() for w in balancer.weights.values())
    images, _ = batch((1, 1))
    plain = make(family)
    detach(model)
    plain.load_state_dict(model.state_dict())
    one, other = model.eval()(images), plain.eval()(images)
    assert [list(d) for d in one] == [list(d) for d in other]
    for mine, own in zip(one, other, strict=True):
        assert all(torch.equal(mine[key], own[key]) for key in own)


@pytest.mark.parametrize("family", FAMILIES)
def test_detach_restores_the_model(family: str) -> None:
    data = batch((2, 1))
    plain, model = make(family), make(family)
    attach(model, sw.RandomWeights(), interval=1)
    step(model, data)
    detach(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    for module, other in zip(model.modules(), plain.modules(), strict=True):
        assert vars(module).keys() == vars(other).keys()
        assert len(module._forward_hooks) == len(other._forward_hooks)
        assert len(module._forward_pre_hooks) == len(other._forward_pre_hooks)
    for mine, own in zip(step(model, data), step(plain, data), strict=True):
        assert all(torch.equal(mine[key], own[key]) for key in own)


@pytest.mark.parametrize("family", ["fcos", "faster_rcnn"])
def test_a_saved_model_goes_on_with_its_weights(family: str) -> None:
    first, second = make(family), make(family, seed=5)
    for model in (first, second):
        attach(model, "rlo", interval=2, seed=3)
    for seed in range(5):
        step(first, batch((2, 1), seed))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for seed in range(5, 9):
        for mine, own in zip(
            step(first, batch((2, 1), seed)), step(second, batch((2, 1), seed)), strict=True
        ):
            assert all(torch.equal(mine[key], own[key]) for key in own)


def test_checkpoints_with_and_without_weights_are_exchanged() -> None:
    plain, attached = make("fcos", seed=1), make("fcos", seed=2)
    attach(attached, "avw")
    with pytest.warns(UserWarning, match="saved without level weights"):
        attached.load_state_dict(plain.state_dict())
    saved = attached.state_dict()
    assert any(key.startswith("scalewise.") for key in saved)
    detach(attached)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attached.load_state_dict(saved)
        detach(plain)  # never attached: it only learns to load such a checkpoint
        plain.load_state_dict(saved)


def test_a_copy_has_a_state_of_its_own() -> None:
    model = make("faster_rcnn")
    attach(model, "avw", interval=2)
    twin = copy.deepcopy(model)
    data = batch((2, 1))
    for _ in range(3):
        step(model, data)
    assert model.scalewise["rpn"].intervals == 1
    assert twin.scalewise["rpn"].intervals == 0
    step(twin, data)
    assert twin.scalewise.level_losses.keys() == model.scalewise.level_losses.keys()


def test_accumulated_steps_share_their_weights() -> None:
    model = make("fcos")
    balancer = attach(model, sw.RandomWeights(), interval=1, accumulate=3)
    seen = []
    for seed in range(6):
        seen.append(balancer.weights["dense"].tolist())
        step(model, batch((2,), seed))
    assert seen[0] == seen[1] == seen[2]
    assert seen[3] == seen[4] == seen[5] != seen[2]


def test_under_bfloat16_the_losses_stay_those_of_the_framework() -> None:
    data = batch((3, 1))
    plain, attached = make("fcos"), make("fcos")
    attach(attached, "equal")
    with torch.autocast("cpu", torch.bfloat16):
        (mine, _), (own, _) = step(attached, data), step(plain, data)
    for key, value in own.items():
        torch.testing.assert_close(mine[key].float(), value.float(), rtol=1e-2, atol=1e-3)


def test_what_cannot_be_handled_is_refused_and_left_alone() -> None:
    subclass = type("Own", (RetinaNet,), {"compute_loss": lambda self, *args: {}})
    own = subclass(Pyramid(3, False), 4, anchor_generator=make("retinanet").anchor_generator)
    wrapped = make("fcos")
    wrapped.head.compute_loss = lambda *args: {}
    twice = make("ssd")
    attach(twice, "avw")
    for model, reason in (
        (own, r"Own.compute_loss is not torchvision's RetinaNet.compute_loss"),
        (wrapped, r"FCOSHead.compute_loss is not torchvision's"),
        (twice, "has level weights already"),
        (nn.Linear(1, 1), "Linear is none of torchvision's"),
    ):
        before = vars(model).copy()
        with pytest.raises(AttachError, match=reason):
            attach(model, "avw")
        assert vars(model) == before
    with pytest.raises(AttachError, match="trains weights by back-propagation"):
        attach(make("fcos"), "uncertainty")
