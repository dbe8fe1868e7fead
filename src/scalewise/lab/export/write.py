"""From a trained run to a file, checked before it is kept."""

from __future__ import annotations

from pathlib import Path

from scalewise import __version__
from scalewise.errors import UserError
from scalewise.files import whole
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
    """Write a run's detector as a file that takes raw pixels, and compare the two.

    The file takes any number of images at once, each on a square canvas of one side. It computes in
    float32, whatever precision the run was trained in.

    Args:
        run: A loaded run.
        format: "onnx", or "torch" for `torch.export.save`.
        out: The file; RUN/model.onnx or .pt2 when None. Never overwritten: "-2" is added.
        nms: Put non-maximum suppression into the file; without, all boxes come out.
        size: Pixels that the longer side of images is resized to; the run's when None.
        checkpoint: What to call the checkpoint in the metadata.

    Returns:
        The file, and lines about what it takes and how well it agrees with the run.

    Raises:
        UserError: it cannot be written, a package is missing, or file and run do not agree; then
            there is no file.

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
        raise UserError(f"--out {path}: the name of a file of --format {format} ends in "
                        f"{SUFFIX[format]}")  # fmt: skip
    facts = _facts(run, nms, size, checkpoint)
    program = traced(run, facts, format)
    batches, what = check_images(run, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as aside:
        facts = save_graph(program, facts, format, aside)
        found = compare_outputs(run.detector, load_exported(aside, "cpu"), batches)
        if not found.holds:
            raise UserError(
                f"{path} was not written: it does not compute what {run.folder} does: "
                f"{_words(found, facts)}, on {what}; --format "
                f"{'torch' if format == 'onnx' else 'onnx'} may do better"
            )
    return path, _said(run, facts, f"{what}, 1 and 3 at once: {_words(found, facts)}")


def _said(run: TrainedRun, facts: ExportFacts, agreement: str) -> list[str]:
    """Lines on what the file takes and gives, and how well it agrees with the run."""
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
            "their detections may differ by that rounding"
        )
    return said


def _words(found: Agreement, facts: ExportFacts) -> str:
    unit = "detections" if facts.nms else "boxes"
    lone = f", {found.lone} detections of one alone" if found.lone else ""
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
