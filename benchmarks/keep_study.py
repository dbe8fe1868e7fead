"""Keep a study in `results/`: its plan, runs.csv, tables and figures, but no raw records.

Only finished runs count, so a study can be kept while it runs and again when it has ended.

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
        study: folder of the study.
        kept: folder in `results/`, which is made if absent.

    Returns:
        The number of runs kept.

    Raises:
        UserError: if `study` is no study, or has no finished run.
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
