"""Annotation files in any text encoding, and files that are not text or are nested too deeply."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_writers import coco_table, voc_xml, write_coco, write_voc, write_yolo

from scalewise.data import BadData, open_split

DOG = [("dog", (2.0, 2.0, 9.0, 9.0))]
BOX = "1 0.5 0.5 0.5 0.4"


ENCODED = ["gb2312", "gb18030", "utf-16", "iso-8859-5", "shift_jis", "utf-8-sig"]


@pytest.mark.parametrize("encoding", ENCODED)
def test_xml_in_the_encoding_it_declares(tmp_path: Path, encoding: str) -> None:
    name = {"iso-8859-5": "\u0433\u0430\u0439\u043a\u0430", "shift_jis": "\u87ba\u5b50"}.get(
        encoding, "\u87ba\u6813"
    )
    write_voc(tmp_path, {"a": (40, 30, DOG)})
    head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n'
    text = head + voc_xml(40, 30, [(name, (2, 2, 9, 9))])
    (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    assert open_split(tmp_path).classes == (name,)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_texts_with_marks_of_their_encoding(tmp_path: Path, encoding: str) -> None:
    voc = write_voc(tmp_path / "voc", {"a": (40, 30, DOG)})
    (voc / "classes.txt").write_bytes("dog\r\n\u87ba\u6813\r\n".encode(encoding))
    (voc / "ImageSets" / "Main" / "train.txt").write_bytes("a\r\n".encode(encoding))
    assert open_split(voc).classes == ("dog", "\u87ba\u6813")
    yolo = write_yolo(tmp_path / "yolo", {"a": BOX})
    for path in (yolo / "data.yaml", yolo / "labels" / "train" / "a.txt"):
        path.write_bytes(path.read_text().encode(encoding))
    assert open_split(yolo).records[0].labels.tolist() == [1]
    coco = write_coco(tmp_path / "coco", coco_table())
    file = coco / "annotations" / "instances_train2017.json"
    file.write_bytes(file.read_text().encode(encoding))
    assert len(open_split(coco).records) == 2


@pytest.mark.parametrize("path", ["classes.txt", "ImageSets/Main/train.txt", "Annotations/a.xml"])
def test_other_encodings_are_told_with_a_remedy(tmp_path: Path, path: str) -> None:
    """The message says how to convert a file in another encoding."""
    write_voc(tmp_path, {"a": (40, 30, DOG), "b": (40, 30, DOG)})
    (tmp_path / "classes.txt").write_text("dog\n")
    data = (tmp_path / path).read_bytes()
    (tmp_path / path).write_bytes(data.replace(b"dog", b"\xe9cr").replace(b"a\n", b"\xe9\n"))
    with pytest.raises(BadData, match=r"it is not UTF-8 text, byte \d+; save it as UTF-8") as error:
        open_split(tmp_path)
    assert str(tmp_path / path) in str(error.value)
    assert "\n" not in str(error.value)
    if path.endswith(".xml"):
        with pytest.warns(UserWarning, match="1 broken file"):
            assert len(open_split(tmp_path, skip_bad=True).records) == 1


def test_texts_in_two_encodings_at_once(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (40, 30, DOG)})
    text = voc_xml(40, 30, DOG).encode("utf-16-le")
    (tmp_path / "Annotations" / "a.xml").write_bytes(b"\xef\xbb\xbf" + text)
    with pytest.raises(BadData, match="it holds zero bytes, so it is not text"):
        open_split(tmp_path)


@pytest.mark.parametrize("encoding", ["klingon", "hex", "idna"])
def test_encodings_that_are_none(tmp_path: Path, encoding: str) -> None:
    """XML that declares something that is not a text encoding is refused."""
    write_voc(tmp_path, {"a": (40, 30, DOG)})
    text = f'<?xml version="1.0" encoding="{encoding}"?>{voc_xml(40, 30, DOG)}\u87ba'
    (tmp_path / "Annotations" / "a.xml").write_text(text, encoding="utf-8")
    with pytest.raises(BadData, match=r"a\.xml: cannot be read as XML: "):
        open_split(tmp_path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("[" * 200_000, "it is a list, not an object"),
        ('{"images": ' + "[" * 200_000, "nested too deeply"),
        ('{"images": ' + '{"a":' * 200_000, "nested too deeply"),
        ('{"images": [' + "9" * 5000 + "]}", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
    ],
)
def test_json_bombs(tmp_path: Path, data: str, says: str) -> None:
    """JSON that is nested too deeply is refused in one line."""
    write_coco(tmp_path, coco_table())
    (tmp_path / "annotations" / "instances_train2017.json").write_text(data)
    with pytest.raises(BadData, match=says) as error:
        open_split(tmp_path)
    assert len(str(error.value)) < 1000
