"""Reads the frames of a video, turns them upright, and counts those that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scalewise.lab.data.text import one_line

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

Pixels = npt.NDArray[np.uint8]  # [H, W, 3], RGB


class Frame(NamedTuple):
    """The upright pixels of a frame, and the time at which it is shown, in units of `unit` s."""

    pixels: Pixels
    time: int
    unit: Fraction


class Reading:
    """Iterates over the frames of a video, and keeps what could not be read.

    Attributes:
        rate: Frames per second.
        aspect: Width of a pixel divided by its height, in the upright frame; None if unknown.
        reason: ": " and the last error of the decoder; empty if there was none.
    """

    def __init__(self, source: InputContainer, stream: VideoStream) -> None:
        self._source, self._stream = source, stream
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        self._expected = stream.frames
        self._faults = 0
        self.aspect: Fraction | None = stream.sample_aspect_ratio
        self.reason = ""

    def __iter__(self) -> Iterator[Frame]:
        last = -1
        unit = Fraction(self._stream.time_base or 1 / self.rate)
        step = max(1, round(1 / self.rate / unit))
        for frame in self._decoded():
            time = frame.pts if frame.pts is not None and frame.pts > last else last + step
            if last < 0 and self.aspect and _quarters(frame) % 2:
                self.aspect = 1 / self.aspect
            last = max(time, 0)
            yield Frame(_upright(frame), last, unit)

    def _decoded(self) -> Iterator[Any]:
        """Yield the frames of the packets that can be read, and count the other packets."""
        import av

        packets = self._source.demux(self._stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                return
            except av.EOFError:
                return
            except av.FFmpegError as error:
                self._faults += 1
                self.reason = f": {why(error)}"
                if self._faults > 1000:
                    return
                continue
            for frame in frames:
                self._faults += bool(frame.is_corrupt)
                yield frame

    def damage(self, path: Path, out: Path, count: int) -> str:
        """A line about frames that could not be read; empty if all could."""
        lost = max(0, self._expected - count)
        if not lost and not self._faults:
            return ""
        of = f" of the {self._expected} in its header" if self._expected else ""
        return one_line(
            f"{path}: damaged{self.reason}; {count} frames{of} were read and are in {out.name}"
        )


def _upright(frame: Any) -> Pixels:
    """The pixels as players show them: turned by the rotation that the file states."""
    pixels: Pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, _quarters(frame)))


def _quarters(frame: Any) -> int:
    """How many quarter turns anticlockwise make a frame upright."""
    return round(getattr(frame, "rotation", 0) / 90)


def why(error: Exception) -> str:
    """The library's reason for a failure, on one line."""
    return one_line(getattr(error, "strerror", None) or str(error))
