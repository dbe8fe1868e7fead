from __future__ import annotations

import math
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from scalewise.lab.study.intervals import bca_interval, t_interval
from scalewise.lab.study.seeds_needed import MOST_SEEDS, seeds_needed
from scalewise.lab.study.statistics import Difference, holm, paired, summarize
from scalewise.lab.study.verdicts import advice, interval_points, points, seeds_text, verdict

_DIRECTION = re.compile(
    r"higher|lower|better|worse|gain|improv|loss|win|beat|outperform|significant"
)
_ap = st.floats(0, 1)


def _draw(seed: int, schemes: int, seeds: int) -> dict[str, dict[int, float]]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(0.3, 0.02, seeds)
    return {
        name: dict(enumerate((shared + rng.normal(0.002, 0.005, seeds)).tolist()))
        for name in ["equal", *"abcdefgh"[: schemes - 1]]
    }


def test_agrees_with_scipy() -> None:
    values = _draw(0, 4, 12)
    base = np.array(list(values["equal"].values()))
    for found in paired(values, "equal"):
        own = np.array(list(values[found.scheme].values()))
        test = stats.ttest_rel(own, base)
        assert found.p == pytest.approx(test.pvalue)
        assert found.t_interval == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert found.difference == pytest.approx(own.mean() - base.mean())
        assert (found.mean, found.deviation) == pytest.approx((own.mean(), stats.tstd(own)))
        assert found.difference_deviation == pytest.approx(stats.tstd(own - base))
        assert found.improving == sum(own > base)
        # scipy's BCa, with other resamples
        other = stats.bootstrap(
            (own - base,),
            np.mean,
            n_resamples=50_000,
            method="BCa",
            random_state=np.random.default_rng(1),
        )
        width = other.confidence_interval.high - other.confidence_interval.low
        assert found.bca_interval == pytest.approx(
            tuple(other.confidence_interval), abs=0.05 * width
        )


def test_by_hand() -> None:
    """Differences of 1, 2, 3 points: mean 2, deviation 1, t 2 sqrt(3), half width 4.303/sqrt(3)."""
    values = {"equal": {0: 0.2, 1: 0.2, 2: 0.2}, "avw": {0: 0.21, 1: 0.22, 2: 0.23}}
    (found,) = paired(values, "equal")
    assert found.difference == pytest.approx(0.02)
    assert found.t_interval == pytest.approx((0.02 - 0.024841, 0.02 + 0.024841), abs=1e-6)
    assert found.p == pytest.approx(0.074180, abs=1e-6)
    assert found.p_holm == found.p
    assert found.improving == 3


def test_only_common_seeds_are_paired_and_the_rest_is_reported() -> None:
    values = {
        "equal": {0: 0.1, 1: 0.2, 2: 0.3, 5: math.nan},
        "avw": {1: 0.25, 2: 0.31, 3: 0.9, 5: 0.4},
    }
    (found,) = paired(values, "equal")
    assert found.seeds == (1, 2)
    assert found.unpaired == (0, 3, 5)
    assert found.difference == pytest.approx(0.03)
    assert found.bca_interval is None
    own = {summary.scheme: summary for summary in summarize(values)}
    assert own["avw"].seeds == (1, 2, 3, 5)
    assert own["equal"].mean == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("own", "p", "said"),
    [
        ({7: 0.5}, None, "no seed with AP on both sides"),
        ({0: 0.5}, None, "the one seed"),
        ({0: 0.1, 1: 0.2, 2: 0.3}, 1.0, "the same as with equal in all 3 seeds"),
        ({0: 0.2, 1: 0.3, 2: 0.4}, None, "in each of 3 seeds alike"),
    ],
)
def test_where_there_is_no_interval(own: dict[int, float], p: float | None, said: str) -> None:
    (found,) = paired({"equal": {0: 0.1, 1: 0.2, 2: 0.3}, "avw": own}, "equal")
    assert found.t_interval is None
    assert found.bca_interval is None
    assert found.seeds_needed is None
    assert found.p == found.p_holm == p
    assert said in verdict(found)
    assert not _DIRECTION.search(verdict(found))


def _covered(intervals: list[tuple[float, float] | None], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in filter(None, intervals)]))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_t_interval_covers_a_known_effect_in_95_of_100_studies(seeds: int) -> None:
    """In 2000 studies, the share is within 3.3 binomial deviations of 0.95."""
    draws = np.random.default_rng(seeds).normal(0.01, 0.004, (2000, seeds))
    covered = _covered([t_interval(row) for row in draws], 0.01)
    assert covered == pytest.approx(0.95, abs=3.3 * math.sqrt(0.95 * 0.05 / 2000))


