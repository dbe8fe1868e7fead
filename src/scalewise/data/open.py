"""From what a user writes after `--data` to a checked split."""

from __future__ import annotations

from pathlib import Path

from scalewise.data.coco import coco_files, read_coco
from scalewise.data.demo import make_demo
from scalewise.data.faults import BadData
from scalewise.data.split import Split
from scalewise.data.voc import read_voc, voc_folders
from scalewise.data.yolo import read_yolo, yolo_file


def open_split(spec: str | Path, name: str = "train", *, skip_bad: bool = False) -> Split:
    """Read and check one split of a data set.

    Args:
        spec: a folder (the format is found out: VOC, YOLO, COCO, in this order), `voc:PATH`,
            `yolo:PATH` (a folder or its YAML file), `coco:PATH` (a folder or an annotation file),
            `demo` or `demo:key=value,...` (made on the fly).
        name: the split, leniently: `train` finds `instances_train2017.json` or `trainval.txt`.
        skip_bad: train on what is sound and report the rest as a warning and in `Split.skipped`.

    Returns:
        The split, its objects clipped to their images.

    Raises:
        BadData: for a data set that is not there, or for the faults in it, naming file and fault.
    """
    kind, _, rest = str(spec).partition(":")
    if kind == "demo":
        return read_coco(make_demo(rest), name, skip_bad)
    if kind not in ("voc", "yolo", "coco"):
        kind, rest = "", str(spec)
    path = Path(rest).expanduser()
    if not path.exists():
        raise BadData(f"{path}: no such data set folder")
    if kind == "voc" or (not kind and path.is_dir() and voc_folders(path)):
        if not path.is_dir():
            raise BadData(f"{path}: a VOC data set is a folder, this is a file")
        return read_voc(path, name, skip_bad)
    if kind == "yolo" or (not kind and yolo_file(path)):
        return read_yolo(path, name, skip_bad)
    if kind == "coco" or coco_files(path):
        return read_coco(path, name, skip_bad)
    raise BadData(
        f"{path}: neither a VOC folder (Annotations, ImageSets, JPEGImages) "
        "nor a YOLO folder (data.yaml) nor a COCO folder (annotations/instances_train*.json)"
    )
