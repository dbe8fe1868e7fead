"""Exported detectors put to work: the same detections as their run's."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scalewise.errors import UsageError, UserError
from scalewise.lab.detectors import Batch, Detections
from scalewise.lab.detectors.decoding import suppress, take_candidates
from scalewise.lab.export.facts import ExportFacts, from_metadata
from scalewise.lab.training.building import auto_workers

FORMATS = {".onnx": "onnx", ".pt2": "torch"}
TORCH_METADATA = "scalewise.json"
_BATCH = 8  # images at once
_TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_OBJECTS = ("custom_obj_", "opaque_obj_")  # names of pickles in a .pt2 file

Compute = Callable[[Tensor, Tensor], list[Tensor]]


@dataclass
class ExportedDetector:
    """A detector from a file.

    Attributes:
        path: The file.
        facts: Its metadata.
        compute: From images uint8 [B, 3, side, side] and sizes int64 [B, 2] to its outputs.
        batch_size: Images at once.
    """

    path: Path
    facts: ExportFacts
    compute: Compute
    batch_size: int = _BATCH

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return self.facts.classes

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels, in pixels."""
        return tuple(self.facts.strides)

    @property
    def size(self) -> int:
        """Pixels that the longer side of an image is resized to."""
        return self.facts.size

    @property
    def workers(self) -> int:
        """Processes that load images."""
        return auto_workers()

    def detect(self, batch: Batch) -> Detections:
        """The best detections of each image; only `images` and `sizes` of the batch are used."""
        facts = self.facts
        found = self.compute(batch.images, batch.sizes)
        if not facts.nms:
            boxes, scores = found
            best = take_candidates(scores, boxes, facts.anchors, batch.sizes, facts.candidates)
            return suppress(best, facts.score_threshold, facts.nms_iou, facts.max_detections)
        boxes, scores, labels, levels, counts = found
        most = int(counts.max())
        valid = torch.arange(most) < counts[:, None]
        return Detections(
            boxes[:, :most], scores[:, :most], labels[:, :most], levels[:, :most], valid
        )


def is_exported(path: Path) -> bool:
    """Whether a path is named like an exported detector, or is a file and so no run folder."""
    return path.suffix.lower() in FORMATS or path.is_file()


def load_exported(path: Path, device: str = "auto") -> ExportedDetector:
    """Load a detector that `scalewise export` wrote.

    Args:
        path: An .onnx or .pt2 file. Reading a .pt2 file can run code: only read those you trust.
        device: "auto", or a torch device. ONNX files run on "cuda" where onnxruntime can; .pt2
            files on the CPU.

    Raises:
        UserError: it cannot be read, or a package for it is missing.
        UsageError: the device cannot be had.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.errors import UserError
        >>> from scalewise.lab.export.exported import load_exported
        >>> try:
        ...     load_exported(Path("nothing.onnx"))
        ... except UserError as error:
        ...     print(error)
        nothing.onnx: there is no such file
    """
    kind = FORMATS.get(path.suffix.lower())
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if kind is None:
        raise UserError(
            f"{path} is neither a run folder nor an exported detector, "
            f"whose name ends in {' or '.join(FORMATS)}"
        )
    return _load_onnx(path, device) if kind == "onnx" else _load_torch(path, device)


def _load_onnx(path: Path, device: str) -> ExportedDetector:
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            f"{path}: the package 'onnxruntime' is missing: pip install 'scalewise[export]'"
        ) from None
    own = "CUDAExecutionProvider"
    can = own in onnxruntime.get_available_providers()
    if device not in ("auto", "cpu") and not (device.startswith("cuda") and can):
        raise UsageError(f"--device {device}: this onnxruntime runs on the CPU alone")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    providers = [own] * (can and device != "cpu") + ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # of kinds of its own, for whatever the file holds
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as ONNX: {reason}") from None
    facts = from_metadata(session.get_modelmeta().custom_metadata_map, path)

    def compute(images: Tensor, sizes: Tensor) -> list[Tensor]:
        fed = {"images": images.cpu().numpy(), "sizes": sizes.cpu().numpy()}
        return [torch.from_numpy(values) for values in session.run(None, fed)]

    return ExportedDetector(path, facts, compute)


def _load_torch(path: Path, device: str) -> ExportedDetector:
    import torchvision  # noqa: F401  # its suppression is in the file

    if device not in ("auto", "cpu"):
        raise UsageError(f"--device {device}: .pt2 files run on the CPU; export to ONNX for others")
    extra = {TORCH_METADATA: ""}
    try:
        with _without_pickles(path):
            module = torch.export.load(path, extra_files=extra).module()
    except Exception as error:  # nearly any kind, for whatever the file holds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read by torch.export: {reason}") from None
    facts = from_metadata(_strings(extra[TORCH_METADATA]), path)

    def compute(images: Tensor, sizes: Tensor) -> list[Tensor]:
        return list(module(images.cpu(), sizes.cpu()))

    return ExportedDetector(path, facts, compute)


@contextmanager
def _without_pickles(path: Path) -> Iterator[None]:
    """Let torch.export read a file's tensors, but no Python object, whose reading can run code."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if any(prefix in name for prefix in _OBJECTS):
                raise ValueError(f"{name} in it is a Python object, and only tensors are read")
    before = os.environ.get(_TENSORS_ONLY)
    os.environ[_TENSORS_ONLY] = "1"
    try:
        yield
    finally:
        del os.environ[_TENSORS_ONLY]
        if before is not None:
            os.environ[_TENSORS_ONLY] = before


def _strings(text: str | bytes) -> dict[str, str]:
    import json

    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
