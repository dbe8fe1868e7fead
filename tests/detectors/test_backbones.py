"""Backbones: their features, what stays frozen, and where their weights come from."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model, mobilenet_v2, resnet18

from scalewise.detectors import atss
from scalewise.lab.detectors.backbone import Backbone, make_backbone


def _backbone(name: str, freeze_bn: bool = False, freeze_stem: bool = False) -> Backbone:
    return make_backbone(name, None, freeze_bn, freeze_stem)[0]


def _unsettle_norms(module: nn.Module) -> None:
    """Give BatchNorm random statistics, so that leaving it out would change the features."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            for tensor in (norm.weight, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (norm.bias, norm.running_mean):
                nn.init.uniform_(tensor, -0.3, 0.3)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("mobilenet_v2", (32, 96, 320)),
        ("resnet18", (128, 256, 512)),
        ("resnet50", (512, 1024, 2048)),
        ("regnet_x_400mf", (64, 160, 400)),
        ("shufflenet_v2_x0_5", (48, 96, 1024)),
    ],
)
def test_features_have_strides_8_16_and_32(name: str, channels: tuple[int, ...]) -> None:
    backbone = _backbone(name)
    features = backbone(torch.rand(1, 3, 64, 96))
    assert backbone.channels == channels
    assert [tuple(f.shape[1:]) for f in features] == [
        (c, 64 // s, 96 // s) for c, s in zip(channels, (8, 16, 32), strict=True)
    ]


def test_features_are_the_models_own_layers() -> None:
    torch.manual_seed(0)
    model = resnet18(weights=None)
    _unsettle_norms(model)
    backbone = _backbone("resnet18")
    body = backbone.body.get_submodule("model")
    body.load_state_dict({k: v for k, v in model.state_dict().items() if "fc." not in k})
    images = torch.randn(2, 3, 64, 64)
    model.eval()
    backbone.eval()
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    x = model.layer1(x)
    for layer, feature in zip(
        (model.layer2, model.layer3, model.layer4), backbone(images), strict=True
    ):
        x = layer(x)
        torch.testing.assert_close(feature, x)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "densenet121"])
def test_folded_batch_norm_gives_the_features_and_gradients_of_frozen_batch_norm(name: str) -> None:
    torch.manual_seed(1)
    plain = _backbone(name)
    _unsettle_norms(plain)
    folded = _backbone(name, freeze_bn=True)
    folded.load_state_dict(plain.state_dict())  # both have the same names
    # float64, since rounding would switch single ReLUs of deep networks
    plain.double().eval()
    folded.double().train()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    weights = [torch.randn_like(f) for f in plain(images)]
    for backbone in (plain, folded):
        features = backbone(images)
        torch.autograd.backward(sum((w * f).sum() for w, f in zip(weights, features, strict=True)))
    for ours, theirs in zip(folded(images), plain(images), strict=True):
        torch.testing.assert_close(ours, theirs)
    norms = {path for path, module in plain.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for path, parameter in folded.named_parameters():
        expected = plain.get_parameter(path).grad
        if path.rpartition(".")[0] in norms:
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None
            assert expected is not None
            torch.testing.assert_close(parameter.grad, expected)


def test_a_convolution_whose_output_is_used_twice_is_not_folded_in_silence() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            nn.init.constant_(self.norm.bias, 0.5)

        def forward(self, x: Tensor) -> list[Tensor]:
            x = self.conv(x)
            return [self.norm(x) + x]

    with pytest.raises(ValueError, match="used elsewhere too"):
        Backbone(Twice(), [4, 4, 4], freeze_bn=True)


def test_frozen_statistics_do_not_move_and_live_ones_do() -> None:
    for freeze in (True, False):
        backbone = _backbone("resnet18", freeze_bn=freeze).eval().train()
        before = {k: v.clone() for k, v in backbone.named_buffers()}
        backbone(torch.randn(2, 3, 64, 64))
        moved = any(not torch.equal(v, before[k]) for k, v in backbone.named_buffers())
        assert moved != freeze


@pytest.mark.parametrize(
    ("name", "last_frozen", "first_trained"),
    [
        ("mobilenet_v2", "features.3.conv.2.weight", "features.4.conv.0.0.weight"),
        ("resnet18", "layer1.1.conv2.weight", "layer2.0.conv1.weight"),
    ],
)
def test_the_stem_reaches_to_stride_4(name: str, last_frozen: str, first_trained: str) -> None:
    backbone = _backbone(name, freeze_stem=True)
    flags = {n.removeprefix("body.model."): p.requires_grad for n, p in backbone.named_parameters()}
    assert not flags[last_frozen]
    assert flags[first_trained]
    names = list(flags)
    assert not any(flags[n] for n in names[: names.index(last_frozen)])
    assert all(flags[n] for n in names[names.index(first_trained) :])


def test_random_weights_freeze_nothing_and_loaded_ones_do(tmp_path: Path) -> None:
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "r.pth")
    random = atss("resnet18", 3, width=8, depth=0)
    assert all(p.requires_grad for p in random.parameters())
    assert str(random.loaded) == "backbone weights: random initialisation"
    loaded = atss("resnet18", 3, tmp_path / "r.pth", width=8, depth=0)
    assert not all(p.requires_grad for p in loaded.parameters())
    assert loaded.backbone.freeze_bn


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".nested.pth"])
def test_a_file_is_loaded_and_reported(tmp_path: Path, suffix: str) -> None:
    state = mobilenet_v2(weights=None).state_dict()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": state} if "nested" in suffix else state, file)
    detector = atss("mobilenet_v2", 3, str(file), width=8, depth=0)
    loaded = detector.loaded
    body = detector.backbone.body.get_submodule("model").state_dict()
    assert loaded.matched == len(body)
    assert not loaded.missing
    assert set(loaded.unexpected) == set(state) - set(body)
    assert all(torch.equal(value, state[key]) for key, value in body.items())
    assert str(loaded).startswith(f"backbone weights: {file}: {len(body)} tensors loaded, 0 miss")


