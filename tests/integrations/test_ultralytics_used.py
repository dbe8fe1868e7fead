"""What users do with a weighed Ultralytics model: copy, fuse, export, cast and move it."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

# imported first, since it sets the folder for Ultralytics' settings
pytest.importorskip("ultralytics_models", reason="Ultralytics is not installed")

from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics_models import SIDE, batch, make, parts, plan, step

from scalewise.integrations.options import Options
from scalewise.integrations.ultralytics_criterion import WeighedCriterion, parts_of
from scalewise.integrations.ultralytics_loss import attach_yolo, detach_yolo

load: Any = torch.jit.load


@pytest.mark.parametrize("family", ["yolo11", "yolo26"])
def test_copies_pickles_and_validation_are_plain(family: str) -> None:
    model, plain = make(family), make(family)
    options = Options(scheme="class:class0=3:class3=0.5", interval=1)
    balancer = attach_yolo(model, options)["dense"]
    data = batch((2, 1))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other.criterion) is type(plain.init_criterion())
    assert b"scalewise" not in pickle.dumps(model)
    with torch.no_grad():
        found, expected = model(data)[0], plain(data)[0]
    assert torch.equal(found, expected)
    for one in (model, plain):
        one.eval()
    assert torch.equal(model(data)[0], plain(data)[0])
    for one in (model, plain):
        one.train()
    assert balancer.intervals == 0
    assert not torch.allclose(model(data)[0], expected)
    assert balancer.intervals == 1
    own = plain.criterion
    detach_yolo(model)
    detach_yolo(plain)
    assert type(model.criterion) is type(own)
    assert plain.criterion is own
    for part, its in zip(parts(model), parts(plain), strict=True):
        assert vars(part).keys() == vars(its).keys()
    for mine, theirs in zip(step(model, data), step(plain, data), strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("family", ["yolo11", "yolo26"])
def test_fused_and_exported_it_is_the_plain_model(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the exported file goes here
    file = tmp_path / f"{family}.yaml"
    file.write_text(json.dumps(plan(family)))
    yolo = YOLO(file)
    yolo.model.args = get_cfg()
    attach_yolo(yolo.model, Options("class", "random", interval=1))
    step(yolo.model, batch((2, 1)))
    plain = make(family).eval()
    plain.load_state_dict(yolo.model.state_dict())
    images = batch((1,))["img"]
    with torch.no_grad():
        expected = plain.fuse(verbose=False)(images)[0]
        found = copy.deepcopy(yolo.model).eval().fuse(verbose=False)(images)[0]
        assert torch.equal(found, expected)
        yolo.model.args = vars(yolo.model.args)  # a dictionary, as in Ultralytics' files
        exported = yolo.export(format="torchscript", imgsz=SIDE, verbose=False)
        torch.testing.assert_close(load(exported)(images), expected, rtol=1e-4, atol=1e-3)
    assert b"scalewise" not in Path(exported).read_bytes()


def test_a_model_in_double_precision_is_weighed() -> None:
    data = {k: v.double() if k == "img" else v for k, v in batch((2, 1)).items()}
    plain, model = make("yolo11").double(), make("yolo11")
    attached = attach_yolo(model, Options("class", "equal"))
    for mine, own in zip(step(model.double(), data), step(plain, data), strict=True):
        for key, value in own.items():
            torch.testing.assert_close(mine[key], value)
    assert attached.weights["dense"].dtype == torch.float32
    assert attached["dense"].calls == 1


@pytest.mark.parametrize(("family", "task"), [("yolo11", "pose"), ("yolo26", "detect")])
def test_the_weights_follow_a_model_to_another_device(
    family: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model moves to the device "meta", which has shapes but no values."""
    model, data = make(family, task=task), batch((2, 1), task=task)
    attached = attach_yolo(model, Options("class", "random", interval=1))
    weighed = model.criterion
    weighed.hold()
    step(model, data)
    if family == "yolo26":
        model.criterion.update()
    factors = [factor for _, factor in parts_of(weighed.criterion)]
    strides = model.model[-1].stride
    model.to("meta").model[-1].stride = strides

    class Moved(Exception):
        pass

    def stop(self: Any, preds: Any) -> None:
        raise Moved

    monkeypatch.setattr(WeighedCriterion, "_groups", stop)
    with pytest.raises(Moved):
        weighed(None, data)
    held = [weighed._held, weighed._sums, weighed._weights, *attached.buffers()]
    for part, _ in parts_of(weighed.criterion):
        assert part.device.type == "meta"
        del part.stride  # not on "meta": the test set it above
        held += [value for value in vars(part).values() if isinstance(value, torch.Tensor)]
        held += [
            value
            for module in vars(part).values()
            if isinstance(module, torch.nn.Module)
            for value in vars(module).values()
            if isinstance(value, torch.Tensor)
        ]
    assert {tensor.device.type for tensor in held} == {"meta"}
    assert [factor for _, factor in parts_of(weighed.criterion)] == factors
    assert factors == [1.0] if task == "pose" else factors[0] < 0.8
