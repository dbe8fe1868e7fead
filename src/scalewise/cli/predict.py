"""`scalewise predict`: detections drawn on images and videos, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scalewise.cli.parsing import build, command_parser, parse
from scalewise.errors import UsageError, UserError


@dataclass(kw_only=True)
class PredictOptions:
    """Prediction.

    Args:
        out: Folder for the pictures, videos and predictions.json. Default: RUN/predictions, or
            "predictions" beside an exported file.
        threshold: Lowest score of a box that is shown, or "best-f1": for each class the score at
            which its F1 on the run's validation split is best.
        save_txt: Also write YOLO text files, with a line "class cx cy w h" for each box, into the
            folder "labels".
        save_conf: Add the score to each line of these files.
        save_coco: Also write the detections on images as COCO results, coco.json.
        data: Data set whose image and category ids are used in coco.json; images that are not in it
            get new ids, which coco-images.json lists.
        split: Split of that data set.
        checkpoint: The checkpoint with the best AP in validation, or the last one.
        device: "auto", "cpu", "cuda" or another torch device.
    """

    out: str | None = None
    threshold: float | Literal["best-f1"] = 0.3
    save_txt: bool = False
    save_conf: bool = False
    save_coco: bool = False
    data: str | None = None
    split: str = "val"
    checkpoint: Literal["best", "last"] = "best"
    device: str = "auto"


def main(words: list[str]) -> int:
    """Run the command."""
    parser = command_parser(
        "predict",
        "Draw what a run finds on images and videos: boxes with class, score and level.",
    )
    parser.add_argument("run", help="run folder, or an .onnx or .pt2 file of scalewise export")
    parser.add_argument(
        "images",
        nargs="+",
        help="image and video files, or folders, with all such files in and below them",
    )
    parser.add_class_arguments(PredictOptions)
    values = parse(parser, words, PredictOptions)
    options = build(PredictOptions, values)
    images = [Path(image) for image in values.images]
    folder, unreadable, said = carry_out(Path(values.run), images, options)
    for line in unreadable:
        print(f"not read: {line}")
    print(*said, f"written: {folder} ({len(unreadable)} files could not be read)", sep="\n")
    return 1 if unreadable else 0


def carry_out(
    source: Path, images: list[Path], options: PredictOptions
) -> tuple[Path, list[str], list[str]]:
    """Predict as the options say.

    Args:
        source: A run folder, or an exported file.
        images: Image and video files, or folders.
        options: All of them.

    Returns:
        The folder written, a line for each file that could not be read, and lines on the rest.

    Raises:
        UserError: for whatever keeps the work from being done.
    """
    if options.threshold != "best-f1" and not 0 <= options.threshold <= 1:
        raise UsageError(f'--threshold is a score, 0 to 1, or "best-f1", not {options.threshold}')
    if options.save_conf and not options.save_txt:
        raise UsageError("--save_conf adds scores to the files of --save_txt: give that option too")
    if options.data is not None and not options.save_coco:
        raise UsageError("--data gives the ids for --save_coco: give that too, or leave it out")
    exported = source.suffix.lower() in (".onnx", ".pt2") or source.is_file()
    if exported and options.threshold == "best-f1":
        raise UsageError(
            f"--threshold best-f1: {source} holds no detections of a validation split; name the "
            "run folder that it was exported from, or a score"
        )
    _look_first(source, images, options, exported)
    from scalewise.lab.data.open import open_split
    from scalewise.lab.inference.prediction import predict

    run, out, limits, said = _prepare(source, options, exported)
    like = None if options.data is None else open_split(options.data, options.split)
    folder, unreadable = predict(
        run,
        images,
        out,
        limits,
        save_txt=options.save_txt,
        save_conf=options.save_conf,
        save_coco=options.save_coco,
        like=like,
    )
    lone = folder / "coco-images.json"
    if lone.exists():
        where = f"that {options.data} does not have " if options.data else ""
        said.append(f"coco.json: ids of the images {where}are in {lone.name}")
    if options.save_coco and any(folder.glob("*.mp4")):
        said.append("coco.json: without the frames of videos, which are in predictions.json")
    return folder, unreadable, said


def _look_first(source: Path, images: list[Path], options: PredictOptions, exported: bool) -> None:
    """Refuse what can be seen to be wrong before anything slow is imported."""
    from scalewise.lab.training.run_options import load_config
    from scalewise.lab.training.runs import checkpoint

    if not exported:
        load_config(source)
        checkpoint(source, options.checkpoint)
    if not any(image.exists() for image in images):
        missing = ", no ".join(map(str, images))
        raise UserError(f"no image or video could be read: there is no {missing}")


def _prepare(
    source: Path, options: PredictOptions, exported: bool
) -> tuple[Any, Path, float | Sequence[float], list[str]]:
    """What finds objects, where its pictures go, from which scores on, and what to say of those.

    The first is a `Detecting`, without that type: jsonargparse would import what it is imported
    from, torch and all, for the help.
    """
    if exported:
        from scalewise.lab.export.loading import load_exported

        assert options.threshold != "best-f1"
        found = load_exported(source, options.device)
        out = Path(options.out) if options.out else source.parent / "predictions"
        return found, out, options.threshold, []
    from scalewise.lab.inference.scored import validated
    from scalewise.lab.inference.trained import load_run

    run = load_run(source, options.checkpoint, options.device)
    out = Path(options.out) if options.out else source / "predictions"
    if options.threshold != "best-f1":
        return run, out, options.threshold, []
    from scalewise.lab.evaluation.ranking import best_thresholds

    thresholds = best_thresholds(*validated(run))
    said = [
        f"best-f1: {t.name} from {t.score:.3f}"
        + ("" if t.own else ", the score for all classes together")
        + (f", F1 {t.f1:.3f}" if t.f1 == t.f1 else ", no object to find")
        for t in thresholds
    ]
    return run, out, [t.score for t in thresholds], said
