"""Prints replays on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scalewise.lab.replay.loss_table import GroupLosses
from scalewise.lab.replay.output import shown_groups
from scalewise.lab.replay.replay_summary import ReplaySummary, loss_share
from scalewise.lab.training.group_style import choice_note
from scalewise.lab.training.kinds import Kind

WIDTH = 140  # characters, where the output is not a terminal
MOST_COLUMNS = 8  # groups that get a column each; if there are more, each gets a row
CHANCE = (
    "spread: standard deviation of a {one}'s weight over the intervals; lag-1: its correlation "
    "with itself one interval before; shuffled: the same figure for these losses in random orders. "
    "A spread that is no larger than with shuffled losses can come from chance alone."
)


def show_replay(losses: GroupLosses, summaries: list[ReplaySummary], kind: Kind) -> None:
    """Print the weights that the settings chose, and how weights move with shuffled losses.

    Args:
        losses: The replayed losses.
        summaries: A summary for each setting.
        kind: The word for the groups, such as level or class.
    """
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
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        _table(
            f"chosen weights of all {kind.many}; jump: mean change a time",
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
    few = len(losses.groups) <= MOST_COLUMNS
    console.print((_by_group if few else _below_each_other)(losses, summaries, kind))
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
    console.print(CHANCE.format(one=kind.one), highlight=False, soft_wrap=True)
    for summary in summaries:
        for line in _what_happened(losses, summary):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def _what_happened(losses: GroupLosses, summary: ReplaySummary) -> Iterator[str]:
    """Lines on drawn actions, on values left out, and on proposals that were not valid weights."""
    replayed = summary.replayed
    where = f"{replayed.setting.scheme}, interval {replayed.setting.interval}"
    if summary.actions:
        drawn = ", ".join(f"{name} {count}" for name, count in summary.actions.items())
        yield f"{where} drew: {drawn}"
    if replayed.outliers.any():
        counts = zip(losses.groups, replayed.outliers.tolist(), strict=True)
        left_out = ", ".join(f"{group} {count}" for group, count in counts if count)
        yield f"{where} left out as outliers: {left_out}"
    if replayed.rejected:
        yield f"{where}: {replayed.rejected} proposals were not valid weights and changed nothing"


def _by_group(losses: GroupLosses, summaries: Sequence[ReplaySummary], kind: Kind) -> Table:
    """A table with a column for each group."""
    table = _table(
        f"mean weight of each {kind.one}, and its share of the weighted loss of all {kind.many}",
        losses.groups,
        summaries,
        lambda s: tuple(f"{w:.2f} {part:.1%}" for w, part in zip(s.mean, s.share, strict=True)),
    )
    even = loss_share(losses.values.numpy())
    table.add_row("unweighted", "", *(f"{part:.1%}" for part in even))
    return table


def _below_each_other(losses: GroupLosses, summaries: Sequence[ReplaySummary], kind: Kind) -> Table:
    """A table with a row for each shown group, and a column for each setting."""
    shown = shown_groups(losses, [summary.replayed for summary in summaries])
    note = choice_note(len(shown), len(losses.groups), kind)
    title = f"mean weight of each {kind.one}, and its share of the weighted loss of all {kind.many}"
    table = Table(title=f"{title}; {note}" if note else title, box=SIMPLE_HEAD)
    table.add_column(kind.one, overflow="fold")
    table.add_column("unweighted", justify="right")
    for summary in summaries:
        setting = summary.replayed.setting
        table.add_column(
            Text(f"{setting.scheme}\n{setting.interval}"), justify="right", overflow="fold"
        )
    even = loss_share(losses.values.numpy())
    for i in shown:
        cells = (f"{s.mean[i]:.2f} {s.share[i]:.1%}" for s in summaries)
        table.add_row(Text(losses.groups[i]), f"{even[i]:.1%}", *cells)
    return table


def _table(
    title: str,
    columns: Sequence[str],
    summaries: Sequence[ReplaySummary],
    cells: Callable[[ReplaySummary], Sequence[str]],
) -> Table:
    """A table with a row for each setting."""
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("scheme", overflow="fold")
    for name in ("interval", *columns):
        table.add_column(Text(name), justify="right")
    for summary in summaries:
        setting = summary.replayed.setting
        table.add_row(setting.scheme, str(setting.interval), *cells(summary))
    return table


def _span(values: list[float], digits: int) -> str:
    """The lowest and the highest value as text; "-" if there is none."""
    known = [value for value in values if value == value]
    return f"{min(known):.{digits}f}..{max(known):.{digits}f}" if known else "-"
