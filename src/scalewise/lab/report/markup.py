"""Pieces of HTML; words in them are escaped where they come in."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from PIL.Image import Image

Html = Markup
QUALITY = 80  # of the pictures in a page, as JPEG takes it


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in its contents."""

    identity: str
    title: str
    body: Html


@cache
def templates() -> Environment:
    """The templates of pages, in which every value is escaped and none may be missing."""
    found = Environment(
        loader=PackageLoader("scalewise.lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return found


def piece(name: str, *values: Any) -> Html:
    """A piece by the name of its macro in `parts.html.j2`."""
    macro = getattr(templates().get_template("parts.html.j2").module, name)
    return Html(macro(*values))


def join(parts: Iterable[Html]) -> Html:
    """Pieces in a row."""
    return Html("\n").join(part for part in parts if part)


def paragraph(words: str) -> Html:
    """A paragraph."""
    return Html("<p>{}</p>").format(words)


def absent(words: str) -> Html:
    """A paragraph that says what a record does not hold."""
    return Html('<p class="absent">{}</p>').format(words)


def heading(words: str) -> Html:
    """A heading within a section."""
    return Html("<h3>{}</h3>").format(words)


def code(lines: Iterable[str]) -> Html:
    """Commands, in a box that scrolls."""
    return Html('<pre tabindex="0"><code>{}</code></pre>').format("\n".join(lines))


def bullets(lines: Iterable[str]) -> Html:
    """A list."""
    return piece("bullets", lines)


def table(content: Table, caption: str, kind: str = "") -> Html:
    """A table in a box of its own that scrolls sideways where the page is narrow.

    Args:
        content: Header and rows.
        caption: Stands above it.
        kind: A class of the page's style: `words` for cells that break into lines.
    """
    return piece("table", content, caption, kind)


def folded(summary: str, body: Html) -> Html:
    """A part that opens at a click."""
    return Html("<details><summary>{}</summary>{}</details>").format(summary, body)


def choice(identity: str, label: str, options: Sequence[tuple[str, Html]]) -> Html:
    """One of several parts, picked from a list; a single part stands alone, under no list.

    Args:
        identity: Unique on the page.
        label: Says what is picked.
        options: Name and content; the first is shown.
    """
    return options[0][1] if len(options) == 1 else piece("choice", identity, label, options)


def searchable(identity: str, label: str, content: Html) -> Html:
    """A table with a box above it that leaves the rows whose first cell holds what is typed.

    Args:
        identity: Unique on the page.
        label: Says what is looked for.
        content: From `table`.
    """
    return piece("searchable", identity, label, content)


def side_by_side(parts: Sequence[Html]) -> Html:
    """Parts beside each other where the page is wide enough, else below."""
    return Html('<div class="pair">{}</div>').format(join(parts))


def picture(image: Image, words: str) -> Html:
    """An image inside the page; `words` say what is on it."""
    held = io.BytesIO()
    image.save(held, "JPEG", quality=QUALITY, optimize=True)
    return piece("picture", base64.b64encode(held.getvalue()).decode("ascii"), image, words)
