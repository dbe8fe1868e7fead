"""Forked processes, and the moments at which they are killed."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch

from scalewise.lab.study import cell

LOG = Path(tempfile.gettempdir()) / f"kill-{os.getpid()}.log"  # output of the last process
FEW = 12  # every run writes at least so many checkpoints
PLACE = "killed"  # part of the path of every killed run


def in_fork(
    work: Callable[[], object], kill: Callable[[], None] | None = None
) -> tuple[int, float]:
    """Run `work` in a forked process that prints to `LOG`; return its exit status and seconds.

    Args:
        work: what the process does.
        kill: called first in the process, to set up its end.
    """

    def inside() -> None:
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.setsid()
        torch.set_num_threads(1)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not possible in other threads
        if kill is not None:
            kill()
        sys.exit(work() is True)

    process = multiprocessing.get_context("fork").Process(target=inside)
    start = time.perf_counter()
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, time.perf_counter() - start


def at_time(seconds: float, group: bool = False) -> Callable[[], None]:
    """End the process after `seconds`, without running any of its code.

    Args:
        seconds: time from now.
        group: end all processes of its group, as in a power cut.
    """
    return lambda: _end(max(1e-4, seconds), group)


def at_file(
    what: str, part: str, passed: int, delay: float, group: bool = False
) -> Callable[[], None]:
    """End the process when a file is opened for writing or renamed, or soon after.

    Args:
        what: "open" or "rename".
        part: text that the path of the file contains.
        passed: number of such events to ignore first.
        delay: seconds after the event; with 0 the process ends before it.
        group: as for `at_time`; processes forked later end at their own files too.
    """

    def setup() -> None:
        left = [passed]

        def hook(event: str, args: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(args[1], str) and "r" not in args[1]
            hit = writes if what == "open" else event == "os.rename"
            if not hit or part not in str(args[0]):
                return
            left[0] -= 1
            if left[0] == -1:
                _end(delay, group)

        sys.addaudithook(hook)

    return setup


def _end(delay: float, group: bool) -> None:
    if not delay:
        os.killpg(0, signal.SIGKILL) if group else os.kill(os.getpid(), signal.SIGKILL)
    elif not group:
        signal.setitimer(signal.ITIMER_REAL, delay)
    elif os.fork() == 0:
        time.sleep(delay)
        os.killpg(0, signal.SIGKILL)


def a_moment(
    draw: random.Random, seconds: float, group: bool = False
) -> tuple[str, Callable[[], None]]:
    """The kind of a random moment, and the function that sets it up.

    Args:
        draw: source of randomness.
        seconds: time that the work takes.
        group: as for `at_time`.
    """
    kinds = ["at a time", "at a file", "writing a checkpoint", "renaming a checkpoint"]
    kind = draw.choice(kinds)
    if kind == "at a time":
        return kind, at_time(draw.uniform(0, seconds), group)
    if kind == "writing a checkpoint":
        return kind, at_file("open", ".ckpt", draw.randrange(FEW), draw.uniform(0, 0.05), group)
    if kind == "renaming a checkpoint":
        return kind, at_file("rename", ".ckpt", draw.randrange(FEW), draw.choice([0, 1e-3]), group)
    what, delay = draw.choice(["open", "rename"]), draw.choice([0, draw.uniform(0, 0.005)])
    return kind, at_file(what, PLACE, draw.randrange(20), delay, group)


class Forking:
    """Stands in for `subprocess` in `study.local`; `Popen` forks, which is faster than a start."""

    PIPE, STDOUT, TimeoutExpired = subprocess.PIPE, subprocess.STDOUT, subprocess.TimeoutExpired

    class Popen:
        """A run of a study."""

        def __init__(self, words: list[str], stdout: IO[bytes], **others: Any) -> None:
            inner, outer = os.pipe()
            self.pid, self.returncode = os.fork(), cast("int | None", None)
            if self.pid == 0:
                for place, handle in enumerate((inner, stdout.fileno(), stdout.fileno())):
                    os.dup2(handle, place)
                os.close(outer)  # a run ends when the study closes this pipe
                sys.argv = words[2:]
                status = 1
                try:
                    status = cell.main()
                finally:
                    os._exit(status)
            os.close(inner)
            self.stdin = os.fdopen(outer, "wb")

        def poll(self) -> int | None:
            """The exit status, None while it runs."""
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

        def wait(self, timeout: float = math.inf) -> None:
            """Wait for the end of the process."""
            end = time.monotonic() + timeout
            while self.poll() is None:
                if time.monotonic() > end:
                    raise Forking.TimeoutExpired("run", timeout)
                time.sleep(0.05)

        def kill(self) -> None:
            """Kill the process."""
            if self.poll() is None:
                os.kill(self.pid, signal.SIGKILL)
