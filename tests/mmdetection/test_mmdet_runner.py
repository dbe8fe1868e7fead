"""ScalewiseHook in mmengine's Runner, also with two processes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

pytest.importorskip(
    "mmdet.registry", reason="MMDetection needs its own environment: make test-mmdet"
)

from mmdet_configs import config
from mmdet_models import batch, make, train_rank
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from processes import run_ranks

from scalewise.integrations.mmengine import ScalewiseHook
from scalewise.integrations.mmengine_weights import GroupWeights
from scalewise.integrations.options import AttachError

pytestmark = pytest.mark.filterwarnings("ignore")


CLASS_NAMES = ("cat", "dog", "bird")


class Toy(torch.utils.data.Dataset[Any]):
    """Eight images of two objects, in the form that MMDetection's pipelines return."""

    metainfo: ClassVar = {"classes": CLASS_NAMES}

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, (sample,) = batch((2,), index)
        return {"inputs": (image[0] * 255).byte(), "data_samples": sample}


HOOK = {"type": "ScalewiseHook", "scheme": "random", "interval": 2}


def runner(
    work_dir: Path, hooks: list[dict[str, Any]], family: str = "FCOS", epochs: int = 2, **more: Any
) -> Any:
    """A Runner with four iterations an epoch, which logs each of them."""
    model = config(family)
    model["data_preprocessor"] = {"type": "DetDataPreprocessor", "mean": [0], "std": [255]}
    optimizer = {"type": "SGD", "lr": 0.01, "momentum": 0.9}
    more = {"optim_wrapper": {"type": "OptimWrapper", "optimizer": optimizer}, **more}
    return Runner(
        model=ConfigDict(model),
        work_dir=str(work_dir),
        train_dataloader={
            "dataset": Toy(),
            "batch_size": 2,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "pseudo_collate"},
            "num_workers": 0,
        },
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        default_hooks={
            "logger": {"type": "LoggerHook", "interval": 1},
            "checkpoint": {"type": "CheckpointHook", "interval": 1},
        },
        custom_hooks=hooks,
        default_scope="mmdet",
        randomness={"seed": 0},
        log_level="ERROR",
        experiment_name=f"{work_dir}-{len(list(work_dir.iterdir()))}",
        **more,
    )


def attached_of(run: Any) -> GroupWeights:
    attached: GroupWeights = next(h for h in run.hooks if hasattr(h, "attached")).attached
    return attached


def logged(work_dir: Path) -> list[dict[str, Any]]:
    (file,) = work_dir.glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(("family", "by"), [("RetinaNet", "level"), ("FCOS", "class")])
def test_a_run_with_equal_weights_trains_the_plain_model(
    family: str, by: str, tmp_path: Path
) -> None:
    states = []
    for name, hooks in (("plain", []), ("weighted", [{**HOOK, "scheme": "equal", "by": by}])):
        (tmp_path / name).mkdir()
        states.append(runner(tmp_path / name, hooks, family).train().state_dict())
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())


def test_an_average_of_the_model_leaves_the_weights_alone(tmp_path: Path) -> None:
    states, kept = [], []
    for name, more in (("alone", []), ("averaged", [{"type": "EMAHook", "momentum": 0.1}])):
        (tmp_path / name).mkdir()
        run = runner(tmp_path / name, [HOOK, *more])
        run.train()
        states.append(attached_of(run).state_dict()["dense"])
        kept.append(torch.load(tmp_path / name / "epoch_2.pth", weights_only=False))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][key], own) for key, own in states[0].items())
    assert (states[0]["weights"] != 1).any()
    assert kept[1]["state_dict"].keys() == kept[0]["state_dict"].keys()
    for key, own in kept[0]["state_dict"].items():  # EMAHook swaps trained and averaged weights
        assert torch.equal(kept[1]["ema_state_dict"][f"module.{key}"], own)


def test_a_run_logs_losses_of_levels_and_their_weights(tmp_path: Path) -> None:
    run = runner(tmp_path, [{**HOOK, "by": "level", "normalize": "mean"}], "Faster R-CNN")
    run.train()
    rows = logged(tmp_path)
    assert len(rows) == 8
    attached = attached_of(run)
    assert attached["rpn"].intervals == 4
    for row in rows:
        weights = [row[f"rpn/weight_level{level}"] for level in range(3)]
        assert sum(weights) == pytest.approx(3)
    assert [row["rpn/weight_level0"] == 1 for row in rows] == [True] + 7 * [False]
    weights = attached.weights["rpn"].tolist()
    assert [rows[-1][f"rpn/weight_level{level}"] for level in range(3)] == pytest.approx(weights)
    # weights are 1 in the first step, so the levels add up to the loss that mmdet logs
    first = rows[0]
    levels = sum(first[f"rpn/loss_level{level}"] for level in range(3))
    assert levels == pytest.approx(first["loss_rpn_cls"] + first["loss_rpn_bbox"], rel=1e-5)
    assert "parse_losses" not in vars(run.model)  # restored at the end


