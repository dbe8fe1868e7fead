"""Keep a study in `results/`: its plan, the table of its runs, tables and figures; no raw records.

Only finished runs count. So a study can be kept while it still runs, and again when it has ended.

    python benchmarks/keep_study.py study/bccd results/groups/bccd
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from results import write_study
from scalewise.lab.study.records import load_study


def keep(study: Path, kept: Path) -> int:
    """Keep a study.

    Args:
        study: its folder.
        kept: the folder in `results/`; made if absent.

    Returns:
        The number of runs kept.

    Raises:
        UserError: when `study` is no study, or has no finished run.
    """
    found = load_study(study)
    write_study(found, kept)
    shutil.copyfile(study / "study.yaml", kept / "study.yaml")
    return len(found.records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", type=Path)
    parser.add_argument("kept", type=Path)
    options = parser.parse_args()
    print(f"{options.kept}: {keep(options.study, options.kept)} runs")


if __name__ == "__main__":
    main()
