"""Runs test code in new processes, forked from a server that has imported the large packages."""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import start_processes

WORLD = 2
HEAVY = [
    "torchvision",
    "scalewise.lab.training.fit",
    "mmdet_models",
    "transformers.loss.loss_utils",
]  # packages that are not installed are skipped


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    """Start `target(*args)`, a function of an importable module, in a fresh process."""
    process = _server().Process(target=target, args=args)
    process.start()
    return process


def run_ranks(work: Callable[..., Any], *args: Any) -> list[Any]:
    """Run `work(rank, *args)` in two data parallel processes on the CPU.

    Returns:
        The result of each rank: tensors, numbers, strings, or dictionaries and lists of them.
    """
    _server()
    launch: Any = start_processes  # if one rank fails, it ends the other and says why
    with tempfile.TemporaryDirectory() as folder:
        launch(_rank, (folder, work, args), nprocs=WORLD, start_method="forkserver")
        return [torch.load(Path(folder) / f"{r}.pt", weights_only=True) for r in range(WORLD)]


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    return context


def _rank(rank: int, folder: str, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD
    )
    torch.save(work(rank, *args), f"{folder}/{rank}.pt")
    gc.collect()  # gloo sometimes aborts when a wrapper outlives its group
    distributed.barrier()
    distributed.destroy_process_group()
