"""Draw the AP of each class in a kept study, with equal weights and with a scheme.

python benchmarks/class_picture.py results/groups/bccd-presence data/bccd trainval avw classes.png
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from kept import kept_study

from scalewise.cli.demo_picture import ClassScore, draw_classes
from scalewise.data import open_split
from scalewise.lab.study.comparisons import class_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", type=Path)
    parser.add_argument("data")
    parser.add_argument("split")
    parser.add_argument("scheme")
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    study = kept_study(args.study)
    training = open_split(args.data, args.split, skip_bad=True)
    labels = [int(label) for record in training.records for label in record.labels]

    def mean(metric: str, scheme: str) -> float:
        return statistics.mean(r.metrics[metric] for r in study.records if r.scheme == scheme)

    scores = [
        ClassScore(
            metric[3:],
            labels.count(training.classes.index(metric[3:])),
            mean(metric, study.plan.baseline),
            mean(metric, args.scheme),
        )
        for metric in class_metrics(study)
    ]
    draw_classes(args.picture, scores, f"{args.scheme} by class")


if __name__ == "__main__":
    main()
