"""What users wrote: regular files alone, in the encoding they are in, told in printable words."""

from __future__ import annotations

import codecs
import os
import re
import reprlib
import stat
import unicodedata
from collections import Counter
from pathlib import Path

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"<\?xml[^>]{0,80}?encoding\s*=\s*[\"']([\w.:-]+)[\"']")
# As browsers do: who declares the old standard writes its superset.
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}

_MOST_ENTRIES = 10_000  # of a folder that are counted for a message

LARGEST = 2**24  # bytes of the annotations of one image, which grow when parsed

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


def read_text(path: Path, most: int | None = None) -> str:
    """Read a text file in the encoding that it states or shows.

    A byte order mark decides, then the zero bytes of UTF-16, then what an XML declaration states,
    else it is UTF-8. Other encodings are not guessed: a wrong guess would change names silently.

    Args:
        path: the file.
        most: bytes it may have; None for any number.

    Raises:
        OSError: when it cannot be read, or is no regular file.
        ValueError: when it is larger, or not text in that encoding; the message says what to do.
    """
    require_regular(path)
    if most is not None and (size := path.stat().st_size) > most:
        raise ValueError(f"it is {size >> 20} MB large, where {most >> 20} MB would be plenty")
    return decode(path.read_bytes())


def read_lines(path: Path, most: int | None = None) -> list[str]:
    """Read the lines of a text file, see `read_text`; separators that names may hold part none."""
    return re.split(r"\r\n|\n|\r", read_text(path, most))


def decode(data: bytes) -> str:
    """Return bytes as text, see `read_text`.

    Raises:
        ValueError: when they are not text in the encoding that they state or show.
    """
    encoding = _encoding(data)
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise ValueError(
            f"it declares the encoding {encoding!r}, which is not known; save it as UTF-8"
        ) from None
    except UnicodeError as error:
        where = f", byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(
            f"it is not {encoding.upper()} text{where}; save it as UTF-8, for example with "
            "iconv -f LATIN1 -t UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError("it holds zero bytes, so it is no text, or in two encodings at once")
    return text


def _encoding(data: bytes) -> str:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return encoding
    if data[1:2] == b"\0":
        return "utf-16-le"
    if data[:1] == b"\0":
        return "utf-16-be"
    found = _DECLARED.match(data.lstrip()[:200])
    if not found:
        return "utf-8"
    declared = found[1].decode("ascii", "replace").lower()
    try:
        declared = codecs.lookup(declared).name
    except LookupError:
        return declared
    if declared.startswith(("utf-16", "utf-32")):  # but its zero bytes would have shown
        return "utf-8"
    return _SUPERSETS.get(declared, declared)
