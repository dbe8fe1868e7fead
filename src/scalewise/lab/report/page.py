"""The page: one HTML file with its style, its scripts and its data, which asks for nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from plotly.offline import get_plotlyjs

from scalewise.lab.report.markup import Html, Section, join, text

# Nothing is fetched, sent or embedded, whatever a name in a record may hold.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


def page_html(title: str, lead: Html, sections: Sequence[Section]) -> str:
    """The whole file.

    Args:
        title: Of the page.
        lead: Stands above the contents.
        sections: In order.
    """
    entries = "".join(f'<li><a href="#{s.identity}">{text(s.title)}</a></li>' for s in sections)
    body = join(
        Html(
            f'<section id="{s.identity}" aria-labelledby="{s.identity}-title">'
            f'<h2 id="{s.identity}-title">{text(s.title)}</h2>\n{s.body}</section>'
        )
        for s in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<style>
{_file("page.css")}</style>
</head>
<body>
<header><h1>{text(title)}</h1>
{lead}
<nav aria-label="Contents"><ul>{entries}</ul></nav>
</header>
<main>
{body}
</main>
<noscript>The charts need JavaScript; the table below each holds its values.</noscript>
<script>{get_plotlyjs()}</script>
<script>
{_file("page.js")}</script>
</body>
</html>
"""


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
