"""`scalewise replay`: what schemes would have chosen from recorded losses, without training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from scalewise.cli.parsing import build, command_parser, parse
from scalewise.errors import UsageError, UserError

LIMITS = (
    "Replay shows what each scheme would have chosen from these losses. With other weights the "
    "losses would have been different, so it cannot say which scheme reaches the higher AP."
)


@dataclass(kw_only=True)
class ReplayOptions:
    """Replay.

    Args:
        schemes: Schemes, separated by commas, as for `scalewise train --scheme`:
            "avw:temperature=0.5,avw:temperature=2,rlo".
        interval: Optimizer steps between two updates of the weights, or "auto"; separate several
            values by commas. Default: the run's own, else auto.
        normalize: How the weights are scaled, as for `scalewise train --normalize`. Default: the
            run's own, else auto.
        by: The groups of the recorded losses: whole levels ("level"), or positives by "class",
            "size", or a word of your own. Default: the run's own, else level.
        accumulate: Rows that make one optimizer step. Default: the run's own, else 1.
        seed: Seed of the schemes' random numbers. Default: the run's own, else 0.
        tags: Name of the columns or tags that hold the loss of a group, as "train/{group}_loss".
            Default: the names in traces of scalewise, else "loss/{term}/{group}" or "loss/{group}",
            else columns that are named like levels (P3, level0).
        shuffles: Number of replays of the rows in random order, to compare with; 0 for none.
        out: Folder for the results; each trace gets a folder in it.
    """

    schemes: str = "avw,rlo"
    interval: str | None = None
    normalize: Literal["auto", "mean", "loss", "positives", "lift"] | None = None
    by: str | None = None
    accumulate: int | None = None
    seed: int | None = None
    tags: str | None = None
    shuffles: int = 5
    out: str = "replays"


def main(words: list[str]) -> int:
    """Run the command."""
    parser = command_parser(
        "replay",
        "Show the weights that schemes would choose from recorded losses, without training.",
        epilog=LIMITS,
    )
    parser.add_argument(
        "traces", nargs="+", help="run folder, .parquet trace, .csv file or TensorBoard log"
    )
    parser.add_class_arguments(ReplayOptions)
    values = parse(parser, words, ReplayOptions)
    options: ReplayOptions = build(ReplayOptions, values)
    if options.shuffles < 0:
        raise UsageError(f"--shuffles must not be negative, got {options.shuffles}")
    for trace in map(Path, values.traces):
        if not trace.exists():
            raise UserError(f"there is no file or folder {trace}")
    from scalewise.lab.replay.feed import replay, replay_shuffled, run_setting
    from scalewise.lab.replay.output import draw_weights, write_weights
    from scalewise.lab.replay.readers import read_losses
    from scalewise.lab.replay.replay_summary import summarise
    from scalewise.lab.replay.replay_table import show_replay
    from scalewise.lab.replay.settings import grid
    from scalewise.lab.training.kinds import kind_of
    from scalewise.lab.training.runs import new_run_folder

    for trace in map(Path, values.traces):
        losses = read_losses(trace, options.tags)
        by = options.by or _own_by(trace)
        summaries = []
        own = run_setting(trace)
        base = replace(
            own,
            normalize=options.normalize or own.normalize,
            by=by or "level",
            accumulate=own.accumulate if options.accumulate is None else options.accumulate,
            seed=own.seed if options.seed is None else options.seed,
        )
        for setting in grid(options.schemes, options.interval or str(own.interval), base):
            given = (losses.positives, losses.groups, losses.epochs)
            replayed = replay(losses.values, setting, *given)
            shuffled = replay_shuffled(losses.values, setting, options.shuffles, *given)
            summaries.append(summarise(losses.values.numpy(), replayed, shuffled))
        show_replay(losses, summaries, kind_of(by))
        folder = new_run_folder(Path(options.out), _label(losses.source))
        replays = [summary.replayed for summary in summaries]
        write_weights(folder / "weights.csv", losses, replays)
        draw_weights(folder / "weights.png", losses, replays, kind_of(by))
        print(f"written: {folder / 'weights.csv'}\n         {folder / 'weights.png'}\n")
    print(LIMITS)
    return 0


def _own_by(trace: Path) -> str | None:
    """The `by` of a scalewise run; None for other records."""
    from scalewise.lab.training.run_options import load_config

    folder = trace.parent if trace.name == "trace.parquet" else trace
    return load_config(folder).by if (folder / "config.yaml").is_file() else None


def _label(source: Path) -> str:
    """Name of what was replayed; for the trace of a run, the name of the run."""
    source = source.resolve()
    if source.name == "trace.parquet":
        return source.parent.name
    return source.stem if source.suffix in (".parquet", ".csv") else source.name
