"""The defaults for what is weighed and how; results/ says how they were chosen."""

BY = "class"
SCHEME = "avw"
LEVEL_SCHEME = "avw:invert=true"  # of whole levels
GIVEN = ("class", "size", "level-positives")  # words that begin weights given by name


def default_by(scheme: str) -> str:
    """What a scheme weighs if `by` is not given: "class:platelet=2" weighs classes."""
    kind = scheme.partition(":")[0]
    return kind if kind in GIVEN else BY


def default_scheme(by: str) -> str:
    """The scheme for groups if none is given."""
    return LEVEL_SCHEME if by == "level" else SCHEME
