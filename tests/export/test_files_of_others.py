"""Files that we did not export are refused, and no object in them is unpickled."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from export_runs import needs_onnx
from torch import nn

from scalewise.errors import UserError
from scalewise.lab.export.loading import load_exported


@needs_onnx
def test_files_of_others_are_refused_in_a_line(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    node = helper.make_node("Relu", ["a"], ["b"])
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    foreign = tmp_path / "foreign.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), foreign
    )
    torch.export.save(torch.export.export(nn.ReLU(), (torch.zeros(1),)), tmp_path / "foreign.pt2")
    for name in ("garbage.onnx", "garbage.pt2", "empty.onnx", "empty.pt2", "photo.png"):
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"no model" * 20)
    for name, told in {
        "foreign.onnx": "was not written by `scalewise export`",
        "foreign.pt2": "was not written by `scalewise export`",
        "garbage.onnx": "cannot be read as ONNX",
        "garbage.pt2": "cannot be read by torch.export",
        "empty.onnx": "cannot be read as ONNX",
        "empty.pt2": "cannot be read by torch.export",
        "none.onnx": "there is no such file",
        "photo.png": "neither a run folder nor an exported detector",
    }.items():
        with pytest.raises(UserError, match=told) as error:
            load_exported(tmp_path / name)
        assert "\n" not in str(error.value)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("place", ["weights", "sample_inputs", "constants"])
def test_no_object_in_a_file_is_unpickled(place: str, tmp_path: Path) -> None:
    plain_file, bad, mark = tmp_path / "plain.pt2", tmp_path / "bad.pt2", tmp_path / "executed"
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), plain_file)
    saved = io.BytesIO()
    torch.save(Malicious(mark), saved)
    constants = {"config": {"x": {"path_name": "opaque_obj_0", "is_param": False,
                                  "use_pickle": True, "tensor_meta": None}}}  # fmt: skip
    with zipfile.ZipFile(plain_file) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if place == "weights" and name.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
            if place == "constants" and name.endswith("constants_config.json"):
                content = json.dumps(constants).encode()
            if (place, name.split("/")[-1]) in (
                ("weights", "weight_0"), ("sample_inputs", "model.pt"),
            ):  # fmt: skip
                content = saved.getvalue()
            target.writestr(name, content)
        if place == "constants":
            pickled = pickle.dumps(Malicious(mark))
            target.writestr(f"{name.split('/')[0]}/data/constants/opaque_obj_0", pickled)
    with pytest.raises(UserError):
        load_exported(bad)
    assert not mark.exists()
    with contextlib.suppress(Exception):
        torch.export.load(bad)
    assert mark.exists() or place == "sample_inputs", "this file does no harm even unchecked"
