"""What users wrote: regular files alone, in the encoding they are in, told in printable words."""

from __future__ import annotations

import os
import reprlib
import stat
import unicodedata
from collections import Counter
from pathlib import Path

_MOST_ENTRIES = 10_000  # of a folder that are counted for a message


_LONGEST = 2000  # letters of a line of a message

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlevel = 2


def printable(text: str) -> str:
    r"""Return the text with whatever is not printable escaped.

    So a name can neither break a line nor steer a terminal, and always can be encoded.

    Args:
        text: any, lone surrogates included.

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
    """Return the text as a line of a message: printable, and its middle cut out where it is long.

    Args:
        text: any.
    """
    line = printable(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"


def shown(value: object) -> str:
    """Return a value of a data file for a message, cut to a hundred characters or so.

    Args:
        value: as read from JSON, YAML or a line of text.
    """
    return _short.repr(value)


def is_file(path: Path) -> bool:
    """Return whether there is a file; False also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def on_disk(path: Path) -> Path:
    """Return the file that a name means, whose accents may be stored apart from their letters.

    Args:
        path: as it was written; macOS takes letters apart (NFD), where others mostly do not (NFC).

    Returns:
        The path itself, where it is there or where no other spelling is.
    """
    if path.name.isascii() or is_file(path):
        return path
    forms = (path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD"))
    return next(filter(is_file, forms), path)


def is_hidden_copy(path: Path) -> bool:
    """Return whether a file is one of those that macOS leaves beside others on foreign disks."""
    return path.name.startswith("._")


def require_regular(path: Path) -> None:
    """Refuse what is no regular file: reading a pipe or a device may never end.

    Raises:
        OSError: when it is not there, or is a folder, a pipe, a device or a socket.
        ValueError: for a name that no file can have.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is a folder, a pipe or a device, not a file")


def found_in(folder: Path) -> str:
    """Return what a folder holds, in one phrase, for a message."""
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
