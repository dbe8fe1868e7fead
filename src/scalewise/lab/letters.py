"""Fonts for names in any script."""

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
    r"""A text that can be drawn, and a font that has all its letters.

    Takes the first font that has them all. First comes DejaVu Sans, which matplotlib ships (Latin,
    Greek, Cyrillic, Arabic, Hebrew, symbols), then Noto Sans CJK, which mplfonts ships (Chinese,
    Japanese, Korean), then the fonts of this system. If no font has them all, the letters that
    DejaVu Sans lacks become escapes such as \u87ba, with one warning.

    Args:
        text: Any text; characters that cannot be printed are escaped.
        size: Size of the letters in pixels.
    """
    text = printable(text)
    path = next((path for path in _fonts() if _covers(path, text)), None)
    if path is None:
        path = _fonts()[0]
        text = _escaped(text, [path])
    return text, _open(path, size)


def known_letters(text: str) -> str:
    """A text in which the letters that no font here has are escaped, for use with `families`.

    Args:
        text: Any text.
    """
    return _escaped(printable(text), _fonts())


def families(texts: Iterable[str]) -> list[str]:
    """Names of fonts that together have all letters of texts, for matplotlib's `font.family`.

    Args:
        texts: All texts of one figure.
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
    """Add a font to matplotlib, and return its name there."""
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
    # such fonts draw boxes for missing letters, and claim to have every letter
    others = sorted(path for path in found if "LastResort" not in path.name)
    return tuple(dict.fromkeys(path for path in (*shipped, *others) if path.is_file()))


def _covers(path: Path, text: str) -> bool:
    return all(ord(letter) in _letters(path) for letter in text)


@functools.cache
def _letters(path: Path) -> frozenset[int]:
    """The code points that a font can draw."""
    try:
        return frozenset(ft2font.FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):  # FreeType cannot read this font
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
