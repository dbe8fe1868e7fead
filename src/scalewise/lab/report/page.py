"""Builds the page: one HTML file that holds its style, scripts and data."""

from __future__ import annotations

from collections.abc import Sequence

from plotly.offline import get_plotlyjs

from scalewise.lab.report.markup import Html, Section, templates

# The page fetches, sends and embeds nothing, even if a name in a record holds HTML.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


def page_html(title: str, lead: Html, sections: Sequence[Section]) -> str:
    """Build the whole page.

    Args:
        title: Title of the page.
        lead: Text above the list of contents.
        sections: The sections in their order.
    """
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            title=title,
            lead=lead,
            sections=sections,
            policy=POLICY,
            plotly=Html(get_plotlyjs()),
        )
    )
