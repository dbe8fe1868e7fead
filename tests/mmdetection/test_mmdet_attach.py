"""Attaching to MMDetection's models, the names of the groups, and detaching."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

pytest.importorskip(
    "mmdet.registry", reason="MMDetection needs its own environment: make test-mmdet"
)

from checks import close
from mmdet_configs import SIDE
from mmdet_models import attach, batch, make, step

import scalewise as sw
from scalewise.integrations.mmengine import attach_mmdet, detach_mmdet
from scalewise.integrations.options import AttachError, Options

if TYPE_CHECKING:

    class BaseModel(nn.Module):
        parse_losses: Any
else:
    from mmengine.model import BaseModel

trace: Any = torch.jit.trace
pytestmark = pytest.mark.filterwarnings("ignore")


def test_weights_are_given_by_the_names_of_the_groups() -> None:
    model = make("RetinaNet")
    model.dataset_meta = {"classes": ("cat", "dog", "bird")}
    attached = attach(model, "class:dog=3", by=None)
    assert attached["dense"].names == ("cat", "dog", "bird")
    step(model, batch((3, 2)))
    assert attached.weights["dense"].tolist() == [1, 3, 1]
    attached.detach()
    with pytest.raises(AttachError, match="no group mouse; there are: cat, dog, bird"):
        attach(model, "class:mouse=2", by="class")
    with pytest.raises(AttachError, match="no group tiny; there are: small, medium, large"):
        attach(model, "size:tiny=2", by="size")
    with pytest.raises(AttachError, match="names 2 classes, the model has 3"):
        attach(model, classes=("a", "b"), by="class")
    assert "parse_losses" not in vars(model)
    assert not {"loss_by_feat", "get_targets"} & vars(model.bbox_head).keys()


@pytest.mark.parametrize("by", ["level", "size"])
@pytest.mark.parametrize("family", ["RetinaNet", "FCOS", "YOLOX", "Cascade Mask R-CNN"])
def test_detach_restores_the_model(family: str, by: str) -> None:
    plain, model = make(family), make(family)
    attach(model, sw.RandomWeights(), by=by, interval=1)
    step(model, batch((2, 1)))
    detach_mmdet(model)
    detach_mmdet(plain)
    samplers = [
        [vars(m)["sampler"] for m in o.modules() if "sampler" in vars(m)] for o in (model, plain)
    ]
    for one, other in zip(*samplers, strict=True):
        assert vars(one).keys() == vars(other).keys()
    for module, other in zip(model.modules(), plain.modules(), strict=True):
        # the framework sets `epoch` and the like; only functions set by `attach` must be gone
        assert {n for n in vars(module) if callable(vars(module)[n])} == {
            n for n in vars(other) if callable(vars(other)[n])
        }
        assert len(module._forward_hooks) == len(other._forward_hooks)
    for mine, own in zip(step(model, batch((2, 1))), step(plain, batch((2, 1))), strict=True):
        assert all(torch.equal(mine[key], own[key]) for key in own)


@pytest.mark.parametrize("by", ["class", "level"])
def test_traced_and_averaged_it_is_the_plain_model(by: str) -> None:
    model, plain = make("RetinaNet"), make("RetinaNet")
    balancer = attach(model, "avw", by=by, interval=1)["dense"]
    averages = [AveragedModel(one, use_buffers=True) for one in (model, plain)]
    for seed in range(3):
        step(model, batch((2, 1), seed))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad
        plain.load_state_dict(model.state_dict())
        for average, one in zip(averages, (model, plain), strict=True):
            average.update_parameters(one)
    assert balancer.calls == 3
    images = batch((1,))[0]
    for one, other in ((model, plain), [average.module for average in averages]):
        traced = trace(one.eval(), images, strict=False, check_trace=False)
        found, expected = traced(images), other.eval()(images)
        assert traced.state_dict().keys() == plain.state_dict().keys()
        for mine, own in zip(found, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, own, strict=True))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_has_weights_of_its_own(how: str) -> None:
    model = make("Faster R-CNN")
    attached = attach(model, "random", by="class", interval=1)
    twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    own = twin.parse_losses.func.__self__
    step(twin, batch((2, 1)))
    assert (own["roi"].calls, attached["roi"].calls) == (1, 0)
    assert (own["roi"].weights != 1).any()
    detach_mmdet(twin)
    step(model, batch((2, 1)))
    assert (own["roi"].calls, attached["roi"].calls) == (1, 1)


def test_the_weights_follow_the_model_and_stay_exact() -> None:
    model, plain = make("Faster R-CNN").double(), make("Faster R-CNN").double()
    attached = attach(model, "equal", by="size")
    model.to(torch.float64)
    images, samples = batch((2, 1))
    for sample in samples:
        for own in (sample.gt_instances, sample.ignored_instances):
            own.bboxes = own.bboxes.double()
    data = images.double(), samples
    for mine, its, what in zip(step(model, data), step(plain, data), "lg", strict=True):
        close(mine, its, what)
    assert all(weights.dtype == torch.float32 for weights in attached.weights.values())
    nn.ModuleList([model]).to("meta")  # a device with shapes but no values
    found = [buffer for own in attached.balancers.values() for buffer in own.buffers()]
    assert {buffer.device.type for buffer in found} == {"meta"}


class Named(BaseModel):
    """A model that is no detector: losses of three branches, and other lists of losses."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, inputs: Tensor, mode: str = "loss") -> dict[str, Any]:
        squares = [(s * inputs).square() for s in self.scale]
        return {
            "loss_branch": [v.mean() for v in squares],
            "loss_other": [v.abs().mean() for v in squares],
            "loss_images": [self.scale[0] * v for v in inputs],
            "loss_single": self.scale.sum(),
        }


