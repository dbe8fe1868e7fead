"""Dynamic weight average."""

from __future__ import annotations

from torch import Tensor

from scalewise.weighting.moments import Moments
from scalewise.weighting.scheme import Scheme, register, softmax_weights


@register("dwa")
class DWA(Scheme):
    """`n softmax(m(t) / m(t-1) / temperature)`: more weight where the loss falls slowly.

    Dynamic weight average of Liu et al. (CVPR 2019), on the mean losses of two intervals (theirs
    are epochs). A level without a mean in both intervals weighs 1.

    Args:
        temperature: above 0; the higher, the more equal. The paper uses 2.

    Raises:
        ValueError: the temperature is not above 0.
    """

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Compare the two intervals."""
        ratio = current.mean / previous.mean
        live = (current.count > 0) & (previous.count > 0) & ratio.isfinite()
        return softmax_weights(ratio / self.temperature, live)
