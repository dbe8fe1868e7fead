"""Single parts of a run: schemes and options from text, files that are read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from scalewise.errors import UsageError, UserError
from scalewise.lab.training import building, runs
from scalewise.lab.training.checkpoints import WholeFiles
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.run_options import load_config, save_config
from scalewise.lab.training.scheme_options import build_balancer, parse_scheme
from scalewise.lab.training.trainer import make_trainer
from scalewise.weighting import AVW, RLO, LossBalancer


def test_schemes_from_words() -> None:
    scheme = parse_scheme("avw:signal=dispersion:temperature=2:invert=true:strength=1e-1")
    assert isinstance(scheme, AVW)
    assert (scheme.name, scheme.temperature, scheme.strength) == ("avw-dispersion-invert", 2, 0.1)
    policy = parse_scheme("rlo:actions=equal+avw+dwa:explore=0.2")
    assert isinstance(policy, RLO)
    assert policy.action_names == ("equal", "avw-decline", "dwa")
    balancer = LossBalancer(3, parse_scheme("static:weights=1+1+4"))
    torch.testing.assert_close(balancer.weights, torch.tensor([0.5, 0.5, 2.0]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("awv", "did you mean 'avw'"),
        ("nonsense", "there are: avw"),
        ("avw:temprature=2", "did you mean 'temperature'"),
        ("avw:temperature", "no argument=value"),
        ("avw:temperature=-1", "temperature must be above 0"),
        ("rlo:actions=equal+uncertainty", "back-propagation"),
        ("static", "weights"),
        ("equal:strength=1", "there are: none"),
    ],
)
def test_wrong_schemes_are_explained(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_scheme(words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "static:weights=1+2"}, "2 static weights for 5 groups"),
    ],
)
def test_options_that_do_not_go_together_are_explained(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_balancer(5, TrainConfig(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compile": "graphs"}, "this training is on the cpu: use --compile true or false"),
        ({"compile": "graphs", "accumulate": 2}, "cannot be added up over --accumulate 2"),
        ({"weight_decay": float("nan")}, "--weight_decay must not be negative, got nan"),
    ],
)
def test_graphs_and_numbers_that_cannot_be_are_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path, tiny: Callable[..., TrainConfig]
) -> None:
    with pytest.raises(UsageError, match=message):
        train(tiny(tmp_path / "runs", **changes))
    assert not (tmp_path / "runs").exists()


def test_json_is_strict_and_config_reads_back(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "m.json", {"a": [float("nan"), 1.5], "b": {"c": float("inf")}})
    assert json.loads((tmp_path / "m.json").read_text(), parse_constant=pytest.fail) == {
        "a": [None, 1.5],
        "b": {"c": None},
    }
    config = TrainConfig(data="x", lr=0.25, workers=3)
    save_config(tmp_path, config)
    assert load_config(tmp_path) == config
    (tmp_path / "config.yaml").write_text("data: x\n")  # as an older version wrote it
    assert load_config(tmp_path) == TrainConfig(data="x", by="level")
    (tmp_path / "config.yaml").write_text("nonsense: 3\n")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read: .*nonsense"):
        load_config(tmp_path)
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        runs.load_json(tmp_path / "m.json")


def test_checkpoints_are_whole_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = WholeFiles()
    files.save_checkpoint({"a": torch.ones(2)}, tmp_path / "c.ckpt")

    def dies(value: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(OSError, match="disk full"):
        files.save_checkpoint({"a": torch.zeros(2)}, tmp_path / "c.ckpt")
    assert torch.equal(torch.load(tmp_path / "c.ckpt", weights_only=True)["a"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["c.ckpt"]


@pytest.mark.parametrize(
    ("cores", "trainings", "workers"), [(16, 1, 8), (16, 4, 2), (64, 2, 8), (6, 1, 3), (2, 4, 1)]
)
def test_loader_processes_of_all_devices_share_the_cores(
    cores: int, trainings: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "usable_cores", lambda: cores)
    assert building.loader_workers(TrainConfig(data="x"), trainings) == workers
    assert building.loader_workers(TrainConfig(data="x", workers=5), trainings) == 5


@pytest.mark.parametrize("deterministic", [False, True])
def test_convolutions_are_tuned_unless_kernels_have_to_be_deterministic(
    deterministic: bool, tmp_path: Path, tiny: Callable[..., TrainConfig]
) -> None:
    config = tiny(tmp_path, deterministic=deterministic)
    with torch.backends.cudnn.flags(benchmark=deterministic):
        make_trainer(config, logger=False, enable_checkpointing=False)
        assert torch.backends.cudnn.benchmark is not deterministic
