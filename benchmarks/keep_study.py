"""Keep the records of a study's finished runs: all that `scalewise report` needs but checkpoints.

Runs that are kept already are left as they are, so that a study can be kept while it goes on.

    python benchmarks/keep_study.py study/voc results/voc
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from scalewise.study.images import image_bootstrap
from scalewise.study.plan import Cell, cell_folder, load_plan, save_plan
from scalewise.study.records import load_study

RECORD = ("config.yaml", "environment.json", "metrics.json", "trace.parquet")
IF_THERE = ("gradients.parquet", "matches.npz")


def keep(study: Path, results: Path) -> list[str]:
    records = load_study(study).records
    image_bootstrap(load_study(study), resamples=2)  # writes matches.npz beside each run
    save_plan(results, load_plan(study))
    kept = []
    for record in records:
        target = cell_folder(results, Cell(record.detector, record.scheme, record.seed))
        if (target / "metrics.json").is_file():
            continue
        aside = target.with_name(f".{target.name}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for name in (*RECORD, *IF_THERE):
            if name in RECORD or (record.folder / name).is_file():
                shutil.copyfile(record.folder / name, aside / name)
        aside.rename(target)
        kept.append(f"{record.detector} {record.scheme} seed {record.seed}")
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", type=Path)
    parser.add_argument("results", type=Path)
    options = parser.parse_args()
    for line in keep(options.study, options.results):
        print(f"kept {line}")


if __name__ == "__main__":
    main()
