"""Results of the functions in `scalewise.api`: a folder, metrics by name, and a plot."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalewise.lab.training.kinds import percent

if TYPE_CHECKING:
    from scalewise.lab.inspection.crops import Strip
    from scalewise.lab.inspection.look import Inspection
    from scalewise.lab.plots import NamedFigure


@dataclass(frozen=True, repr=False)
class TrainResult:
    """The result of a training run.

    Attributes:
        run: The run folder.
        metrics: Metrics of the last validated epoch, such as AP in 0..1; empty without one.
        history: Metrics of every validated epoch, with "epoch" and "step".
        weights: Weights of the groups at the end, by name.

    Examples:
        >>> from scalewise.lab.results import read_run
        >>> found = read_run("runs/first")
        >>> 0 <= found.metrics["AP"] <= 1, len(found.history)
        (True, 1)
        >>> figure = found.plot()  # a matplotlib figure; a notebook shows it
    """

    run: Path
    metrics: dict[str, float]
    history: list[dict[str, float]]
    weights: dict[str, float]

    def plot(self) -> NamedFigure:
        """Plot AP after each epoch, and the weights over the steps, with matplotlib."""
        from scalewise.lab.plots import plot_run
        from scalewise.lab.training.trace_reading import group_names, read_trace

        path = self.run / "trace.parquet"
        if not path.is_file():
            from numpy import zeros

            return plot_run(self.history, zeros(0), {})
        table = read_trace(path)
        names = group_names(table.column_names)
        weights = {name: table[f"weight/{name}"].to_numpy() for name in names}
        return plot_run(self.history, table["step"].to_numpy(), weights)

    def __repr__(self) -> str:
        said = f"run {self.run}"
        if self.history:
            best = max(self.history, key=lambda epoch: _number(epoch["AP"]))
            said += (
                f": AP {percent(self.metrics['AP'])} % after epoch {self.metrics['epoch']:.0f}, "
                f"best {percent(best['AP'])} % after epoch {best['epoch']:.0f}"
            )
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in self.weights.items())
        return f"{said}\nweights at the end: {weights}" if weights else said


def read_run(run: str | Path) -> TrainResult:
    """Read the result of an existing run.

    Args:
        run: The run folder.

    Raises:
        RunError: it is not a run folder, or its records are damaged.

    Examples:
        >>> from scalewise.lab.results import read_run
        >>> list(read_run("runs/first").weights)
        ['disc', 'square', 'triangle', 'ring', 'cross']
    """
    from scalewise.lab.training.run_metrics import load_metrics

    metrics = load_metrics(Path(run))
    return TrainResult(
        run=Path(run),
        metrics=dict(metrics.get("last") or {}),
        history=[epoch for epoch in metrics.get("history") or [] if epoch],
        weights=dict(metrics.get("weights") or {}),
    )


@dataclass(frozen=True, repr=False)
class EvaluateResult:
    """Average precision of a run on a split.

    Attributes:
        run: The run folder.
        path: The JSON file that was written into the run folder.
        metrics: Metrics by name, in 0..1: AP, AP50, AP_small, "AP/<class>", ...

    Examples:
        >>> import scalewise as sw
        >>> found = sw.evaluate("runs/first", checkpoint="last", device="cpu")
        >>> found.path.parent.name
        'first'
        >>> figure = found.plot()
    """

    run: Path
    path: Path
    metrics: dict[str, float]

    def plot(self) -> NamedFigure:
        """Plot the AP of each class with matplotlib."""
        from scalewise.lab.plots import plot_classes

        return plot_classes(self.metrics)

    def __repr__(self) -> str:
        classes = {k[3:]: v for k, v in self.metrics.items() if k.startswith("AP/")}
        each = ", ".join(f"{name} {percent(value)}" for name, value in classes.items())
        return (
            f"{self.run}, {self.path.stem}: AP {percent(self.metrics['AP'])} %, "
            f"AP50 {percent(self.metrics['AP50'])} %\nby class: {each}"
        )


@dataclass(frozen=True, repr=False)
class PredictResult:
    """Detections on images and videos.

    Attributes:
        run: The run folder, or the exported file.
        folder: The folder with the drawn files and `predictions.json`.
        pictures: The drawn images and videos.
        predictions: Content of `predictions.json`: one dict for each file.
        unreadable: A line for each file that could not be read.
        notes: Other remarks, one line each.

    Examples:
        >>> import scalewise as sw
        >>> from scalewise.data import open_split
        >>> images = [r.path for r in open_split("demo:images=10,size=64", "test").records]
        >>> found = sw.predict("runs/first", images, out="seen", checkpoint="last", device="cpu")
        >>> len(found.pictures) == len(images), found.metrics["images"] == len(images)
        (True, True)
    """

    run: Path
    folder: Path
    pictures: tuple[Path, ...]
    predictions: list[dict[str, Any]]
    unreadable: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, int]:
        """The number of images, of videos, of detections, and of files that could not be read."""
        frames = [frame for one in self.predictions for frame in one.get("frames", [one])]
        videos = sum("frames" in one for one in self.predictions)
        return {
            "images": len(self.predictions) - videos,
            "videos": videos,
            "detections": sum(len(frame["detections"]) for frame in frames),
            "unreadable": len(self.unreadable),
        }

    def plot(self) -> NamedFigure:
        """Plot the first nine drawn images with matplotlib."""
        from scalewise.lab.plots import plot_pictures

        return plot_pictures([path for path in self.pictures if path.suffix == ".png"])

    def __repr__(self) -> str:
        counts = self.metrics
        lines = [
            f"{counts['detections']} detections on {counts['images']} images and "
            f"{counts['videos']} videos, in {self.folder}",
            *self.notes,
            *(f"not read: {line}" for line in self.unreadable),
        ]
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class CompareResult:
    """The result of a study.

    Attributes:
        folder: The study folder, as `scalewise report` takes it.
        metrics: Mean AP over the seeds in 0..1, by detector and scheme.
        verdicts: A sentence for each scheme except the baseline: how much it differs, how surely.
        missing: A line for each run that is not finished.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.lab.results import CompareResult
        >>> means = {"atss": {"equal": 0.28, "avw": 0.36}}
        >>> CompareResult(Path("study"), means, ["avw: AP +8.00 points from equal."], [])
        study study
        atss: equal 28.0 %, avw 36.0 %
        avw: AP +8.00 points from equal.
    """

    folder: Path
    metrics: dict[str, dict[str, float]]
    verdicts: list[str]
    missing: list[str] = field(default_factory=list)

    def plot(self) -> NamedFigure:
        """Plot the differences of AP to the baseline, with 95% intervals, with matplotlib."""
        from scalewise.lab.plots import plot_differences
        from scalewise.lab.study.comparisons import study_tables
        from scalewise.lab.study.records import load_study

        tables = study_tables(load_study(self.folder), ["AP"])
        return plot_differences([(t.detector, one) for t in tables for one in t.differences])

    def __repr__(self) -> str:
        lines = [f"study {self.folder}"]
        for detector, means in self.metrics.items():
            each = ", ".join(f"{scheme} {percent(mean)} %" for scheme, mean in means.items())
            lines.append(f"{detector}: {each}")
        return "\n".join([*lines, *self.verdicts, *self.missing])


@dataclass(frozen=True, repr=False)
class InspectResult:
    """The result of an inspection: what a data set demands of a detector.

    Attributes:
        inspection: All findings.
        folder: The folder with the picture and the page; None if no folder was asked for.
        examples: Example objects of each group, cut out of their images.
        unreadable: A line for each image whose example could not be shown.

    Examples:
        >>> import scalewise as sw
        >>> found = sw.inspect(data="demo:images=10,size=64", size=64)
        >>> found.metrics["images"], found.metrics["advice"]["by"]
        (10, 'class')
        >>> figure = found.plot()
    """

    inspection: Inspection
    folder: Path | None
    examples: tuple[Strip, ...]
    unreadable: tuple[str, ...]

    @property
    def metrics(self) -> dict[str, Any]:
        """The findings by name, as values that JSON can hold."""
        return self.inspection.metrics

    def plot(self) -> NamedFigure:
        """Plot sizes and levels, groups and examples with matplotlib."""
        from scalewise.lab.inspection.chart import draw_inspection

        return draw_inspection(self.inspection, self.examples)

    def __repr__(self) -> str:
        from rich.console import Console

        from scalewise.lab.inspection.found_tables import show_inspection

        console = Console(width=80, color_system=None)
        with console.capture() as held:
            show_inspection(self.inspection, console)
        lines = [f"not shown, could not be read: {line}" for line in self.unreadable]
        return "\n".join([held.get().rstrip(), *lines])


def _number(value: float | None) -> float:
    return -1.0 if value is None or value != value else value
