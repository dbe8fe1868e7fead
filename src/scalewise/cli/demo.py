"""`scalewise demo`: the whole way from images to a trained, evaluated detector, in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsonargparse import ArgumentParser

from scalewise.cli.options import build, parse
from scalewise.training.config import TrainConfig

DATA = "demo:skew=0"  # all sizes equally frequent


@dataclass(kw_only=True)
class DemoOptions:
    """Demo.

    Args:
        out: Folder in which the run folder is made.
        scheme: Weighting scheme, as for `scalewise train`.
        detector: Assignment and losses.
        epochs: Passes over the training split.
        seed: Seed of the run.
    """

    out: str = "runs"
    scheme: str = "rlo:explore=0.2"
    detector: Literal["atss", "fcos", "retinanet"] = "atss"
    epochs: int = 20
    seed: int = 0


def config(options: DemoOptions) -> TrainConfig:
    """A setting that two CPU cores train in a few minutes from random weights."""
    return TrainConfig(
        data=DATA,
        out=options.out,
        name="demo",
        detector=options.detector,
        scheme=options.scheme,
        epochs=options.epochs,
        seed=options.seed,
        backbone="shufflenet_v2_x1_0",
        width=64,
        depth=1,
        size=160,
        batch_size=16,
        interval=20,
        lr=2e-3,
        backbone_lr=1.0,
        warmup=30,
        cache="ram",
        workers=1,
        log_every=10,
    )


def main(words: list[str]) -> int:
    """Run the command."""
    parser = ArgumentParser(
        prog="scalewise demo",
        description="Train, evaluate and predict on a data set that is made on the spot.",
        exit_on_error=False,
    )
    parser.add_class_arguments(DemoOptions)
    options = build(DemoOptions, parse(parser, words, DemoOptions))
    from scalewise.cli.display import show_metrics, show_run
    from scalewise.data import open_split
    from scalewise.training.fit import train
    from scalewise.training.inference import evaluate, load_run, predict

    folder = train(config(options))
    run = load_run(folder)
    scores, metrics = evaluate(run, None, "test")
    images = [record.path for record in open_split(DATA, "test").records[:8]]
    pictures, _ = predict(run, images, folder / "predictions", threshold=0.4)
    show_metrics(metrics, "demo, test split")
    show_run(folder)
    print(f"test AP:    {scores}\npredictions: {pictures}")
    return 0
