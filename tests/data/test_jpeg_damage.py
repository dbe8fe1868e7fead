"""Damaged JPEGs: our findings compared with what libjpeg reports through OpenCV."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalewise.data import BadData, load_image
from scalewise.lab.data.images import load_shrunk

RNG = np.random.default_rng(0)
BLOBS = Image.fromarray(RNG.integers(0, 256, (20, 25, 3)).astype(np.uint8)).resize((200, 160))
KINDS: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "baseline": (BLOBS, {}),
    "grey": (BLOBS.convert("L"), {}),
    "full colour": (BLOBS, {"subsampling": 0, "optimize": True}),
    "restarts": (BLOBS, {"restart_marker_rows": 1}),
    "progressive": (BLOBS, {"progressive": True}),
    "progressive restarts": (BLOBS, {"progressive": True, "restart_marker_blocks": 5}),
}
SIZES = (40, 20, 10)  # 200 pixels are decoded at 1/2, 1/4 and 1/8
BASELINE = ("baseline", "grey", "full colour", "restarts")


def _file(image: Image.Image, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def _complaint(path: Path, data: bytes) -> str:
    """Return the error of loading, which is the same at full size and decoded small."""
    path.write_bytes(data)
    words = _said(load_image, path)
    for size in SIZES:
        assert _said(partial(load_shrunk, size=size), path) == words
    if not words:
        return ""
    assert words.startswith(f"{path}: ")
    assert "\n" not in words
    return words


def _said(load: Callable[[Path], object], path: Path) -> str:
    try:
        load(path)
    except BadData as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_large_damage_is_found(tmp_path: Path, kind: str) -> None:
    data, draw = _file(*KINDS[kind]), random.Random(kind)
    for _ in range(10):
        at = draw.randrange(len(data) // 4, len(data) // 2)
        changed = {
            "a file cut short": data[:at],
            "cut short, with an end mark": data[:at] + b"\xff\xd9",
            "zeros up to the end": data[:at] + bytes(len(data) - at),
            "another file's bytes": data[:at] + draw.randbytes(4096) + data[at + 4096 :],
        }
        if kind in BASELINE:  # in the others zeros may be flat areas
            changed["a hole of zeros"] = data[:at] + bytes(1024) + data[at + 1024 :]
            changed["a small hole of zeros"] = data[:at] + bytes(40) + data[at + 40 :]
        for what, content in changed.items():
            assert _complaint(tmp_path / "a.jpg", content), (what, at)


def test_most_holes_of_zeros_in_progressive_images_are_found(tmp_path: Path) -> None:
    """Most are found; in some scans zeros may be a flat area."""
    noise = RNG.normal(0, 12, (160, 200, 3))
    picture = Image.fromarray((np.asarray(BLOBS) + noise).clip(0, 255).astype(np.uint8))
    draw, found = random.Random(0), 0
    for quality in (75, 90):
        data = _file(picture, {"progressive": True, "quality": quality})
        for _ in range(50):
            at = draw.randrange(len(data) // 5, len(data) - 100)
            content = data[:at] + bytes(40) + data[at + 40 :]
            found += bool(_complaint(tmp_path / "a.jpg", content))
    assert found > 40


@pytest.mark.parametrize("kind", BASELINE)
def test_what_is_refused_is_damaged_to_libjpeg_too(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """libjpeg warns of each file that we refuse."""
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    data, draw, refused = _file(*KINDS[kind]), random.Random(kind), 0
    for _ in range(60):
        content = bytearray(data)
        at = draw.randrange(len(data) // 5, len(data) - 2)
        match draw.randrange(3):
            case 0:
                content[at] ^= 1 << draw.randrange(8)
            case 1:
                content[at : at + 8] = draw.randbytes(len(content[at : at + 8]))
            case _:
                del content[at : at + draw.randrange(1, 600)]
        if not _complaint(tmp_path / "a.jpg", bytes(content)):
            continue
        refused += 1
        capfd.readouterr()
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is None or "Corrupt JPEG data" in capfd.readouterr().err
    assert refused > 5


def test_sound_files_are_read(tmp_path: Path) -> None:
    """Sound files that look like damaged ones are read."""
    pictures = [
        *(Image.new("RGB", (200, 130), (level,) * 3) for level in (0, 127, 128, 255)),
        *(Image.new("L", (33, 70), level) for level in (0, 128)),
        Image.fromarray(np.pad(np.asarray(BLOBS), ((0, 80), (0, 0), (0, 0)), constant_values=128)),
        *(BLOBS.crop((0, 0, side, 2 * side + 1)) for side in (1, 7, 8, 9, 17, 50)),
        BLOBS.convert("CMYK"),
    ]
    for _, options in KINDS.values():
        for picture in pictures:
            if picture.mode == "CMYK" and "subsampling" in options:
                continue
            data = _file(picture, options)
            exif = Image.Exif()
            exif[0x010E] = "\xff\xd9" * 40  # looks like an end mark
            for content in (data, data + bytes(500), _file(picture, {**options, "exif": exif})):
                assert not _complaint(tmp_path / "a.jpg", content)
            padded = data[:-2] + b"\xff\xff\xff\xd9"  # fill bytes before a mark
            assert not _complaint(tmp_path / "a.jpg", padded)


def test_gradients_and_tiles_are_sound(tmp_path: Path) -> None:
    """Their blocks are all alike, so their pixel data may hold many zeros."""
    down = np.broadcast_to(np.linspace(0, 255, 160)[:, None, None], (160, 200, 3))
    tiles = [np.tile(RNG.integers(0, 256, (n, n, 3)), (160 // n, 192 // n, 1)) for n in (1, 2, 8)]
    for picture in (*(down * part for part in np.linspace(0.05, 1, 20)), *tiles):
        for quality in (75, 95):
            options = {"progressive": True, "quality": quality}
            data = _file(Image.fromarray(picture.astype(np.uint8)), options)
            assert not _complaint(tmp_path / "a.jpg", data)
