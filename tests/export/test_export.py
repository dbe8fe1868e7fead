"""Exported files compute the same as their run and describe themselves; errors are told."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_runs import CLASSES, SIZE, needs_onnx, pictures, small_run
from PIL import Image
from torch import Tensor, nn

from scalewise import detectors
from scalewise.cli import main
from scalewise.detectors import Detections
from scalewise.errors import UserError
from scalewise.lab.export import write
from scalewise.lab.export.agreement import check_images, compare_outputs
from scalewise.lab.export.graph import Decoded, Suppressed, _survivors, of_plain_layers
from scalewise.lab.export.loading import load_exported
from scalewise.lab.export.write import export_run
from scalewise.lab.inference import trained
from scalewise.lab.inference.prediction import predict
from scalewise.lab.inference.trained import TrainedRun
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.run_options import save_config

SIDE = 96
KINDS = ("atss", "fcos", "retinanet")


def onnx_outputs(path: Path, images: Tensor, sizes: Tensor) -> list[Tensor]:
    """The outputs that onnxruntime itself computes from a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
    return [torch.from_numpy(values) for values in found]


def torch_outputs(path: Path, images: Tensor, sizes: Tensor) -> list[Tensor]:
    return list(torch.export.load(path).module()(images, sizes))


OUTPUTS = {"onnx": onnx_outputs, "torch": torch_outputs}


