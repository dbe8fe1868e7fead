"""What the demo says: shares of the classes, AP of each, and what was found on the first images."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from scalewise.cli.demo_picture import ClassScore, Row
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation.judged import as_many_as_objects, judge
from scalewise.lab.evaluation.stored import read_detections

PICTURES = 3  # in a row of the demo's picture


def introduce(training: Split, held_out: Split, scheme: str) -> None:
    """Say what is about to happen."""
    objects = objects_by_class(training)
    total = sum(objects.values())
    shares = ", ".join(f"{name}s {100 * n / total:.0f} %" for name, n in objects.items())
    print(
        f"One detector is trained twice on {len(training.records)} drawn pictures that resemble\n"
        f"blood smears, and tested on {len(held_out.records)} others.\n"
        f"Shares of the boxes: {shares}.\n"
        "The two trainings differ only in the weights of the loss: equal for all classes,\n"
        f"or balanced by class during training ({scheme}). On two idle cores this takes about\n"
        "two minutes.",
        flush=True,
    )


def objects_by_class(split: Split) -> dict[str, int]:
    """Number of objects of each class, the most frequent first."""
    labels = [int(label) for record in split.records for label in record.labels]
    counts = {name: labels.count(i) for i, name in enumerate(split.classes)}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def ap_of_classes(
    training: Split, equal: dict[str, float], balanced: dict[str, float]
) -> list[ClassScore]:
    """Each class's AP with both runs, the most frequent class first.

    Args:
        training: Training split, whose objects are counted.
        equal: Metrics with equal weights.
        balanced: Metrics with the balanced ones.
    """
    return [
        ClassScore(name, count, equal[f"AP/{name}"], balanced[f"AP/{name}"])
        for name, count in objects_by_class(training).items()
    ]


def found_row(split: Split, run: Path, rare: str, title: str, color: str) -> Row:
    """What a run found in the images that hold most objects of a class.

    Args:
        split: The images.
        run: Folder of a run that was evaluated on them.
        rare: The class.
        title: What to call the run.
        color: Of the title.
    """
    detections = read_detections(run / "detections.parquet")
    judged = judge(split, detections, as_many_as_objects(split, detections))
    label = split.classes.index(rare)
    objects = sum(int((one.record.labels == label).sum()) for one in judged)
    found = sum(int((one.kept.labels[one.right] == label).sum()) for one in judged)
    shown = sorted(judged, key=lambda one: -int((one.record.labels == label).sum()))
    return Row(f"{title}: {found} of {objects} {rare}s found", color, shown[:PICTURES])


def show_scores(scores: list[ClassScore], scheme: str, pictures: int) -> None:
    """Print the table of AP by class."""
    table = Table(title=f"AP on {pictures} pictures kept out of training")
    for title in ("class", "share of boxes", "equal", scheme, "difference"):
        table.add_column(title, justify="left" if title == "class" else "right")
    total = sum(score.objects for score in scores)
    rows = [
        (s.name, f"{100 * s.objects / total:.0f} %", 100 * s.equal, 100 * s.balanced)
        for s in scores
    ]
    before = sum(row[2] for row in rows) / len(rows)
    after = sum(row[3] for row in rows) / len(rows)
    for name, share, equal, balanced in [*rows, ("AP: mean of classes", "", before, after)]:
        texts = (f"{equal:.1f}", f"{balanced:.1f}", f"{balanced - equal:+.1f}")
        table.add_row(name, share, *texts)
    Console().print(table)
