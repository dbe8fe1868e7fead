"""The device that an ONNX file runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export_runs import needs_onnx

from scalewise.errors import UsageError, UserError
from scalewise.lab.export.loading import load_exported

GPU = "CUDAExecutionProvider"


def _providers(device: str, path: Path, monkeypatch: pytest.MonkeyPatch, *has: str) -> list[Any]:
    """The providers that onnxruntime is asked for, on a machine that has some."""
    import onnxruntime

    asked: list[Any] = []

    def session(path: str, options: object, providers: list[Any]) -> None:
        asked.extend(providers)
        raise RuntimeError("enough")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*has])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(UserError, match="enough"):
        load_exported(path, device)
    assert asked.pop() == "CPUExecutionProvider"
    return asked


@needs_onnx
def test_the_named_device_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    path = tmp_path / "a.onnx"
    path.write_bytes(b"x")
    for device, index in (("auto", 0), ("cuda", 0), ("cuda:1", 1)):
        asked = _providers(device, path, monkeypatch, GPU)
        assert asked == [(GPU, {"device_id": index})]
    assert _providers("auto", path, monkeypatch) == []
    assert _providers("cpu", path, monkeypatch, GPU) == []
    for device, has in (("cuda", ()), ("cuda:x", (GPU,)), ("mps", (GPU,))):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda has=has: [*has])
        with pytest.raises(UsageError, match=f"--device {device}: onnxruntime cannot use it here"):
            load_exported(path, device)


@needs_onnx
def test_a_device_that_onnxruntime_gives_up_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where CUDA fails, onnxruntime makes a session on the CPU and only prints it."""
    import onnxruntime

    class OnCpu:
        def __init__(self, *_: object, **__: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [GPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCpu)
    (tmp_path / "a.onnx").touch()
    with pytest.raises(UsageError, match="--device cuda:7: onnxruntime cannot use it here"):
        load_exported(tmp_path / "a.onnx", "cuda:7")
