"""How many cores a process may use, and how its threads wait for work."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_BRIEFLY = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}  # turns of a loop; milliseconds
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Number of cores that this process may use, by its CPU binding and its container's quota.

    Examples:
        >>> from scalewise.threads import usable_cores
        >>> usable_cores() >= 1
        True
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(bound or 1, _quota() or bound or 1))


def _quota() -> int | None:
    """Number of cores that the container grants, rounded up; None without a limit."""
    try:  # version 2 of cgroups
        limit, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:  # version 1
            limit, period = (
                (_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text().strip()
                for name in ("quota", "period")
            )
        except OSError:
            return None
    if not limit.isdigit() or not period.isdigit() or int(period) == 0:  # "max" or -1
        return None
    return -(-int(limit) // int(period))


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Let threads spin only briefly, then sleep, while they wait for work.

    By default they spin for milliseconds. This takes a core from whatever else runs, and from the
    thread that they wait for if there are fewer cores than threads. If they sleep at once, a step
    of many small operations is a quarter slower on an idle machine (results/busy_cpu.md).
    Call this before torch is loaded.

    Args:
        environment: Changed in place, unless it already says how threads wait.
    """
    if not any(name in environment for name in _WAITING):
        environment.update(_BRIEFLY)


def limit_threads(environment: MutableMapping[str, str]) -> None:
    """Limit the threads of torch to the cores that the container grants.

    Torch knows the cores that a process is bound to, but not the quota of a container.

    Args:
        environment: Variables; changed in place unless they already set a number of threads.
    """
    if not any(name in environment for name in _COUNTS) and _quota() is not None:
        environment["OMP_NUM_THREADS"] = str(usable_cores())
