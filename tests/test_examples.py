"""The examples run, and so do the code blocks of the docs about training loops."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[1]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
PAGES = ("plain-pytorch", "lightning", "huggingface", "other-detectors")
BLOCKS = [
    pytest.param(block, id=f"{page}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    )
]


def need(code: str) -> None:
    """Skip if a package that the code imports at its top is not installed."""
    for node in ast.parse(code).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if importlib.util.find_spec(name.split(".")[0]) is None:
                pytest.skip(f"{name.split('.')[0]} is not installed")


def run(monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> None:
    """Run an example as a program, in this process since its modules are loaded already."""
    need(EXAMPLES[name].read_text())
    monkeypatch.setattr(sys, "argv", [name, *words])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(EXAMPLES[name]), run_name="__main__")


def plain_state(out: Path) -> dict[str, Tensor]:
    saved = torch.load(out / "last.pt", weights_only=True)
    return {f"{part}.{n}": t for part in ("detector", "balancer") for n, t in saved[part].items()}


def lightning_state(out: Path) -> dict[str, Tensor]:
    saved: dict[str, Tensor] = torch.load(out / "last.ckpt", weights_only=True)["state_dict"]
    return saved


def huggingface_state(out: Path) -> dict[str, Tensor]:
    saved: dict[str, Tensor] = load_file(out / "checkpoint-12/model.safetensors")
    return saved


# Option for an early stop, option for the whole run, and a function that reads its final state
SAVED: dict[str, tuple[str, str, Callable[[Path], dict[str, Tensor]]]] = {
    "plain_loop": ("--epochs=1", "--epochs=3", plain_state),
    "lightning_module": ("--epochs=1", "--epochs=3", lightning_state),
    "huggingface_trainer": ("--steps=4", "--steps=12", huggingface_state),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_resumed_example_ends_as_an_undisturbed_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last, state = SAVED[name]
    for out, stop in (("whole", last), ("parts", first), ("parts", last)):
        run(monkeypatch, name, "--images=20", f"--out={tmp_path / out}", stop)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert list(whole) == list(parts)
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key
    assert (whole["balancer.weights"] != 1).any()
    assert int(whole["balancer._extra_state"][1]) in (12, 15)  # number of calls


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in SAVED])
def test_other_examples_say_how_to_use_them(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, name, "--help")
    assert stopped.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(block)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {"__name__": "block"})
