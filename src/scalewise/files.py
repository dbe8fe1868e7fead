"""Writes files safely: at any moment a file is completely the old one or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from scalewise.errors import UserError

_ASIDE = re.compile(r"\..+\.(\d+)(\.part(\.\w+)?|\.png|\.npz)?")  # version 0.1.0 wrote .png, .npz


class WriteError(UserError):
    """A file could not be written; the message says which one, why, and what is kept."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file under another name, and rename it when all of it is on disk.

    Both the file and its folder are synced, so that after a power cut there is the old file or the
    new one. If anything fails, the new file is removed and the old one stays.

    Args:
        path: Where the file belongs; its folder must exist.

    Yields:
        The name to write to, with the suffix of `path`.

    Raises:
        WriteError: the system could not write: the disk is full, the folder is read-only or gone.

    Examples:
        >>> with whole(Path("table.csv")) as aside:
        ...     aside.write_text("a,b")
    """
    aside = path.with_name(f".{path.stem[:100]}.{os.getpid()}.part{path.suffix}")
    try:
        yield aside
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        cause = system_error(error)
        if cause is None or isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise WriteError(_reason(path, cause)) from error


def make_folder(path: Path) -> None:
    """Make a folder, and the folders above it, if they are missing.

    Args:
        path: Path of the folder.

    Raises:
        WriteError: the system could not make it, or a file has that name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        is_file = isinstance(error, FileExistsError)
        what = "there is a file of that name" if is_file else error.strerror
        raise WriteError(f"the folder {path} could not be made: {what}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, completely or not at all (see `whole`).

    Raises:
        WriteError: the system could not write the file.
    """
    with whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the half-written files that killed processes left in a folder.

    Args:
        folder: The folder; its sub-folders are not searched. If it is missing or read-only,
            nothing happens.

    Returns:
        The removed files. Files of a process that still runs on this machine stay.
    """
    removed = []
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if is_leftover(path):
                path.unlink()
                removed.append(path)
    return removed


def is_leftover(path: Path) -> bool:
    """Whether a file was left half-written by a process that no longer runs here."""
    found = _ASIDE.fullmatch(path.name)
    return found is not None and path.is_file() and not _runs(int(found[1]))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return process != os.getpid() and not _has_ended(process)


def _has_ended(process: int) -> bool:
    """Whether a process is dead but still listed (a "zombie").

    This happens in containers whose first process does not wait for others. False if the system
    does not say.
    """
    try:
        facts = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return facts.rpartition(")")[2].split()[:1] == ["Z"]


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on disk; some systems cannot sync a folder."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # we may write into this folder but not list it
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def system_error(error: BaseException | None) -> OSError | None:
    """The error of the system that caused this error, through the chain of causes; None without."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _reason(path: Path, error: OSError) -> str:
    what = os.strerror(error.errno or 0)
    if not path.parent.is_dir():
        what = f"the folder {path.parent} is gone"
    kept = "; the file as it was before is kept" if path.is_file() else ""
    return f"{path} could not be written: {what}{kept}"
