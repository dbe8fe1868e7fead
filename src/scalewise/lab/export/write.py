"""Exports a trained run to a file, and checks the file before it is kept."""

from __future__ import annotations

from pathlib import Path

from scalewise import __version__
from scalewise.errors import UserError
from scalewise.files import make_folder, whole
from scalewise.lab.export.agreement import TOLERANCE, Agreement, check_images, compare_outputs
from scalewise.lab.export.facts import DECODED, PIXELS, SUPPRESSED, ExportFacts
from scalewise.lab.export.loading import load_exported
from scalewise.lab.export.tracing import OUTPUTS, Format, save_graph, traced
from scalewise.lab.inference.detecting import unused
from scalewise.lab.inference.trained import TrainedRun

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}


def export_run(
    run: TrainedRun,
    format: Format = "onnx",
    out: Path | None = None,
    nms: bool = False,
    size: int | None = None,
    checkpoint: str = "best",
) -> tuple[Path, list[str]]:
    """Write a run's detector as a file that takes raw pixels, and compare it with the run.

    The file takes batches of any number of images, padded to squares of one fixed side. It computes
    in float32, whatever the precision of the run.

    Args:
        run: A loaded run.
        format: "onnx", or "torch" for `torch.export.save`.
        out: The file to write; None is model.onnx or model.pt2 in the run folder. If it exists,
            "-2" is added to the name.
        nms: Put non-maximum suppression into the file. Without it, the file returns all boxes.
        size: Longer side of the resized images in pixels; None takes the run's.
        checkpoint: Name of the checkpoint, for the metadata.

    Returns:
        The file, and lines that say what it takes and returns, and how well it agrees with the run.

    Raises:
        UserError: the file cannot be written, a package is missing, or file and run do not agree.
            Then no file is left.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.lab.export.loading import load_exported
        >>> from scalewise.lab.export.write import export_run
        >>> from scalewise.lab.inference.trained import load_run
        >>> run = load_run(Path("runs/first"), "last", device="cpu")
        >>> path, said = export_run(run, "torch", Path("small.pt2"), size=96)
        >>> said[0]
        'input: images uint8 [batch, 3, 96, 96], RGB 0..255; sizes int64 [batch, 2]'
        >>> load_exported(path).classes == run.classes
        True
    """
    if format == "onnx":
        _require_onnx()
    size = run.config.size if size is None else size
    path = unused(out or run.folder / f"model{SUFFIX[format]}")
    if path.suffix.lower() != SUFFIX[format]:
        raise UserError(
            f"--out {path}: --format {format} needs a file that ends in {SUFFIX[format]}"
        )
    facts = _facts(run, nms, size, checkpoint)
    program = traced(run, facts, format)
    batches, what = check_images(run, size)
    make_folder(path.parent)
    with whole(path) as aside:
        facts = save_graph(program, facts, format, aside)
        found = compare_outputs(run.detector, load_exported(aside, "cpu"), batches)
        if not found.holds:
            raise UserError(
                f"{path} was not written: its results differ from those of {run.folder}: "
                f"{_words(found, facts)}, on {what}; try --format "
                f"{'torch' if format == 'onnx' else 'onnx'}"
            )
    return path, _said(run, facts, f"{what}, in batches of 1 and 3: {_words(found, facts)}")


def _said(run: TrainedRun, facts: ExportFacts, agreement: str) -> list[str]:
    """Lines that say what the file takes and returns, and how well it agrees with the run."""
    opset = f"; opset {facts.opset}" if facts.opset else ""
    said = [
        f"input: images uint8 [batch, 3, {facts.side}, {facts.side}], RGB 0..255; "
        "sizes int64 [batch, 2]",
        f"output: {', '.join(OUTPUTS[facts.nms])}{opset}",
        f"agrees with the run on {agreement}",
    ]
    if run.config.precision != "32-true":
        said.append(
            f"the file computes in float32, the run in {run.config.precision}: "
            "their detections may differ by the rounding of the latter"
        )
    return said


def _words(found: Agreement, facts: ExportFacts) -> str:
    unit = "detections" if facts.nms else "boxes"
    lone = f", {found.lone} detections that only one has" if found.lone else ""
    return (
        f"{found.compared} {unit}, largest difference of boxes {found.boxes * facts.side:.1e} px "
        f"({found.boxes:.1e} of the side), of scores {found.scores:.1e}{lone}; allowed "
        f"{TOLERANCE:g} of each"
    )


def _require_onnx() -> None:
    for package in ONNX_PACKAGES:
        try:
            __import__(package)
        except ImportError:
            raise UserError(
                f"--format onnx: the package {package!r} is missing: "
                "pip install 'scalewise[export]', or use --format torch"
            ) from None


def _facts(run: TrainedRun, nms: bool, size: int, checkpoint: str) -> ExportFacts:
    detector = run.detector
    side = -(-size // 32) * 32
    return ExportFacts(
        scalewise=__version__,
        detector=run.config.detector,
        classes=run.classes,
        size=size,
        side=side,
        strides=list(detector.strides),
        anchors=[(-(-side // s)) ** 2 * detector.method.anchors for s in detector.strides],
        nms=nms,
        score_threshold=detector.score_threshold,
        nms_iou=detector.method.nms_iou,
        candidates=detector.candidates,
        max_detections=detector.max_detections,
        opset=None,
        run=run.folder.resolve().name,
        checkpoint=checkpoint,
        epoch=run.epoch,
        inputs=PIXELS,
        outputs=SUPPRESSED if nms else DECODED,
    )