def _save(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_tensors_that_are_missing_are_named(tmp_path: Path) -> None:
    state = resnet18(weights=None).state_dict()
    del state["layer3.0.conv1.weight"]
    file = _save(tmp_path, state)
    with pytest.warns(UserWarning, match=r"1 missing \(layer3.0.conv1.weight\)"):
        detector = atss("resnet18", 3, file, width=8, depth=0)
    assert detector.loaded.missing == ("layer3.0.conv1.weight",)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    file = _save(tmp_path, {"encoder.w": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"none of its 1 tensors \(encoder.w\) is among those"):
        atss("resnet18", 3, file)


def test_a_wrong_shape_is_refused(tmp_path: Path) -> None:
    state = resnet18(weights=None).state_dict()
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    with pytest.raises(ValueError, match=r"conv1.weight should be .* \(64, 3, 7, 7\), got \(64, 1"):
        atss("resnet18", 3, _save(tmp_path, state))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.pth"):
        atss("resnet18", 3, str(tmp_path / "none.pth"))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet18", "IMAGENET1K_V9", "no weights 'IMAGENET1K_V9'.*IMAGENET1K_V1"),
        ("no_such_net", None, "unknown backbone 'no_such_net'"),
        ("vit_b_16", None, "does not take 128 px images"),
        ("squeezenet1_1", None, "no feature map at stride 16"),
        ("resnet26", "IMAGENET1K_V1", "takes weights None, 'imagenet' or a file"),
    ],
)
def test_what_cannot_be_had_is_refused(name: str, weights: str | None, message: str) -> None:
    if name == "resnet26":
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        make_backbone(name, weights, None, None)


def test_without_a_network_the_file_to_fetch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(
        OSError, match=r"no route to host.*https://.*mobilenet_v2-.*\.pth on another"
    ):
        make_backbone("mobilenet_v2", "imagenet", None, None)


def test_a_file_with_another_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").touch()
    with pytest.raises(ValueError, match=r"expected one of .pth, .pt, .safetensors"):
        make_backbone("resnet18", tmp_path / "w.bin", None, None)


def test_a_timm_backbone_loads_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    model = timm.create_model("mobilenetv2_050")
    file = _save(tmp_path, model.state_dict())
    backbone, loaded = make_backbone("mobilenetv2_050", file, None, None)
    assert not loaded.missing
    assert loaded.unexpected == ("classifier.weight", "classifier.bias")
    assert torch.equal(backbone.body.get_parameter("conv_stem.weight"), model.conv_stem.weight)
    assert not backbone.body.get_parameter("conv_stem.weight").requires_grad
    assert [f.shape[-1] for f in backbone(torch.rand(1, 3, 64, 64))] == [8, 4, 2]
    torch.save({"encoder.w": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="none of its 1 tensors"):
        make_backbone("mobilenetv2_050", file, None, None)


def test_the_published_mobilenet_weights_load(request: pytest.FixtureRequest) -> None:
    folder = os.environ.get("SCALEWISE_DATA")
    if folder is None:
        pytest.skip("SCALEWISE_DATA is not set")
    file = next(Path(folder).glob("weights/mobilenet_v2-*.pth"), None)
    if file is None:
        pytest.skip(f"{folder} has no weights/mobilenet_v2-*.pth")
    backbone, loaded = make_backbone("mobilenet_v2", file, None, None)
    assert not loaded.missing
    model = get_model("mobilenet_v2")
    model.load_state_dict(torch.load(file, weights_only=True))
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected = model.eval().features[:18](images)
        torch.testing.assert_close(backbone.eval()(images)[2], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet10t"])
def test_weights_in_float16_become_float32(tmp_path: Path, name: str) -> None:
    """A float16 file loads as float32 into a torchvision and a timm backbone."""
    library = "timm" if name == "resnet10t" else "torchvision.models"
    module = pytest.importorskip(library)
    model = module.create_model(name) if library == "timm" else getattr(module, name)()
    half = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(half, tmp_path / "half.pth")
    backbone, loaded = make_backbone(name, tmp_path / "half.pth", False, False)
    assert not loaded.missing
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    first = next(p for p in backbone.parameters() if p.ndim == 4)
    original = next(v for v in half.values() if v.shape == first.shape)
    assert torch.equal(first, original.float())
