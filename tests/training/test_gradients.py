from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from scalewise.errors import UsageError
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.gradients import GradientLog, group_gram
from scalewise.lab.training.option_check import check
from scalewise.lab.training.trace_reading import read_trace


def test_gram_of_linear_losses_is_that_of_their_coefficients() -> None:
    p, q = torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)
    a, b, c = torch.tensor([1.0, 2, 3]), torch.tensor([4.0, 0, -1]), torch.tensor([5.0, 7])
    losses = torch.stack([a @ p, b @ p + c @ q, torch.zeros((), requires_grad=True)])
    gram = group_gram(losses, [p, q])
    assert gram.tolist() == [[14, 1, 0], [1, 17 + 74, 0], [0, 0, 0]]
    torch.autograd.backward(losses.sum())  # the graph can be used again
    assert p.grad is not None
    assert p.grad.tolist() == [5, 2, 2]


def test_gram_is_of_float32_where_the_step_is_of_bfloat16() -> None:
    """Gradients and their products have float32 precision, also under autocast."""
    torch.manual_seed(0)
    weight = torch.randn(200, requires_grad=True)
    slopes = torch.randn(3, 200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gram = group_gram((slopes * weight).sum(1), [weight])
    assert gram.dtype == torch.float32
    torch.testing.assert_close(gram, (slopes.double() @ slopes.double().T).float())


def test_log_keeps_what_a_resumed_run_has_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "gradients.parquet"
    log = GradientLog(path, ["P3", "P4"])
    for step in (0, 2, 4):
        log.add(step, torch.tensor([[1.0, 2.0], [2.0, 5.0]]) + step)
    log.save()
    again = GradientLog(path, ["P3", "P4"], first_step=3)
    again.add(4, torch.full((2, 2), 9.0))
    again.save()
    table = pq.read_table(path)
    assert table.column_names == ["step", "gram/P3/P3", "gram/P3/P4", "gram/P4/P4"]
    assert table["step"].to_pylist() == [0, 2, 4]
    assert table["gram/P3/P4"].to_pylist() == [2, 4, 9]
    assert table["gram/P4/P4"].to_pylist() == [5, 7, 9]


def test_nothing_is_written_without_a_measurement(tmp_path: Path) -> None:
    GradientLog(tmp_path / "gradients.parquet", ["P3"]).save()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("by", "column"), [("level", "gram/P3/P3"), ("size", "gram/small/small")])
def test_measuring_does_not_change_the_run(
    tmp_path: Path, tiny: Callable[..., TrainConfig], by: str, column: str
) -> None:
    plain, measured = (
        train(tiny(tmp_path, name=f"every-{every}", epochs=1, gradient_every=every, by=by))
        for every in (0, 2)
    )
    assert read_trace(plain / "trace.parquet").equals(read_trace(measured / "trace.parquet"))
    assert not (plain / "gradients.parquet").exists()
    gradients = pq.read_table(measured / "gradients.parquet")
    assert gradients["step"].to_pylist() == [0, 2, 4]
    assert gradients[column][0].as_py() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compile": True}, "leave out --compile"),
        ({"compile": "graphs"}, "leave out --compile"),
        ({"precision": "16-mixed"}, "use --precision bf16-mixed or 32-true"),
    ],
)
def test_where_gradients_cannot_be_measured_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(TrainConfig(data="x", gradient_every=5, **changes))
