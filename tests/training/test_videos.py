"""Detections drawn on videos, and pictures and videos that cannot be written."""

from __future__ import annotations

import errno
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stub_detector import CLASSES, Stub, save

from scalewise.errors import UserError
from scalewise.files import WriteError
from scalewise.lab.inference import video, video_frames
from scalewise.lab.inference.prediction import predict


def film(
    path: Path,
    count: int,
    codec: str = "mpeg4",
    rate: Fraction = Fraction(24),
    aspect: Fraction = Fraction(1),
) -> Path:
    """A video with six dark frames, then bright ones; `aspect` is a pixel's width / height."""
    av = pytest.importorskip("av", reason="needs scalewise[video]")
    noise = np.random.default_rng(0).integers(0, 40, (count, 48, 70, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 70, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for number in range(count):
            pixels = noise[number] + np.uint8(0 if number < 6 else 200)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "rate"), [("a.mp4", Fraction(24)), ("b.avi", Fraction(30000, 1001))]
)
def test_videos_keep_their_length_and_rate(name: str, rate: Fraction, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = film(tmp_path / "in" / name, 14, rate=rate)
    import av

    save(tmp_path / "in" / "c.png", (20, 20))
    folder, unreadable = predict(Stub(CLASSES), [source.parent], tmp_path / "out", 0.5, True)
    assert not unreadable
    picture, entry = json.loads((folder / "predictions.json").read_text())
    assert picture["picture"] == "c.png"
    assert entry["video"] == str(source)
    assert [frame["frame"] for frame in entry["frames"]] == list(range(14))
    assert [len(frame["detections"]) for frame in entry["frames"]] == [0] * 6 + [1] * 8
    assert entry["frames"][12]["seconds"] == pytest.approx(float(12 / rate), abs=1e-3)
    found = entry["frames"][9]["detections"][0]
    assert (found["class"], found["box"]) == ("dog", pytest.approx([0, 0, 35, 48], abs=1))
    with av.open(str(folder / entry["picture"])) as made, av.open(str(source)) as given:
        ours, its = made.streams.video[0], given.streams.video[0]
        assert ours.average_rate == its.average_rate == rate
        lengths = [float(s.duration * s.time_base) for s in (ours, its)]
        assert lengths[0] == pytest.approx(lengths[1], abs=0.5 / float(rate))
        shown = [frame.to_ndarray(format="rgb24") for frame in made.decode(video=0)]
    assert len(shown) == 14
    scale = 480 // 70 + 1
    assert shown[0].shape == (48 * scale, 70 * scale, 3)
    spread = [np.ptp(frame[-20:, : 35 * scale].astype(int).mean((0, 1))) for frame in shown]
    assert max(spread[:6]) < 8  # grey; later frames have a coloured edge
    assert min(spread[6:]) > 8
    labels = sorted((folder / "labels" / source.stem).iterdir())
    assert [file.name for file in labels] == [f"{n:06d}.txt" for n in range(14)]
    assert labels[5].read_text() == ""
    assert labels[6].read_text().startswith("1 0.25")


def test_colours_are_those_that_the_file_says(tmp_path: Path) -> None:
    """Red has BT.601's luma in 16 to 235, and the file names both by their codes in H.273."""
    av = pytest.importorskip("av", reason="needs scalewise[video]")

    class Red:
        aspect, rate = None, Fraction(24)

    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[..., 0] = 255
    with av.open(str(tmp_path / "red.mp4"), "w") as sink:
        stream = video._add_stream(sink, Red(), Fraction(1, 24), pixels)  # type: ignore[arg-type]
        sink.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        sink.mux(stream.encode())
    with av.open(str(tmp_path / "red.mp4")) as made:
        frame = next(made.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (6, 1)
    luma = frame.to_ndarray(format="yuv420p")[:64]
    np.testing.assert_allclose(luma, 16 + 219 * 0.299, atol=1.5)


def test_damaged_videos_are_told_and_what_was_read_is_kept(tmp_path: Path) -> None:
    data = film(tmp_path / "whole.avi", 40).read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: len(data) * 6 // 10])
    (tmp_path / "none.mp4").write_bytes(b"")
    (tmp_path / "text.mov").write_text("no video" * 100)
    names = ["half.avi", "none.mp4", "text.mov", "gone.mkv"]
    images = [tmp_path / name for name in names]
    folder, unreadable = predict(Stub(CLASSES), images, tmp_path / "out", 0.5)
    assert len(unreadable) == 4
    told = dict(zip(names, (next(x for x in unreadable if n in x) for n in names), strict=True))
    assert "of the 40 in its header were read and are in half.mp4" in told["half.avi"]
    assert "cannot be read as a video" in told["none.mp4"]
    assert "cannot be read as a video" in told["text.mov"]
    assert "no such video file" in told["gone.mkv"]
    (entry,) = json.loads((folder / "predictions.json").read_text())
    assert 0 < len(entry["frames"]) < 40
    assert {file.name for file in folder.iterdir()} == {"half.mp4", "predictions.json"}
    with pytest.raises(UserError, match="no image or video could be read"):
        predict(Stub(CLASSES), images[1:], tmp_path / "other", 0.5)
    assert not (tmp_path / "other").exists()


def test_without_the_package_a_video_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    image = save(tmp_path / "a.png", (20, 20))
    _, unreadable = predict(Stub(CLASSES), [image, tmp_path / "a.mp4"], tmp_path / "out", 0.5)
    (line,) = unreadable
    assert line.endswith("a.mp4: the package 'av' is missing: pip install 'scalewise[video]'")


def test_videos_are_turned_as_players_do() -> None:
    class Frame:
        rotation = -90  # clockwise

        def to_ndarray(self, format: str) -> Any:
            return np.arange(6, dtype=np.uint8).reshape(2, 3, 1)

    assert video_frames._upright(Frame())[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]


@pytest.mark.parametrize("turned", [False, True])
def test_pixels_that_are_not_square_stay_so(
    turned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film with pixels 4/3 as wide as high keeps its shape, also if it is turned."""
    source = film(tmp_path / "wide.mp4", 2, aspect=Fraction(4, 3))
    if turned:
        monkeypatch.setattr(video_frames, "_quarters", lambda frame: 1)
    folder, unreadable = predict(Stub(CLASSES), [source], tmp_path / "out", 0.5)
    assert not unreadable
    import av

    with av.open(str(folder / "wide.mp4")) as made:
        stream = made.streams.video[0]
        assert stream.sample_aspect_ratio is not None
        shown = stream.sample_aspect_ratio * stream.width / stream.height
    wanted = Fraction(4, 3) * 70 / 48
    assert shown == (1 / wanted if turned else wanted)


def test_a_video_that_cannot_be_written_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the fifth frame; no file ever has the name of the video."""
    source = film(tmp_path / "a.mp4", 8)
    out, there, even = tmp_path / "out", list[list[str]](), video._even

    def full(pixels: video_frames.Pixels) -> video_frames.Pixels:
        there.append([path.suffixes[-2] for path in out.iterdir()])
        assert not (out / "a.mp4").exists()
        if len(there) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return even(pixels)

    monkeypatch.setattr(video, "_even", full)
    monkeypatch.setattr(video, "_QUALITY", {"tune": "zerolatency"})  # no delay of frames
    with pytest.raises(WriteError, match=r"a\.mp4 could not be written: No space left on device"):
        predict(Stub(CLASSES), [source], out, 0.5)
    assert there[-1] == [".part"]
    assert not list(out.iterdir())


def test_a_picture_that_cannot_be_written_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the second picture; no file ever has its name, and the first is whole."""
    images = [save(tmp_path / f"{name}.png", (20, 20)) for name in "abc"]
    out, real, calls = tmp_path / "out", Image.Image.save, list[Path]()

    def half(image: Image.Image, path: Path, *rest: Any, **how: Any) -> None:
        real(image, path, *rest, **how)
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(path.read_bytes()[:50])
            assert {file.name for file in out.iterdir()} == {"a.png", path.name}
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(WriteError, match=r"b\.png could not be written: No space left on device"):
        predict(Stub(CLASSES), images, out, 0.5)
    assert not calls[1].name.endswith("b.png")
    assert [file.name for file in out.iterdir()] == ["a.png"]
    with Image.open(out / "a.png") as picture:
        picture.load()
