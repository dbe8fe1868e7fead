"""Processes that are forked instead of started, and the moments at which they are killed."""

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

LOG = Path(tempfile.gettempdir()) / f"kill-{os.getpid()}.log"  # of the process that ran last
FEW = 12  # checkpoints that every run writes
PLACE = "killed"  # in the path of what is killed


def in_fork(
    work: Callable[[], object], kill: Callable[[], None] | None = None
) -> tuple[int, float]:
    """Run `work` in a forked process that prints to `LOG`; its exit status and seconds.

    Args:
        work: What it does.
        kill: Called in it first, to set up its end.
    """

    def inside() -> None:
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.setsid()
        torch.set_num_threads(1)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a thread of the process cannot do that
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
    """The end after so many seconds; no code of the process hears of it.

    Args:
        seconds: From now.
        group: All processes of its group end, as in a power cut.
    """
    return lambda: _end(max(1e-4, seconds), group)


def at_file(
    what: str, part: str, passed: int, delay: float, group: bool = False
) -> Callable[[], None]:
    """The end when a file is opened to write or renamed, or soon after.

    Args:
        what: "open" or "rename".
        part: Of the file's path.
        passed: Number of such files that are let pass.
        delay: Seconds after it; 0 is before it happens.
        group: As for `at_time`; processes forked later end at their files too.
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
    """What kind of moment, and what sets it up.

    Args:
        draw: By which it is chosen.
        seconds: That the work takes.
        group: As for `at_time`.
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
    """What `study.local` needs of `subprocess`, with `Popen` as a fork: starting takes longest."""

    PIPE, STDOUT, TimeoutExpired = subprocess.PIPE, subprocess.STDOUT, subprocess.TimeoutExpired

    class Popen:
        """A run of a study."""

        def __init__(self, words: list[str], stdout: IO[bytes], **others: Any) -> None:
            inner, outer = os.pipe()
            self.pid, self.returncode = os.fork(), cast("int | None", None)
            if self.pid == 0:
                for place, handle in enumerate((inner, stdout.fileno(), stdout.fileno())):
                    os.dup2(handle, place)
                os.close(outer)  # its end is how the run hears of the study's
                sys.argv = words[2:]
                status = 1
                try:
                    status = cell.main()
                finally:
                    os._exit(status)
            os.close(inner)
            self.stdin = os.fdopen(outer, "wb")

        def poll(self) -> int | None:
            """Its exit status, None while it runs."""
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

        def wait(self, timeout: float = math.inf) -> None:
            """Wait for its end."""
            end = time.monotonic() + timeout
            while self.poll() is None:
                if time.monotonic() > end:
                    raise Forking.TimeoutExpired("run", timeout)
                time.sleep(0.05)

        def kill(self) -> None:
            """End it."""
            if self.poll() is None:
                os.kill(self.pid, signal.SIGKILL)
