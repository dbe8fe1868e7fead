"""Says where the numbers come from: options, versions, and commands to repeat the runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from scalewise.lab.data.faults import format_counts
from scalewise.lab.report.markup import (
    Html,
    Section,
    Table,
    absent,
    bullets,
    code,
    folded,
    heading,
    join,
    paragraph,
    table,
)
from scalewise.lab.report.subjects import Comparison, ReportRun

HARMLESS = ("workers", "log_every", "checkpoint_every", "progress")  # do not change AP
CELL = ("detector", "scheme", "seed", "out", "name")  # differ between the runs of a study


def origin_section(comparisons: list[Comparison]) -> Section:
    """Options, versions, commands and unfinished runs."""
    parts: list[Html] = []
    for comparison in comparisons:
        parts.append(heading(comparison.title))
        parts.append(_unfinished(comparison))
        parts.append(paragraph("Commands that were run; each run's config.yaml holds its options:"))
        parts.append(_commands(comparison.runs, comparison.folder))
        parts.append(_versions(comparison.runs))
        parts.append(_options(comparison.runs))
    return Section("origin", "Options, versions and commands", join(parts))


def _unfinished(comparison: Comparison) -> Html:
    lines = [f"{run.label}: {run.status}" for run in comparison.runs if run.status != "finished"]
    if comparison.study is not None:
        mark = f"{comparison.detector} "
        lines += [line for line in comparison.study.missing if line.startswith(mark)]
    if not lines:
        return paragraph(f"All {len(comparison.runs)} runs are finished.")
    return join([absent("Not finished, so left out of all means above:"), bullets(lines)])


def _commands(runs: list[ReportRun], study: Path | None) -> Html:
    commands = list(
        dict.fromkeys(str(r.environment["command"]) for r in runs if "command" in r.environment)
    )
    again = [f"scalewise train --config {run.folder / 'config.yaml'}" for run in runs]
    if study is not None:
        again.insert(0, f"scalewise compare --config {study / 'study.yaml'} --out {study}-again")
    typed = code(commands) if commands else absent("No command was recorded (environment.json).")
    return join(
        [
            typed if len(commands) <= 4 else folded(f"{len(commands)} commands", typed),
            folded("Run them again", code(again)),
        ]
    )


def _versions(runs: list[ReportRun]) -> Html:
    known = [run for run in runs if run.environment]
    if not known:
        return absent("No versions were recorded (environment.json).")
    rows: list[list[str]] = []
    told = [environment_rows(run.environment, run.metrics.get("damaged")) for run in known]
    for name in dict.fromkeys(key for row in told for key in row):
        values = dict.fromkeys(row.get(name, "-") for row in told)
        rows.append([name, "; ".join(values)])
    caption = "Versions and machine; several values mean that the runs differ"
    return folded("Versions and machine", table(Table(["", "value"], rows), caption, "words"))


def environment_rows(
    environment: dict[str, Any], damaged: dict[str, Any] | None = None
) -> dict[str, str]:
    """The content of `environment.json` as texts, by name.

    Args:
        environment: Content of the file.
        damaged: Images that were found damaged during training, as `metrics.json` has them: for
            each split their "count" and the names of the "first".
    """
    versions = environment.get("versions") or {}
    git = environment.get("git") or {}
    found = {f"{package}": str(version or "not installed") for package, version in versions.items()}
    for name in ("python", "platform", "cores", "threads", "gpu"):
        if name in environment:
            found[name] = str(environment[name] or "none")
    if git:
        changed = ", with changes" if git.get("changed") else ""
        found["git commit"] = f"{git.get('commit', '-')}{changed}"
    for name in ("images", "objects"):
        if name in environment:
            found[name] = ", ".join(f"{k}: {v}" for k, v in environment[name].items())
    if "skipped_counts" in environment:
        counts = environment["skipped_counts"].items()
        lost = [f"{split}: {format_counts(kinds)}" for split, kinds in counts if kinds]
        for split, found_later in (damaged or {}).items():
            names = ", ".join(Path(name).name for name in found_later["first"])
            more = ", ..." * (found_later["count"] > len(found_later["first"]))
            images = format_counts({"damaged image": found_later["count"]})
            lost.append(f"{split}: {images}, found while training ({names}{more})")
        found["left out of the data"] = ", ".join(lost) or "nothing"
    if "classes" in environment:
        found["classes"] = ", ".join(environment["classes"])
    return found


def _effect(option: str, value: object) -> str:
    """A text that differs if the value can change AP; `cache` "none" and "ram" count as equal."""
    return json.dumps(value == "device" if option == "cache" else value)


def _options(runs: list[ReportRun]) -> Html:
    options = [dataclasses.asdict(run.config) for run in runs]
    names = [name for name in options[0] if name not in CELL]
    rows = []
    for name in names:
        values = dict.fromkeys(json.dumps(option[name]) for option in options)
        rows.append([name, "; ".join(values)])
    differing = [
        name
        for name in names
        if name not in HARMLESS and len({_effect(name, option[name]) for option in options}) > 1
    ]
    note = (
        absent(
            f"The runs also differ in {', '.join(differing)}, so more is compared than the "
            "weighting scheme."
        )
        if differing and len(runs) > 1
        else Html("")
    )
    return join(
        [
            note,
            folded(
                "Options", table(Table(["option", "value"], rows), "Options of the runs", "words")
            ),
        ]
    )
