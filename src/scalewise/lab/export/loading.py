"""Loads exported files."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from scalewise.errors import UsageError, UserError
from scalewise.lab.export.exported import FORMATS, TORCH_METADATA, ExportedDetector
from scalewise.lab.export.facts import from_metadata

_TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_OBJECTS = ("custom_obj_", "opaque_obj_")  # names of pickles in a .pt2 file


def is_exported(path: Path) -> bool:
    """Whether a path is meant as an exported detector: by its suffix, or because it is a file."""
    return path.suffix.lower() in FORMATS or path.is_file()


def load_exported(path: Path, device: str = "auto") -> ExportedDetector:
    """Load a detector that `scalewise export` wrote.

    Args:
        path: An .onnx or .pt2 file. A .pt2 file with pickled Python objects is refused.
        device: "auto", "cpu" or, for ONNX files only, "cuda" or "cuda:1". "auto" is "cuda" for ONNX
            files if onnxruntime supports it, else "cpu".

    Raises:
        UserError: the file cannot be read, or a package that it needs is missing.
        UsageError: the file cannot run on the device.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.errors import UserError
        >>> from scalewise.lab.export.loading import load_exported
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
            f"{path} is neither a run folder nor an exported detector, a file whose name ends in "
            f"{' or '.join(FORMATS)}"
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
    number = re.fullmatch(r"cuda(?::(\d+))?", device)
    refusal = f"--device {device}: onnxruntime cannot use it here; choose --device cpu"
    if device not in ("auto", "cpu") and not (number and can):
        raise UsageError(refusal)
    card = (own, {"device_id": int((number and number[1]) or 0)})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    providers = [*[card] * (can and device != "cpu"), "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has many kinds of errors for bad files
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as ONNX: {reason}") from None
    if number and own not in session.get_providers():  # it has gone over to the CPU by itself
        raise UsageError(refusal)
    facts = from_metadata(session.get_modelmeta().custom_metadata_map, path)

    def compute(images: Tensor, sizes: Tensor) -> list[Tensor]:
        fed = {"images": images.cpu().numpy(), "sizes": sizes.cpu().numpy()}
        return [torch.from_numpy(values) for values in session.run(None, fed)]

    return ExportedDetector(path, facts, compute)


def _load_torch(path: Path, device: str) -> ExportedDetector:
    import torchvision  # noqa: F401  # the file may use its suppression

    if device not in ("auto", "cpu"):
        raise UsageError(f"--device {device}: .pt2 files run on the CPU only; export to ONNX")
    extra = {TORCH_METADATA: ""}
    try:
        with _without_pickles(path):
            module = torch.export.load(path, extra_files=extra).module()
    except Exception as error:  # a bad file can raise nearly any kind of error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read by torch.export: {reason}") from None
    facts = from_metadata(_strings(extra[TORCH_METADATA]), path)

    def compute(images: Tensor, sizes: Tensor) -> list[Tensor]:
        return list(module(images.cpu(), sizes.cpu()))

    return ExportedDetector(path, facts, compute)


@contextmanager
def _without_pickles(path: Path) -> Iterator[None]:
    """Let torch.export read tensors only: to read a Python object can run code in the file."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if any(prefix in name for prefix in _OBJECTS):
                raise ValueError(f"it holds a Python object, {name}, and only tensors are read")
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
