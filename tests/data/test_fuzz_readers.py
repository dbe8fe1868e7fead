"""Randomly changed data sets are read as another reader does, or refused in one line.

`make fuzz` tries more changes; FUZZ=100000 sets their number."""

from __future__ import annotations

import codecs
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from xml.dom import minidom

import numpy as np
import pytest
import yaml
from dataset_writers import coco_table, voc_xml, write_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalewise.data import BadData, Split, open_split

CHANGED = int(os.environ.get("FUZZ", "2000"))
Files = dict[str, bytes]
Found = list[tuple[object, ...]]

# Replacements of a value: wrong types, ranges, spellings that some parsers take, nesting, size.
TOKENS = [
    '"1"', '"0"', "true", "false", "null", "-1", "0", "1", "2", "1.0", "0.5", "40.0", "64.5",
    "-0.0", "1e999", "-1e999", "NaN", "nan", "inf", "1e-320", "1e300", "1_0", "\uff11", "0x10",
    "18446744073709551001", "-9223372036854775808", "9" * 5000, "[]", "{}", "[[[[]]]]", '""',
    '" "', '"\\ud800"', '"a.jpg"', '"../a.jpg"', '"\\u0000"', '"' + "n" * 300 + '"', "yes", "no",
    "~", "*a", "&a [x]", "<a>", "</object>", "&amp;", "&x;", "\x00", "\x1b[31m", "\u2028", "\n",
    "\t", "a", "cat", "images\\\\train", "/dev/zero", "'", "[" * 1100, "{" * 1100, "<b>" * 3000,
]  # fmt: skip
ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "gb18030", "cp037"]
TOKEN = re.compile(r"\"[^\"]*\"|-?\d+(?:\.\d+)?|\w+")


def coco_files() -> Files:
    return {"annotations/instances_train.json": json.dumps(coco_table(), indent=0).encode()}


def voc_files() -> Files:
    both = [("dog", (3.0, 4.0, 20.0, 30.0)), ("cat", (1.0, 1.0, 40.0, 2.0))]
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    return {
        "Annotations/a.xml": (head + voc_xml(40, 30, both[:1], difficult=True)).encode(),
        "Annotations/b.xml": voc_xml(40, 30, [*both, ("dog", (5, 5, 50, 9))]).encode(),
        "ImageSets/Main/train.txt": b"a\nb\n",
        "classes.txt": b"dog\ncat\n",
    }


def yolo_files() -> Files:
    return {
        "data.yaml": b"train: images/train\nnc: 2\nnames:\n  0: cat\n  1: dog\n",
        "labels/train/a.txt": b"1 0.5 0.5 0.5 0.4\n0 0.1 0.2 0.5 0.1 0.3 0.9\n",
        "labels/train/b.txt": b"0 0.25 0.40 0.2 0.1\n1 0.9 0.5 0.3 0.2\n",
    }


@st.composite
def changed(draw: st.DrawFn, files: Files) -> Files:
    """Draw one to three changes to the files."""
    files = dict(files)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(files)))
        change = draw(st.sampled_from((_token, _token, _token, _line, _bytes, _encoding)))
        files[name] = change(draw, files[name])
    return files


