"""Write `docs/frameworks.md` from the reports of the matrix tests.

pytest tests/integrations/test_matrix.py --junitxml matrix.xml
python benchmarks/support.py matrix.xml [more.xml ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from defusedxml.ElementTree import parse

from scalewise.integrations.options import KINDS
from scalewise.lab.training.runs import write_text

HEAD = """# Frameworks and what is tested on them

Made by `python benchmarks/support.py` from the reports of `tests/integrations/test_matrix.py`,
which runs every family under every check on tiny models on the CPU.

- **by level**, **by class**, ...: what is weighed. At weight 1 losses and the gradient of every
  parameter equal the plain framework's to float32 rounding; objects on all images, on some, on
  none; one image. Under random weights the gradients equal those of a slow, independent reference.
- **bf16**: both under bfloat16 autocast, to 3 % of the gradient's norm.
- **accumulation**: weights change with the optimizer step only.
- **checkpoint**: a model made anew goes on bit for bit, weighting state included.
- **1 level**, **7 levels**: weight 1 by level, where the family can be made so.
- **2 processes**: gloo; ranks hold the same weights, from the losses of both, and gradients are
  the mean of the weighted ones.

bf16, accumulation, checkpoint and 2 processes are run by level and by class, where served.

"split" means that the reported losses carry the weights; "gradient scaling" that they stay as they
are and the weights act on the way back. "-": the plain framework cannot do it; its number of levels
is fixed, or its own code fails. Empty: not run.

"""


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


def _place(check: str) -> int:
    """Of a column: what is weighed comes first; the others stay in the order of the tests."""
    kinds = [f"by {kind}" for kind in KINDS]
    return kinds.index(check) if check in kinds else len(kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/frameworks.md"))
    options = parser.parse_args()
    checks, found = read(options.reports)
    checks.sort(key=_place)
    lines = [
        "| framework | family | way | " + " | ".join(checks) + " |",
        "| --- | --- | --- |" + " --- |" * len(checks),
    ]
    for (framework, family, way), row in found.items():
        cells = " | ".join(row.get(check, "") for check in checks)
        lines.append(f"| {framework} | {family} | {way} | {cells} |")
    counts = [value for row in found.values() for value in row.values()]
    summary = ", ".join(f"{counts.count(word)} {word}" for word in dict.fromkeys(counts))
    write_text(options.out, HEAD + "\n".join(lines) + f"\n\n{len(counts)} tests: {summary}.\n")
    print(f"{options.out}: {summary}")


if __name__ == "__main__":
    main()
