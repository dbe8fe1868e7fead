"""Pieces of HTML whose words are escaped where they come in."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NewType

Html = NewType("Html", str)
EMPTY = Html("")


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


def text(value: object) -> Html:
    """A value as text that holds no markup."""
    return Html(html.escape(str(value)))


def join(parts: Iterable[Html]) -> Html:
    """Pieces in a row."""
    return Html("\n".join(part for part in parts if part))


def paragraph(words: str) -> Html:
    """A paragraph."""
    return Html(f"<p>{text(words)}</p>")


def absent(words: str) -> Html:
    """A paragraph that says what a record does not hold."""
    return Html(f'<p class="absent">{text(words)}</p>')


def heading(words: str, level: int = 3) -> Html:
    """A heading; a section's own is of level 2."""
    return Html(f"<h{level}>{text(words)}</h{level}>")


def bullets(lines: Iterable[str]) -> Html:
    """A list."""
    return Html("<ul>" + "".join(f"<li>{text(line)}</li>" for line in lines) + "</ul>")


def code(lines: Iterable[str]) -> Html:
    """Commands, in a box that scrolls."""
    return Html(
        '<pre tabindex="0"><code>' + "\n".join(text(line) for line in lines) + "</code></pre>"
    )


def table(content: Table, caption: str) -> Html:
    """A table in a box of its own that scrolls sideways where the page is narrow."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in content.header)
    rows = "".join(
        f'<tr><th scope="row">{_breakable(row[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in content.rows
    )
    return Html(
        f'<p class="caption">{text(caption)}</p>\n'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text(caption)}"><table>'
        f"<thead><tr>{head}</tr></thead>\n"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _breakable(words: str) -> Html:
    """Text whose long words, such as a scheme with its arguments, may break after each colon."""
    return Html(text(words).replace(":", ":<wbr>"))


def folded(summary: str, body: Html) -> Html:
    """A part that opens at a click."""
    return Html(f"<details><summary>{text(summary)}</summary>{body}</details>")


def choice(identity: str, label: str, options: Sequence[tuple[str, Html]]) -> Html:
    """One of several parts, picked from a list; a single part stands alone, under no list.

    Args:
        identity: Unique on the page.
        label: Says what is picked.
        options: Name and content; the first is shown.
    """
    if len(options) == 1:
        return options[0][1]
    names = "".join(
        f'<option value="{identity}-pick-{i}">{text(name)}</option>'
        for i, (name, _) in enumerate(options)
    )
    panels = "\n".join(
        f'<div class="panel" id="{identity}-pick-{i}"{" hidden" if i else ""}>{body}</div>'
        for i, (_, body) in enumerate(options)
    )
    return Html(
        f'<div class="choice"><label>{text(label)} <select autocomplete="off">{names}</select>'
        f"</label>\n{panels}</div>"
    )


def searchable(identity: str, label: str, content: Html) -> Html:
    """A table with a box above it that leaves the rows whose first cell holds what is typed.

    Args:
        identity: Unique on the page.
        label: Says what is looked for.
        content: From `table`.
    """
    return Html(
        f'<div class="find" id="{identity}"><label>{text(label)} '
        '<input type="search" autocomplete="off" spellcheck="false"></label> '
        f'<span role="status"></span>\n{content}</div>'
    )


def side_by_side(parts: Sequence[Html]) -> Html:
    """Parts beside each other where the page is wide enough, else below."""
    return Html(f'<div class="pair">{join(parts)}</div>')
