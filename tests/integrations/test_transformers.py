"""Logs, checkpoints and resumed runs of Hugging Face's Trainer, compared with a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import scalewise as sw
from scalewise.integrations.loops import LoopError
from scalewise.integrations.transformers import log_groups

transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

LEVELS, BATCHES = 3, 6  # BATCHES batches of two rows an epoch
ROWS = torch.rand(2 * BATCHES, LEVELS, generator=torch.Generator().manual_seed(4)) + 0.5


def balancer(scheme: Any = "rlo", **options: Any) -> sw.LossBalancer:
    return sw.LossBalancer(LEVELS, scheme, seed=2, **{"interval": 3, **options})


class Plain(nn.Module):
    """One parameter and one loss per level."""

    def __init__(self, own: sw.LossBalancer) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(LEVELS))
        self.balancer = own
        self.seen: list[Tensor] = []

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        self.seen.append(self.balancer.weights.clone())
        return {"loss": self.balancer((self.scale * rows).square().mean(0))}


def configure(self: Any, weighted: bool = True, **others: Any) -> None:
    transformers.PreTrainedConfig.__init__(self, **others)
    self.weighted = weighted


def build(self: Any, config: Any) -> None:
    transformers.PreTrainedModel.__init__(self, config)
    self.scale = nn.Parameter(torch.ones(LEVELS))
    self.seen = []
    if config.weighted:
        self.balancer = balancer()
    self.post_init()


Config: Any = type(
    "Config", (transformers.PreTrainedConfig,), {"model_type": "levels", "__init__": configure}
)
Pretrained: Any = type(
    "Pretrained",
    (transformers.PreTrainedModel,),
    {"config_class": Config, "__init__": build, "forward": Plain.forward},
)
MAKE: dict[str, Callable[[], Any]] = {
    "module": lambda: Plain(balancer()),
    "pretrained": lambda: Pretrained(Config()),
}


def ordered(self: Any) -> Any:
    return self.accelerator.prepare(DataLoader(self.train_dataset, batch_size=2))


Ordered: Any = type("Ordered", (transformers.Trainer,), {"get_train_dataloader": ordered})


def trainer(folder: Path, model: Any, steps: int, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=0.05,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **{"save_strategy": "no", "logging_steps": 2, **options},
    )
    rows = [{"rows": row} for row in ROWS]
    return Ordered(model, arguments, train_dataset=rows)


def train(folder: Path, model: Any, steps: int, resume: Any = None, **options: Any) -> Any:
    run = trainer(folder, model, steps, **options)
    log_groups(run)
    run.train(resume_from_checkpoint=resume)
    return run


def plain_loop(steps: int, accumulate: int = 1) -> tuple[Plain, list[dict[str, float]]]:
    """The trained model and the values to log after each step, from a loop without Trainer."""
    model = Plain(balancer(accumulate=accumulate))
    optimizer = torch.optim.SGD([model.scale], lr=0.05)
    batches = [rows for _ in range(9) for rows in ROWS.view(BATCHES, 2, LEVELS)]
    policy: Any = model.balancer.scheme
    history = []
    for step in range(steps):
        optimizer.zero_grad()
        for rows in batches[step * accumulate : (step + 1) * accumulate]:
            losses = (model.scale * rows).square().mean(0)
            torch.autograd.backward(model(rows)["loss"] / accumulate)
        optimizer.step()
        row = {"action": float(policy.action)}
        for name, chance in zip(policy.action_names, policy.probabilities, strict=True):
            row[f"probability/{name}"] = float(chance)
        for level in range(LEVELS):
            row[f"loss/level{level}"] = losses[level].item()
            row[f"weight/level{level}"] = model.balancer.weights[level].item()
        history.append(row)
    return model, history


def kept(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
    self.logs.append(dict(logs))


Reporter: Any = type("Reporter", (transformers.TrainerCallback,), {"on_log": kept})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_logs_and_trains_as_a_plain_loop_does(tmp_path: Path, accumulate: int) -> None:
    model = Plain(balancer(accumulate=accumulate))
    run = trainer(tmp_path, model, 24, gradient_accumulation_steps=accumulate)
    reporter = Reporter()
    reporter.logs = []
    run.callback_handler.callbacks.insert(0, reporter)  # where `report_to` puts its callbacks
    log_groups(run)
    run.train()
    same, history = plain_loop(24, accumulate)
    torch.testing.assert_close(model.scale, same.scale)
    torch.testing.assert_close(torch.stack(model.seen), torch.stack(same.seen))
    logged = [row for row in run.state.log_history if "loss" in row]
    assert [row["step"] for row in logged] == list(range(2, 25, 2))
    for row in logged:
        expected = history[row["step"] - 1]
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    for name in ("action", "loss/level0", "weight/level0", "probability/equal"):
        assert len({row[name] for row in logged}) > 1  # values change during the run
    reported, summary = reporter.logs[:-1], reporter.logs[-1]
    assert reported == [{n: v for n, v in row.items() if n != "step"} for row in logged]
    assert "weight/level0" not in summary


def test_weights_do_not_change_in_a_window_that_an_epoch_cuts_short(tmp_path: Path) -> None:
    own = sw.LossBalancer(LEVELS, sw.RandomWeights(), seed=2, interval=1, accumulate=BATCHES - 1)
    model = Plain(own)
    train(tmp_path, model, 6, gradient_accumulation_steps=BATCHES - 1)  # of six batches
    seen = torch.stack(model.seen).view(3, BATCHES, LEVELS)
    assert torch.equal(seen[:, 1:-1], seen[:, :1].expand(3, BATCHES - 2, LEVELS))
    assert (seen[:, -1] != seen[:, -2]).any(1).all()
    assert (seen[1:, 0] != seen[:-1, -1]).any(1).all()


@pytest.mark.parametrize("options", [{}, {"bf16": True}], ids=["float32", "bf16"])
@pytest.mark.parametrize("kind", MAKE)
def test_a_resumed_run_is_the_undisturbed_one(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 5, **options}  # inside an interval
    whole, second = MAKE[kind](), MAKE[kind]()
    train(tmp_path / "whole", whole, 16, **saving)
    train(tmp_path / "parts", MAKE[kind](), 5, **saving)
    train(tmp_path / "parts", second, 16, resume=str(tmp_path / "parts/checkpoint-5"), **saving)
    found, expected = second.state_dict(), whole.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert second.balancer.intervals == 5
    assert torch.equal(torch.stack(second.seen), torch.stack(whole.seen)[5:])
    assert (torch.stack(second.seen) != 1).any()


def test_a_pretrained_model_keeps_its_state(tmp_path: Path) -> None:
    model = MAKE["pretrained"]()
    train(tmp_path, model, 7)
    model.save_pretrained(tmp_path / "model")
    again = Pretrained.from_pretrained(tmp_path / "model").train()
    for rows in ROWS.view(BATCHES, 2, LEVELS):
        assert torch.equal(model(rows)["loss"], again(rows)["loss"])
    assert again.balancer.intervals == model.balancer.intervals == 4


def refused(reason: str, model: Any, folder: Path, **options: Any) -> None:
    with pytest.raises(LoopError, match=reason):
        log_groups(trainer(folder, model, 2, **options))


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    reason = "has accumulate=1, but gradient_accumulation_steps is 4; .*accumulate=4"
    refused(reason, Plain(balancer()), tmp_path, gradient_accumulation_steps=4)
    refused("no LossBalancer among the submodules of Linear", nn.Linear(2, 2), tmp_path)
    arguments = SimpleNamespace(gradient_accumulation_steps=1, n_gpu=2)
    with pytest.raises(LoopError, match="would use DataParallel on 2 GPUs"):
        log_groups(SimpleNamespace(model=Plain(balancer()), args=arguments))


def test_what_loading_spoils_is_refused(tmp_path: Path) -> None:
    MAKE["pretrained"]().save_pretrained(tmp_path / "with")
    Pretrained(Config(weighted=False)).save_pretrained(tmp_path / "without")
    rounded = Pretrained.from_pretrained(tmp_path / "with", dtype=torch.bfloat16)
    refused("made or loaded in torch.bfloat16, which rounds", rounded, tmp_path)
    unset = Pretrained.from_pretrained(tmp_path / "without", config=Config())
    unset.balancer.weights.fill_(0.25)  # stands for unset memory
    refused("from_pretrained sets no values for what a checkpoint lacks", unset, tmp_path)
    later = Pretrained.from_pretrained(tmp_path / "without")
    later.balancer = balancer()
    train(tmp_path, later, 4)
    assert later.balancer.intervals == 1


def detector() -> Any:
    """A tiny Table Transformer with DETR's loss and weights by class.

    transformers 5 saves other detectors under older names, which its Trainer cannot load.
    """
    sides = {"embedding_size": 8, "hidden_sizes": [8] * 4, "depths": [1] * 4}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "d_model": 8}
    backbone = transformers.ResNetConfig(**sides, layer_type="basic", out_features=["stage4"])
    names = {0: "red", 1: "platelet"}
    config = transformers.TableTransformerConfig(
        **layers,
        **heads,
        num_queries=4,
        id2label=names,
        use_timm_backbone=False,
        backbone_config=backbone,
    )
    torch.manual_seed(0)
    model = transformers.TableTransformerForObjectDetection(config)
    sw.attach(model, "class", "avw", interval=2)
    return model


def images(count: int) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(2)
    boxes = [0.3 + 0.3 * torch.rand(2, 4, generator=draw) for _ in range(count)]
    return [
        {
            "pixel_values": torch.randn(3, 32, 32, generator=draw),
            "labels": {"class_labels": torch.tensor([0, 1]), "boxes": own},
        }
        for own in boxes
    ]


def stack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixels, "labels": [row["labels"] for row in rows]}


def test_a_detector_of_transformers_is_trained_saved_and_resumed(tmp_path: Path) -> None:
    def fit(folder: str, steps: int, resume: str | None = None) -> tuple[Any, Any]:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / folder),
            max_steps=steps,
            per_device_train_batch_size=2,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_steps=3,
            remove_unused_columns=False,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        model = detector()
        run = transformers.Trainer(model, arguments, stack, images(6))
        log_groups(run)
        run.train(resume_from_checkpoint=resume)
        return model, run

    whole, run = fit("whole", 6)
    fit("parts", 3)
    second, _ = fit("parts", 6, str(tmp_path / "parts/checkpoint-3"))
    found, expected = second.state_dict(), whole.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert (whole.scalewise["queries"].weights != 1).any()
    logged = [row for row in run.state.log_history if "loss/platelet" in row]
    assert logged[-1]["weight/platelet"] == float(whole.scalewise["queries"].weights[1])


def test_given_weights_are_no_spoiled_ones(tmp_path: Path) -> None:
    named = sw.LossBalancer(["red", "platelet"], "class:platelet=2", by="class")
    log_groups(trainer(tmp_path, Plain(named), 2))


def test_data_parallel_ranks_keep_their_records(tmp_path: Path) -> None:
    model = Plain(balancer())
    model.register_buffer("other", torch.zeros(1))
    log_groups(trainer(tmp_path, model, 2))
    ignored: Any = model._ddp_params_and_buffers_to_ignore
    assert set(ignored) == {n for n, _ in model.named_buffers() if n != "other"}