def test_named_lists_of_any_model_are_weighed() -> None:
    model, plain = Named(), Named()
    attached = attach(model, "equal", losses=("loss_branch", "loss_other"))
    inputs = torch.arange(5.0)
    model.parse_losses(model(inputs))  # the first call fixes the number of levels
    attached.weights["named"].copy_(torch.tensor([0.5, 1.0, 1.5]))
    total, log = model.parse_losses(model(inputs))
    total.backward()
    losses = plain(inputs)
    for key in ("loss_branch", "loss_other"):
        losses[key] = [w * v for w, v in zip((0.5, 1.0, 1.5), losses[key], strict=True)]
    expected, expected_log = plain.parse_losses(losses)
    expected.backward()
    torch.testing.assert_close(total, expected)
    close(log, expected_log, "log")
    torch.testing.assert_close(model.scale.grad, plain.scale.grad)
    assert list(attached.balancers) == ["named"]
    with torch.no_grad():
        assert torch.equal(
            model.parse_losses(model(inputs))[0], plain.parse_losses(plain(inputs))[0]
        )


def _attach_and_parse(model: Any, names: Any, losses: dict[str, Any]) -> None:
    attach(model, "equal", losses=names)
    model.parse_losses(losses)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("loss_brunch",), "loss_brunch is missing.*lists are: loss_branch, loss_other, loss_imag"),
        (("loss_single",), "loss_single is a Tensor, not a list"),
        (("loss_branch", "loss_images"), "the lists differ in length"),
        ("loss_branch", r"write losses=\('loss_branch',\)"),
    ],
)
def test_wrong_names_are_refused(names: Any, reason: str) -> None:
    model = Named()
    losses = model(torch.arange(5.0))
    with pytest.raises(AttachError, match=reason):
        _attach_and_parse(model, names, losses)


def test_named_lists_are_of_levels() -> None:
    with pytest.raises(AttachError, match="whole levels, which by='class' cannot weigh"):
        attach(Named(), by="class", losses=("loss_branch",))
    assert attach_mmdet(Named(), Options(), losses=("loss_branch",)).balancers == {}


def test_lists_that_change_their_length_are_not_per_level() -> None:
    model = Named()
    attach(model, "equal", losses=("loss_images",))
    model.parse_losses(model(torch.arange(5.0)))
    with pytest.raises(AttachError, match="have 4 entries, but there are 5 levels"):
        model.parse_losses(model(torch.arange(4.0)))


def _with(head: Any) -> Any:
    model = Named()
    model.bbox_head = head
    return model


