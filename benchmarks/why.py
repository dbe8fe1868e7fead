"""Why dynamic level weights do, or do not, change AP: read from the records of a study.

python benchmarks/why.py results/voc
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from scalewise.replay.replay import Setting, replay, replay_shuffled
from scalewise.replay.summary import motion
from scalewise.study.records import Record, StudyRecords, load_study
from scalewise.training.picture import level_losses
from scalewise.training.runs import write_text
from scalewise.training.trace import read_trace

SIGNALS = (
    "avw",
    "avw:signal=dispersion",
    "avw:signal=magnitude",
    "avw:signal=magnitude:invert=true:temperature=2:strength=1:min_share=0.01",
)
SHUFFLES = 5


def levels_of(folder: Path) -> tuple[list[str], np.ndarray]:
    """Names of the levels, and the losses, float [steps, levels]."""
    trace = read_trace(folder / "trace.parquet")
    names = [n.removeprefix("weight/") for n in trace.column_names if n.startswith("weight/")]
    return names, np.stack([level_losses(trace, name) for name in names], axis=1)


def baseline(study: StudyRecords, detector: str) -> list[Record]:
    return [r for r in study.records if (r.detector, r.scheme) == (detector, study.plan.baseline)]


def importance(study: StudyRecords, detector: str) -> list[str]:
    """Shares of each level, and how far the levels move together."""
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    together, aligned = [], []
    for record in baseline(study, detector):
        names, losses = levels_of(record.folder)
        trace = read_trace(record.folder / "trace.parquet")
        rows["loss"].append(losses.mean(0))
        rows["positives"].append(
            np.array([trace[f"positives/{n}"].to_numpy().mean() for n in names])
        )
        together.append(np.corrcoef(np.diff(losses[:, :2], axis=0).T)[0, 1])
        if (record.folder / "gradients.parquet").is_file():
            gram = pq.read_table(record.folder / "gradients.parquet")
            squared = {n: gram[f"gram/{n}/{n}"].to_numpy() for n in names}
            rows["squared gradient"].append(np.array([squared[n].mean() for n in names]))
            inner = gram[f"gram/{names[0]}/{names[1]}"].to_numpy()
            aligned.append(np.mean(inner / np.sqrt(squared[names[0]] * squared[names[1]])))
    lines = ["| share of | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for what, values in rows.items():
        mean = np.mean(values, axis=0)
        cells = " | ".join(f"{share:.2%}" for share in mean / mean.sum())
        lines.append(f"| {what} | {cells} |")
    lines += [
        "",
        f"{names[0]} and {names[1]}: their losses' changes from step to step correlate at "
        f"{spread(together)}"
        + (f"; the cosine between their gradients is {spread(aligned)}." if aligned else "."),
    ]
    return lines


def signals(study: StudyRecords, detector: str) -> list[str]:
    """Each AVW signal on the baseline's losses, beside the same losses in random order."""
    options = study.plan.options
    lines = ["| signal | spread of the weights | shuffled | lag-1 | shuffled |",
             "| --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for words in SIGNALS:
        setting = Setting(words, options.interval, options.normalize, options.accumulate, 0)
        own, others = [], []
        for record in baseline(study, detector):
            losses = torch.from_numpy(levels_of(record.folder)[1]).float()
            own.append(motion(replay(losses, setting).weights[1:]))
            others += [motion(r.weights[1:]) for r in replay_shuffled(losses, setting, SHUFFLES)]
        lines.append(
            f"| {words} | {spread([m.spread for m in own], 3)} "
            f"| {spread([m.spread for m in others], 3)} "
            f"| {spread([m.persistence for m in own])} "
            f"| {spread([m.persistence for m in others])} |"
        )
    return lines


def policy(study: StudyRecords, detector: str) -> list[str]:
    """What RLO's reward saw, early and late, and what the policy became."""
    interval = study.plan.options.interval
    thirds: list[list[float]] = [[], [], []]
    by_action: dict[str, list[float]] = defaultdict(list)
    final: dict[str, list[float]] = defaultdict(list)
    for record in study.records:
        if record.detector != detector or not record.scheme.startswith("rlo"):
            continue
        trace = read_trace(record.folder / "trace.parquet")
        losses = levels_of(record.folder)[1].sum(1)
        count = len(losses) // interval
        means = losses[: count * interval].reshape(count, interval).mean(1)
        rewards = -np.diff(np.log(means))  # [count - 1], of the actions of intervals 1, 2, ...
        actions = trace["action"].to_pylist()[::interval][1:count]
        for place, (reward, action) in enumerate(zip(rewards, actions, strict=True)):
            thirds[min(2, 3 * place // len(rewards))].append(float(reward))
            by_action[action].append(float(reward))
        for name in trace.column_names:
            if name.startswith("probability/"):
                final[name.removeprefix("probability/")].append(trace[name][-1].as_py())
    if not final:
        return ["No run of RLO."]
    lines = ["| part of the run | mean reward | deviation | intervals |",
             "| --- | ---: | ---: | ---: |"]  # fmt: skip
    for name, rewards_of in zip(("first third", "second", "last"), thirds, strict=True):
        lines.append(
            f"| {name} | {np.mean(rewards_of):+.4f} | {np.std(rewards_of, ddof=1):.4f} "
            f"| {len(rewards_of)} |"
        )
    lines += ["", "| action | mean reward ± standard error | drawn | probability at the end |",
              "| --- | ---: | ---: | ---: |"]  # fmt: skip
    for name, values in final.items():
        own = by_action[name]
        error = np.std(own, ddof=1) / np.sqrt(len(own)) if len(own) > 1 else float("nan")
        mean = np.mean(own) if own else float("nan")
        lines.append(f"| {name} | {mean:+.4f} ± {error:.4f} | {len(own)} | {spread(values)} |")
    return lines


def applied(study: StudyRecords, detector: str) -> list[str]:
    """The weights in force, and the AP beside the baseline's."""
    lines = ["| scheme | mean weights | loss weighted / unweighted | AP | runs |",
             "| --- | --- | ---: | ---: | ---: |"]  # fmt: skip
    for scheme in study.plan.schemes:
        own = [r for r in study.records if (r.detector, r.scheme) == (detector, scheme)]
        if not own:
            continue
        means, factors = [], []
        for record in own:
            names, losses = levels_of(record.folder)
            trace = read_trace(record.folder / "trace.parquet")
            weights = np.stack([trace[f"weight/{n}"].to_numpy() for n in names], axis=1)
            means.append(weights.mean(0))
            factors.append(float((weights * losses).sum() / losses.sum()))
        cells = " ".join(f"{w:.2f}" for w in np.mean(means, axis=0))
        ap = spread([100 * r.metrics["AP"] for r in own])
        lines.append(f"| {scheme} | {cells} | {np.mean(factors):.2f} | {ap} | {len(own)} |")
    return lines


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean and sample standard deviation."""
    known: Sequence[float] = [v for v in values if np.isfinite(v)]
    if len(known) < 2:
        return f"{known[0]:.{digits}f}" if known else "n/a"
    return f"{np.mean(known):.{digits}f} ± {np.std(known, ddof=1):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", type=Path)
    folder = parser.parse_args().study
    study = load_study(folder)
    lines = [
        f"# Why: {folder.name}",
        "",
        f"From the traces of {len(study.records)} runs; mean ± standard deviation over runs.",
    ]
    for detector in study.plan.detectors:
        for title, part in (
            (f"{detector}: which levels matter, under {study.plan.baseline}", importance),
            (f"{detector}: are the variance signals more than noise?", signals),
            (f"{detector}: what RLO's reward saw", policy),
            (f"{detector}: the weights in force", applied),
        ):
            lines += ["", f"## {title}", "", *part(study, detector)]
    write_text(folder / "why.md", "\n".join(lines) + "\n")
    print(folder / "why.md")


if __name__ == "__main__":
    main()
