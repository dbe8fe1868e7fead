"""Traces the graph of a detector, and saves it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from scalewise.errors import UserError
from scalewise.lab.data.text import one_line
from scalewise.lab.export.exported import TORCH_METADATA
from scalewise.lab.export.facts import ExportFacts, to_metadata
from scalewise.lab.export.graph import Decoded, Suppressed, of_plain_layers
from scalewise.lab.inference.trained import TrainedRun

Format = Literal["onnx", "torch"]
OUTPUTS = {False: ["boxes", "scores"], True: ["boxes", "scores", "labels", "levels", "counts"]}


def traced(run: TrainedRun, facts: ExportFacts, format: Format) -> Any:
    """Trace the detector of a run.

    Raises:
        UserError: the backbone does something that a graph cannot hold.
    """
    detector = of_plain_layers(run.detector)
    module: nn.Module = (
        Suppressed(detector, facts.anchors, as_operation=format == "onnx")
        if facts.nms
        else Decoded(detector)
    ).eval()
    side = facts.side
    images = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=2**16)
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(
                module,
                (images, torch.full((2, 2), facts.size)),
                dynamic_shapes={"images": {0: batch}, "sizes": {0: batch}},
                strict=False,
            )
    except Exception as error:  # a backbone can raise any kind of error
        raise UserError(
            f"{run.folder}: backbone {run.config.backbone} cannot be exported: "
            f"{one_line(str(error).strip().splitlines()[0])}"
        ) from error


def save_graph(program: Any, facts: ExportFacts, format: Format, path: Path) -> ExportFacts:
    """Write the file with its metadata, and return the metadata, with the opset of an ONNX file.

    Raises:
        UserError: ONNX lacks an operation.
    """
    if format == "torch":
        with quiet():
            torch.export.save(
                program, path, extra_files={TORCH_METADATA: json.dumps(to_metadata(facts))}
            )
        return facts
    from dataclasses import replace

    from scalewise.lab.export.suppression import translations

    try:
        with quiet():
            made = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=["images", "sizes"],
                output_names=OUTPUTS[facts.nms],
                custom_translation_table=translations(),
            )
    except Exception as error:  # the exporter raises many kinds of errors
        raise UserError(f"the detector cannot be written as ONNX: {_last(error)}") from error
    assert made is not None
    facts = replace(facts, opset=int(made.model.opset_imports[""]))
    made.model.metadata_props.update(to_metadata(facts))
    made.save(path, external_data=False)
    return facts


def _last(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "Error" in line] or [str(error)]
    return one_line(lines[-1])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the output and the warnings of the exporters, which are meant for their authors."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
