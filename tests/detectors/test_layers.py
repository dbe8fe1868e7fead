"""Layers that are faster or need less memory than torch's, compared with torch's."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from detector_batches import operations
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from scalewise.lab.detectors.layers import ReLU6, lighten
from scalewise.lab.detectors.pointwise import Conv


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 9), st.integers(1, 13)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_a_pointwise_convolution_is_torchs(
    shape: tuple[int, int, int], channels_last: bool, bias: bool, seed: int
) -> None:
    """Outputs and gradients are equal, even if the pixels cannot be cut into equal parts."""
    torch.manual_seed(seed)
    batch, height, width = shape
    conv = nn.Conv2d(5, 7, 1, bias=bias).double()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(batch, 5, height, width, dtype=torch.float64).to(memory_format=layout)
    slope = torch.randn(batch, 7, height, width, dtype=torch.float64)
    found = []
    for layer in (conv, Conv(conv)):
        given_x = x.clone(memory_format=torch.preserve_format).requires_grad_()
        output = layer(given_x)
        inputs = (given_x, *conv.parameters())
        found.append((output, *torch.autograd.grad(output, inputs, slope)))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("frozen", ["nothing", "weight", "input"])
def test_only_the_gradients_asked_for_are_made(frozen: str) -> None:
    conv = Conv(nn.Conv2d(4, 6, 1))
    conv.weight.requires_grad_(frozen != "weight")
    x = torch.rand(2, 4, 8, 8, requires_grad=frozen != "input")
    conv(x).sum().backward()
    assert (x.grad is None) == (frozen == "input")
    assert (conv.weight.grad is None) == (frozen == "weight")
    assert conv.bias is not None
    assert conv.bias.grad is not None


def test_bfloat16_autocast_is_left_to_torch() -> None:
    conv = nn.Conv2d(4, 6, 1)
    x = torch.rand(2, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = Conv(conv)(x), conv(x)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("threads", "kind"), [(1, "_PointwiseBackward"), (2, "ConvolutionBackward0")]
)
def test_more_threads_are_left_to_torch(
    threads: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    output = Conv(nn.Conv2d(4, 6, 1))(torch.rand(2, 4, 8, 8))
    assert type(output.grad_fn).__name__ == kind


def test_relu6_has_torchs_values_and_gradients_and_keeps_no_input() -> None:
    x = torch.tensor([-1.0, 0.0, 1e-30, 3.0, 6.0, 6.5, float("inf")], requires_grad=True)
    slope = torch.arange(1.0, 8.0)
    (expected,) = torch.autograd.grad(F.relu6(x), x, slope)
    copied = x * 1
    output = ReLU6()(copied)
    assert output.data_ptr() == copied.data_ptr()
    assert torch.equal(output, F.relu6(x))
    (gradient,) = torch.autograd.grad(output, x, slope)
    assert torch.equal(gradient, expected)


def test_a_lightened_model_computes_what_it_did() -> None:
    """Outputs, gradients and the running statistics of BatchNorm are equal."""
    torch.manual_seed(0)
    plain = mobilenet_v2().features[:7].double()
    light = copy.deepcopy(plain)
    lighten(light)
    assert list(plain.state_dict()) == list(light.state_dict())
    assert any(isinstance(m, ReLU6) for m in light.modules())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    results: list[dict[str, Tensor]] = []
    for model in (plain, light):
        output = model(images)
        output.square().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append({"output": output, **dict(model.named_buffers()), **gradients})
    assert results[0].keys() == results[1].keys()
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value)


def test_lightening_draws_no_random_number() -> None:
    model = mobilenet_v2().features[:3]
    before = torch.random.get_rng_state()
    lighten(model)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_activation_after_a_pointwise_convolution_copies_nothing() -> None:
    """The output is no view: in place on a view, autograd would copy it forward and backward."""
    x = torch.rand(2, 8, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    layers = nn.Sequential(Conv(nn.Conv2d(8, 8, 1)), nn.ReLU(inplace=True))
    with operations() as seen:
        layers(x).sum().backward()
    assert "clone" not in seen.names
    assert "copy_" not in seen.names


@pytest.mark.parametrize("groups", [1, 16])
def test_bfloat16_gradients_of_maps_of_one_pixel_are_right(groups: int) -> None:
    """With stride 2, torch 2.15 itself leaves such gradients unwritten."""
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=groups)
    twin = copy.deepcopy(plain).double()
    conv = Conv(plain).to(memory_format=torch.channels_last)
    for _ in range(10):
        x = torch.randn(4, 16, 1, 1)
        junk = torch.full((100_000,), float("nan"))  # unwritten memory then holds NaN
        del junk
        conv.zero_grad()
        twin.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            found = conv(x.bfloat16())
        torch.autograd.backward(found.float().square().sum())
        torch.autograd.backward(twin(x.bfloat16().double()).square().sum())
        assert conv.weight.grad is not None
        assert twin.weight.grad is not None
        torch.testing.assert_close(
            conv.weight.grad.double(), twin.weight.grad, rtol=1e-4, atol=1e-5
        )
