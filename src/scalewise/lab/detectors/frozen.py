"""Frozen BatchNorm, folded into the convolution before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scalewise.lab.detectors.layers import Conv


class FoldedConv(Conv):
    """A convolution that also does the frozen BatchNorm after it.

    With fixed statistics that is a convolution with scaled weights and a bias, so one pass over the
    feature map is saved forward and one backward. Where the weights outnumber the feature map's
    values, it is cheaper to scale these. Parameters, gradients and names in the state dictionary
    are those of the two modules.
    """

    def __init__(self, conv: nn.Conv2d, norm: FoldedNorm) -> None:
        super().__init__(conv)
        self._norm = (norm,)  # in a tuple: it is registered in its own place

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
        """Pass on what `FoldedConv` has normalised."""
        return input


def fold_batch_norms(body: nn.Module, example: Tensor) -> None:
    """Fold each BatchNorm that directly follows a convolution in a forward pass of `example`."""
    outputs: list[tuple[Tensor, nn.Conv2d]] = []  # keeps them alive, so that identity is certain
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
        body.eval()(example)
    for hook in hooks:
        hook.remove()
    paths = {module: path for path, module in modules.items()}
    for conv, norm in pairs:
        folded = FoldedNorm(norm)
        body.set_submodule(paths[norm], folded)
        body.set_submodule(paths[conv], FoldedConv(conv, folded))
