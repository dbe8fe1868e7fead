"""Learned uncertainty weighting."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalewise.weighting.moments import Moments
from scalewise.weighting.scheme import LearnedScheme, register


@register("uncertainty")
class Uncertainty(LearnedScheme):
    """`sum_i exp(-s_i) l_i + s_i` with one learned log variance `s_i` per level.

    Homoscedastic uncertainty of Kendall et al. (CVPR 2018), times two, so that `s = 0` starts from
    the plain sum. The parameters must be in the optimizer, and under data parallelism inside the
    wrapped module, like any other parameter. The total is not normalised; it can turn negative.

    Attributes:
        log_variance: parameter float32 [n].
    """

    log_variance: Tensor

    def build(self, num_levels: int, seed: int) -> None:
        """Create the parameters."""
        self.log_variance = nn.Parameter(torch.zeros(num_levels))

    def weigh(self, levels: Tensor) -> Tensor:
        """Return the total of the class's formula."""
        log_variance = self.log_variance.to(levels.dtype)
        return ((-log_variance).exp() * levels + log_variance).sum()

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Report `exp(-s)`."""
        return (-self.log_variance).exp()
