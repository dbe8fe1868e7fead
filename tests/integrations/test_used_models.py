"""What users do with an attached model besides training: export, average, move and cast it."""

from __future__ import annotations

import copy
import importlib.util
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from checks import close
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision_models import FAMILIES, SIDE, batch, make, step

import scalewise as sw
from scalewise.integrations.attached import NAME
from scalewise.integrations.options import AttachError


class OneLevel(nn.Module):
    """A backbone that TorchScript can compile."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 32
        self.stem = nn.Conv2d(3, 32, 3, stride=16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = OrderedDict()
        found["0"] = self.stem(x)
        return found


def test_scripting_needs_the_model_without_weights() -> None:
    anchors = AnchorGenerator(((16,),), ((1.0,),))
    torch.manual_seed(0)
    plain = RetinaNet(OneLevel(), 3, anchor_generator=anchors, min_size=SIDE, max_size=SIDE)
    model = copy.deepcopy(plain)
    sw.attach(model)
    with pytest.raises(AttachError, match=r"torch\.jit\.script cannot .* sw\.detach\(model\)"):
        torch.jit.script(model.eval())
    bare = copy.deepcopy(model)
    sw.detach(bare)
    scripted = torch.jit.script(bare)
    assert not [key for key in scripted.state_dict() if NAME in key]
    images = batch((1,))[0]
    with torch.no_grad():
        found, expected = scripted(images)[1], plain.eval()(images)
    assert all(torch.equal(found[0][key], own) for key, own in expected[0].items())
    assert model.scalewise is not None  # the model keeps its weights


@pytest.mark.filterwarnings("ignore")
def test_onnx_files_hold_the_plain_model(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    plain, model = make("faster_rcnn").eval(), make("faster_rcnn")
    sw.attach(model, "size", "random", interval=1)
    step(model, batch((2, 1)))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if NAME not in k})
    images = batch((1,))[0]
    file = tmp_path / "model.onnx"
    torch.onnx.export(model.eval(), (images,), file, dynamo=False, opset_version=17)
    assert NAME.encode() not in file.read_bytes()
    session = onnxruntime.InferenceSession(file)
    found = session.run(None, {session.get_inputs()[0].name: images[0].numpy()})
    (expected,) = plain(images)
    for mine, own in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(torch.as_tensor(mine), own, rtol=1e-3, atol=1e-3)


def tensors(thing: Any) -> list[Tensor]:
    """All tensors of a module, registered or not."""
    found = []
    for module in thing.modules():
        places = (vars(module), module._buffers, module._parameters)
        found += [value for own in places for value in own.values() if isinstance(value, Tensor)]
    return found


@pytest.mark.parametrize("scheme", ["rlo", "avw", "share", "inverse", "permuted"])
def test_a_moved_model_takes_its_balancer_along(scheme: str) -> None:
    model = make("faster_rcnn")
    attached = sw.attach(model, "size", scheme, interval=2)
    for seed in range(3):
        step(model, batch((2, 1), seed))
    model.to("meta")
    assert len(tensors(attached)) > 10
    assert all(tensor.device.type == "meta" for tensor in tensors(attached))


def in_double(data: Any) -> Any:
    images, targets = data
    return [image.double() for image in images], [
        {**one, "boxes": one["boxes"].double()} for one in targets
    ]


@pytest.mark.parametrize("by", ["size", "level"])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "mask_rcnn"])
def test_in_double_precision_the_losses_are_the_plain_models(family: str, by: str) -> None:
    plain, model = make(family).double(), make(family)
    attached = sw.attach(model, by, "equal")
    model.double()
    data = in_double(batch((2, 1)))
    for mine, own, what in zip(step(model, data), step(plain, data), "lg", strict=True):
        close(mine, own, what)
    assert all(weights.dtype == torch.float32 for weights in attached.weights.values())
    assert all(attached[name].calls == 1 for name in attached.weights)


def of_timm(name: str) -> Callable[[Any], Any]:
    def average(model: Any) -> Any:
        package = importlib.util.find_spec("timm")
        if package is None or not package.submodule_search_locations:
            pytest.skip("timm is not installed")
        file = Path(package.submodule_search_locations[0]) / "utils" / "model_ema.py"
        spec = importlib.util.spec_from_file_location("model_ema", file)  # all of timm is slow
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made = getattr(module, name)(model, decay=0.9)
        made.update_parameters = made.update
        return made

    return average


AVERAGES: dict[str, Callable[[Any], Any]] = {
    "plain": AveragedModel,
    "buffers": lambda model: AveragedModel(model, use_buffers=True),
    "ema": lambda model: AveragedModel(
        model, multi_avg_fn=cast(Any, get_ema_multi_avg_fn)(0.9), use_buffers=True
    ),
    "timm2": of_timm("ModelEmaV2"),
    "timm3": of_timm("ModelEmaV3"),
}


@pytest.mark.parametrize(
    ("kind", "scheme"), [*[(k, "rlo:reward=validation") for k in AVERAGES], ("buffers", "inverse")]
)
def test_averages_of_an_attached_model_are_those_of_the_plain_one(kind: str, scheme: str) -> None:
    plain, model, alone = make("ssdlite"), make("ssdlite"), make("ssdlite")
    attached = sw.attach(model, "size", scheme, interval=2)["dense"]
    untouched = sw.attach(alone, "size", scheme, interval=2)["dense"]
    before = copy.deepcopy(attached.state_dict())
    averages = [AVERAGES[kind](one) for one in (model, plain)]
    for seed in range(4):
        for one in (model, alone):
            step(one, batch((2, 1), seed))
            with torch.no_grad():
                for parameter in one.parameters():
                    parameter -= 0.01 * parameter.grad
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if NAME not in k})
        for average, one in zip(averages, (model, plain), strict=True):
            average.update_parameters(one)
        if seed == 1:  # a window can end early at the end of an epoch
            for balancer in (attached, untouched):
                balancer.close_window()
    found, expected = (average.module.state_dict() for average in averages)
    assert all(torch.equal(found[key], own) for key, own in expected.items())
    for key, own in untouched.state_dict().items():
        assert torch.equal(attached.state_dict()[key], own), key
    copied = averages[0].module.scalewise["dense"].state_dict()
    if kind.startswith("timm"):
        assert all(torch.equal(copied[key], own) for key, own in before.items())
    for key, own in copied.items():
        assert own.isfinite().all(), key
        if key.rpartition(".")[2] in ("scored", "seen", "heard"):
            assert ((own == 0) | (own == 1)).all(), key
    model.load_state_dict(found)  # training continues from the average
    step(model, batch((2, 1)))
    assert attached.weights.isfinite().all()
    assert (attached.weights > 0).all()


def test_a_state_has_the_same_length_after_a_window_that_ended_early() -> None:
    balancer = sw.LossBalancer(3, "share", 2, by="class", accumulate=4)
    lengths = set()
    for _ in range(6):
        balancer(torch.rand(3, requires_grad=True), torch.ones(3))
        lengths.add(balancer.get_extra_state().shape)
        balancer.close_window()
        lengths.add(balancer.get_extra_state().shape)
    assert balancer.intervals == 3
    assert len(lengths) == 1
    twin = sw.LossBalancer(3, "share", 2, by="class", accumulate=4)
    twin.load_state_dict(balancer.state_dict())
    assert torch.equal(twin.get_extra_state(), balancer.get_extra_state())


def test_flags_of_older_states_are_read() -> None:
    """Older versions kept flags as bool, which cannot be averaged."""
    for scheme, flag in (("avw", "scored"), ("inverse", "seen")):
        balancer, twin, assigned = (sw.LossBalancer(2, scheme, 2) for _ in range(3))
        losses = torch.rand(8, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
        for row in losses[:5]:
            balancer(row)
        state = balancer.state_dict()
        assert state[f"scheme.{flag}"].all()
        state[f"scheme.{flag}"] = state[f"scheme.{flag}"].bool()
        twin.load_state_dict(state)
        assigned.load_state_dict(state, assign=True)
        before = balancer.weights.clone()
        for one in (balancer, twin, assigned):
            for row in losses[5:]:
                one(row)
        assert not torch.equal(balancer.weights, before)
        assert torch.equal(twin.weights, balancer.weights)
        assert torch.equal(assigned.weights, balancer.weights)
