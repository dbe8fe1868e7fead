"""The page without a browser: structure, text alternatives, escaping, notes on missing records."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_records import CLASSES, NASTY, write_class_run, write_run, write_study
from scipy import stats

from scalewise.cli.report import main
from scalewise.errors import UsageError
from scalewise.lab.report.build import report_html, write_report
from scalewise.lab.report.image_intervals import over_images
from scalewise.lab.report.reading_subjects import load_subjects
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.runs import RunError

Tiny = Callable[..., TrainConfig]
SECTIONS = ["summary", "differences", "images", "sizes", "learning", "groups", "dependence", "cost",
            "pictures", "origin"]  # fmt: skip
SCRIPT = re.compile(r"<script>.*?</script>", re.DOTALL)


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._raw = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def study(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "trial"
    write_study(folder, tiny(folder, by="level"))
    return folder


def _html(paths: list[Path], title: str) -> str:
    comparisons = load_subjects(paths, None)
    return report_html(comparisons, "AP", title, over_images(comparisons))


@pytest.fixture(scope="module")
def source(study: Path) -> str:
    return _html([study], "Report on trial")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def said(page: Page) -> str:
    return " ".join(" ".join(page.words).split())


def test_every_section_is_there_and_in_the_contents(page: Page) -> None:
    assert [a["id"] for a in page.all("section")] == SECTIONS
    assert [a["href"] for a in page.all("a")] == [f"#{name}" for name in SECTIONS]
    assert len(page.all("h1")) == 1
    assert page.all("html")[0]["lang"] == "en"


def test_identities_are_unique(page: Page) -> None:
    found = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(found) == len(set(found))


def test_nothing_is_loaded_from_outside(page: Page) -> None:
    policy = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert len(policy) == 1
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none'")
    assert not page.all("link")
    for _, attributes in page.tags:
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]


def test_every_chart_has_words_and_a_table(page: Page) -> None:
    charts = [a for _, a in page.tags if a.get("class") == "chart"]
    assert len(charts) > 10
    for chart in charts:
        assert chart["role"] == "img"
        assert len(chart["aria-label"] or "") > 40
    figures = len(page.all("figure"))
    assert figures == len(charts)
    order = [name for name, a in page.tags if name in ("figure", "details", "table", "h3")]
    for place in [i for i, name in enumerate(order) if name == "figure"]:
        assert order[place + 1 : place + 4] == ["h3", "details", "table"]


def test_charts_are_strict_json_with_values(source: str) -> None:
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', source)
    assert found

    def refuse(word: str) -> None:
        raise AssertionError(word)

    for identity, text in found:
        figure = json.loads(text, parse_constant=refuse)
        points = [v for t in figure["data"] for v in np.ravel(t.get("z", t["x"]))]
        assert [v for v in points if v is not None], identity


def test_names_are_escaped(source: str) -> None:
    assert NASTY not in source
    assert "&lt;img src=x onerror=alert(1)&gt;" in source
    assert "onerror" not in {n for _, a in Page(source).tags for n in a}


def test_pictures_list_their_detections(page: Page) -> None:
    pictures = page.all("img")
    assert len(pictures) % 4 == 0  # annotations and three schemes
    assert pictures
    for picture in pictures:
        assert (picture["src"] or "").startswith("data:image/jpeg;base64,")
        assert re.match(r"found: .* 0\.75 P3|.*annotated: ", picture["alt"] or "")


def test_levels_come_with_actions_and_gradients(page: Page) -> None:
    words = said(page)
    assert "drawn for the interval" in words
    assert "cosine between the levels' gradients" in words
    assert "No object was assigned to P7" in words


def test_levels_are_called_levels(page: Page) -> None:
    words = said(page)
    assert "What happened to each level" in words
    assert "Are the levels equally important, and independent?" in words
    assert "loss, variance and weight of each level" in words
    assert "class's" not in words


def test_eighty_classes_ten_drawn_all_in_a_table(tmp_path: Path, tiny: Tiny) -> None:
    write_class_run(tmp_path / "run", tiny(tmp_path, scheme="rlo", by="class"))
    source = _html([tmp_path / "run"], "x")
    page = Page(source)
    words = said(page)
    for part in (
        "What happened to each class",
        "loss per positive of each class",
        "The chart shows 10 of 80 classes: those whose weights went furthest from 1.",
        "Grey: the loss of the background, which no weight touches.",
        "all 80 classes, over the whole run",
        "Find a class:",
    ):
        assert part in words, part
    assert "each level" not in words
    assert "<b>bold</b>" not in source
    assert len([a for a in page.all("input") if a.get("type") == "search"]) == 1
    figures = dict(
        re.findall(r'<script type="application/json" id="([^"]+)-data">(.*?)</script>', source)
    )
    lines = json.loads(figures["c0-groups-0"])["data"]
    upper = [line for line in lines if line.get("showlegend", True) and "legend" not in line]
    curves = [line for line in upper if line["type"] == "scatter"]
    assert curves[0]["name"] == "(background)"
    assert len(curves) == 1 + 10
    body = source[source.index("all 80 classes") :]
    rows = re.findall(r'<th scope="row">(.*?)</th>', body[: body.index("</table>")])
    assert len(rows) == len(CLASSES)
    assert len({row.replace("<wbr>", "") for row in rows}) == 80


def test_runs_by_other_groups_are_called_groups(tmp_path: Path, tiny: Tiny) -> None:
    write_class_run(tmp_path / "class", tiny(tmp_path, by="class"))
    write_run(tmp_path / "level", tiny(tmp_path, by="level"), [0.1], extras=False)
    words = said(Page(_html([tmp_path / "class", tmp_path / "level"], "x")))
    assert "What happened to each group" in words
    assert "class: loss, variance and weight of each class" in words
    assert "level: loss, variance and weight of each level" in words


def test_what_is_missing_is_said(page: Page) -> None:
    words = said(page)
    assert "rlo seed 3: not finished" in words
    assert "seeds without a partner, left out: 3" in words
    assert "No object to measure AP on: large" in words
    assert "Classes without an object in the validation split: medium" in words


def test_differences_are_those_of_scipy(study: Path, tmp_path: Path, tiny: Tiny) -> None:
    ap = write_study(tmp_path / "again", tiny(tmp_path), extras=False)
    words = said(Page(_html([study], "x")))
    gain = 100 * np.array([ap["avw", k] - ap["equal", k] for k in range(4)])
    low, high = stats.t.interval(0.95, 3, gain.mean(), stats.sem(gain))
    assert f"{gain.mean():+.2f}" in words
    assert f"{low:+.2f} to {high:+.2f}" in words


def test_same_records_same_page_and_nothing_is_overwritten(
    study: Path, source: str, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "report.html"
    first = write_report([study], out)
    (tmp_path / "new" / "report-2.md").write_text("mine")
    second = write_report([study], out)
    assert [p.name for p in first] == [
        "report.html",
        "report.md",
        "report-runs.csv",
        "report-differences.csv",
    ]
    assert second[0].name == "report-3.html"
    assert first[0].read_bytes() == second[0].read_bytes()
    assert (tmp_path / "new" / "report-2.md").read_text() == "mine"
    assert first[0].stat().st_size < 8e6


def test_tables_beside_hold_the_metrics(study: Path, tmp_path: Path) -> None:
    _, words, runs, differences = write_report([study], tmp_path / "r.html", "AP50")
    rows = list(csv.DictReader(runs.open()))
    ap = {(r["scheme"], r["seed"]): float(r["value"]) for r in rows if r["metric"] == "AP"}
    kept = json.loads((study / "runs/atss/avw/seed-2/metrics.json").read_text())["last"]["AP"]
    assert ap["avw", "2"] == kept
    assert len(ap) == 11
    assert "AP50 − equal" in words.read_text()
    assert {r["scheme"] for r in csv.DictReader(differences.open())} == {"equal", "avw", "rlo"}


def test_bare_runs_say_what_they_lack(tmp_path: Path, tiny: Tiny) -> None:
    write_run(tmp_path / "one", tiny(tmp_path, scheme="equal"), [0.1], extras=False)
    write_run(
        tmp_path / "two", tiny(tmp_path, scheme="avw", size=96, cache="device"), [0.2], extras=False
    )
    (tmp_path / "two" / "trace.parquet").unlink()
    (tmp_path / "two" / "environment.json").unlink()
    (tmp_path / "two" / "metrics.json").unlink()
    words = said(Page(_html([tmp_path / "one", tmp_path / "two"], "x")))
    for part in (
        "two has no trace.parquet",
        "one has no gradients.parquet",
        "No detections were kept (detections.parquet): one, two",
        "two: no metrics.json",
        "there is nothing to pair",
        "The runs also differ in size, cache, so more is compared",
        "Only a study",
    ):
        assert part in words, part


def test_images_that_are_gone_are_said(tmp_path: Path, tiny: Tiny, study: Path) -> None:
    write_run(tmp_path / "run", tiny(tmp_path, scheme="equal"), [0.1])
    found = (study / "runs/atss/equal/seed-0/detections.parquet").read_bytes()
    (tmp_path / "run" / "detections.parquet").write_bytes(found)
    text = (tmp_path / "run" / "config.yaml").read_text()
    gone = re.sub(r"data: .*", f"data: {tmp_path / 'gone'}", text, count=1)
    (tmp_path / "run" / "config.yaml").write_text(gone)
    words = said(Page(_html([tmp_path / "run"], "x")))
    assert "the validation images cannot be read" in words


def test_two_studies_and_a_run_stand_beside_each_other(
    study: Path, tmp_path: Path, tiny: Tiny
) -> None:
    config = tiny(tmp_path, detector="fcos")
    write_study(tmp_path / "second", config, seeds=1, extras=False)
    write_run(tmp_path / "alone", config, [0.3], extras=False)
    paths = [study, tmp_path / "second", tmp_path / "alone"]
    page = Page(_html(paths, "x"))
    found = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(found) == len(set(found))
    assert "one seed gives no interval" in said(page)


def test_the_command_prints_what_it_wrote(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(study), "--out", str(tmp_path / "r.html"), "--baseline", "avw"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"written: {tmp_path / 'r.html'}"
    assert "AP − avw" in (tmp_path / "r.html").read_text()


def test_what_cannot_be_reported_is_refused(study: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither a run nor a study"):
        write_report([tmp_path], tmp_path / "r.html")
    with pytest.raises(UsageError, match="--baseline dwa"):
        write_report([study], tmp_path / "r.html", baseline="dwa")
    with pytest.raises(UsageError, match="--metric mAP"):
        write_report([study], tmp_path / "r.html", metric="mAP")
    with pytest.raises(UsageError, match=r"report\.html"):
        main([str(study), "--out", str(tmp_path / "r.pdf")])
    assert not list(tmp_path.iterdir())


def test_detections_that_do_not_fit_their_run_are_said_and_left_out(page: Page) -> None:
    words = said(page)
    assert "Not resampled:" in words
    assert "holds the trained models fixed" in words


def test_an_epoch_that_took_for_ever_does_not_squeeze_the_others(
    tiny: Tiny, tmp_path: Path
) -> None:
    write_run(tmp_path / "slept", tiny(tmp_path), [0.2, 0.3, 0.4], extras=False)
    path = tmp_path / "slept" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["history"][1]["step_seconds"] = 60.0
    path.write_text(json.dumps(metrics))
    slept = _html([tmp_path / "slept"], "Slept")
    assert "Not shown: 1 slow epoch; the table has the slowest." in said(Page(slept))
    assert "60000" in said(Page(slept))
    assert '"range":[0,360]' in slept, "three times the median of 100, 120 and 60 000 milliseconds"
