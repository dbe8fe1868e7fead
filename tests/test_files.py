"""A file is always completely old or completely new, even if writing fails."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from scalewise.files import WriteError, make_folder, remove_leftovers, whole, write_text
from scalewise.lab.parquet import DamagedFile, read_table, write_table
from scalewise.lab.training.checkpoints import WholeFiles
from scalewise.lab.training.runs import new_run_folder


@pytest.fixture
def small_files() -> Iterator[None]:
    """Writes beyond 20,000 bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["text", "checkpoint", "table"])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, small_files: None, kind: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    writers: dict[str, Callable[[], None]] = {
        "text": lambda: write_text(path, "x" * 30_000),
        "checkpoint": lambda: WholeFiles().save_checkpoint({"a": torch.rand(10_000)}, path),
        "table": lambda: write_table(path, pa.table({"a": torch.rand(30_000).numpy()})),
    }
    with pytest.raises(WriteError, match=r"file could not be written: File too large; .* is kept"):
        writers[kind]()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def _die_before_renaming(path: Path) -> None:
    with whole(path) as aside:
        aside.write_bytes(b"new")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_between_writing_and_renaming_leaves_what_is_cleaned_up(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")
    process = multiprocessing.get_context("fork").Process(target=_die_before_renaming, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = tmp_path / f".last.{process.pid}.part.ckpt"
    assert left.is_file()
    older = tmp_path / f".last.ckpt.{process.pid}"  # as version 0.1.0 named them
    older.touch()
    others = [".last.ckpt", ".hidden", f".last.{os.getppid()}.part.ckpt", "last.1.part.ckpt"]
    for name in others:  # not named like leftovers, or of a running process
        (tmp_path / name).touch()
    assert set(remove_leftovers(tmp_path)) == {left, older}
    assert {p.name for p in tmp_path.iterdir()} == {"last.ckpt", *others}
    assert path.read_bytes() == b"old"
    assert remove_leftovers(tmp_path / "absent") == []


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux")
def test_a_process_that_nobody_has_waited_for_runs_no_more(tmp_path: Path) -> None:
    """In containers, an ended process may stay listed, since process 1 does not wait for it."""
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)  # ended, and still listed
    left = tmp_path / f".last.{process}.part.ckpt"
    left.touch()
    assert remove_leftovers(tmp_path) == [left]
    os.waitpid(process, 0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    cases = {
        tmp_path / "file": "there is a file of that name",
        tmp_path / "file" / "sub": "Not a directory",
        tmp_path / ("x" * 300): "File name too long",
    }
    for path, why in cases.items():
        for make in (make_folder, lambda path: new_run_folder(path, "run")):
            with pytest.raises(WriteError, match=rf"^the folder {path} could not be made: {why}$"):
                make(path)
    with pytest.raises(WriteError, match="could not be made: File name too long"):
        new_run_folder(tmp_path, "x" * 300)
    assert new_run_folder(tmp_path, "a") == tmp_path / "a-2"


def test_a_folder_that_is_gone_or_read_only_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WriteError, match=r"the folder .*gone is gone"):
        write_text(tmp_path / "gone" / "a.txt", "x")

    def refuses(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "replace", refuses)
    with pytest.raises(WriteError, match="Read-only file system; the file as it was"):
        write_text(tmp_path / "a.txt", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_file_and_folder_are_on_disk_around_the_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synced before its renaming and the folder after (known by inode number)."""
    order: list[object] = []
    replace, sync = os.replace, os.fsync

    def note_sync(handle: int) -> None:
        order.append(os.fstat(handle).st_ino)
        sync(handle)

    def note_replace(old: Path, new: Path) -> None:
        order.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_text(tmp_path / "a.txt", "x")
    file, folder = ((tmp_path / name).stat().st_ino for name in ("a.txt", "."))
    assert order == [file, "rename", folder]


def test_an_interrupt_while_writing_stays_an_interrupt(tmp_path: Path) -> None:
    def interrupted() -> None:
        with whole(tmp_path / "a") as aside:
            aside.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_changed_tables_are_told_from_whole_ones(tmp_path: Path) -> None:
    """Every cut and every changed bit is noticed, or the table is still equal."""
    path = tmp_path / "runs" / "a=1" / "t.parquet"  # "a=1" must not become a column
    path.parent.mkdir(parents=True)
    table = pa.table({"step": range(200), "x": torch.rand(200).numpy()})
    write_table(path, table)
    assert read_table(path).equals(table)
    content = path.read_bytes()
    lines: list[str] = []
    for place in range(0, len(content), max(1, len(content) // 150)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        for damaged in (bytes(changed), content[:place]):
            path.write_bytes(damaged)
            try:
                found = read_table(path)
            except DamagedFile as error:
                lines.append(str(error))
            else:
                assert found.equals(table)
    assert len(lines) > 250
    assert all(str(path) in line and "\n" not in line for line in lines)
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none")
