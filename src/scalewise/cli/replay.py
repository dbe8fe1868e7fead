"""`scalewise replay`: what schemes would have chosen from recorded losses, without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser

from scalewise.cli.options import build, parse
from scalewise.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from scalewise.replay.readers import LevelLosses
    from scalewise.replay.replay import Setting
    from scalewise.replay.summary import Summary

LIMITS = (
    "Replay shows what each scheme would have chosen from these losses; with other weights the "
    "losses would have been other. It cannot rank schemes by AP."
)
CHANCE = (
    "spread: standard deviation of a level's weight over the intervals; lag-1: its correlation "
    "with itself one interval before; shuffled: the same figure for these losses in random orders. "
    "A spread that is no larger than when shuffled is one that chance alone gives."
)


@dataclass(kw_only=True)
class ReplayOptions:
    """Replay.

    Args:
        schemes: Schemes as after train's --scheme, separated by commas:
            "avw:temperature=0.5,avw:temperature=2,rlo".
        interval: Optimizer steps between two updates of the weights, several separated by commas.
            Default: the run's own, else 100.
        normalize: What the weights keep, their mean or the loss. Default: the run's own, else mean.
        accumulate: Rows an optimizer step. Default: the run's own, else 1.
        seed: Seed of the schemes' random numbers. Default: the run's own, else 0.
        tags: Name of the columns or tags that hold a level's loss: "train/{level}_loss". Default:
            "loss/{term}/{level}" or "loss/{level}".
        shuffles: Random orders of the losses to compare with; 0 leaves the comparison out.
        out: Folder in which a folder is made for each trace.
    """

    schemes: str = "avw,rlo"
    interval: str | None = None
    normalize: Literal["mean", "loss"] | None = None
    accumulate: int | None = None
    seed: int | None = None
    tags: str | None = None
    shuffles: int = 5
    out: str = "replays"


def main(words: list[str]) -> int:
    """Run the command."""
    parser = ArgumentParser(
        prog="scalewise replay",
        description="Feed recorded level losses through schemes, without training.",
        epilog=LIMITS,
        exit_on_error=False,
    )
    parser.add_argument(
        "traces", nargs="+", help="run folder, .parquet trace, .csv file or TensorBoard log"
    )
    parser.add_class_arguments(ReplayOptions)
    values = parse(parser, words, ReplayOptions)
    options: ReplayOptions = build(ReplayOptions, values)
    if options.shuffles < 0:
        raise UsageError(f"--shuffles must not be negative, got {options.shuffles}")
    from scalewise.replay.output import draw_weights, write_weights
    from scalewise.replay.readers import read_losses
    from scalewise.replay.replay import replay, replay_shuffled
    from scalewise.replay.summary import summarise
    from scalewise.training.runs import new_run_folder

    for trace in map(Path, values.traces):
        losses = read_losses(trace, options.tags)
        summaries = []
        for setting in _settings(trace, options):
            replayed = replay(losses.values, setting)
            shuffled = replay_shuffled(losses.values, setting, options.shuffles)
            summaries.append(summarise(losses.values.numpy(), replayed, shuffled))
        _show(losses, summaries)
        folder = new_run_folder(Path(options.out), _label(losses.source))
        replays = [summary.replayed for summary in summaries]
        write_weights(folder / "weights.csv", losses, replays)
        draw_weights(folder / "weights.png", losses, replays)
        print(f"written: {folder / 'weights.csv'}\n         {folder / 'weights.png'}\n")
    print(LIMITS)
    return 0


def _settings(trace: Path, options: ReplayOptions) -> list[Setting]:
    """The grid, with the run's own values for what was left out."""
    from scalewise.replay.replay import Setting, grid
    from scalewise.training.config import TrainConfig
    from scalewise.training.runs import load_config

    folder = trace.parent if trace.name == "trace.parquet" else trace
    of_run = (folder / "trace.parquet").is_file() and (folder / "config.yaml").is_file()
    own = load_config(folder) if of_run else TrainConfig()
    base = Setting(
        "",
        normalize=options.normalize or own.normalize,
        accumulate=own.accumulate if options.accumulate is None else options.accumulate,
        seed=own.seed if options.seed is None else options.seed,
    )
    return grid(options.schemes, options.interval or str(own.interval), base)


def _label(source: Path) -> str:
    """Name of what was replayed: the run's for the trace of a run."""
    source = source.resolve()
    if source.name == "trace.parquet":
        return source.parent.name
    return source.stem if source.suffix in (".parquet", ".csv") else source.name


def _table(
    title: str,
    columns: Sequence[str],
    summaries: Sequence[Summary],
    cells: Callable[[Summary], Sequence[str]],
) -> Table:
    """One row a setting."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

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


def _show(losses: LevelLosses, summaries: list[Summary]) -> None:
    from rich.console import Console

    from scalewise.replay.summary import loss_share

    setting = summaries[0].replayed.setting
    console = Console()
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
