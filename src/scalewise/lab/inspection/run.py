"""Runs an inspection, and writes its picture and page into a new folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from scalewise.errors import UsageError
from scalewise.files import whole, write_text
from scalewise.lab.inspection.chart import draw_inspection
from scalewise.lab.inspection.crops import Strip, strips
from scalewise.lab.inspection.html import inspection_html
from scalewise.lab.inspection.look import Inspection, look_at
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.runs import new_run_folder


def inspect_data(config: TrainConfig, show: bool) -> tuple[Inspection, list[Strip], list[str]]:
    """Inspect the data, with a progress bar on a terminal.

    Args:
        config: The options that `look_at` takes.
        show: Whether to draw the bar if there is a terminal.

    Returns:
        The findings, examples, and a line for each image whose example could not be shown.

    Raises:
        UserError: for options or data that cannot be used.
    """
    console = Console(stderr=True)
    quiet = not (show and console.is_terminal)
    with Progress(console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task("reading annotations and image sizes", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        found = look_at(config, lambda *n: advance("assigning objects to anchors", *n))
        examples, unreadable = strips(found, lambda *n: advance("cutting out examples", *n))
    return found, examples, unreadable


def check_out(data: str, out: Path) -> None:
    """Check that the output folder is not inside the data set, where nothing is written.

    Raises:
        UsageError: it is inside.
    """
    kind, _, rest = data.partition(":")
    place = Path(rest if kind in ("voc", "coco", "yolo") else data).expanduser().resolve()
    if kind == "demo" or not place.exists():
        return
    folder = place.parent if place.is_file() else place
    here = Path.cwd()
    if place.is_file() and (folder == here or folder in here.parents):
        return  # a file that describes a data set, among other things of the user's
    if folder == out.resolve() or folder in out.resolve().parents:
        raise UsageError(
            f"--out {out} is inside the data set {folder}, which must stay as it is: name another "
            "folder"
        )


def write_inspection(
    found: Inspection, examples: Sequence[Strip], unreadable: Sequence[str], out: Path
) -> tuple[Path, Path]:
    """Write `inspect.png` and `inspect.html`.

    Args:
        found: The findings about a data set.
        examples: Examples of its groups.
        unreadable: A line for each image whose example could not be shown.
        out: Folder to make; if it exists, a number is added to its name.

    Returns:
        The paths of the picture and of the page.

    Raises:
        UsageError: the folder would lie inside the data set.
        WriteError: the system could not write a file.
    """
    check_out(found.config.data, out)
    folder = new_run_folder(out.parent, out.name)
    with whole(folder / "inspect.png") as aside:
        draw_inspection(found, examples).savefig(aside)
    write_text(folder / "inspect.html", inspection_html(found, examples, unreadable))
    return folder / "inspect.png", folder / "inspect.html"
