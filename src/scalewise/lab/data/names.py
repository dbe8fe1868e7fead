"""The usual names of splits."""

from __future__ import annotations

_ALIASES = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def split_names(name: str) -> tuple[str, ...]:
    """Return the names to look for, best first.

    `train` also finds `training` and, last, `trainval`. `val` never finds `test`: choices made on a
    test set spoil it, so it has to be asked for by name.
    """
    return _ALIASES.get(name, (name,))
