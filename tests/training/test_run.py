"""Whole runs, from images to complete run folders; their files agree with each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from scalewise.cli import main
from scalewise.cli.display import show_run
from scalewise.data import open_split
from scalewise.detectors import Batch
from scalewise.errors import UserError
from scalewise.lab.inference.prediction import predict
from scalewise.lab.inference.scored import evaluate
from scalewise.lab.inference.trained import load_run
from scalewise.lab.training import runs
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.module import DetectionModule
from scalewise.lab.training.run_options import load_config
from scalewise.lab.training.scheme_options import build_balancer
from scalewise.weighting import RLO

Tiny = Callable[..., TrainConfig]
LEVELS = ["P3", "P4", "P5", "P6", "P7"]


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"scheme": "rlo:learning_rate=0.5", "by": "level", "ema": 0.9}
    return train(tiny(tmp_path_factory.mktemp("runs"), **changes))


@pytest.fixture(scope="module")
def by_class(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny(tmp_path_factory.mktemp("classes"), scheme="rlo", by="class"))


def test_run_folder_is_complete(trained: Path) -> None:
    files = {str(p.relative_to(trained)) for p in trained.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "environment.json",
        "metrics.json",
        "trace.parquet",
        "groups.png",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "logs/attempt-1/metrics.csv",
    } <= files
    assert any("tfevents" in f for f in files)
    assert not [f for f in files if Path(f).name.startswith(".")], "leftovers of atomic writes"
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["seed"] == 0
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["status"] == "finished"
    assert [epoch["epoch"] for epoch in metrics["history"]] == [1, 2]
    assert metrics["best"]["AP"] == max(epoch["AP"] or 0 for epoch in metrics["history"])
    assert all(epoch["step_seconds"] > 0 for epoch in metrics["history"])


def test_trace_replayed_gives_the_weights_and_actions(tiny: Tiny, trained: Path) -> None:
    """A new balancer that gets the recorded losses has the recorded weights and actions."""
    trace = pq.read_table(trained / "trace.parquet")
    assert trace["step"].to_pylist() == list(range(10))
    assert trace["epoch"].to_pylist() == [0] * 5 + [1] * 5
    balancer = build_balancer(5, load_config(trained))
    for row in trace.to_pylist():
        losses = [
            sum(v for k, v in row.items() if k.startswith("loss/") and k.endswith(p))
            for p in LEVELS
        ]
        torch.testing.assert_close(
            balancer.weights,
            torch.tensor([row[f"weight/{level}"] for level in LEVELS]),
            rtol=1e-3,
            atol=1e-4,
        )
        scheme = balancer.scheme
        assert isinstance(scheme, RLO)
        action = int(scheme.action)
        assert row["action"] == (None if action < 0 else scheme.action_names[action])
        assert row["interval"] == balancer.intervals
        balancer(torch.tensor(losses, requires_grad=True))


def test_logs_hold_levels_policy_and_ap(trained: Path) -> None:
    header = (trained / "logs/attempt-1/metrics.csv").read_text().splitlines()[0].split(",")
    for level in LEVELS:
        assert {f"loss/{level}", f"variance/{level}", f"weight/{level}"} <= set(header)
    assert {"action", "probability/equal", "val/AP", "val/AP50", "val/AP75", "val/AP_small"} <= set(
        header
    )
    classes = json.loads((trained / "environment.json").read_text())["classes"]
    assert {f"val/AP/{name}" for name in classes} <= set(header)
    assert pc.read_csv(trained / "logs/attempt-1/metrics.csv").num_rows > 0


def test_logs_of_classes_hold_the_means_of_the_trace(by_class: Path) -> None:
    """Logged losses of groups, background and all are means of columns of the trace."""
    classes = json.loads((by_class / "environment.json").read_text())["classes"]
    trace = {
        n: np.array(v) for n, v in pq.read_table(by_class / "trace.parquet").to_pydict().items()
    }
    terms = {n.split("/")[1] for n in trace if n.startswith("loss/")}
    assert len(terms) > 1
    groups = {n: np.sum([trace[f"loss/{t}/{n}"] for t in terms], axis=0) for n in classes}
    background = np.sum([trace[f"background/{t}"] for t in terms], axis=0)
    logged = pc.read_csv(by_class / "logs/attempt-1/metrics.csv").to_pylist()
    rows = [row for row in logged if row["loss"] is not None]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10]
    since = [0, 2, 5, 6, 8]  # step 5 has a checkpoint, after which means begin again
    for first, row in zip(since, rows, strict=True):
        steps = slice(first, row["step"])
        whole = np.sum(list(groups.values()), axis=0) + background
        assert row["loss"] == pytest.approx(whole[steps].mean(), rel=1e-5)
        assert row["background"] == pytest.approx(background[steps].mean(), rel=1e-5)
        for name in classes:
            assert row[f"loss/{name}"] == pytest.approx(groups[name][steps].mean(), rel=1e-5)
            assert row[f"weight/{name}"] == pytest.approx(trace[f"weight/{name}"][row["step"] - 1])
    assert f"variance/{classes[0]}" in logged[0]
    assert "loss/total" not in logged[0]


def test_a_run_by_class_says_so(by_class: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (by_class / "groups.png").stat().st_size > 10_000
    show_run(by_class)
    printed = capsys.readouterr().out
    assert "weight of each class at the end" in printed
    assert "level" not in printed
    for name, weight in json.loads((by_class / "metrics.json").read_text())["weights"].items():
        assert name in printed
        assert f"{weight:.3f}" in printed


def test_second_run_of_a_name_gets_a_suffix(tmp_path: Path) -> None:
    names = [runs.new_run_folder(tmp_path, "a").name for _ in range(3)]
    assert names == ["a", "a-2", "a-3"]


def test_checkpoint_loads_without_pickled_code(trained: Path) -> None:
    for kind in ("best", "last"):
        state = torch.load(trained / "checkpoints" / f"{kind}.ckpt", weights_only=True)
        assert any(key.startswith("balancer.") for key in state["state_dict"])


def test_evaluation_repeats_the_score_of_training(trained: Path) -> None:
    """The best checkpoint holds the averaged weights, as used in validation."""
    path, metrics = evaluate(load_run(trained, device="cpu"), None, None)
    best = json.loads((trained / "metrics.json").read_text())["best"]
    assert metrics["AP"] == pytest.approx(best["AP"], abs=1e-6)
    assert metrics["AP50"] == pytest.approx(best["AP50"], abs=1e-6)
    assert json.loads(path.read_text())["images"] == 4
    again, _ = evaluate(load_run(trained, device="cpu"), None, "test")
    assert again.name == "evaluation-test.json"
    assert (
        evaluate(load_run(trained, device="cpu"), None, "test")[0].name == "evaluation-test-2.json"
    )


def test_predictions_are_drawn_and_written(trained: Path, tmp_path: Path) -> None:
    records = open_split(load_config(trained).data, "test").records
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    images = [broken, *(record.path for record in records[:2])]
    run = load_run(trained, device="cpu")
    folder, unreadable = predict(run, images, tmp_path / "out", 0.0)
    assert len(unreadable) == 1
    assert "broken.jpg" in unreadable[0]
    written = json.loads((folder / "predictions.json").read_text())
    assert [Path(entry["image"]).name for entry in written] == [r.path.name for r in records[:2]]
    for entry, record in zip(written, records, strict=False):
        assert entry["detections"]
        for found in entry["detections"]:
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 <= x2 <= record.width
            assert 0 <= y1 <= y2 <= record.height
            assert found["level"] in LEVELS
            assert found["class"] in run.classes
        before = Image.open(record.path).convert("RGB")
        after = Image.open(folder / entry["picture"]).resize(before.size)
        assert np.abs(np.asarray(after, float) - np.asarray(before, float)).max() > 100, (
            "nothing was drawn"
        )
    assert predict(run, images[1:], tmp_path / "out", 0.0)[0].name == "out-2"
    with pytest.raises(UserError, match=r"no image or video could be read: .*broken"):
        predict(run, [broken], tmp_path / "none", 0.5)
    assert not (tmp_path / "none").exists()


def test_commands_tell_where_things_are(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained), "--split", "test", "--device", "cpu"]) == 0
    assert "evaluation-test" in capsys.readouterr().out
    image = str(open_split(load_config(trained).data, "test").records[0].path)
    assert (
        main(["predict", str(trained), image, "--out", str(tmp_path / "p"), "--device", "cpu"]) == 0
    )
    assert str(tmp_path / "p") in capsys.readouterr().out
    assert main(["evaluate", str(trained), "--split", "tset"]) == 1
    error = capsys.readouterr().err
    assert "tset" in error
    assert "Traceback" not in error


def test_bad_input_is_refused_before_anything_is_written(tiny: Tiny, tmp_path: Path) -> None:
    cases = {
        "scheme": ("avw:temprature=2", "did you mean 'temperature'"),
        "data": (str(tmp_path / "nowhere"), "no such data set"),
        "weights_backbone": (str(tmp_path / "no.pth"), r"no\.pth"),
        "backbone": ("resnet81", "resnet81"),
    }
    for option, (value, message) in cases.items():
        with pytest.raises(UserError, match=message):
            train(tiny(tmp_path / "runs", **{option: value}))
    assert not (tmp_path / "runs").exists()


def test_training_stops_when_ap_does_not_grow(tiny: Tiny, tmp_path: Path) -> None:
    run = train(tiny(tmp_path, lr=1e-12, epochs=9, patience=2, precision="bf16-mixed"))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["status"] == "finished"
    assert [epoch["epoch"] for epoch in metrics["history"]] == [1, 2, 3]


def test_validation_every_other_epoch(tiny: Tiny, tmp_path: Path) -> None:
    run = train(tiny(tmp_path, epochs=4, val_every=2, ema=0.9))
    metrics = json.loads((run / "metrics.json").read_text())
    assert [epoch["epoch"] for epoch in metrics["history"]] == [2, 4]
    assert all(epoch["step_seconds"] > 0 for epoch in metrics["history"])
    assert metrics["best"]["AP"] == max(epoch["AP"] or 0 for epoch in metrics["history"])
    _, again = evaluate(load_run(run, device="cpu"), None, None)
    assert again["AP"] == pytest.approx(metrics["best"]["AP"], abs=1e-6)
    with pytest.raises(UserError, match="--val_every 3 does not divide --epochs 4"):
        train(tiny(tmp_path, epochs=4, val_every=3))


def test_mosaic_is_for_training_but_not_at_its_end_and_the_same_for_all_schemes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[tuple[int, Tensor, Tensor]]] = {}  # epoch, images, boxes

    def note(name: str) -> None:
        step = getattr(DetectionModule, name)

        def noting(self: DetectionModule, batch: Batch, index: int) -> object:
            row = (self.current_epoch, batch.images.clone(), batch.boxes.clone())
            seen.setdefault(f"{self.config.name} {name}", []).append(row)
            return step(self, batch, index)

        monkeypatch.setattr(DetectionModule, name, noting)

    def unlike(one: str, other: str) -> list[int]:
        """Epochs in which the batches of two runs differ."""
        return sorted(
            {
                a[0]
                for a, b in zip(seen[one], seen[other], strict=True)
                if not (torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]))
            }
        )

    note("training_step")
    note("validation_step")
    common = {"epochs": 11, "val_every": 11, "holdout": 0.4}  # three training batches
    train(tiny(tmp_path, name="plain", scheme="equal", **common))
    train(tiny(tmp_path, name="equal", scheme="equal", mosaic=True, **common))
    train(tiny(tmp_path, name="rlo", scheme="rlo", mosaic=True, workers=2, cache="ram", **common))
    assert unlike("plain training_step", "equal training_step") == list(range(9))
    assert unlike("plain validation_step", "equal validation_step") == []
    assert unlike("equal training_step", "rlo training_step") == []
    assert len(seen["rlo training_step"]) == 33


def test_classes_of_other_data_are_refused(tiny: Tiny, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "a.png")
    annotations = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 3, "name": "other"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 3,
                "bbox": [1, 1, 9, 9],
                "area": 81,
                "iscrowd": 0,
            }
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(annotations))
    with pytest.raises(UserError, match="other"):
        evaluate(load_run(trained, device="cpu"), str(tmp_path), "val")
