"""A replay on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from scalewise.replay.readers import LevelLosses
from scalewise.replay.summary import Summary, loss_share

WIDTH = 140  # in a file, where no line needs to fit a window
CHANCE = (
    "spread: standard deviation of a level's weight over the intervals; lag-1: its correlation "
    "with itself one interval before; shuffled: the same figure for these losses in random orders. "
    "A spread that is no larger than when shuffled is one that chance alone gives."
)


def show(losses: LevelLosses, summaries: list[Summary]) -> None:
    """Print what the settings chose, and what of it chance alone would give."""
    setting = summaries[0].replayed.setting
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(
        f"{losses.source}: {len(losses.steps)} rows, normalize {setting.normalize}, "
        f"accumulate {setting.accumulate}, seed {setting.seed}",
        highlight=False,
        soft_wrap=True,
    )
    for note in losses.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    console.print(
        _table(
            "chosen weights of all levels; jump: mean change a time",
            ("updates", "lowest", "highest", "out 1/2..2", "jump"),
            summaries,
            lambda s: (
                str(len(s.replayed.means)),
                f"{s.low.min():.2f}",
                f"{s.high.max():.2f}",
                f"{s.far:.0%}",
                f"{s.motion.jump:.3f}",
            ),
        )
    )
    by_level = _table(
        "mean weight of each level, and its share of the weighted loss",
        losses.levels,
        summaries,
        lambda s: tuple(f"{w:.2f} {part:.1%}" for w, part in zip(s.mean, s.share, strict=True)),
    )
    even = loss_share(losses.values.numpy())
    by_level.add_row("unweighted", "", *(f"{part:.1%}" for part in even))
    console.print(by_level)
    console.print(
        _table(
            "signal or chance",
            ("spread", "shuffled", "lag-1", "shuffled"),
            summaries,
            lambda s: (
                f"{s.motion.spread:.3f}",
                _span([m.spread for m in s.shuffled], 3),
                f"{s.motion.persistence:.2f}",
                _span([m.persistence for m in s.shuffled], 2),
            ),
        )
    )
    console.print(CHANCE, highlight=False, soft_wrap=True)
    for s in summaries:
        where = f"{s.replayed.setting.scheme}, interval {s.replayed.setting.interval}"
        if s.actions:
            drawn = ", ".join(f"{name} {count}" for name, count in s.actions.items())
            console.print(f"{where} drew: {drawn}", highlight=False, soft_wrap=True)
        if s.replayed.outliers.any():
            counts = dict(zip(losses.levels, s.replayed.outliers.tolist(), strict=True))
            console.print(f"{where} left out as outliers: {counts}", highlight=False)
        if s.replayed.rejected:
            console.print(
                f"{where}: {s.replayed.rejected} proposals were no weights and changed nothing"
            )


def _table(
    title: str,
    columns: Sequence[str],
    summaries: Sequence[Summary],
    cells: Callable[[Summary], Sequence[str]],
) -> Table:
    """One row a setting."""
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("scheme", overflow="fold")
    for name in ("interval", *columns):
        table.add_column(name, justify="right")
    for summary in summaries:
        setting = summary.replayed.setting
        table.add_row(setting.scheme, str(setting.interval), *cells(summary))
    return table


def _span(values: list[float], digits: int) -> str:
    """Lowest and highest; "-" where nothing was compared."""
    known = [value for value in values if value == value]
    return f"{min(known):.{digits}f}..{max(known):.{digits}f}" if known else "-"
