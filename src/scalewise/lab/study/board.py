"""Shows a running study: a live table on a terminal, or else a line for each event."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scalewise.lab.study.planned_cells import Cell, Plan, cell_folder
from scalewise.lab.study.records import Record, read_record, run_seconds
from scalewise.lab.training.kinds import kind_of
from scalewise.lab.training.run_metrics import read_metrics


@dataclass
class Board:
    """Which runs of a study are finished, running or failed.

    Args:
        study: The study folder.
        plan: Its plan.
        jobs: Number of runs at the same time.
        seconds: Estimated seconds per run, by detector; finished runs replace the estimates.
    """

    study: Path
    plan: Plan
    jobs: int
    seconds: dict[str, float] = field(default_factory=dict)
    finished: dict[Cell, Record] = field(default_factory=dict)
    running: dict[Cell, float] = field(default_factory=dict)
    failed: dict[Cell, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for cell in self.plan.cells:
            record = read_record(self.study, cell)
            if record is not None:
                self._finish(cell, record)

    @property
    def waiting(self) -> list[Cell]:
        """The cells still to run: neither finished nor running nor failed."""
        done = {*self.finished, *self.running, *self.failed}
        return [cell for cell in self.plan.cells if cell not in done]

    def update(self, cell: Cell, event: Record | str | None) -> None:
        """Record that a cell started (None), finished (its record) or failed (the reason)."""
        if event is None:
            self.running[cell] = time.monotonic()
            return
        since = self.running.pop(cell, None)
        if isinstance(event, Record):
            self._finish(cell, event, None if since is None else time.monotonic() - since)
        else:
            self.failed[cell] = event

    def _finish(self, cell: Cell, record: Record, seconds: float | None = None) -> None:
        self.finished[cell] = record
        metrics = read_metrics(record.folder)
        assert metrics is not None
        took = seconds or run_seconds(metrics, self.plan.options.accumulate)
        known = [c for c in self.finished if c.detector == cell.detector]
        before = self.seconds.get(cell.detector, took)
        self.seconds[cell.detector] = before + (took - before) / len(known)

    def seconds_left(self) -> float | None:
        """Estimated seconds until all cells are done; None without any estimate."""
        if not self.seconds:
            return None
        usual = statistics.mean(self.seconds.values())
        rest = sum(self.seconds.get(cell.detector, usual) for cell in self.waiting)
        now = time.monotonic()
        rest += sum(
            max(0.0, self.seconds.get(cell.detector, usual) - (now - since))
            for cell, since in self.running.items()
        )
        return rest / (len(self.running) or self.jobs)

    def line(self, cell: Cell, event: Record | str | None) -> str:
        """One event as a line of text."""
        if event is None:
            return f"start   {cell}"
        count = f"{len(self.finished)}/{len(self.plan.cells)} done"
        if isinstance(event, Record):
            left = duration(self.seconds_left())
            return f"done    {cell}: AP {100 * event.metrics['AP']:.1f}; {count}, {left} left"
        return f"failed  {cell}: {event}; {count}"

    def table(self) -> Group:
        """A table of AP by detector and scheme, of running and failed runs, and the time left."""
        weighed = kind_of(self.plan.options.by).one
        done = f"{len(self.finished)} of {len(self.plan.cells)} runs done"
        table = Table(title=f"{done}, with a weight for each {weighed}")
        for name in ("detector", "scheme"):
            table.add_column(name)
        for name in ("done", "AP", "sd", "failed"):
            table.add_column(name, justify="right")
        table.add_column("running")
        for detector in self.plan.detectors:
            for scheme in self.plan.schemes:
                table.add_row(Text(detector), Text(scheme), *self._row(detector, scheme))
        lines = [Text(f"failed  {cell}: {reason}") for cell, reason in self.failed.items()]
        return Group(table, *lines, Text(f"time left: {duration(self.seconds_left())}"))

    def _row(self, detector: str, scheme: str) -> list[str]:
        def mine(cell: Cell) -> bool:
            return (cell.detector, cell.scheme) == (detector, scheme)

        values = [100 * r.metrics["AP"] for c, r in self.finished.items() if mine(c)]
        running = [
            f"seed {cell.seed}: {self._position(cell)}" for cell in self.running if mine(cell)
        ]
        return [
            f"{len(values)}/{len(self.plan.seeds)}",
            f"{statistics.mean(values):.1f}" if values else "-",
            f"{statistics.stdev(values):.1f}" if len(values) > 1 else "-",
            str(sum(mine(cell) for cell in self.failed) or "-"),
            ", ".join(running),
        ]

    def _position(self, cell: Cell) -> str:
        metrics = read_metrics(cell_folder(self.study, cell))
        seen = metrics["history"] if metrics and metrics.get("status") != "finished" else []
        done = int(seen[-1]["epoch"]) if seen else 0
        return f"epoch {done + 1}/{self.plan.options.epochs}"


@contextmanager
def live_board(board: Board, plain: bool) -> Iterator[Live | None]:
    """Show the board on a terminal. Yields None if there is none; the caller then prints lines."""
    console = Console()
    if plain or not console.is_terminal:
        yield None
        return
    with Live(get_renderable=board.table, console=console, refresh_per_second=1) as live:
        yield live


def duration(seconds: float | None) -> str:
    """A duration as text, in seconds, minutes or hours."""
    if seconds is None:
        return "unknown time"
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
