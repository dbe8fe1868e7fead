"""The docs site builds without warnings, loads nothing from the network, and its commands work."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
YOLO_DATA = """
path: {path}
train: images/train
val: images/val
names: [disc, square, triangle, ring, cross]  # of the demo data set
"""
TINY = """import scalewise as sw
tiny = dict(
    data="demo:images=10,size=64", backbone="mobilenet_v3_small", width=16, depth=1, size=64,
    batch_size=4, epochs=1, workers=0, progress="plain",
)
"""
# Pages that contain Python, and the test file that runs it.
RUN_BY = {
    "data": "test_docs", "python": "test_docs", "tutorials/rare-class": "test_docs",
    "tutorials/small-objects": "test_docs", "tutorials/yolo": "test_docs",
    "torchvision": "test_readme", "ultralytics": "integrations/test_ultralytics",
    "mmdetection": "mmdetection/test_mmdet_runner", "replay": "replay/test_replay_page",
    "method": "weighting/test_method_examples", "details": "weighting/test_method_examples",
    "plain-pytorch": "test_examples", "lightning": "test_examples",
    "huggingface": "test_examples", "other-detectors": "test_examples",
    "export": "export/test_export",
}  # fmt: skip
FAST = 'epochs=1, imgsz=64, batch=4, workers=0, device="cpu", amp=False, plots=False, project="{}"'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("material", "mkdocstrings_handlers"):
        if importlib.util.find_spec(name) is None:
            pytest.skip("mkdocs-material or mkdocstrings is not installed: scalewise[docs]")
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Links(HTMLParser):
    """Addresses that a page loads, and addresses of its links."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses of a tag."""
        values = dict(attrs)
        if tag in ("script", "img", "link", "iframe"):
            self.loads += [value for key in ("src", "href") if (value := values.get(key))]
        elif tag == "a" and values.get("href"):
            self.leads.append(str(values["href"]))


def links(site: Path) -> Iterator[tuple[Path, Links]]:
    for page in sorted(site.rglob("*.html")):
        if page.name != "404.html":  # its addresses start at the root
            found = Links()
            found.feed(page.read_text())
            yield page, found


def test_the_site_has_every_part(site: Path) -> None:
    for page in PAGES:
        written = site / page.relative_to(ROOT).with_suffix("") / "index.html"
        assert written.is_file(), page
    reference = (site / "docs" / "api" / "balancer" / "index.html").read_text()
    assert 'id="scalewise.LossBalancer"' in reference
    assert "Weighs the losses of a detector" in reference


def test_the_site_fetches_nothing(site: Path) -> None:
    for page, found in links(site):
        away = [address for address in found.loads if urlsplit(address).netloc]
        assert not away, page


def test_links_lead_to_files_of_the_site(site: Path) -> None:
    checked = 0
    for page, found in links(site):
        for address in [*found.leads, *found.loads]:
            parts = urlsplit(address)
            if parts.netloc or parts.scheme or not parts.path:
                continue
            target = (page.parent / unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{page}: {address}"
            checked += 1
    assert checked > 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not urlsplit(target).scheme and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse(page: Path) -> None:
    pytest.importorskip("jsonargparse")
    from scalewise.cli import COMMANDS, compare, train
    from scalewise.cli.parsing import build, parse
    from scalewise.lab.study.plan import GridOptions, make_plan
    from scalewise.lab.training.config import GROUPS, TrainConfig
    from scalewise.lab.training.option_check import check

    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            program, name, *words = [*shlex.split(line, comments=True), "", ""][:2] + shlex.split(
                line, comments=True
            )[2:]
            if program != "scalewise":
                continue
            assert name in COMMANDS, line
            if name == "train" and "--data" in words:
                check(build(TrainConfig, parse(train.parser(), words, *GROUPS)))
            if name == "compare" and "--data" in words:
                groups = (compare.StudyOptions, GridOptions, *GROUPS)
                values = parse(compare.parser(), words, *groups)
                make_plan(build(GridOptions, values), TrainConfig(data=values.data))


def yolo_data(folder: Path) -> Path:
    """Write the demo data set in the format of Ultralytics."""
    from scalewise.data import open_split

    for name in ("train", "val"):
        split = open_split("demo:images=10,size=64", name)
        for kind in ("images", "labels"):
            (folder / kind / name).mkdir(parents=True)
        for record in split.records:
            (folder / "images" / name / record.path.name).write_bytes(record.path.read_bytes())
            lines = [
                f"{label} {(x1 + x2) / 128} {(y1 + y2) / 128} {(x2 - x1) / 64} {(y2 - y1) / 64}"
                for label, (x1, y1, x2, y2) in zip(record.labels, record.boxes, strict=True)
            ]
            written = folder / "labels" / name / f"{record.path.stem}.txt"
            written.write_text("\n".join(lines))
    file = folder / "data.yaml"
    file.write_text(YOLO_DATA.format(path=folder))
    return file


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorials_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jsonargparse")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    assert code
    monkeypatch.chdir(tmp_path)
    if page.stem == "yolo":
        pytest.importorskip("ultralytics")
        monkeypatch.setenv("YOLO_OFFLINE", "true")
        yolo_data(tmp_path)
        assert "epochs=50" in code
        code = code.replace("epochs=50", FAST.format(tmp_path))
    exec(compile(code, str(page), "exec"), {"__name__": page.stem})
    said = capsys.readouterr().out
    expected = {"rare-class": "platelet", "small-objects": "'small'", "yolo": "weight/disc"}
    assert expected[page.stem] in said


def test_every_page_with_python_is_run() -> None:
    with_python = {
        str(page.relative_to(ROOT / "docs").with_suffix(""))
        for page in PAGES
        if "```python" in page.read_text()
    }
    assert with_python == RUN_BY.keys()
    for page, tests in RUN_BY.items():
        assert page.rpartition("/")[2] in (ROOT / "tests" / f"{tests}.py").read_text(), page


@pytest.mark.parametrize("name", ["data", "python"])
def test_pages_run_on_a_tiny_set(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jsonargparse")
    from scalewise.data import open_split

    monkeypatch.chdir(tmp_path)
    images = open_split("demo:images=10,size=64", "val").records[0].path.parent
    page = ROOT / "docs" / f"{name}.md"
    code = TINY + "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    changes = [
        ('"path/to/data"', 'tiny["data"]'), ("range(12)", "range(1)"), ("workers=2", "workers=0"),
        ('inspect(data="my-data"', 'inspect(data=tiny["data"]'), ('"photos"', repr(str(images))),
        ('train(data="my-data", epochs=24, weights_backbone="imagenet")', "train(**tiny)"),
        ('compare(data="my-data"', "compare(dry_run=True, **tiny"),
        ('TrainConfig(data="my-data", size=640', "TrainConfig(**tiny"),
    ]  # fmt: skip
    for long, short in changes:
        code = code.replace(long, short)
    assert "my-data" not in code
    assert "path/to" not in code
    exec(compile(code, str(page), "exec"), {"__name__": name})
