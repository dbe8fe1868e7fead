"""The names under which a split may be filed."""

from __future__ import annotations

_ALIASES = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def split_names(name: str) -> tuple[str, ...]:
    """Return the names to look for, best first.

    `train` may be served by `trainval` where there is no `train`. `val` is never served by `test`:
    choices made on a test set spoil it, so that has to be asked for by name.
    """
    return _ALIASES.get(name, (name,))