def test_a_run_logs_groups_by_their_names(tmp_path: Path) -> None:
    for by, sets, groups in (
        ("class", ["roi"], CLASS_NAMES),
        ("size", ["rpn", "roi"], ("small", "medium", "large")),
    ):
        (tmp_path / by).mkdir()
        run = runner(tmp_path / by, [{**HOOK, "by": by}], "Faster R-CNN", epochs=1)
        run.train()
        (*_, last) = logged(tmp_path / by)
        attached = attached_of(run)
        assert list(attached.balancers) == sets
        expected = {f"{s}/{kind}_{g}" for s in sets for kind in ("loss", "weight") for g in groups}
        assert {key for key in last if "/" in key} == expected
        for name in sets:
            seen = [last[f"{name}/weight_{group}"] for group in groups]
            assert seen == pytest.approx(attached.weights[name].tolist())


def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # as the docs say
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    hooks = [{**HOOK, "scheme": "rlo", "interval": 3}]  # saved in the middle of an interval
    expected = runner(whole, hooks)
    expected.train()
    runner(parts, hooks, epochs=1).train()
    saved = torch.load(parts / "epoch_1.pth")["scalewise"]
    assert all(type(v) is Tensor and v.device.type == "cpu" for v in saved["dense"].values())
    resumed = runner(parts, hooks, resume=True)
    resumed.train()
    assert attached_of(resumed)["dense"].intervals == 2
    mine, own = (attached_of(run).state_dict()["dense"] for run in (resumed, expected))
    assert all(torch.equal(mine[key], value) for key, value in own.items())
    state = resumed.model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in expected.model.state_dict().items())
    # with `load_from` the weights start again
    third = runner(parts, hooks, epochs=1, load_from=str(parts / "epoch_2.pth"))
    third.train()
    assert attached_of(third)["dense"].intervals == 1
    # resuming with another scheme is refused, and the model is not changed
    other = runner(parts, [{**HOOK, "scheme": "avw"}], epochs=3, resume=True)
    with pytest.raises(
        AttachError, match=r"groups and scheme 'rlo.* by class', this one 3 groups and scheme 'avw"
    ):
        other.train()
    assert "parse_losses" not in vars(other.model)


def test_accumulation_is_the_optimizer_wrapper_s(tmp_path: Path) -> None:
    wrapper = {
        "type": "OptimWrapper",
        "optimizer": {"type": "SGD", "lr": 0.01},
        "accumulative_counts": 2,
    }
    run = runner(tmp_path, [{**HOOK, "by": "level", "interval": 1}], optim_wrapper=wrapper)
    run.train()
    assert attached_of(run)["dense"].intervals == 4
    after = [row["dense/weight_level0"] for row in logged(tmp_path)]  # for the next iteration
    assert after[0] == 1
    assert after[1] == after[2] != after[3] == after[4] != after[5] == after[6]


def test_the_ema_copy_is_a_plain_model(tmp_path: Path) -> None:
    run = runner(tmp_path, [{"type": "EMAHook"}, HOOK])
    run.train()
    ema = next(h for h in run.hooks if hasattr(h, "ema_model")).ema_model.module
    assert "parse_losses" not in vars(ema)
    assert not ema.bbox_head._forward_hooks
    saved = torch.load(tmp_path / "epoch_2.pth", weights_only=False)
    assert saved["scalewise"]["dense"]["weights"].tolist() == pytest.approx(
        attached_of(run).weights["dense"].tolist()
    )
    assert saved["state_dict"].keys() == make("FCOS").state_dict().keys()


@pytest.mark.xdist_group("ranks")
def test_two_ranks_share_statistics_and_weights() -> None:
    first, second = run_ranks(train_rank)
    assert not torch.equal(first["losses"], second["losses"])
    for key in ("weights", "mean", "stem"):
        assert torch.equal(first[key], second[key])
    assert first["weights"].tolist() != [1.0] * 3
    both = torch.stack([first["losses"], second["losses"]])[:, 2:4]  # the second interval
    torch.testing.assert_close(first["mean"], both.mean((0, 1)))


def test_the_documented_configs_build_the_hook() -> None:
    text = (Path(__file__).parents[2] / "docs" / "mmdetection.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    configs = [Config.fromstring(code, ".py") for code in blocks if "custom_hooks" in code]
    assert len(configs) == 3
    assert configs[0].custom_imports.imports == [ScalewiseHook.__module__]
    for found in configs:
        for hook in found.custom_hooks:
            assert isinstance(HOOKS.build(hook), ScalewiseHook)


def test_the_documented_loop_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "mmdetection.md").read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "train_step" in c)
    model = make("RetinaNet")
    images, samples = batch((2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    names = {
        "model": model,
        "data": {"inputs": images, "data_samples": samples},
        "optim_wrapper": OptimWrapper(optimizer),
    }
    exec(code, names)
    assert names["state"]["dense"]["weights"].shape == (3,)
    assert "parse_losses" not in vars(model)