def _token(draw: st.DrawFn, data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    spans = [found.span() for found in TOKEN.finditer(text)] or [(0, 0)]
    start, end = draw(st.sampled_from(spans))
    return (text[:start] + draw(st.sampled_from(TOKENS)) + text[end:]).encode("utf-8", "replace")


def _line(draw: st.DrawFn, data: bytes) -> bytes:
    lines = data.split(b"\n") if data.count(b"\n") > 2 else re.split(rb"(?<=>)", data)
    place = draw(st.integers(0, len(lines) - 1))
    joint = b"\n" if data.count(b"\n") > 2 else b""
    return joint.join(
        [*lines[:place], *[lines[place]] * draw(st.sampled_from((0, 2))), *lines[place + 1 :]]
    )


def _bytes(draw: st.DrawFn, data: bytes) -> bytes:
    start = draw(st.integers(0, len(data)))
    return data[:start] + draw(st.binary(max_size=3)) + data[start + draw(st.integers(0, 200)) :]


def _encoding(draw: st.DrawFn, data: bytes) -> bytes:
    encoding = draw(st.sampled_from(ENCODINGS))
    return data.decode("utf-8", "replace").encode(encoding, "replace")


def clipped(box: list[float], width: float, height: float) -> list[float]:
    edges = np.clip(box, 0, [width, height, width, height]).astype(np.float32)
    return [float(edge) for edge in edges]


def plain_coco(root: Path) -> Found:
    table = json.loads((root / "annotations" / "instances_train.json").read_bytes())
    names = {row["id"]: row["name"] for row in table["categories"]}
    found: Found = []
    for image in table["images"]:
        for row in table["annotations"]:
            if row["image_id"] == image["id"]:
                x, y, w, h = row["bbox"]
                box = clipped([x, y, x + w, y + h], image["width"], image["height"])
                found.append((image["file_name"], names[row["category_id"]], *box))
    return found


def plain_voc(root: Path) -> Found:
    found: Found = []
    for line in _text(root / "ImageSets" / "Main" / "train.txt").split("\n"):
        stem = line.strip()
        if not stem:
            continue
        if not (root / "Annotations" / f"{stem}.xml").is_file():
            stem = stem.split()[0]
        xml = minidom.parseString(_text(root / "Annotations" / f"{stem}.xml").encode())

        def number(node: minidom.Element, tag: str) -> float:
            (element,) = node.getElementsByTagName(tag)
            return float(_inner(element))

        for item in xml.getElementsByTagName("object"):
            name = next(n for n in item.getElementsByTagName("name") if n.parentNode is item)
            x1, y1, x2, y2 = (number(item, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
            box = clipped([x1 - 1, y1 - 1, x2, y2], 40, 30)
            found.append((f"{stem}.jpg", _inner(name).strip(), *box))
    return found


def _inner(element: minidom.Element) -> str:
    """Return the text before the first child element, as ElementTree does."""
    texts = []
    for child in element.childNodes:
        if child.nodeType == child.ELEMENT_NODE:
            break
        texts.append(getattr(child, "data", ""))
    return "".join(texts)


def plain_yolo(root: Path) -> Found:
    table = yaml.load(_text(root / "data.yaml"), Loader=yaml.BaseLoader)
    names = table.get("names") or [f"class_{i}" for i in range(int(table["nc"]))]
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    named = {int(number): name for number, name in pairs}
    found: Found = []
    for image in ("a.jpg", "b.jpg"):
        labels = root / "labels" / "train" / f"{Path(image).stem}.txt"
        for line in _text(labels).split("\n"):
            if line.strip():
                number, *values = map(float, line.split())
                x, y, w, h = values[:4]
                box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
                if len(values) > 4:
                    xs, ys = values[::2], values[1::2]
                    box = [min(xs), min(ys), max(xs), max(ys)]
                scaled = [edge * side for edge, side in zip(box, (40, 30, 40, 30), strict=True)]
                found.append((image, named[int(number)], *clipped(scaled, 40, 30)))
    return found


def _text(path: Path) -> str:
    """Return the file's text, decoded by its byte order mark."""
    data = path.read_bytes()
    marked = data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE))
    for encoding in ("utf-8-sig", "utf-32" if marked else "utf-16"):
        try:
            text = data.decode(encoding)
        except UnicodeError:
            continue
        if "\0" not in text:
            return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le").removeprefix("\ufeff")


def read(split: Split) -> Found:
    return [
        (record.path.name, split.classes[label], *map(float, box))
        for record in split.records
        for box, label in zip(record.boxes, record.labels, strict=True)
    ]


FORMATS: dict[str, tuple[Callable[[], Files], Callable[[Path], Found], str]] = {
    "coco": (coco_files, plain_coco, "images"),
    "voc": (voc_files, plain_voc, "JPEGImages"),
    "yolo": (yolo_files, plain_yolo, "images/train"),
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder for each format, with its images."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in FORMATS}
    for kind, root in made.items():
        for name in ("a.jpg", "b.jpg"):
            write_image(root / FORMATS[kind][2] / name, 40, 30)
    return made


def check(kind: str, root: Path, files: Files) -> str:
    """Write and read a set, and return "read", "refused" or "in part"."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    split, refusal = attempt(kind, root, strict=True)
    if split is not None:
        assert sorted(read(split)) == sorted(FORMATS[kind][1](root))
        outcome = "read"
    else:
        said = attempt(kind, root, skip_bad=True)[1]
        lines = refusal.split("\n")
        assert all(str(root) in first for first in (lines[0], said or str(root)))
        assert all(line.isprintable() and len(line) < 2100 for line in lines)
        assert len(lines) <= 7
        outcome = "refused" if said else "in part"
    return outcome


def attempt(kind: str, root: Path, **how: bool) -> tuple[Split | None, str]:
    """Return the split, or the message of the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return open_split(f"{kind}:{root}", "train", **how), ""
        except BadData as error:
            return None, str(error)


@pytest.mark.parametrize("kind", FORMATS)
def test_sets_changed_at_random(kind: str, roots: dict[str, Path]) -> None:
    outcomes: dict[str, int] = {}

    @settings(
        max_examples=CHANGED // len(FORMATS) + 1,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize="FUZZ" not in os.environ,
        database=None,
    )
    @given(files=changed(FORMATS[kind][0]()))
    def attack(files: Files) -> None:
        outcome = check(kind, roots[kind], files)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1

    attack()
    assert min(outcomes[outcome] for outcome in ("read", "refused", "in part")) > 5
    print(kind, outcomes)


@pytest.mark.parametrize("kind", FORMATS)
def test_unchanged_sets_are_read(kind: str, roots: dict[str, Path]) -> None:
    assert check(kind, roots[kind], FORMATS[kind][0]()) == "read"
