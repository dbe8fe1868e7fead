"""Keep the records of finished runs in `results/` and write their table.

Copies config, environment, metrics and trace of each run, without its checkpoints.

    python benchmarks/keep_runs.py results/voc-lean runs/voc-lean/equal runs/voc-lean/avw
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from scalewise.training.runs import load_config, load_json, write_text

RECORDS = ("config.yaml", "environment.json", "metrics.json", "trace.parquet")
FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "VOC_AP50_area")


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def table(folder: Path, names: list[str]) -> str:
    runs: dict[str, tuple[Any, Any]] = {
        name: (load_json(folder / name / "metrics.json"), load_config(folder / name))
        for name in names
    }
    environment = load_json(folder / names[0] / "environment.json")
    lines = [
        f"# {folder.name}",
        "",
        "One run a scheme, all of one seed: what a single run shows, not what a scheme gains.",
        "All figures in percent; last epoch, not the best one.",
        "",
        f"torch {environment['versions']['torch']}, {environment['threads']} threads of "
        f"{environment['cores']} cores, GPU: {environment['gpu'] or 'none'}.",
        "",
        "| scheme | status | epochs | "
        + " | ".join(FIGURES)
        + " | ms a step | weights at the end |",
        "| --- | --- | ---: |" + " ---: |" * (len(FIGURES) + 1) + " --- |",
    ]
    for metrics, config in runs.values():
        last = metrics["last"]
        steps = sorted(epoch["step_seconds"] for epoch in metrics["history"])
        weights = " ".join(f"{w:.2f}" for w in metrics["weights"].values())
        figures = " | ".join(percent(last.get(name)) for name in FIGURES)
        lines.append(
            f"| {config.scheme} | {metrics['status']} | {last['epoch']} | {figures} "
            f"| {1000 * steps[len(steps) // 2]:.0f} | {weights} |"
        )
    lines += ["", "AP after each epoch:", "", "| scheme | AP |", "| --- | --- |"]
    for metrics, config in runs.values():
        course = ", ".join(percent(epoch["AP"]) for epoch in metrics["history"])
        lines.append(f"| {config.scheme} | {course} |")
    lines += ["", "Commands:", ""]
    for name in names:
        lines.append(f"    {load_json(folder / name / 'environment.json')['command']}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    for run in options.runs:
        kept = options.folder / run.name
        kept.mkdir(parents=True, exist_ok=True)
        for name in RECORDS:
            shutil.copyfile(run / name, kept / name)
    names = sorted(p.parent.name for p in options.folder.glob("*/metrics.json"))
    write_text(options.folder / "README.md", table(options.folder, names))


if __name__ == "__main__":
    main()
