"""Detections: format, suppression, and whether a trained detector finds its objects."""

from __future__ import annotations

import pytest
import torch
from detector_batches import FACTORIES, make_batch, random_batch, tiny, total
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from scalewise.detectors import Batch
from scalewise.lab.detectors import nms
from scalewise.lab.detectors.decoding import select
from scalewise.lab.detectors.method import Predictions


def test_detections_are_sorted_clipped_padded_and_know_their_level() -> None:
    # three anchors: two on level 0, one on level 1; two classes; two images
    logits = torch.tensor([[[2.0, -9.0], [1.0, -9.0], [-9.0, 3.0]], [[-9.0, -9.0]] * 3])
    boxes = torch.tensor([[-5.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 11.0], [0.0, 0.0, 99.0, 99.0]])
    found = select(
        Predictions(logits, boxes.expand(2, -1, -1), None),
        boxes.expand(2, -1, -1),
        [2, 1],
        torch.tensor([[20, 30], [20, 30]]),
        score_threshold=0.05,
        nms_iou=0.5,
        candidates=1000,
        max_detections=100,
    )
    # the second anchor overlaps the first, which has the same class and a higher score
    assert found.valid.tolist() == [[True, True], [False, False]]
    assert found.labels[0].tolist() == [1, 0]
    assert found.levels[0].tolist() == [1, 0]
    assert found.boxes[0].tolist() == [[0.0, 0.0, 30.0, 20.0], [0.0, 0.0, 10.0, 10.0]]
    torch.testing.assert_close(found.scores[0], torch.tensor([3.0, 2.0]).sigmoid())
    assert not found.scores[1].any()


def _random_candidates(seed: int, images: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes [B, 60, 4], scores (with ties), labels, and which to use; one image uses none."""
    torch.manual_seed(seed)
    corner, size = torch.rand(images, 60, 2) * 600, torch.rand(images, 60, 2) * 60 + 1
    score = (torch.rand(images, 60) * 20).round() / 20
    among = score > 0.2
    among[images // 2] = False
    boxes = torch.cat((corner, corner + size), dim=-1)
    boxes[:, 1::2] = boxes[:, ::2] + torch.rand(images, 30, 4) * 4  # pairs that overlap
    return boxes, score, torch.randint(0, 9, (images, 60)), among


@pytest.mark.parametrize("way", ["_group_by_group", "_all_at_once", "in parts"])
def test_suppression_of_a_batch_is_torchvisions_image_by_image(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, score, label, among = _random_candidates(0, 12)
    if way == "in parts":
        monkeypatch.setattr(nms, "MOST", 70)
    else:  # also the way used on GPUs
        monkeypatch.setattr(nms, "_group_by_group", getattr(nms, way))
    kept = nms._suppress(boxes, score, label, among, 0.5)
    for image in range(12):
        own = among[image].nonzero()[:, 0]
        keep = batched_nms(boxes[image, own], score[image, own], label[image, own], 0.5)
        expected = torch.zeros(60, dtype=torch.bool)
        expected[own[keep]] = True
        assert torch.equal(kept[image], expected)
    assert 0 < kept.sum() < among.sum()


def test_far_images_and_classes_are_suppressed_as_exactly_as_near_ones() -> None:
    """No box is moved far away to keep groups apart, which would round it in float32."""
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.01]]]).expand(32, -1, -1)
    boxes = boxes + torch.tensor([600.0, 600.0, 600.0, 600.0])
    score, label = torch.tensor([[0.9, 0.8]]).expand(32, -1), torch.full((32, 2), 79)
    groups = (torch.arange(32)[:, None] * 80 + label).flatten()
    for iou, remain in ((0.5, 32), (0.502, 64)):  # the IoU of the two is 0.501
        keep = nms._all_at_once(boxes.flatten(0, 1), score.flatten(), groups, iou)
        assert len(keep) == remain


def test_detections_of_an_image_do_not_depend_on_the_others() -> None:
    detector = tiny("retinanet", width=8, depth=0).eval()
    detector.score_threshold, detector.max_detections = 0.0, 20
    batch = random_batch(3, 3, 1, 64, 96)
    together = detector(batch)
    for i in range(3):
        alone = detector(Batch(*(part[i : i + 1] for part in batch)))
        for ours, theirs in zip(alone, together, strict=True):
            torch.testing.assert_close(ours[0], theirs[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_limits_hold_and_an_untrained_detector_may_find_nothing(name: str) -> None:
    detector = tiny(name, width=8, depth=0).eval()
    batch = random_batch(0, 2, 1, 64, 64)
    detector.score_threshold = 0.0
    detector.max_detections = 7
    found = detector(batch)
    assert found.scores.shape == (2, 7)
    assert (found.scores.diff(dim=1) <= 0).all()
    detector.score_threshold = 1.0
    assert detector(batch).boxes.shape == (2, 0, 4)


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_training_on_two_images_finds_their_objects(name: str) -> None:
    detector = tiny(name, classes=2, width=32)
    boxes = torch.tensor(
        [[[4.0, 6.0, 28.0, 30.0], [30.0, 24.0, 62.0, 62.0]], [[10.0, 12.0, 54.0, 58.0], [0.0] * 4]]
    )
    labels = torch.tensor([[0, 1], [1, 0]])
    valid = torch.tensor([[True, True], [True, False]])
    batch = make_batch(boxes, labels, valid, 64, 64)
    batch.images.fill_(60)
    colours = torch.tensor([[250, 20, 20], [20, 20, 250]], dtype=torch.uint8)
    for i, j in valid.nonzero().tolist():
        x1, y1, x2, y2 = boxes[i, j].int().tolist()
        batch.images[i, :, y1:y2, x1:x2] = colours[labels[i, j]][:, None, None]
    detector.backbone.requires_grad_(False)  # plain colours need no trained features
    optimizer = torch.optim.Adam([p for p in detector.parameters() if p.requires_grad], lr=2e-3)
    history = []
    for _ in range(120):
        loss = total(detector(batch))
        history.append(float(loss.detach()))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert history[-1] < history[0] / 2
    found = detector.eval()(batch)
    for i, j in valid.nonzero().tolist():
        best = box_iou(found.boxes[i], boxes[i, j][None])[:, 0]
        right = (found.labels[i] == labels[i, j]) & found.valid[i] & (found.scores[i] > 0.4)
        assert float((best * right).max()) > 0.7, (i, j)
