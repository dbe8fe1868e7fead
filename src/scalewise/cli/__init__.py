"""The command line: `scalewise COMMAND`, one module a command, imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
import warnings

COMMANDS = {
    "inspect": "look at a data set before training: classes, sizes, doubtful labels",
    "train": "train a detector on a VOC, COCO or YOLO data set",
    "compare": "train with several weighting schemes and seeds, and compare them",
    "report": "one HTML page about runs or studies",
    "replay": "the weights that other schemes would have chosen in a recorded run",
    "evaluate": "average precision of a run on any split",
    "predict": "draw a run's detections on images and videos",
    "export": "a run's detector as an ONNX or torch.export file",
    "demo": "train with equal and with balanced weights on drawn pictures, in minutes",
}
STARTS_RUNS = ("compare", "demo")  # commands that train in other processes

HELP = (
    "usage: scalewise COMMAND [options]\n\n"
    "Trains object detectors with loss weights by class or size of the objects.\n\n"
    "commands:\n"
    + "".join(f"  {name:<10}{summary}\n" for name, summary in COMMANDS.items())
    + "\n`scalewise COMMAND --help` lists its options, `scalewise --version` says the version.\n"
    "--batch-size and --batch_size are the same option.\n"
)


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after `scalewise`; the process's own when None.

    Returns:
        The exit status: 0 done, 1 the work failed for a reason that was printed, 2 wrong usage,
        130 interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        from scalewise import __version__

        print(f"scalewise {__version__}")
        return 0
    if words[0] not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(COMMANDS)}"
        print(f"scalewise: no command {words[0]!r}; {hint}", file=sys.stderr)
        return 2
    _settle_threads(words[0])
    try:
        command = importlib.import_module(f"scalewise.cli.{words[0]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("scalewise"):
            raise
        print(
            f"scalewise {words[0]}: the package {error.name!r} is missing: "
            "pip install 'scalewise[train]'",
            file=sys.stderr,
        )
        return 1
    from scalewise.errors import UsageError, UserError

    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # without source code

    try:
        return int(command.main(words[1:]))
    except UsageError as error:
        print(f"scalewise {words[0]}: {error}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"scalewise {words[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        resume = f"; to go on: {stop}" if stop.args else ""
        print(f"scalewise {words[0]}: interrupted{resume}", file=sys.stderr)
        return 130


def _settle_threads(command: str) -> None:
    """Set what torch's threads read when torch is loaded, here and in the processes started."""
    from scalewise.threads import limit_threads, wait_briefly

    wait_briefly(os.environ)
    if command not in STARTS_RUNS:  # each of which limits its own
        limit_threads(os.environ)
