"""Names and values from users' files: finding the file, and showing them safely in messages."""

from __future__ import annotations

import os
import reprlib
import stat
import unicodedata
from collections import Counter
from pathlib import Path

_MOST_ENTRIES = 10_000  # entries of a folder that are counted for a message
_LONGEST = 2000  # characters in a line of a message

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlevel = 2


def printable(text: str) -> str:
    r"""Return the text with all characters escaped that are not printable.

    The result cannot break a line or control a terminal, and it can always be encoded.

    Args:
        text: any text, also with lone surrogates.

    Examples:
        >>> printable("a\nb")
        'a\\nb'
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def one_line(text: str) -> str:
    """Return the text as one line of a message: printable, with the middle cut out if it is long.

    Args:
        text: any text.
    """
    line = printable(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"


def shown(value: object) -> str:
    """Return a value of a data file for a message: long texts, lists and dicts are shortened.

    Args:
        value: as read from JSON, YAML or a line of text.
    """
    return _short.repr(value)


def is_file(path: Path) -> bool:
    """Return whether there is a file; also False for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def on_disk(path: Path) -> Path:
    """Return the file of a name, whichever way the name stores its accents on disk.

    Args:
        path: as it was written. macOS stores accents as separate characters (NFD), other systems
            mostly do not (NFC).

    Returns:
        The path of the file as stored; the path itself if there is no such file.
    """
    if path.name.isascii() or is_file(path):
        return path
    forms = (path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD"))
    return next(filter(is_file, forms), path)


def is_hidden_copy(path: Path) -> bool:
    """Return whether a file is one of those that macOS writes beside others (`._name`)."""
    return path.name.startswith("._")


def require_regular(path: Path) -> None:
    """Refuse anything but a regular file: reading a pipe or a device may never end.

    Raises:
        OSError: there is no such file, or it is a folder, a pipe, a device or a socket.
        ValueError: no file can have this name.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is a folder, a pipe or a device, not a file")


def found_in(folder: Path) -> str:
    """Return one phrase for a message, which says what a folder holds."""
    if not folder.is_dir():
        return "it is a file of another kind"
    counts: Counter[str] = Counter()
    for entry, _ in zip(folder.iterdir(), range(_MOST_ENTRIES), strict=False):
        counts[f"{entry.name}/" if entry.is_dir() else entry.suffix or entry.name] += 1
    if not counts:
        return "it is empty"
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:8]
    listed = (what if what.endswith("/") else f"{number} {what}" for what, number in most)
    return f"it holds {', '.join(listed)}"
