from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from hypothesis import settings
from tiny_runs import tiny_run

from scalewise.lab.training.config import TrainConfig

settings.register_profile("scalewise", deadline=None)  # a first import is slow on a busy machine
settings.load_profile("scalewise")


PILLOW_OPEN = PIL.Image.open


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--device`, so that the GPU tests can also run on the CPU."""
    parser.addoption("--device", default="cuda", help="device for the tests marked cuda")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all tests of a module with module fixtures on one worker, which makes them once."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("xdist_group") is None:
            fixtures = item._fixtureinfo.name2fixturedefs.values()
            if any(fixture.scope == "module" for (*_, fixture) in fixtures):
                item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of the tests marked cuda, from `--device`."""
    name: str = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(name)


@pytest.fixture(autouse=True)
def _own_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo Ultralytics' change of `Image.open`, which installs a package for a broken image."""
    monkeypatch.setattr(PIL.Image, "open", PILLOW_OPEN)


@pytest.fixture(autouse=True)
def _no_launcher() -> None:
    """Remove the ranks and addresses that a training leaves in the environment."""
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: on tiny tensors, waking others takes longer than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainConfig]:
    """Options of a run that takes seconds: 20 images of 64 pixels, 5 steps an epoch."""
    folder = tmp_path_factory.mktemp("data") / "demo"

    def make(out: Path, **changes: Any) -> TrainConfig:
        return tiny_run(folder, out, **{"epochs": 2, "interval": 3} | changes)

    return make


@pytest.fixture(scope="module")
def yolo_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a small data set for Ultralytics."""
    from ultralytics_runs import write_images

    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tiny_yolo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a tiny Ultralytics model."""
    from ultralytics_models import plan

    file = tmp_path_factory.mktemp("model") / "tiny.yaml"
    file.write_text(json.dumps(plan("yolo11")))
    return str(file)


@pytest.fixture
def train_yolo(yolo_data: str, tmp_path: Path) -> Callable[..., Any]:
    """A function that trains with Ultralytics (callbacks by event) and returns the trainer."""
    from ultralytics import YOLO
    from ultralytics_runs import fast_settings

    def run(model: str, events: dict[str, Callable[[Any], None]] | None = None, **args: Any) -> Any:
        yolo = YOLO(model)
        for event, call in (events or {}).items():
            yolo.add_callback(event, call)
        yolo.train(**(fast_settings(yolo_data, tmp_path) | args))
        return yolo.trainer

    return run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The matplotlib figures that are saved during the test."""
    from matplotlib.figure import Figure

    figures: list[Any] = []
    save = Figure.savefig

    def keep(figure: Any, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures
