"""`scalewise report`: runs and studies on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scalewise.cli.parsing import build, command_parser, parse
from scalewise.errors import UsageError


@dataclass(kw_only=True)
class ReportOptions:
    """Report.

    Args:
        out: HTML file; Markdown and CSV files are written beside it. If one of them exists, a
            number is added to the name.
        metric: Metric to compare: AP, AP50, AP_small, AP/<class>, ...
        baseline: Scheme that the others are compared with. Default: the study's own.
    """

    out: str = "report.html"
    metric: str = "AP"
    baseline: str | None = None


def main(words: list[str]) -> int:
    """Run the command."""
    parser = command_parser(
        "report",
        "Show runs and studies on one HTML page that needs no network.",
    )
    parser.add_argument("folders", nargs="+", help="run folders and study folders")
    parser.add_class_arguments(ReportOptions)
    values = parse(parser, words, ReportOptions)
    options = build(ReportOptions, values)
    out = Path(options.out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: the report is an HTML file, name it like report.html")
    from scalewise.lab.report.reading_subjects import require_subjects

    folders = [Path(folder) for folder in values.folders]
    require_subjects(folders)
    from scalewise.lab.report.build import write_report

    for path in write_report(folders, out, options.metric, options.baseline):
        print(f"written: {path}")
    return 0
