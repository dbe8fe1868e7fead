"""The repository stays small: `results/` keeps tables, but no raw records."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_BYTES = 8 * 2**20
MOST_FILES = 690


def git(*words: str) -> str:
    found = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if found.returncode != 0:
        pytest.skip(f"no git checkout: {found.stderr.strip()}")
    return found.stdout


@pytest.fixture(scope="module")
def sizes() -> dict[str, int]:
    """Size in bytes of every tracked file on disk."""
    try:
        top = git("rev-parse", "--show-toplevel").strip()
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if not Path(top).samefile(ROOT):
        pytest.skip(f"unpacked within another git checkout, {top}")
    names = git("ls-files", "-z").split("\0")
    return {name: (ROOT / name).stat().st_size for name in names if (ROOT / name).is_file()}


def test_tracked_files_are_small(sizes: dict[str, int]) -> None:
    largest = sorted(sizes, key=lambda name: -sizes[name])[:10]
    total = sum(sizes.values())
    named = ", ".join(f"{name} ({sizes[name] / 1024:.0f} KiB)" for name in largest)
    assert total <= MOST_BYTES, f"{total / 2**20:.1f} MiB are tracked; the largest: {named}"


def test_tracked_files_are_few(sizes: dict[str, int]) -> None:
    folders: dict[str, int] = {}
    for name in sizes:
        folder = "/".join(name.split("/")[:-1][:2]) or "."
        folders[folder] = folders.get(folder, 0) + 1
    most = sorted(folders, key=lambda folder: -folders[folder])[:10]
    named = ", ".join(f"{folder} ({folders[folder]})" for folder in most)
    assert len(sizes) <= MOST_FILES, f"{len(sizes)} files are tracked; the most in: {named}"
