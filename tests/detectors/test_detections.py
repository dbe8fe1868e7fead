"""Detections: format, suppression, and whether a trained detector finds its objects."""

from __future__ import annotations

import pytest
import torch
from detector_batches import FACTORIES, make_batch, random_batch, tiny, total
from torchvision.ops import box_iou

from scalewise.detectors.inference import select
from scalewise.detectors.method import Predictions


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
    # the second anchor overlaps the first, which is of its class and scores higher
    assert found.valid.tolist() == [[True, True], [False, False]]
    assert found.labels[0].tolist() == [1, 0]
    assert found.levels[0].tolist() == [1, 0]
    assert found.boxes[0].tolist() == [[0.0, 0.0, 30.0, 20.0], [0.0, 0.0, 10.0, 10.0]]
    torch.testing.assert_close(found.scores[0], torch.tensor([3.0, 2.0]).sigmoid())
    assert not found.scores[1].any()


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
