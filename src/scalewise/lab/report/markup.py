"""Makes pieces of HTML, and escapes all text in them."""

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
QUALITY = 80  # JPEG quality of the pictures in a page


@dataclass(frozen=True)
class Table:
    """A table of text cells; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in the page's list of contents."""

    identity: str
    title: str
    body: Html


@cache
def templates() -> Environment:
    """The templates of pages. They escape every value, and a missing value is an error."""
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
    """Make a piece with a macro of `parts.html.j2`, given by its name."""
    macro = getattr(templates().get_template("parts.html.j2").module, name)
    return Html(macro(*values))


def join(parts: Iterable[Html]) -> Html:
    """Pieces one after the other."""
    return Html("\n").join(part for part in parts if part)


def paragraph(words: str) -> Html:
    """A paragraph."""
    return Html("<p>{}</p>").format(words)


def absent(words: str) -> Html:
    """A paragraph, in its own style, that says what is missing."""
    return Html('<p class="absent">{}</p>').format(words)


def heading(words: str) -> Html:
    """A heading within a section."""
    return Html("<h3>{}</h3>").format(words)


def code(lines: Iterable[str]) -> Html:
    """Commands in a box that scrolls."""
    return Html('<pre tabindex="0"><code>{}</code></pre>').format("\n".join(lines))


def bullets(lines: Iterable[str]) -> Html:
    """A list."""
    return piece("bullets", lines)


def table(content: Table, caption: str, kind: str = "") -> Html:
    """A table in a box that scrolls sideways if the page is narrow.

    Args:
        content: Header and rows.
        caption: Text above the table.
        kind: CSS class: `words` for cells that may break into lines.
    """
    return piece("table", content, caption, kind)


def folded(summary: str, body: Html) -> Html:
    """A part that opens with a click."""
    return Html("<details><summary>{}</summary>{}</details>").format(summary, body)


def choice(identity: str, label: str, options: Sequence[tuple[str, Html]]) -> Html:
    """Several parts, of which the reader picks one from a list; a single part gets no list.

    Args:
        identity: HTML id, unique on the page.
        label: Text beside the list.
        options: Name and content of each part; the first is shown at the start.
    """
    return options[0][1] if len(options) == 1 else piece("choice", identity, label, options)


def searchable(identity: str, label: str, content: Html) -> Html:
    """A table with a search box, which keeps the rows whose first cell contains the typed text.

    Args:
        identity: HTML id, unique on the page.
        label: Text beside the box.
        content: The table, from `table`.
    """
    return piece("searchable", identity, label, content)


def side_by_side(parts: Sequence[Html]) -> Html:
    """Parts beside each other; below each other if the page is narrow."""
    return Html('<div class="pair">{}</div>').format(join(parts))


def picture(image: Image, words: str) -> Html:
    """An image inside the page; `words` describe it for readers who cannot see it."""
    held = io.BytesIO()
    image.save(held, "JPEG", quality=QUALITY, optimize=True)
    return piece("picture", base64.b64encode(held.getvalue()).decode("ascii"), image, words)