@pytest.mark.parametrize(("seeds", "expected"), [(5, 0.84), (30, 0.93)])
def test_bca_interval_covers_what_its_docstring_says(seeds: int, expected: float) -> None:
    draws = np.random.default_rng(seeds).normal(0.01, 0.004, (800, seeds))
    covered = _covered([bca_interval(row, resamples=999) for row in draws], 0.01)
    assert covered == pytest.approx(expected, abs=3.3 * math.sqrt(expected * (1 - expected) / 800))


def test_a_study_of_no_effect_rarely_yields_a_small_corrected_p() -> None:
    """With 4 schemes without effect, at most 5% of studies have a p_holm below 0.05."""
    rng = np.random.default_rng(5)
    studies = 600
    alarms = 0
    for _ in range(studies):
        p = [stats.ttest_1samp(rng.normal(size=6), 0).pvalue for _ in range(4)]
        alarms += holm(p).min() < 0.05
    assert alarms / studies < 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == pytest.approx([1, 1])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], alpha: float) -> None:
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
    rejected = []
    for place, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] * (len(p) - place) > alpha:
            break
        rejected.append(index)
    assert sorted(np.flatnonzero(corrected <= alpha)) == sorted(rejected)


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_seeds_needed_have_the_power_in_simulated_studies(effect: float) -> None:
    needed = seeds_needed(-effect * 0.004, 0.004)
    assert needed is not None
    rng = np.random.default_rng(1)

    def power(seeds: int) -> float:
        draws = rng.normal(effect, 1, (20_000, seeds))
        return float((stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean())

    assert power(needed) > 0.8 - 0.01
    assert power(needed - 1) < 0.8 + 0.01


def test_seeds_needed_at_the_ends() -> None:
    assert seeds_needed(0.0, 0.01) is None
    assert seeds_needed(1.0, 1e-9) == 2
    assert seeds_needed(1e-6, 0.01) == MOST_SEEDS + 1
    assert seeds_text(MOST_SEEDS + 1) == "more than 1000"
    assert seeds_text(None) == "n/a"
    assert seeds_needed(0.5, 1) == 34  # G*Power 3: dz = 0.5, two tails, alpha 0.05, power 0.8


_studies = st.integers(0, 6).flatmap(
    lambda n: st.tuples(
        st.lists(_ap, min_size=n, max_size=n), st.lists(_ap, min_size=n, max_size=n)
    )
)


@given(_studies)
@example(([0.1, 0.2, 0.3], [0.2, 0.3, 0.41]))
@example(([0.3, 0.2, 0.3, 0.1], [0.3, 0.2, 0.3, 0.1]))
def test_a_direction_is_named_only_when_the_interval_holds_no_0(
    study: tuple[list[float], list[float]],
) -> None:
    base, own = (dict(enumerate(side)) for side in study)
    (found,) = paired({"base": base, "x": own}, "base")
    words = set(_DIRECTION.findall(verdict(found)))
    if found.t_interval is None or found.t_interval.low <= 0 <= found.t_interval.high:
        assert words == set()
    else:
        assert words == {"higher" if found.t_interval.low > 0 else "lower"}
    if found.t_interval is not None:
        assert interval_points(found.t_interval) in verdict(found)


def test_verdict_says_when_the_correction_takes_the_finding_back() -> None:
    (found, *_) = paired(
        {"equal": dict.fromkeys(range(4), 0.2), "a": {0: 0.21, 1: 0.22, 2: 0.23, 3: 0.22}}
        | {name: {0: 0.2, 1: 0.21, 2: 0.19, 3: 0.2} for name in "bcdefgh"},
        "equal",
    )
    assert isinstance(found, Difference)
    assert found.p is not None
    assert found.p < 0.05
    assert "AP higher than with equal, +2.00 points" in verdict(found)
    assert "not below 0.05" in verdict(found)


def test_advice_follows_the_number_of_seeds() -> None:
    assert "no interval" in advice(0)
    assert "no interval" in advice(1)
    for seeds in (3, 5, 6, 9):
        assert "trust Student's t." in advice(seeds)
    assert "84%" in advice(6)
    assert "trust Student's t first" in advice(12)
    assert "both can be trusted" in advice(30)


def test_points() -> None:
    assert [points(0.0042), points(-0.3), points(math.nan)] == ["+0.42", "-30.00", "n/a"]


def test_needs_no_torch() -> None:
    code = "import sys, scalewise.lab.study.statistics; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
