"""Reading the text files of users, in whatever encoding they have."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from scalewise.lab.data.text import require_regular

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: it begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"<\?xml[^>]{0,80}?encoding\s*=\s*[\"']([\w.:-]+)[\"']")
# As in browsers: files that declare an old standard are often written in its superset.
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
LARGEST = 2**24  # bytes of an annotation file of one image; parsing it takes far more memory


def read_text(path: Path, most: int | None = None) -> str:
    """Read a text file in the encoding that it states or shows.

    The first of these decides: a byte order mark, the zero bytes of UTF-16, an XML declaration.
    Without any of them it is UTF-8. Other encodings are not guessed: a wrong guess would change
    names silently.

    Args:
        path: the file.
        most: largest size in bytes; None for no limit.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
        ValueError: it is larger than `most`, or not text in that encoding.
    """
    require_regular(path)
    if most is not None and (size := path.stat().st_size) > most:
        raise ValueError(f"it has {size:,} bytes, more than the limit of {most:,}")
    return decode(path.read_bytes())


def read_lines(path: Path, most: int | None = None) -> list[str]:
    """Read the lines of a text file, see `read_text`; only CR and LF end a line."""
    return re.split(r"\r\n|\n|\r", read_text(path, most))


def decode(data: bytes) -> str:
    """Return bytes as text, see `read_text`.

    Raises:
        ValueError: they are not text in the encoding that they state or show.
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
        raise ValueError("it holds zero bytes, so it is not text, or it mixes two encodings")
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
    if declared.startswith(("utf-16", "utf-32")):  # not true: there are no zero bytes
        return "utf-8"
    return _SUPERSETS.get(declared, declared)
