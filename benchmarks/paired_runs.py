"""Compare finished runs with runs of equal weights, paired by their seed.

    python benchmarks/paired_runs.py --equal RUN ... --other NAME RUN ... [--out FILE.csv]
    python benchmarks/paired_runs.py FILE.csv

A RUN is a folder of `scalewise train`, or FILE.csv:SCHEME for the runs of a kept study.
The table has the AP at the last epoch in points, as the mean over the seeds, and the AP of each
class if there are at most six. It also has the difference to equal weights, with Student's 95 %
interval if there are two seeds or more. `--out` writes the figures of all runs to one small file,
from which the table can be made again.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from controls import by_seed, markdown

from scalewise.errors import UserError
from scalewise.lab.study.statistics import Difference, paired
from scalewise.lab.training.run_metrics import read_metrics

EQUAL = "equal"
AP = "AP"
MOST_CLASSES = 6  # more do not fit into a table
Row = dict[str, float]  # AP and "AP/CLASS", 0 to 1


def kept_rows(file: Path, scheme: str) -> dict[int, Row]:
    """Figures of one scheme in a CSV file, by seed.

    Raises:
        UserError: if the file has no such run.
    """
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["scheme"] == scheme]
    if not rows:
        raise UserError(f"{file} has no runs of {scheme!r}")
    return {int(row["seed"]): _aps(row) for row in rows}


def last_rows(words: Sequence[str]) -> dict[int, Row]:
    """Figures of the last epoch, by seed, of run folders and FILE.csv:SCHEME.

    Raises:
        UserError: if a run is not finished, or two have the same seed.
    """
    kept = [word.split(".csv:", 1) for word in words if ".csv:" in word]
    folders = by_seed([Path(word) for word in words if ".csv:" not in word])
    found = {seed: _aps((read_metrics(run) or {})["last"]) for seed, run in folders.items()}
    for file, scheme in kept:
        rows = kept_rows(Path(f"{file}.csv"), scheme)
        if twice := sorted(rows.keys() & found.keys()):
            raise UserError(f"{file}.csv and another run have the same seed, {twice[0]}")
        found |= rows
    return found


def _aps(figures: Mapping[str, object]) -> Row:
    return {
        name: float(str(value))
        for name, value in figures.items()
        if (name == AP or name.startswith(f"{AP}/")) and value not in (None, "")
    }


def table(runs: Mapping[str, Mapping[int, Row]]) -> str:
    """A Markdown table with one row for each name.

    Args:
        runs: figures by name and seed; "equal" must be among the names.
    """
    differences = {
        found.scheme: found
        for found in paired(
            {name: {seed: row[AP] for seed, row in rows.items()} for name, rows in runs.items()},
            EQUAL,
        )
    }
    columns = list(next(iter(runs[EQUAL].values())))
    if len(columns) > 1 + MOST_CLASSES:
        columns = [AP]
    head = ["weights", "seeds", "difference", "above", *(c.removeprefix("AP/") for c in columns)]
    lines = []
    for name, rows in runs.items():
        means = [f"{100 * mean(row[column] for row in rows.values()):.1f}" for column in columns]
        lines.append([name, str(len(rows)), *_words(differences.get(name)), *means])
    return markdown(head, lines)


def _words(found: Difference | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    text = f"{100 * found.difference:+.2f}"
    if found.t_interval is not None:
        low, high = found.t_interval
        text += f" ({100 * low:.2f} to {100 * high:.2f})"
    return text, f"{found.improving} of {len(found.seeds)}"


def keep(runs: Mapping[str, Mapping[int, Row]], file: Path) -> None:
    """Write the figures of all runs as a CSV file, one row for each run."""
    columns = list(next(iter(runs[EQUAL].values())))
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["scheme", "seed", *columns])
        for name, rows in runs.items():
            for seed, row in sorted(rows.items()):
                writer.writerow([name, seed, *(row[column] for column in columns)])


def kept_runs(file: Path) -> dict[str, dict[int, Row]]:
    """Read a file that `keep` has written."""
    with file.open(newline="", encoding="utf-8") as lines:
        names = dict.fromkeys(row["scheme"] for row in csv.DictReader(lines))
    return {name: kept_rows(file, name) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kept", type=Path, nargs="?", help="a file that --out wrote")
    parser.add_argument("--equal", nargs="+", metavar="RUN")
    parser.add_argument("--other", nargs="+", action="append", default=[], metavar="NAME RUN")
    parser.add_argument("--out", type=Path, help="CSV file for the figures")
    options = parser.parse_args()
    if (options.kept is None) == (options.equal is None):
        parser.error("give a kept file, or --equal RUN ... and --other NAME RUN ...")
    if options.kept is not None:
        runs = kept_runs(options.kept)
    else:
        runs = {EQUAL: last_rows(options.equal)}
        runs |= {name: last_rows(words) for name, *words in options.other}
    print(table(runs))
    if options.out:
        keep(runs, options.out)


if __name__ == "__main__":
    main()
