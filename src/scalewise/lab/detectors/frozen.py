"""Frozen BatchNorm, folded into the convolution before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scalewise.lab.detectors.pointwise import Conv


class FoldedConv(Conv):
    """A convolution that also does the frozen BatchNorm after it.

    With fixed statistics both together are a convolution with scaled weights and a bias. This saves
    one pass over the feature map forward and one backward. If there are more weights than values in
    the feature map, the values are scaled instead, which is cheaper. Parameters, gradients and
    names in the state dictionary stay those of the two modules.
    """

    def __init__(self, conv: nn.Conv2d, norm: FoldedNorm) -> None:
        super().__init__(conv)
        self._norm = (norm,)  # in a tuple, so that it is not registered here a second time

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to the normalised output [B, C', H', W']."""
        scale, shift = self._norm[0].scale_and_shift()
        if self.bias is not None:
            shift = shift + self.bias * scale
        rows, columns = (n // s for n, s in zip(input.shape[2:], self.stride, strict=True))
        many = self.weight.numel() > len(input) * self.out_channels * rows * columns
        if many and not torch.is_autocast_enabled(input.device.type):
            output = self._conv_forward(input, self.weight, None)
            return torch.addcmul(shift[:, None, None], output, scale[:, None, None])
        return self._conv_forward(input, self.weight * scale[:, None, None, None], shift)


class FoldedNorm(nn.BatchNorm2d):
    """Holds the tensors of a frozen BatchNorm whose work a `FoldedConv` does."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps)
        self.load_state_dict(norm.state_dict())
        self.requires_grad_(False)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The normalisation as x * scale + shift, each [C]."""
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, input: Tensor) -> Tensor:
        """Return the input: `FoldedConv` has normalised it already."""
        return input


def fold_batch_norms(body: nn.Module, example: Tensor) -> None:
    """Fold each BatchNorm that directly follows a convolution in a forward pass of `example`.

    Raises:
        ValueError: if the output for `example` changes by it, because a convolution's output is
            used elsewhere too.
    """
    outputs: list[tuple[Tensor, nn.Conv2d]] = []  # kept alive, so that `is` compares safely
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_conv(module: nn.Conv2d, inputs: Any, output: Tensor) -> None:
        outputs.append((output, module))

    def before_norm(module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        pairs.extend((conv, module) for output, conv in outputs[-1:] if output is inputs[0])

    modules = dict(body.named_modules())
    hooks = [m.register_forward_hook(after_conv) for m in modules.values() if type(m) is nn.Conv2d]
    hooks += [
        m.register_forward_pre_hook(before_norm)
        for m in modules.values()
        if type(m) is nn.BatchNorm2d and m.affine and m.track_running_stats
    ]
    with torch.no_grad():
        before = body.eval()(example)
    for hook in hooks:
        hook.remove()
    paths = {module: path for path, module in modules.items()}
    for conv, norm in pairs:
        folded = FoldedNorm(norm)
        body.set_submodule(paths[norm], folded)
        body.set_submodule(paths[conv], FoldedConv(conv, folded))
    with torch.no_grad():
        after = body(example)
    if not all(map(_alike, before, after)):
        raise ValueError(
            "its frozen BatchNorms cannot be folded into the convolutions before them, because a "
            "convolution's output is used elsewhere too; take another backbone, or train without "
            "pretrained weights"
        )


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs differ by rounding only."""
    return torch.allclose(one, other, rtol=0, atol=1e-3 * float(one.abs().max()), equal_nan=True)
