"""A replay of a run makes the same decisions as the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalewise.errors import UsageError
from scalewise.lab.replay.feed import replay, replay_shuffled, run_setting
from scalewise.lab.replay.readers import read_losses
from scalewise.lab.replay.settings import Setting, grid
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.run_options import load_config

RECORDED = Path(__file__).parent / "recorded"  # 1,092 steps of RLO on photos


def check_against_recorded(run: Path) -> None:
    """Compare weights, actions and probabilities of every row bit for bit."""
    config = load_config(run)
    losses = read_losses(run)
    table = pq.read_table(run / "trace.parquet")
    setting = replace(run_setting(run), scheme=config.scheme)
    replayed = replay(losses.values, setting, losses.positives, losses.groups, losses.epochs)
    at = table["interval"].to_numpy()
    recorded = np.stack([table[f"weight/{level}"].to_numpy() for level in losses.groups], 1)
    np.testing.assert_array_equal(replayed.weights[at], recorded)
    if replayed.action_names:
        assert [replayed.actions[i] for i in at] == table["action"].to_pylist()
        for a, name in enumerate(replayed.action_names):
            recorded = table[f"probability/{name}"].to_numpy()
            np.testing.assert_array_equal(replayed.probabilities[at, a], recorded)


def test_a_long_run_is_reproduced() -> None:
    check_against_recorded(RECORDED)


def test_a_fresh_run_with_accumulation_is_reproduced(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    changes = {"interval": 2, "accumulate": 2, "normalize": "loss", "seed": 3}
    run = train(tiny(tmp_path, scheme="rlo:explore=0.5", **changes))
    assert len(set(pq.read_table(run / "trace.parquet")["interval"].to_pylist())) > 1
    check_against_recorded(run)


@pytest.mark.parametrize("by", ["class", "size", "size*class", "level-positives"])
def test_a_fresh_run_of_groups_of_positives_is_reproduced(
    tiny: Callable[..., TrainConfig], tmp_path: Path, by: Any
) -> None:
    run = train(tiny(tmp_path, scheme="share:power=1", by=by, interval=2, anchor_scale=0.3))
    assert read_losses(run).positives is not None
    table = pq.read_table(run / "trace.parquet")
    weights = [table[name].to_numpy() for name in table.column_names if "weight/" in name]
    assert not np.allclose(weights, 1)
    check_against_recorded(run)


def test_static_weights_and_moments_against_numpy() -> None:
    losses = torch.rand(23, 3, generator=torch.Generator().manual_seed(0))
    replayed = replay(losses, Setting("static:weights=1+2+3", interval=10, normalize="mean"))
    np.testing.assert_allclose(replayed.weights, np.tile([0.5, 1.0, 1.5], (3, 1)), rtol=1e-6)
    parts = losses[:20].double().numpy().reshape(2, 10, 3)
    np.testing.assert_allclose(replayed.means, parts.mean(1), rtol=1e-5)
    np.testing.assert_allclose(replayed.variances, parts.var(1, ddof=1), rtol=1e-4)
    assert replayed.actions == (None, None, None)


def test_dwa_by_hand() -> None:
    """Means 1, 2, 3 and 2, 2, 2: softmax of the ratios 2, 1, 2/3 over the temperature."""
    losses = torch.tensor([[1.0, 2.0, 3.0]] * 4 + [[2.0, 2.0, 2.0]] * 4)
    replayed = replay(losses, Setting("dwa:temperature=2", interval=4))
    ratios = np.exp(np.array([2.0, 1.0, 2 / 3]) / 2)
    np.testing.assert_allclose(replayed.weights[2], 3 * ratios / ratios.sum(), rtol=1e-5)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 7), st.integers(1, 3), st.integers(8, 30))
def test_number_of_intervals(interval: int, accumulate: int, rows: int) -> None:
    setting = Setting("avw", interval, accumulate=accumulate)
    losses = torch.rand(rows, 2)
    if interval * accumulate > rows:
        with pytest.raises(UsageError, match=r"no interval of .* ends within"):
            replay(losses, setting)
        return
    replayed = replay(losses, setting)
    assert len(replayed.weights) == rows // (interval * accumulate) + 1
    assert len(replayed.means) == len(replayed.weights) - 1


def test_shuffled_keeps_the_rows() -> None:
    """The overall mean stays the same; the means of the intervals change."""
    losses = torch.arange(40.0)[:, None] + torch.tensor([0.0, 100.0])
    setting = Setting("equal", interval=10)
    ordered = replay(losses, setting)
    shuffled = list(replay_shuffled(losses, setting, 3))
    assert len(shuffled) == 3
    for other in shuffled:
        np.testing.assert_allclose(other.means.mean(0), ordered.means.mean(0), rtol=1e-5)
        assert not np.allclose(other.means, ordered.means)
    assert not np.allclose(shuffled[0].means, shuffled[1].means)


def test_shuffled_intervals_end_where_those_of_the_run_do() -> None:
    """Epochs of 5 rows close windows of 3 early, in the run and in the shuffled rows."""
    losses = torch.rand(60, 2, generator=torch.Generator().manual_seed(0))
    setting, epochs = Setting("equal", interval=4, accumulate=3), np.arange(60) // 5
    ordered = replay(losses, setting, epochs=epochs)
    (shuffled,) = replay_shuffled(losses, setting, 1, epochs=epochs)
    assert shuffled.starts.tolist() == ordered.starts.tolist() == [*range(0, 60, 10)]


def test_values_that_are_not_finite_are_counted() -> None:
    losses = torch.ones(20, 2)
    losses[3, 1] = float("nan")
    losses[4, 1] = float("inf")
    replayed = replay(losses, Setting("avw", interval=10))
    assert replayed.skipped.tolist() == [0, 2]
    assert np.isfinite(replayed.weights).all()


def test_an_interval_that_grows_is_replayed_as_the_balancer_counts_it() -> None:
    setting = Setting("share", by="class")
    replayed = replay(torch.ones(200, 2), setting, torch.tensor([[3, 1]] * 200))
    lengths = np.diff(replayed.starts)
    assert lengths[0] == 5
    assert (np.diff(lengths) >= 0).all()
    assert lengths[-1] > 10


def test_grid_takes_an_interval_that_grows() -> None:
    assert [s.interval for s in grid("avw", "auto,5", Setting(""))] == ["auto", 5]


def test_grid_is_every_scheme_with_every_interval() -> None:
    settings = grid("avw:temperature=2, rlo:actions=equal+avw", "5,10", Setting("", seed=4))
    assert [(s.scheme, s.interval, s.seed) for s in settings] == [
        ("avw:temperature=2", 5, 4),
        ("avw:temperature=2", 10, 4),
        ("rlo:actions=equal+avw", 5, 4),
        ("rlo:actions=equal+avw", 10, 4),
    ]


@pytest.mark.parametrize(
    ("schemes", "intervals", "message"),
    [
        ("uncertainty", "10", "trained by back-propagation"),
        ("avw,,rlo", "10", "empty entry"),
        ("avv", "10", "did you mean 'avw'"),
        ("avw", "ten", "'ten' is neither a whole number above 0 nor auto"),
        ("avw", "0", "above 0"),
    ],
)
def test_what_cannot_be_replayed_is_refused(schemes: str, intervals: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grid(schemes, intervals, Setting(""))


def test_a_scheme_that_does_not_fit_the_levels_is_refused() -> None:
    with pytest.raises(UsageError, match="3 static weights for 2 groups"):
        replay(torch.ones(10, 2), Setting("static:weights=1+1+1", interval=2))
