"""Loss weights for the levels of a detector: the balancer and its schemes."""

from scalewise.weighting.avw import AVW
from scalewise.weighting.balancer import LossBalancer
from scalewise.weighting.cov import CoV
from scalewise.weighting.dwa import DWA
from scalewise.weighting.inverse import InverseLoss
from scalewise.weighting.levels import scale_gradients, split_levels
from scalewise.weighting.moments import Moments
from scalewise.weighting.permuted import Permuted
from scalewise.weighting.rlo import RLO
from scalewise.weighting.scheme import (
    LearnedScheme,
    Scheme,
    SchemeLike,
    register,
    scheme_class,
    scheme_names,
)
from scalewise.weighting.simple import Equal, RandomWeights, Static
from scalewise.weighting.uncertainty import Uncertainty
from scalewise.weighting.words import scheme_from_words

__all__ = [
    "AVW",
    "DWA",
    "RLO",
    "CoV",
    "Equal",
    "InverseLoss",
    "LearnedScheme",
    "LossBalancer",
    "Moments",
    "Permuted",
    "RandomWeights",
    "Scheme",
    "SchemeLike",
    "Static",
    "Uncertainty",
    "register",
    "scale_gradients",
    "scheme_class",
    "scheme_from_words",
    "scheme_names",
    "split_levels",
]
