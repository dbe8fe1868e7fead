"""The commands as functions, for notebooks and scripts: their options are keyword arguments.

Each function has the options of the command of its name, checks them as the command does, and
raises `UserError` where the command would print an error and end. Heavy imports come with the call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scalewise.errors import UsageError, UserError
from scalewise.lab.keywords import checked, given, named_options, packages, parser_of
from scalewise.lab.results import (
    CompareResult,
    EvaluateResult,
    InspectResult,
    PredictResult,
    TrainResult,
    read_run,
)
from scalewise.lab.training.config import GROUPS, TrainConfig


def train(
    config: TrainConfig | None = None,
    *,
    resume: str | Path | TrainResult | None = None,
    **options: Any,
) -> TrainResult:
    """Train a detector, as `scalewise train` does.

    Args:
        config: Options to start from.
        resume: An interrupted run that is to go on with its own options; give nothing else then.
        options: Fields of `TrainConfig`; they replace those of `config`.

    Returns:
        The run, with its metrics.

    Raises:
        UserError: for options, data or weights that cannot be used.

    Examples:
        >>> import scalewise as sw
        >>> found = sw.train(
        ...     data="demo:images=10,size=64",
        ...     backbone="mobilenet_v3_small",
        ...     width=16,
        ...     depth=1,
        ...     size=64,
        ...     epochs=1,
        ...     name="tiny",
        ... )
        run folder: runs/tiny...
        >>> len(found.history), found.run.name
        (1, 'tiny')
    """
    if resume is not None:
        if config is not None or options:
            raise UsageError(
                "scalewise.train: resume continues a run with its own options, so no other option "
                "can be given: start a new run with them instead"
            )
        with packages("train"):
            from scalewise.lab.training.fit import resume as go_on
        return read_run(go_on(_folder(resume)))
    with packages("train"):
        from scalewise.cli.parsing import build
        from scalewise.cli.train import parser
        from scalewise.lab.training.fit import train as start

        values = checked("train", parser(), GROUPS, named_options(config) | options)
    command = f"scalewise.train({', '.join(f'{k}={v!r}' for k, v in given(config, options))})"
    return read_run(start(build(TrainConfig, values), command))


def evaluate(run: str | Path | TrainResult, **options: Any) -> EvaluateResult:
    """Measure the average precision of a run on a split, as `scalewise evaluate` does.

    Args:
        run: The run, or its folder.
        options: `data`, `split`, `checkpoint`, `no_clip`, `device`.

    Raises:
        UserError: for options, a run or data that cannot be used.

    Examples:
        >>> import scalewise as sw
        >>> found = sw.evaluate("runs/first", checkpoint="last", device="cpu")
        >>> 0 <= found.metrics["AP"] <= found.metrics["AP50"] <= 1
        True
    """
    with packages("evaluate"):
        from scalewise.cli.evaluate import EvaluateOptions
        from scalewise.lab.inference.scored import evaluate as measure
        from scalewise.lab.inference.trained import load_run

        values = checked("evaluate", parser_of(EvaluateOptions), (EvaluateOptions,), options)
    loaded = load_run(_folder(run), values.checkpoint, values.device)
    path, metrics = measure(loaded, values.data, values.split, clip=not values.no_clip)
    return EvaluateResult(_folder(run), path, metrics)


def predict(
    run: str | Path | TrainResult, images: str | Path | Iterable[str | Path], **options: Any
) -> PredictResult:
    """Draw a run's detections on images and videos, as `scalewise predict` does.

    Args:
        run: The run, its folder, or a file of `scalewise export`.
        images: Image and video files, or folders, with all such files in and below them.
        options: `out`, `threshold`, `save_txt`, `save_conf`, `save_coco`, `data`, `split`,
            `checkpoint`, `device`.

    Returns:
        The drawn files and what is on them; files that could not be read are named in it.

    Raises:
        UserError: for options or a run that cannot be used, or if no file can be read.

    Examples:
        >>> import scalewise as sw
        >>> from scalewise.data import open_split
        >>> image = open_split("demo:images=10,size=64", "test").records[0].path
        >>> found = sw.predict("runs/first", image, checkpoint="last", device="cpu")
        >>> [picture.name for picture in found.pictures] == [f"{image.stem}.png"]
        True
    """
    with packages("predict"):
        from scalewise.cli.parsing import build
        from scalewise.cli.predict import PredictOptions, carry_out
        from scalewise.lab.training.runs import load_json

        values = checked("predict", parser_of(PredictOptions), (PredictOptions,), options)
    named = [images] if isinstance(images, str | Path) else list(images)
    paths = [Path(image) for image in named]
    folder, unreadable, said = carry_out(_folder(run), paths, build(PredictOptions, values))
    written = load_json(folder / "predictions.json")
    pictures = tuple(folder / one["picture"] for one in written)
    return PredictResult(_folder(run), folder, pictures, written, unreadable, said)


def compare(config: TrainConfig | None = None, **options: Any) -> CompareResult:
    """Train with several schemes and seeds, and compare them, as `scalewise compare` does.

    Args:
        config: Options of the runs to start from; its scheme, seed, out and name do not count.
        options: `schemes`, `seeds`, `detectors`, `baseline`, `out` (the study folder), `jobs`,
            `dry_run`, `ray`, and those of `TrainConfig`. If the study exists, what is missing is
            run, and its own options are the defaults.

    Returns:
        The study with its differences; runs that failed are named in it.

    Raises:
        UserError: for options or data that cannot be used, or if no run was finished.

    Examples:
        >>> import scalewise as sw
        >>> from scalewise.errors import UserError
        >>> try:
        ...     sw.compare(data="my-data", shemes="equal,avw", seeds=3)
        ... except UserError as error:
        ...     print(error)
        scalewise.compare has no option 'shemes'; did you mean 'schemes'?
    """
    with packages("compare"):
        from scalewise.cli import compare as command
        from scalewise.lab.study.plan import VARIED, GridOptions
        from scalewise.lab.training.run_options import read_yaml

    fixed = {name: value for name, value in named_options(config).items() if name not in VARIED[1:]}
    study = Path(options.get("out") or command.StudyOptions.out)
    known = read_yaml(study / "study.yaml") if (study / "study.yaml").is_file() else {}
    values = checked(
        "compare",
        command.parser(),
        (command.StudyOptions, GridOptions, *GROUPS),
        known | fixed | options,
        without={*VARIED[1:]} - {"out"},
        more={"ray"},
    )
    command.run_study(values)
    if values.dry_run:
        return CompareResult(study, {}, [], ["nothing was run: dry_run"])
    return _compared(study)


def inspect(**options: Any) -> InspectResult:
    """A look at a data set before training, as `scalewise inspect` shows it.

    Args:
        options: `data`, `split`, `size`, `detector`, `anchor_scale`, `size_edges`, `out`. Without
            `out`, nothing is written.

    Raises:
        UserError: for options or data that cannot be used.

    Examples:
        >>> import scalewise as sw
        >>> found = sw.inspect(data="demo:images=10,size=64", size=64)
        >>> found.metrics["images"]
        10
    """
    with packages("inspect"):
        from scalewise.cli.inspect import InspectOptions, as_config
        from scalewise.cli.parsing import build
        from scalewise.lab.inspection.run import check_out, inspect_data, write_inspection

        values = checked("inspect", parser_of(InspectOptions), (InspectOptions,), options)
    chosen = build(InspectOptions, values)
    config = as_config(chosen)
    if chosen.out:
        check_out(chosen.data, Path(chosen.out))
    found, examples, unreadable = inspect_data(config, show=False)
    folder = None
    if chosen.out:
        folder = write_inspection(found, examples, unreadable, Path(chosen.out))[0].parent
    return InspectResult(found, folder, tuple(examples), tuple(unreadable))


def _folder(run: str | Path | TrainResult) -> Path:
    return run.run if isinstance(run, TrainResult) else Path(run)


def _compared(study: Path) -> CompareResult:
    from scalewise.lab.study.comparisons import study_tables
    from scalewise.lab.study.records import load_study
    from scalewise.lab.study.verdicts import verdict

    records = load_study(study)
    if not records.records:
        raise UserError(f"no run of {study} was finished: {'; '.join(records.missing)}")
    tables = study_tables(records, ["AP"])
    return CompareResult(
        folder=study,
        metrics={
            table.detector: {
                one.scheme: one.mean for one in table.summaries if not math.isnan(one.mean)
            }
            for table in tables
        },
        verdicts=[f"{t.detector}: {verdict(one)}" for t in tables for one in t.differences],
        missing=records.missing,
    )
