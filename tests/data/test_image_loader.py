"""Pixels and orientation, compared with what OpenCV reads from the same files."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_writers import coco_table, write_coco, write_yolo
from pictures import COLOR, DEEP, GREY, PIXELS, RNG, png_chunk
from PIL import ExifTags, Image, PngImagePlugin

from scalewise.data import BadData, DetectionDataset, load_image, open_split
from scalewise.lab.data.image_files import is_image, walk
from scalewise.lab.data.image_header import read_header


def _alpha() -> Image.Image:
    image = COLOR.copy()
    image.putalpha(GREY)
    return image


# name, picture, options of saving, largest difference from OpenCV
KINDS = [
    ("color.png", COLOR, {}, 0),
    ("color.jpg", COLOR, {"quality": 95}, 0),
    ("color.webp", COLOR, {"lossless": True}, 0),
    ("grey.png", GREY, {}, 0),
    ("grey.jpg", GREY, {}, 0),
    ("two.png", COLOR.convert("1"), {}, 0),
    ("palette.png", COLOR.quantize(16), {}, 0),
    ("palette.bmp", COLOR.quantize(16), {}, 0),
    ("clear.png", COLOR.quantize(16), {"transparency": bytes(range(0, 160, 10))}, 0),
    ("alpha.png", _alpha(), {}, 0),
    ("alpha.webp", _alpha(), {"lossless": True}, 0),
    ("grey-alpha.png", _alpha().convert("LA"), {}, 0),
    ("ink.jpg", COLOR.convert("CMYK"), {"quality": 95}, 1),
    ("ink.tif", COLOR.convert("CMYK"), {}, 1),
    ("deep.png", Image.fromarray(DEEP), {}, 0),
    ("deep.tif", Image.fromarray(DEEP), {}, 0),
    ("deep.pgm", Image.fromarray(DEEP), {}, 0),
]


@pytest.mark.parametrize(("name", "image", "options", "most"), KINDS, ids=[k[0] for k in KINDS])
def test_pixels_are_those_of_opencv(
    tmp_path: Path, name: str, image: Image.Image, options: dict[str, Any], most: int
) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    image.save(tmp_path / name, **options)
    ours = load_image(tmp_path / name).astype(int)
    theirs = cv2.imread(str(tmp_path / name))[..., ::-1]
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= most


def test_colors_of_16_bits(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    for channels in (3, 4):
        deep = RNG.integers(0, 2**16, (30, 40, channels)).astype(np.uint16)
        cv2.imwrite(str(tmp_path / "deep.png"), deep)
        theirs = cv2.imread(str(tmp_path / "deep.png"))[..., ::-1]
        np.testing.assert_array_equal(load_image(tmp_path / "deep.png"), theirs)


def _tiff(path: Path, data: bytes, bits: int, white_is_zero: bool) -> Path:
    """Return a grey TIFF of 40x30 pixels, with tags that Pillow would not write."""
    tags = {256: 40, 257: 30, 258: bits, 259: 1, 262: 1 - white_is_zero, 277: 1, 278: 30}
    tags |= {273: 8 + 2 + 12 * 9 + 4, 279: len(data)}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    path.write_bytes(b"II*\0\10\0\0\0" + struct.pack("<H", 9) + rows + bytes(4) + data)
    return path


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_grey_tiffs_whose_zero_is_white_are_no_negatives(
    tmp_path: Path, white_is_zero: bool
) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    deep = RNG.integers(0, 2**16, (30, 40)).astype("<u2")
    for bits, data in ((16, deep.tobytes()), (8, (deep >> 8).astype(np.uint8).tobytes())):
        path = _tiff(tmp_path / f"{bits}.tif", data, bits, white_is_zero)
        np.testing.assert_array_equal(load_image(path), cv2.imread(str(path)))


def test_grey_tiffs_of_12_bits_are_not_black(tmp_path: Path) -> None:
    """4095 is white in a file with two values in three bytes, which OpenCV cannot read."""
    deep = RNG.integers(0, 2**12, (30, 40))
    pairs = deep.reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    )
    path = _tiff(tmp_path / "a.tif", packed.astype(np.uint8).tobytes(), 12, False)
    np.testing.assert_array_equal(load_image(path)[..., 0], deep >> 4)


def _turned(path: Path, orientation: object, **options: Any) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    COLOR.save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    lossless = {"lossless": True} if suffix == "webp" else {}
    path = _turned(tmp_path / f"a.{suffix}", orientation, **lossless)
    ours = load_image(path)
    assert read_header(path)[:2] == (ours.shape[1], ours.shape[0])
    if suffix == "tif":  # OpenCV fails on TIFFs turned by 90 degrees
        stored = np.asarray(COLOR)
        by_hand = [
            stored, stored[:, ::-1], stored[::-1, ::-1], stored[::-1], stored.swapaxes(0, 1),
            np.rot90(stored, -1), stored[::-1, ::-1].swapaxes(0, 1), np.rot90(stored),
        ]  # fmt: skip
        np.testing.assert_array_equal(ours, by_hand[orientation - 1])
    else:
        np.testing.assert_array_equal(ours, cv2.imread(str(path))[..., ::-1])


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_without_a_meaning_are_none(tmp_path: Path, value: int) -> None:
    """An orientation that is not valid is ignored."""
    path = _turned(tmp_path / "a.png", value)
    np.testing.assert_array_equal(load_image(path), PIXELS)
    assert read_header(path) == (40, 30, False)


def test_exif_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    """EXIF after the pixels of a PNG also turns the image."""
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    path = _turned(tmp_path / "a.png", 6)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    place = data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[end:place] + data[start:end] + data[place:])
    assert read_header(path) == (30, 40, True)
    np.testing.assert_array_equal(load_image(path), cv2.imread(str(path))[..., ::-1])


def test_labels_count_pixels_of_the_upright_image(tmp_path: Path) -> None:
    """A red mark lies in its box, in each format and in batches for training."""
    shown = np.zeros((30, 40, 3), np.uint8)
    shown[8:20, 4:16] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = Image.fromarray(shown).transpose(Image.Transpose.ROTATE_90)
    coco = write_coco(tmp_path / "coco", {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 8, 12, 12]}],
        "categories": [{"id": 1, "name": "mark"}],
    })  # fmt: skip
    yolo = write_yolo(tmp_path / "yolo", {"a": f"0 {10 / 40} {14 / 30} {12 / 40} {12 / 30}"})
    stored.save(coco / "train2017" / "a.jpg", exif=exif, quality=95)
    stored.save(yolo / "images" / "train" / "a.jpg", exif=exif, quality=95)
    for folder in (coco, yolo):
        split = open_split(folder)
        assert (split.records[0].width, split.records[0].height) == (40, 30)
        item = DetectionDataset(split, 40, augment=False)[0]
        x1, y1, x2, y2 = item.boxes[0].round().int().tolist()
        inside = item.image[:, y1:y2, x1:x2].float()
        assert inside.mean() > 240
        assert item.image.float().sum() - inside.sum() < 0.05 * inside.sum()


def test_labels_of_the_stored_image_are_refused(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_table())
    _turned(root / "train2017" / "a.jpg", 6)
    with pytest.raises(
        BadData, match=r"a\.jpg: is 30x40 pixels as viewers show it, turned by EXIF"
    ):
        open_split(root)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(DEEP.astype(np.int32) * 7),
        Image.fromarray(RNG.random((30, 40)).astype(np.float32)),
    ],
    ids=["32-bit", "float"],
)
def test_pixels_without_an_8_bit_reading_are_refused_alike(
    tmp_path: Path, image: Image.Image
) -> None:
    root = write_coco(tmp_path, coco_table() | {"annotations": coco_table()["annotations"][2:]})
    image.save(root / "train2017" / "a.tif")
    (root / "train2017" / "a.tif").rename(root / "train2017" / "a.jpg")
    said = []
    for read in (lambda: load_image(root / "train2017" / "a.jpg"), lambda: open_split(root)):
        with pytest.raises(
            BadData, match=r"a\.jpg: its pixels .* are neither 8 nor 16 bit"
        ) as error:
            read()
        said.append(
            str(error.value).removesuffix(" (fix it, or train on the rest with --skip-bad)")
        )
    assert said[0] == said[1]


def test_large_texts_and_profiles_do_not_matter(tmp_path: Path) -> None:
    COLOR.save(tmp_path / "profile.png", icc_profile=bytes(2**21))
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 2**21, zip=True)
    COLOR.save(tmp_path / "text.png", pnginfo=info)
    whole = (tmp_path / "text.png").read_bytes()
    chunk = png_chunk(b"zTXt", b"late\0\0" + zlib.compress(bytes(2**21)))
    (tmp_path / "late.png").write_bytes(whole[:-12] + chunk + whole[-12:])
    for name in ("profile.png", "text.png", "late.png"):
        np.testing.assert_array_equal(load_image(tmp_path / name), PIXELS)
        assert read_header(tmp_path / name) == (40, 30, False)


def test_folders_are_walked_through_links_without_looping(tmp_path: Path) -> None:
    (tmp_path / "set" / "sub").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for name in ("set/a.png", "set/sub/b.png", "other/c.png", "set/._a.png"):
        COLOR.save(tmp_path / name)
    (tmp_path / "set" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "set" / "sub" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "lost").symlink_to(tmp_path / "nowhere")
    names = [str(path.relative_to(tmp_path / "set")) for path in walk(tmp_path / "set")]
    assert names == ["a.png", "link/c.png", "lost", "sub/b.png"]


def test_images_are_known_by_name_or_by_their_first_bytes(tmp_path: Path) -> None:
    for name in ("a.jfif", "b", "c.JPG", "d.bak"):
        COLOR.save(tmp_path / name, "JPEG")
    for name in ("e.heic", "f.txt", "g.json", "._h.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    os.mkfifo(tmp_path / "i")
    found = [path.name for path in sorted(tmp_path.iterdir()) if is_image(path)]
    assert found == ["a.jfif", "b", "c.JPG", "d.bak", "e.heic"]
