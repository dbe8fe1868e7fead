"""Rows of COCO files compared with Python's own JSON reader, and the memory that reading takes."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from scalewise.data import BadData, open_split
from scalewise.lab.data import json_cursor
from scalewise.lab.data.coco_rows import read_tables
from scalewise.lab.data.faults import Faults

USED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "categories": ("id", "name"),
}


def _table(draw: random.Random) -> dict[str, Any]:
    words = ["a", 'q"uo\\te', "ü\u2028", "\U0001f600", "x" * 90, "}],", ""]
    rows: dict[str, Any] = {
        key: [
            {
                name: draw.choice([number, -1.5, draw.choice(words), [1, 2.5e-3, [], {}], None])
                for name in draw.sample([*names, "segmentation", "other"], len(names) + 1)
            }
            if draw.random() < 0.9
            else draw.choice([5, "row", [1], None])
            for number in range(draw.randrange(9))
        ]
        for key, names in USED.items()
    }
    extra = {"info": {"a": [draw.choice(words)], "b": {}}, "licenses": [[], {}, 1], "version": 1.5}
    items = [*rows.items(), *extra.items()]
    draw.shuffle(items)
    return dict(items)


@pytest.mark.parametrize("room", [2**24, 1200])
def test_rows_are_those_of_the_whole_file(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows equal those of `json.loads`, and broken JSON is always refused."""
    monkeypatch.setattr(json_cursor, "ROOM", room)
    file, draw = tmp_path / "a.json", random.Random(0)
    for _ in range(100):
        table = _table(draw)
        text = json.dumps(table, indent=draw.choice([None, 0, 3]), ensure_ascii=draw.random() < 0.5)
        text = draw.choice(["", "\n "]) + text + draw.choice(["", " \r\n"])
        file.write_text(text, encoding="utf-8")
        expected = {
            key: [
                {name: row[name] for name in names if name in row} if isinstance(row, dict) else row
                for row in json.loads(text)[key]
            ]
            for key, names in USED.items()
        }
        assert read_tables(file) == expected
        cut = text[: draw.randrange(len(text.rstrip()))]
        changed = cut + draw.choice(["", "}", "]", "]}", ",", '"', " 1"])
        file.write_text(changed, encoding="utf-8")
        try:
            json.loads(changed)
        except ValueError:
            with pytest.raises(BadData, match=r"a\.json: "):
                read_tables(file)


HUGE = 4_000_000  # bytes; decoding such a file in full would take twenty times as much
BOMBS = {
    "a list": ("[", "0,", "0]"),
    "keys": ("{", '"%d":0,', '"images":[]}'),
    "rows that are numbers": ('{"categories":[],"images":[],"annotations":[', "0,", "0]}"),
    "rows without anything": ('{"annotations":[],"categories":[],"images":[', "{},", "{}]}"),
    "one row": ('{"categories":[],"images":[],"annotations":[{"id":[', "[],", "[]]}]}"),
    "another list": ('{"info":[', "[],", "[]]}"),
    "another object": ('{"images":[],"annotations":[],"categories":[],"info":[[', "[],", "[]]]}"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_is_no_coco_file_costs_no_memory(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file that is not COCO is refused before it fills the memory."""
    monkeypatch.setattr(json_cursor, "ROOM", HUGE // 20)
    first, part, last = BOMBS[kind]
    (tmp_path / "annotations").mkdir()
    with (tmp_path / "annotations" / "instances_train.json").open("w") as file:
        file.write(first)
        for start in range(0, HUGE // (len(part) + 5 * ("%" in part)), 100_000):
            numbers = range(start, start + 100_000)
            file.write("".join(part % n for n in numbers) if "%" in part else part * 100_000)
        file.write(last)
    tracemalloc.start()
    try:
        with pytest.raises(
            BadData, match=r"^\S+instances_train\.json: not a COCO annotation file: "
        ):
            open_split(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * HUGE, f"{peak / HUGE:.1f} bytes per byte of the file"


def test_a_list_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Python's JSON reader would silently keep only the last one."""
    (tmp_path / "a.json").write_text('{"images": [], "annotations": [], "images": []}')
    with pytest.raises(
        BadData, match=r"a\.json: not a COCO annotation file: it has 'images' twice"
    ):
        read_tables(tmp_path / "a.json")


def test_faults_beyond_ten_thousand_are_counted() -> None:
    faults = Faults()
    for number in range(12_000):
        faults.add("bad box", f"a.json, annotation {number}", "has zero area")
    faults.add("unknown class", "a.json", "last")
    assert len(faults.found) == 10_000
    assert faults.counts() == {"bad box": 12_000, "unknown class": 1}
    assert "; and 11998 more" in faults.summary()
    with pytest.raises(BadData, match="12001 faults: 12000 bad boxes, 1 unknown class"):
        faults.raise_beyond(0.5, 100, 1_000_000, "a.json")


def test_too_little_memory_is_not_called_nesting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the real cause, which needs another remedy."""

    def full(path: Path) -> str:
        raise MemoryError

    monkeypatch.setattr("scalewise.lab.data.coco_rows.read_text", full)
    with pytest.raises(BadData, match=r"a\.json: cannot be read as JSON: not enough memory"):
        read_tables(tmp_path / "a.json")