def test_what_cannot_be_handled_is_refused_and_left_alone() -> None:
    from mmdet.models.dense_heads import DETRHead, FreeAnchorRetinaHead, SSDHead

    anchors = {
        "type": "SSDAnchorGenerator",
        "strides": [8, 16],
        "ratios": ([2], [2]),
        "min_sizes": [16, 32],
        "max_sizes": [32, 64],
        "input_size": SIDE,
    }
    ssd = SSDHead(num_classes=3, in_channels=(16, 16), anchor_generator=anchors)
    learned = make("FCOS")
    learned.bbox_head.loss_cls.scale = nn.Parameter(torch.ones(()))
    twice = make("ATSS")
    attach(twice, "avw")
    for model, reason in (
        (_with(ssd), "SSDHead: its lists are per image, and it mines"),
        (_with(DETRHead(num_classes=3, embed_dims=16)), "code of DETRHead is not known"),
        (_with(FreeAnchorRetinaHead(3, 16)), "bags of anchors that run over all levels"),
        (_with(_own_head()), "OwnHead: the loss code of OwnHead is not known, so nothing"),
        (learned, "FocalLoss, which computes loss_cls, has parameters"),
        (twice, "has been replaced already"),
        (Named(), "Named has neither bbox_head nor rpn_head"),
        (nn.Linear(1, 1), "Linear has no parse_losses"),
    ):
        before = vars(model).copy()
        with pytest.raises(AttachError, match=reason):
            attach(model, "avw")
        assert vars(model) == before


def _own_head() -> Any:
    from mmdet.models.dense_heads import FCOSHead

    return type("OwnHead", (FCOSHead,), {"loss_by_feat": lambda self, *args: {}})(3, 16)


def test_groups_of_positives_that_cannot_be_had_are_refused_and_the_model_left_alone() -> None:
    from mmdet.models.dense_heads import ATSSHead
    from mmdet.models.losses.ghm_loss import GHMC
    from mmdet.models.roi_heads.bbox_heads import BBoxHead

    levels = make("ATSS")
    levels.bbox_head.__class__ = type("OwnATSS", (ATSSHead,), {"loss_by_feat_single": None})
    learned = make("Faster R-CNN")
    learned.roi_head.bbox_head.loss_cls.scale = nn.Parameter(torch.ones(()))
    counting = make("RetinaNet")
    counting.bbox_head.loss_cls = GHMC()
    other_box = make("Faster R-CNN")
    other_box.roi_head.bbox_head.__class__ = type("OwnBoxHead", (BBoxHead,), {"loss": None})
    proposals = _with(make("Faster R-CNN").rpn_head)
    for model, by, reason in (
        (_with(_own_head()), "class", "OwnHead: the loss code of OwnHead is not known, so nothing"),
        (levels, "class", "OwnATSS: loss_by_feat_single is not MMDetection's own"),
        (make("FoveaBox"), "size", "FoveaHead keeps no box .*; by='class' works"),
        (make("FSAF"), "class", "chooses the positives by their losses.*by='level' works"),
        (make("RepPoints"), "level-positives", "its loss has a parameter"),
        (make("SABL"), "class", "learned in buckets"),
        (make("YOLOv3"), "size", "maps that do not tell the objects"),
        (make("GA-RetinaNet"), "class", "three kinds of positives"),
        (learned, "class", "CrossEntropyLoss, which computes loss_cls, has parameters"),
        (counting, "class", "GHMC, which computes loss_cls, keeps a state"),
        (other_box, "size", "OwnBoxHead: loss of OwnBoxHead is not known"),
        (proposals, "class", "RPNHead makes proposals, which have no class"),
    ):
        own_attributes = [vars(module).copy() for module in model.modules()]
        with pytest.raises(AttachError, match=reason):
            attach(model, by=by)
        assert [vars(module) for module in model.modules()] == own_attributes


def test_schemes_and_options_that_do_not_fit_are_refused() -> None:
    for scheme, reason in (
        ("uncertainty", "trains its weights by back-propagation"),
        ("avv", "unknown scheme 'avv'; did you mean 'avw'"),
    ):
        model = make("FCOS")
        with pytest.raises(AttachError, match=reason):
            attach(model, scheme)
        assert "parse_losses" not in vars(model)
        assert not model.bbox_head._forward_hooks
    with pytest.raises(AttachError, match="interval must be at least 1"):
        attach(make("FCOS"), interval=0)


def test_subclasses_that_inherit_the_loss_are_known() -> None:
    from mmdet.models.dense_heads import FCOSHead

    wider = type("Wider", (FCOSHead,), {})
    assert list(attach(_with(wider(3, 16))).weights) == ["dense"]


def test_a_head_that_was_replaced_is_told() -> None:
    model, other = make("RetinaNet"), make("RetinaNet").bbox_head
    attached = attach(model, by="class")
    model.bbox_head = other
    with pytest.warns(UserWarning, match="RetinaNet added up losses that no head with weights"):
        step(model, batch((2, 1)))
    assert attached["dense"].calls == 0
