"""Train YOLO11n, from scratch, on a VOC folder, with weights for its classes.

python examples/ultralytics_bccd.py --data BCCD_Dataset/BCCD --out runs/yolo --epochs 12
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import yaml
from ultralytics import YOLO

from scalewise.data import ImageRecord, open_split
from scalewise.integrations.ultralytics import balanced_trainer

SPLITS = ("train", "val")


def label_line(box: list[float], label: int, record: ImageRecord) -> str:
    """A label line of YOLO: class, then centre and size as shares of the image."""
    x1, y1, x2, y2 = box
    centre = [(x1 + x2) / 2 / record.width, (y1 + y2) / 2 / record.height]
    size = [(x2 - x1) / record.width, (y2 - y1) / record.height]
    return " ".join([str(label), *(f"{value:.6f}" for value in centre + size)])


def convert(data: Path, out: Path) -> Path:
    """Write a VOC folder's train and val splits as a YOLO data set.

    Args:
        data: folder with Annotations, ImageSets and JPEGImages.
        out: folder for the new data set.

    Returns:
        The file that describes the data set.
    """
    for name in SPLITS:
        split = open_split(f"voc:{data}", name, skip_bad=True)
        images, labels = out / "images" / name, out / "labels" / name
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for record in split.records:
            shutil.copy(record.path, images)
            objects = zip(record.boxes.tolist(), record.labels.tolist(), strict=True)
            lines = [label_line(box, label, record) for box, label in objects]
            (labels / f"{record.path.stem}.txt").write_text("\n".join(lines))
    described = {
        "path": str(out.resolve()),
        **{name: f"images/{name}" for name in SPLITS},
        "names": dict(enumerate(split.classes)),
    }
    file = out / "data.yaml"
    file.write_text(yaml.safe_dump(described))
    return file


def main() -> None:
    """Convert, train, and print the weights of every epoch and Ultralytics' metrics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="VOC folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=256, help="longer side in pixels")
    parser.add_argument("--by", default="class")
    parser.add_argument("--scheme", help="such as equal, share or class:Platelets=2")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    model = YOLO("yolo11n.yaml")
    metrics = model.train(
        data=str(convert(options.data, options.out / "data")),
        trainer=balanced_trainer(by=options.by, scheme=options.scheme),  # the only added argument
        seed=options.seed,
        epochs=options.epochs,
        imgsz=options.size,
        batch=8,
        nbs=8,
        amp=False,  # else Ultralytics downloads a model to test it
        project=str(options.out.resolve()),
        name="train",
    )
    with (Path(model.trainer.save_dir) / "scalewise.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            weights = [f"{k[7:]} {v}" for k, v in row.items() if k.startswith("weight/")]
            print(f"epoch {row['epoch']}: mean weights {', '.join(weights)}")
    for name, value in metrics.results_dict.items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    main()
