"""Second stages: regions and masks, compared with MMDetection's own losses."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip(
    "mmdet.registry", reason="MMDetection needs its own environment: make test-mmdet"
)

from mmdet_models import attach, batch, make, step
from mmdet_one_stage import CLASSES

pytestmark = pytest.mark.filterwarnings("ignore")


def test_two_stages_weigh_what_each_of_them_knows() -> None:
    expected = {"class": ["roi"], "size*class": ["roi"], "size": ["rpn", "roi"]}
    expected |= {"level": ["rpn"], "level-positives": ["rpn"]}
    for by, names in expected.items():
        assert list(attach(make("Faster R-CNN"), by=by).balancers) == names


def test_losses_of_regions_are_those_of_their_classes() -> None:
    model = make("Faster R-CNN")
    attached = attach(model, "equal", by="class")
    data = batch((3, 2))
    step(model, data)
    plain = make("Faster R-CNN")
    head = plain.roi_head.bbox_head
    calls: list[dict[str, Any]] = []

    def note(loss: Any, **named: Any) -> Any:
        calls.append(named)
        return loss(**named)

    head.loss_and_target = partial(note, head.loss_and_target)
    step(plain, data)
    scores, deltas = calls[0]["cls_score"].detach(), calls[0]["bbox_pred"].detach()
    regions = len(scores)
    expected, positives, at = torch.zeros(2, CLASSES + 1), torch.zeros(CLASSES), 0
    for sampled in calls[0]["sampling_results"]:
        wanted = head.bbox_coder.encode(sampled.pos_priors, sampled.pos_gt_bboxes)
        for place in range(len(sampled.priors)):
            is_object = place < len(sampled.pos_priors)
            label = int(sampled.pos_gt_labels[place]) if is_object else CLASSES
            own = F.cross_entropy(scores[at], torch.tensor(label))
            expected[0, label] += own / regions
            if is_object:
                positives[label] += 1
                box = deltas[at, 4 * label : 4 * label + 4]
                expected[1, label] += (box - wanted[place]).abs().sum() / regions
            at += 1
    assert at == regions
    for row, name in enumerate(("loss_cls", "loss_bbox")):
        torch.testing.assert_close(attached.group_losses[name], expected[row])
    balancer = attached["roi"]
    assert torch.equal(balancer.block[0, CLASSES + 1 :], positives)


@pytest.mark.parametrize("family", ["Mask R-CNN", "Cascade Mask R-CNN"])
def test_losses_of_masks_are_those_of_their_classes(family: str) -> None:
    """The head's own loss is called for one region at a time."""
    model, plain = make(family), make(family)
    attached = attach(model, "equal", by="class")
    data = batch((3, 2))
    step(model, data)
    heads = plain.roi_head.mask_head
    cascade = family.startswith("Cascade")
    expected = [torch.zeros(CLASSES + 1) for _ in (heads if cascade else [heads])]

    def note(stage: int, loss: Any, **named: Any) -> Any:
        result = loss(**named)
        labels = torch.cat([one.pos_gt_labels for one in named["sampling_results"]]).tolist()
        for region, label in enumerate(labels):
            own = heads[stage].loss_mask if cascade else heads.loss_mask
            channel = torch.tensor([0 if cascade else label])
            alone = (
                part[region : region + 1] for part in (named["mask_preds"], result["mask_targets"])
            )
            expected[stage][label] += own(*alone, channel).detach()[0] / len(labels)
        return result

    for stage, head in enumerate(heads if cascade else [heads]):
        head.loss_and_target = partial(note, stage, head.loss_and_target)
    step(plain, data)
    for stage, own in enumerate(expected):
        name = f"s{stage}.loss_mask" if cascade else "loss_mask"
        torch.testing.assert_close(attached.group_losses[name], own * (0.5 if stage else 1))
        assert (own[:CLASSES] > 0).sum() > 1


@pytest.mark.filterwarnings("error:scalewise")
def test_other_losses_of_masks_stay_with_a_warning() -> None:
    attach(make("Mask R-CNN"), by="class").detach()
    data, plain, model = batch((3, 2)), make("Mask R-CNN"), make("Mask R-CNN")
    for one in (plain, model):
        one.roi_head.mask_head.loss_mask.class_weight = [1.0] * 6
    with pytest.warns(UserWarning, match="masks' loss of FCNMaskHead with CrossEntropyLoss is not"):
        attached = attach(model, "class:class0=3", by="class")
    (losses, found), (own, expected) = step(model, data), step(plain, data)
    assert sorted(attached.group_losses) == ["loss_bbox", "loss_cls"]
    assert torch.equal(losses["loss_mask"], own["loss_mask"])
    last = "roi_head.mask_head.conv_logits.weight"
    assert torch.equal(found[last], expected[last])
    shared = "backbone.stem.weight"
    assert not torch.allclose(found[shared], expected[shared])
