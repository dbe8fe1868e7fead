"""The page: one HTML file with its style, its scripts and its data, which asks for nothing more."""

from __future__ import annotations

from collections.abc import Sequence

from plotly.offline import get_plotlyjs

from scalewise.lab.report.markup import Html, Section, templates

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
