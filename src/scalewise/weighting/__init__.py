"""Loss weights for the groups of a detector: the balancer and its schemes."""

from scalewise.weighting.avw import AVW
from scalewise.weighting.balancer import LossBalancer
from scalewise.weighting.groups import (
    Grouping,
    by_class,
    by_level,
    by_size,
    product,
    scale_gradients,
    split_levels,
    sum_groups,
    weigh_positives,
)
from scalewise.weighting.moments import Moments
from scalewise.weighting.peers import DWA, CoV, InverseLoss, Permuted, RandomWeights, Uncertainty
from scalewise.weighting.rlo import RLO
from scalewise.weighting.scheme import (
    LearnedScheme,
    Scheme,
    SchemeLike,
    register,
    scheme_class,
    scheme_names,
)
from scalewise.weighting.share import EffectiveNumber, LossProportional, Share
from scalewise.weighting.simple import Equal, Given, Static
from scalewise.weighting.words import scheme_from_words

__all__ = [
    "AVW",
    "DWA",
    "RLO",
    "CoV",
    "EffectiveNumber",
    "Equal",
    "Given",
    "Grouping",
    "InverseLoss",
    "LearnedScheme",
    "LossBalancer",
    "LossProportional",
    "Moments",
    "Permuted",
    "RandomWeights",
    "Scheme",
    "SchemeLike",
    "Share",
    "Static",
    "Uncertainty",
    "by_class",
    "by_level",
    "by_size",
    "product",
    "register",
    "scale_gradients",
    "scheme_class",
    "scheme_from_words",
    "scheme_names",
    "split_levels",
    "sum_groups",
    "weigh_positives",
]
