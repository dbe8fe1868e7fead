"""What is weighed and how where nothing is named; results/ says by what rule it was chosen."""

BY = "class"
SCHEME = "avw"
LEVEL_SCHEME = "avw:invert=true"  # of whole levels
GIVEN = ("class", "size", "level-positives")  # words that begin weights given by name


def default_by(scheme: str) -> str:
    """What a scheme weighs where that is not said: "class:platelet=2" weighs classes."""
    kind = scheme.partition(":")[0]
    return kind if kind in GIVEN else BY


def default_scheme(by: str) -> str:
    """How groups are weighed where that is not said."""
    return LEVEL_SCHEME if by == "level" else SCHEME
