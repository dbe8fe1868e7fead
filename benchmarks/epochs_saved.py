"""Find the epoch in which a run first reaches the last AP of equal weights.

    python benchmarks/epochs_saved.py --equal RUN ... --balanced RUN ...

It takes runs of `scalewise train` that were validated after every epoch, paired by their seed, and
prints a Markdown table: the last AP of equal weights, the first epoch in which the other run is at
or above it, and both runs' last AP. The run with equal weights may also reach its last AP before
its last epoch, so the table has that epoch too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from controls import by_seed, markdown

from scalewise.errors import UserError
from scalewise.lab.training.run_metrics import read_metrics


def aps(run: Path) -> list[float]:
    """AP of a run after each epoch, 0 to 1.

    Raises:
        UserError: if the run was not validated after every epoch.
    """
    history = (read_metrics(run) or {})["history"]
    epochs = [row["epoch"] for row in history]
    if epochs != list(range(1, len(epochs) + 1)):
        raise UserError(f"{run} was validated after epochs {epochs}; --val_every 1 is needed")
    return [row["AP"] for row in history]


def first_epoch(found: Sequence[float], goal: float) -> int | None:
    """The first epoch, counted from 1, with an AP of at least `goal`, or None."""
    return next((epoch for epoch, ap in enumerate(found, 1) if ap >= goal), None)


def rows(equal: dict[int, Path], balanced: dict[int, Path]) -> list[list[str]]:
    """One row for each seed with both runs."""
    found = []
    for seed in sorted(equal.keys() & balanced.keys()):
        own, other = aps(equal[seed]), aps(balanced[seed])
        epochs = [first_epoch(run, own[-1]) for run in (own, other)]
        words = ["never" if epoch is None else str(epoch) for epoch in epochs]
        found.append(
            [str(seed), f"{100 * own[-1]:.1f}", f"{100 * other[-1]:.1f}", *words, str(len(own))]
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--equal", type=Path, nargs="+", required=True, metavar="RUN")
    parser.add_argument("--balanced", type=Path, nargs="+", required=True, metavar="RUN")
    options = parser.parse_args()
    head = ["seed", "equal, AP", "balanced, AP", "equal has it in epoch", "balanced", "of"]
    print(markdown(head, rows(by_seed(options.equal), by_seed(options.balanced))))


if __name__ == "__main__":
    main()