class Files:
    """Exported files by kind of detector, format and suppression, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = {kind: small_run(kind, folder / kind) for kind in KINDS}
        self.made: dict[tuple[str, Any, bool], Path] = {}
        self.said: list[str] = []

    def get(self, kind: str, format: Any, nms: bool) -> Path:
        if (kind, format, nms) not in self.made:
            made = export_run(self.runs[kind], format, nms=nms)
            self.made[kind, format, nms], self.said = made
        return self.made[kind, format, nms]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("kind", "format", "nms"),
    [
        pytest.param("atss", "onnx", True, marks=needs_onnx),
        pytest.param("fcos", "onnx", False, marks=needs_onnx),
        pytest.param("retinanet", "onnx", True, marks=needs_onnx),
        ("atss", "torch", False),
        ("fcos", "torch", True),
    ],
)
@pytest.mark.xdist_group("exports")
def test_files_compute_what_the_detector_does(
    kind: str, format: Any, nms: bool, files: Files
) -> None:
    path, detector = files.get(kind, format, nms), files.runs[kind].detector
    assert "random pixels" in files.said[2]
    for count in (1, 3):
        batch = pictures(count, SIDE)
        found = OUTPUTS[format](path, batch.images, batch.sizes)
        if nms:
            own = detector.detect(batch)
            assert own.valid.any()
            assert found[0].shape == (count, 100, 4)
            assert found[4].tolist() == own.valid.sum(1).tolist()
            same_detections(found, own)
        else:
            with torch.no_grad():
                boxes, scores = Decoded(detector)(batch.images, batch.sizes)
            torch.testing.assert_close(found[0], boxes, rtol=0, atol=1e-4 * SIDE)
            torch.testing.assert_close(found[1], scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_operation", [True, False])
def test_graphs_with_suppression_compute_what_the_detector_does(
    kind: str, as_operation: bool, files: Files
) -> None:
    detector = files.runs[kind].detector
    counts = [(-(-SIDE // s)) ** 2 * detector.method.anchors for s in detector.strides]
    graph = Suppressed(of_plain_layers(detector), counts, as_operation)
    for count in (1, 3):
        batch = pictures(count, SIDE)
        with torch.no_grad():
            found = list(graph(batch.images, batch.sizes))
        own = detector.detect(batch)
        assert found[4].tolist() == own.valid.sum(1).tolist()
        same_detections(found, own)


def same_detections(found: list[Tensor], own: Detections) -> None:
    """The same within the tolerance; detections with nearly equal scores may be in any order."""
    for image, count in enumerate(found[4].tolist()):
        mine, its = (
            torch.cat((boxes, torch.stack((scores, labels, levels), dim=1)), dim=1)
            for boxes, scores, labels, levels in (
                [part[image, :count] for part in found[:4]],
                [part[image][own.valid[image]] for part in own[:4]],
            )
        )  # [k, 7]
        apart = (mine[:, None] - its[None]).abs() / torch.tensor([SIDE] * 4 + [1.0] * 3)
        nearest = apart.amax(-1)
        assert nearest.amin(0).max() < 1e-4
        assert nearest.amin(1).max() < 1e-4
        assert not found[0][image, count:].any()


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenet_v3_small", "resnet18"])
def test_plain_layers_compute_what_the_projects_do(backbone: str) -> None:
    torch.manual_seed(0)
    detector = detectors.atss(backbone, 3, width=16, depth=1, freeze_bn=True).eval()
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    made = of_plain_layers(detector)
    assert not any(
        type(m).__module__.startswith("scalewise.lab.detectors.frozen") for m in made.modules()
    )
    batch = pictures(2, SIDE)
    with torch.no_grad():
        expected = Decoded(detector)(batch.images, batch.sizes)
        found = Decoded(made)(batch.images, batch.sizes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_suppression_in_one_call_is_the_detectors() -> None:
    from scalewise.lab.detectors.nms import _suppress

    torch.manual_seed(1)
    corner, size = torch.rand(3, 60, 2) * 60, torch.rand(3, 60, 2) * 60 + 1
    boxes = torch.cat((corner, corner + size), dim=-1)
    scores, labels = torch.rand(3, 60), torch.randint(0, 4, (3, 60))
    kept = _survivors(boxes, scores, labels, 0.3, 0.5, 4)
    torch.testing.assert_close(kept, _suppress(boxes, scores, labels, scores > 0.3, 0.5))
    assert kept.any()
    assert not _survivors(boxes, scores, labels, 1.0, 0.5, 4).any()


@pytest.mark.xdist_group("exports")
def test_a_file_that_computes_something_else_is_not_kept(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run("fcos", tmp_path / "run")
    path = files.get("fcos", "torch", True)
    batches, _ = check_images(run, SIZE)
    assert compare_outputs(run.detector, load_exported(path), batches).holds
    bias = run.detector.head.boxes.bias
    assert bias is not None
    bias.data.add_(0.01)
    assert not compare_outputs(run.detector, load_exported(path), batches).holds
    monkeypatch.setattr(write, "traced", lambda *_: torch.export.load(path))
    with pytest.raises(UserError, match=r"model\.pt2 was not written: its results differ") as error:
        export_run(run, "torch", nms=True)
    assert "\n" not in str(error.value)
    assert not list(run.folder.iterdir())


@pytest.mark.parametrize("bad", [1, 3])
@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.xdist_group("exports")
def test_a_nan_in_any_batch_is_no_agreement(bad: int, output: int, files: Files) -> None:
    run, exported = files.runs["fcos"], load_exported(files.get("fcos", "torch", False))
    batches, _ = check_images(run, SIZE)
    sound = exported.compute
    assert compare_outputs(run.detector, exported, batches).holds

    def spoilt(images: Tensor, sizes: Tensor) -> list[Tensor]:
        found = sound(images, sizes)
        if len(images) == bad:
            found[output][0, 0, 0] = torch.nan
        return found

    exported.compute = spoilt
    assert not compare_outputs(run.detector, exported, batches).holds


@needs_onnx
@pytest.mark.xdist_group("exports")
def test_predictions_of_a_file_are_those_of_its_run(files: Files, tmp_path: Path) -> None:
    run = files.runs["atss"]
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate([(90, 60), (200, 310), (33, 90), (477, 501)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    expected = _written(run, folder, tmp_path / "out")
    for file in (files.get("atss", "onnx", True), files.get("atss", "torch", False)):
        found = _written(load_exported(file), folder, tmp_path / "out")
        assert [image["image"] for image in found] == [image["image"] for image in expected]
        for mine, its in zip(found, expected, strict=True):
            assert len(mine["detections"]) == len(its["detections"]) > 0
            for one, other in zip(mine["detections"], its["detections"], strict=True):
                assert one["class"] == other["class"]
                assert one["level"] == other["level"]
                assert one["score"] == pytest.approx(other["score"], abs=1e-3)
                assert one["box"] == pytest.approx(other["box"], abs=1.1e-3)


@needs_onnx
@pytest.mark.xdist_group("exports")
def test_onnx_files_are_valid_and_say_what_they_are(files: Files) -> None:
    import onnx

    path = files.get("atss", "onnx", True)
    assert path == files.runs["atss"].folder / "model.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model)
    facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert facts["classes"] == CLASSES
    assert (facts["size"], facts["side"], facts["strides"]) == (SIZE, SIDE, [8, 16, 32, 64, 128])
    assert facts["opset"] == model.opset_import[0].version
    assert sum(facts["anchors"]) == 12**2 + 6**2 + 3**2 + 2**2 + 1


@needs_onnx
@pytest.mark.xdist_group("exports")
def test_the_code_of_the_page_runs(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "export.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "detector.onnx").write_bytes(files.get("atss", "onnx", True).read_bytes())
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(compile(code, str(page), "exec"), made)
    assert made["classes"] == CLASSES
    assert made["found"] == [CLASSES[label] for label in made["labels"][0, : made["counts"][0]]]


def _written(run: Any, images: Path, out: Path) -> list[dict[str, Any]]:
    folder, unreadable = predict(run, [images], out, 0.3)
    assert not unreadable
    entries: list[dict[str, Any]] = json.loads((folder / "predictions.json").read_text())
    return entries


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run("fcos", tmp_path / "run")
    (tmp_path / "a.onnx").write_bytes(b"x")
    for package in write.ONNX_PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        UserError, match=r"pip install 'scalewise\[export\]', or use --format torch"
    ):
        export_run(run, "onnx")
    with pytest.raises(UserError, match=r"pip install 'scalewise\[export\]'"):
        load_exported(tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"ends in \.pt2"):
        export_run(run, "torch", tmp_path / "a.bin")
    assert not list(run.folder.iterdir())


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run("fcos", tmp_path / "run")
    (tmp_path / "file").touch()
    monkeypatch.setattr(write, "traced", lambda *_: None)
    with pytest.raises(UserError, match=r"the folder .*file could not be made"):
        export_run(run, "torch", tmp_path / "file" / "a.pt2")


@pytest.mark.xdist_group("exports")
def test_the_commands_export_a_run_and_predict_with_its_file(
    files: Files,
    tiny: Callable[..., TrainConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = small_run("fcos", tmp_path / "run")
    run.config = replace(run.config, data=tiny(tmp_path).data)
    asked: list[tuple[object, ...]] = []

    def load(*words: object) -> TrainedRun:
        asked.append(words)
        return run

    save_config(run.folder, run.config)
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "last.ckpt").touch()
    monkeypatch.setattr(trained, "load_run", load)
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 40), "red").save(image)
    file = tmp_path / "new" / "small.pt2"
    made = files.get("fcos", "torch", True)
    monkeypatch.setattr(write, "traced", lambda *_: torch.export.load(made))
    words = [str(run.folder), "--format", "torch", "--checkpoint", "last", "--out", str(file)]
    assert main(["export", *words, "--nms"]) == 0
    assert asked == [(run.folder, "last", "cpu")]
    out = capsys.readouterr().out
    assert "input: images uint8 [batch, 3, 96, 96]" in out
    assert "agrees with the run on 4 images of val, in batches of 1 and 3" in out
    assert f"written: {file}" in out
    assert main(["predict", str(file), str(image), "--threshold", "0"]) == 0
    written = tmp_path / "new" / "predictions" / "predictions.json"
    assert json.loads(written.read_text())[0]["image"] == str(image)
    assert main(["predict", str(file), str(image), "--threshold", "best-f1"]) == 2
    assert "name the run folder" in capsys.readouterr().err


def test_the_command_refuses_what_cannot_be_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path), "--size", "0"]) == 2
    assert main(["export", str(tmp_path)]) == 1
    assert "is no run folder" in capsys.readouterr().err


def test_a_run_is_what_finds_objects(tmp_path: Path) -> None:
    run: TrainedRun = small_run("atss", tmp_path)
    assert (run.size, run.batch_size, run.workers) == (SIZE, 3, 0)
    assert run.strides == run.detector.strides
