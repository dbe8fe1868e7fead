"""Box geometry and losses, compared with those of torchvision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detector_batches import operations
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from scalewise.lab.detectors import boxes as geometry
from scalewise.lab.detectors import focal
from scalewise.lab.detectors.focal import focal_loss
from scalewise.lab.detectors.group_sums import sum_per_level
from scalewise.lab.detectors.losses import average_over_ranks
from scalewise.lab.detectors.overlap_match import _overlaps


def _boxes(*shape: int) -> torch.Tensor:
    corner, size = torch.rand(*shape, 2) * 50, torch.rand(*shape, 2) * 40 + 1
    return torch.cat((corner, corner + size), dim=-1)


def test_focal_loss_and_gradient_equal_torchvisions() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 50, 7, dtype=torch.float64) * 6).requires_grad_()
    labels = torch.randint(0, 8, (2, 50))  # 7 is background
    ours = focal_loss(logits, labels)
    one_hot = F.one_hot(labels, 8)[..., :7].double()
    theirs = sigmoid_focal_loss(logits, one_hot).sum(-1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), logits), torch.autograd.grad(theirs.sum(), logits)
    )


def test_focal_loss_stays_finite_at_extreme_logits() -> None:
    logits = torch.tensor([[[-1e4, 1e4, 0.0]]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[0]]))
    torch.autograd.backward(loss.sum())
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    # class 0 is right but has score 0, class 1 is wrong with score 1, class 2 is wrong at one half
    expected = 0.25 * 1e4 + 0.75 * 1e4 + 0.75 * 0.25 * torch.tensor(2.0).log()
    torch.testing.assert_close(loss[0, 0], expected)


def test_the_focal_loss_keeps_nothing_but_its_inputs_and_works_in_pieces_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(3)
    logits, labels = torch.randn(3, 41, 6, requires_grad=True), torch.randint(0, 7, (3, 41))
    slope = torch.rand(3, 41)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        whole = focal_loss(logits, labels)
    assert {tensor.data_ptr() for tensor in kept} == {logits.data_ptr(), labels.data_ptr()}
    (expected,) = torch.autograd.grad(whole, logits, slope)
    monkeypatch.setattr(focal, "CACHE", 17)
    with operations() as seen:
        pieces = focal_loss(logits, labels)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(torch.autograd.grad(pieces, logits, slope)[0], expected)
    assert seen.largest == labels.numel()  # only the result is new, nothing as large as the logits


def test_retinanets_overlaps_are_the_iou_to_the_bit() -> None:
    torch.manual_seed(4)
    boxes, anchors = _boxes(2, 9), torch.cat((_boxes(50), torch.full((1, 4), 7.0)))
    boxes[0, 0] = 7.0  # a box without area, like the last anchor
    boxes[1, 0] = boxes[1, 0].flip(0)  # corners in the wrong order
    assert torch.equal(_overlaps(boxes, anchors), geometry.iou(boxes[:, :, None], anchors))


def test_giou_loss_and_gradient_equal_torchvisions() -> None:
    torch.manual_seed(1)
    predicted, target = _boxes(200).double().requires_grad_(), _boxes(200).double()
    ours = geometry.giou_loss(predicted, target)
    theirs = generalized_box_iou_loss(predicted, target)
    assert (box_iou(predicted, target).diagonal() == 0).any()  # some pairs are disjoint
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), predicted), torch.autograd.grad(theirs.sum(), predicted)
    )


def test_iou_equals_torchvisions_and_is_zero_for_empty_boxes() -> None:
    torch.manual_seed(2)
    a, b = _boxes(30), _boxes(40)
    torch.testing.assert_close(geometry.iou(a[:, None], b), box_iou(a, b))
    point = torch.tensor([3.0, 3.0, 3.0, 3.0])
    assert geometry.iou(point, point) == 0


def test_box_coding_equals_torchvisions() -> None:
    torch.manual_seed(3)
    anchors, boxes = _boxes(60), _boxes(60)
    coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
    deltas = geometry.encode(boxes, anchors)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors))
    torch.testing.assert_close(geometry.decode(deltas, anchors), boxes, rtol=1e-4, atol=1e-3)
    wild = torch.randn(60, 4) * 10  # some exceed the limit of the log-ratio
    torch.testing.assert_close(geometry.decode(wild, anchors), coder.decode_single(wild, anchors))


def test_edge_distances_equal_torchvisions_linear_coding() -> None:
    torch.manual_seed(4)
    anchors, boxes = _boxes(1, 60), _boxes(1, 60)
    centres, _ = geometry.centre_and_size(anchors)
    expected = BoxLinearCoder(normalize_by_size=False).encode(anchors, boxes)
    torch.testing.assert_close(geometry.edge_distances(centres, boxes), expected)


def test_centerness_is_one_in_the_middle_and_the_geometric_mean_elsewhere() -> None:
    distances = torch.tensor([[5.0, 3.0, 5.0, 3.0], [1.0, 2.0, 4.0, 8.0]])
    torch.testing.assert_close(geometry.centerness(distances), torch.tensor([1.0, 0.25]))


def test_sums_per_level_follow_the_order_of_levels() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    assert sum_per_level(values, [1, 2, 1]).tolist() == [11.0, 55.0, 44.0]


def test_without_a_process_group_the_normaliser_is_left_alone() -> None:
    assert average_over_ranks(torch.tensor([3.0])).item() == pytest.approx(3.0)
