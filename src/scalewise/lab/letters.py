"""Fonts for names in whatever script they are."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Iterable
from pathlib import Path

from matplotlib import font_manager, ft2font, get_data_path
from PIL import ImageFont

from scalewise.lab.data.text import printable

SIZE = 12  # of the letters on images, in pixels


def lettering(text: str, size: int = SIZE) -> tuple[str, ImageFont.FreeTypeFont]:
    r"""A text as it can be drawn, and the font that has all its letters.

    The first that has them: DejaVu Sans, which matplotlib ships (Latin, Greek, Cyrillic, Arabic,
    Hebrew, symbols), Noto Sans CJK, which mplfonts ships (Chinese, Japanese, Korean), or a font of
    this system. Where none has, the letters without a picture become escapes such as \u87ba, with
    one warning.

    Args:
        text: Any; what is not printable is escaped.
        size: Of the letters, in pixels.
    """
    text = printable(text)
    path = next((path for path in _fonts() if _covers(path, text)), None)
    if path is None:
        path = _fonts()[0]
        text = _escaped(text, [path])
    return text, _open(path, size)


def known_letters(text: str) -> str:
    """A text with what no font here has a picture of escaped, for matplotlib with `families`.

    Args:
        text: Any.
    """
    return _escaped(printable(text), _fonts())


def families(texts: Iterable[str]) -> list[str]:
    """Names of the fonts that together have the letters of texts, for matplotlib's `font.family`.

    Args:
        texts: All that is to be drawn in one figure.
    """
    chosen = [_fonts()[0]]
    for letter in sorted(set("".join(texts))):
        if not any(_covers(path, letter) for path in chosen):
            chosen += [path for path in _fonts() if _covers(path, letter)][:1]
    return [_register(path) for path in chosen]


def _escaped(text: str, fonts: Iterable[Path]) -> str:
    letters = [
        c if any(_covers(path, c) for path in fonts) else c.encode("unicode_escape").decode()
        for c in text
    ]
    if "".join(letters) != text:
        _warn_once()
    return "".join(letters)


@functools.cache
def _register(path: Path) -> str:
    """Make a font known to matplotlib, and return its name there."""
    font_manager.fontManager.addfont(str(path))
    return str(font_manager.FontProperties(fname=str(path)).get_name())


@functools.cache
def _fonts() -> tuple[Path, ...]:
    """The font files to choose from, best first."""
    shipped = [Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"]
    package = importlib.util.find_spec("mplfonts")
    if package is not None and package.origin is not None:
        shipped.append(Path(package.origin).parent / "fonts" / "NotoSansCJKsc-Regular.otf")
    found = {Path(entry.fname) for entry in font_manager.fontManager.ttflist}
    # fonts that stand for a missing letter claim to have it
    others = sorted(path for path in found if "LastResort" not in path.name)
    return tuple(dict.fromkeys(path for path in (*shipped, *others) if path.is_file()))


def _covers(path: Path, text: str) -> bool:
    return all(ord(letter) in _letters(path) for letter in text)


@functools.cache
def _letters(path: Path) -> frozenset[int]:
    """The code points that a font has pictures of."""
    try:
        return frozenset(ft2font.FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):  # no font that FreeType reads
        return frozenset()


@functools.cache
def _open(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "no font here has all letters of the class names, so some are drawn as escapes; for "
        "Chinese, Japanese and Korean: pip install 'scalewise[cjk]'",
        stacklevel=3,
    )
