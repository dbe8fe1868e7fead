"""Write `docs/frameworks.md` from the reports of the matrix tests.

pytest tests/integrations/test_matrix.py --junitxml matrix.xml
python benchmarks/support.py matrix.xml [more.xml ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from defusedxml.ElementTree import parse

from scalewise.files import write_text
from scalewise.integrations.options import KINDS

HEAD = """# Frameworks and what is tested on them

Written by `python benchmarks/support.py` from the reports of `tests/integrations/test_matrix.py`,
which runs every check on a tiny model of every family, on the CPU.

- **by class**, **by level**, ...: the groups that are weighed. If all weights are 1, losses and
  gradients of all parameters equal those of the plain framework to float32 rounding. Batches have
  objects on all images, on some, or on none; one has a single image. With random weights, the
  gradients equal those of a slow, independent reference.
- **bf16**: the same two comparisons of gradients under bfloat16 autocast, to 3 % of their norm.
- **accumulation**: the weights change only when the optimizer makes a step.
- **checkpoint**: a new model that loads a checkpoint continues bit for bit; the checkpoint holds
  the weighting state too.
- **1 level**, **7 levels**: weight 1 by level, if the family can have that number of levels.
- **2 processes** (gloo): both have the same weights, computed from the losses of both, and the
  gradients are the mean of the weighted gradients.

bf16, accumulation, checkpoint and 2 processes are tested by level and by class, as far as the
family can be weighed so.

"way" tells how the weights reach the gradients. "split": the loss is split into groups, and the
loss of each group is multiplied by its weight. "gradient scaling": the loss of the framework runs
unchanged, and the gradients of its predictions are multiplied by the weights. The reported losses
are weighted, except those of transformers.

"-" means that the plain framework cannot do it: it has no levels or a fixed number of them, or its
own code fails. An empty cell was not run.

"""

COLUMNS = (
    *(f"by {kind}" for kind in KINDS),
    "bf16",
    "accumulation",
    "checkpoint",
    "1 level",
    "7 levels",
    "2 processes",
)
FRAMEWORKS = ("torchvision", "Ultralytics", "MMDetection", "transformers", "scalewise")
OUTCOMES = ("yes", "-", "**fails**")


def read(reports: list[Path]) -> tuple[list[str], dict[tuple[str, str, str], dict[str, str]]]:
    """Names of the checks, and the outcome of each by framework, family and way."""
    checks: list[str] = []
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for report in reports:
        for case in parse(report).iter("testcase"):
            noted = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
            if "check" not in noted:
                continue
            if noted["check"] not in checks:
                checks.append(noted["check"])
            row = found.setdefault((noted["framework"], noted["family"], noted["way"]), {})
            failed = case.find("failure") is not None or case.find("error") is not None
            skipped = case.find("skipped") is not None
            row[noted["check"]] = "**fails**" if failed else "-" if skipped else "yes"
    return checks, found


def table(reports: list[Path]) -> tuple[list[str], list[str]]:
    """The lines of the table, the same for any order of the tests, and the outcomes in it.

    Raises:
        ValueError: a report has a check or a framework that has no place in the table yet.
    """
    checks, found = read(reports)
    frameworks = {framework.split()[0] for framework, _, _ in found}
    for what, seen, known in (
        ("check", checks, COLUMNS),
        ("framework", frameworks, FRAMEWORKS),
    ):
        if unknown := sorted(set(seen) - set(known)):
            raise ValueError(f"no place for {what} {unknown[0]!r}; add it to {__file__}")
    columns = [check for check in COLUMNS if check in checks]
    rows = sorted(found, key=lambda row: (FRAMEWORKS.index(row[0].split()[0]), row))
    lines = [
        "| framework | family | way | " + " | ".join(columns) + " |",
        "| --- | --- | --- |" + " --- |" * len(columns),
    ]
    for row in rows:
        cells = [*row, *(found[row].get(check, "") for check in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines, [found[row][check] for row in rows for check in columns if check in found[row]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/frameworks.md"))
    options = parser.parse_args()
    lines, counts = table(options.reports)
    summary = ", ".join(f"{counts.count(word)} {word}" for word in OUTCOMES if word in counts)
    write_text(options.out, HEAD + "\n".join(lines) + f"\n\n{len(counts)} tests: {summary}.\n")
    print(f"{options.out}: {summary}")


if __name__ == "__main__":
    main()
