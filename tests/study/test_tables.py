from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from scalewise.errors import UsageError, UserError
from scalewise.lab.study.comparisons import METRICS, study_tables
from scalewise.lab.study.csv_tables import differences_csv, runs_csv
from scalewise.lab.study.intervals import Interval
from scalewise.lab.study.other_images import CAUTION, ImageBootstrap, ImageDifference
from scalewise.lab.study.planned_cells import Plan
from scalewise.lab.study.records import Record, StudyRecords
from scalewise.lab.study.study_tables import markdown, write_tables
from scalewise.lab.training.config import TrainConfig

_SCHEMES = ("equal", "avw:signal=dispersion", "rlo")
_EFFECT = {"equal": 0.0, "avw:signal=dispersion": 0.02, "rlo": 0.0}


def _study(seeds: int = 5, lost: tuple[str, ...] = ()) -> StudyRecords:
    """Records of a study of two detectors: AVW adds 2 points, RLO nothing; the rest is noise."""
    rng = np.random.default_rng(3)
    plan = Plan(("atss", "fcos"), _SCHEMES, tuple(range(seeds)), "equal", TrainConfig(data="x"))
    records, missing = [], []
    for cell in plan.cells:
        metrics = {name: 0.3 + _EFFECT[cell.scheme] + rng.normal(0, 0.002) for name in METRICS}
        metrics |= {"AP_large": math.nan, "AP/cat": rng.uniform(), "step_seconds": 0.5}
        if str(cell) in lost:
            missing.append(f"{cell}: not finished")
        else:
            records.append(Record(cell.detector, cell.scheme, cell.seed, Path("x"), metrics))
    return StudyRecords(plan, records, missing)


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_what_scipy_finds_in_the_records() -> None:
    study = _study()
    tables = study_tables(study, ["AP75"])
    rows = _rows(differences_csv(tables, "equal"))
    assert [(row["detector"], row["scheme"]) for row in rows] == [
        (detector, scheme) for detector in ("atss", "fcos") for scheme in _SCHEMES
    ]

    def values(detector: str, scheme: str) -> list[float]:
        return [
            record.metrics["AP75"]
            for record in study.records
            if (record.detector, record.scheme) == (detector, scheme)
        ]

    for row in rows:
        own, base = values(row["detector"], row["scheme"]), values(row["detector"], "equal")
        assert float(row["mean"]) == pytest.approx(np.mean(own))
        assert float(row["deviation"]) == pytest.approx(np.std(own, ddof=1))
        assert row["seeds"] == "0 1 2 3 4"
        if row["scheme"] == "equal":
            assert row["difference"] == row["t_low"] == row["p"] == row["pairs"] == ""
            continue
        test = stats.ttest_rel(own, base)
        assert float(row["p"]) == pytest.approx(test.pvalue)
        interval = test.confidence_interval(0.95)
        assert (float(row["t_low"]), float(row["t_high"])) == pytest.approx(tuple(interval))
        assert float(row["t_low"]) < float(row["bca_low"]) < float(row["bca_high"])
        assert float(row["p_holm"]) >= float(row["p"])


def test_runs_csv_has_every_run_and_leaves_undefined_values_empty() -> None:
    study = _study(lost=("fcos rlo seed 3",))
    rows = _rows(runs_csv(study))
    assert len(rows) == 29
    assert {row["AP_large"] for row in rows} == {""}
    assert float(rows[4]["AP"]) == study.records[4].metrics["AP"]
    assert (rows[4]["detector"], rows[4]["scheme"], rows[4]["seed"]) == (
        study.records[4].detector,
        study.records[4].scheme,
        str(study.records[4].seed),
    )


def test_markdown_shows_effect_notes_and_what_is_missing() -> None:
    study = _study(lost=("atss rlo seed 3",))
    text = markdown(study, study_tables(study))
    atss, fcos = text.split("## fcos")
    head = "| scheme | seeds | AP | AP50 | AP75 | AP_small | AP_medium | AP_large | AP − equal |"
    assert head in atss
    assert "avw:signal=dispersion: AP higher than with equal, +" in atss
    assert "rlo: AP higher" not in text
    assert "rlo: AP lower" not in text
    (row,) = (line for line in atss.splitlines() if line.startswith("| rlo | "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "4"
    assert cells[7] == "n/a"
    assert cells[9].endswith("/4")
    assert "5 seeds: trust Student's t." in fcos
    assert "4 seeds: trust Student's t." in fcos
    assert "- atss rlo: without a value on both sides" in fcos
    assert "seed 3 (AP, AP50, AP75, AP_small, AP_medium)\n" in fcos
    assert "- Missing: atss rlo seed 3: not finished" in fcos


def test_tables_are_well_formed() -> None:
    """Every line of a table has as many columns as its head."""
    study = _study()
    columns = 0
    for line in markdown(study, study_tables(study)).splitlines():
        if not line.startswith("|"):
            columns = 0
            continue
        columns = columns or line.count("|")
        assert line.count("|") == columns


def test_intervals_over_images_come_with_their_caution() -> None:
    study = _study()
    images = ImageBootstrap(
        [ImageDifference("atss", "rlo", "equal", "AP", (0, 1), 700, 1000, 0.01, Interval(0, 0.02))],
        ["fcos rlo seed 1: gone"],
    )
    text = markdown(study, study_tables(study), images)
    assert "| rlo | AP | +1.00 [+0.00 to +2.00] | 2 | 700 | 1000 |" in text
    assert CAUTION in text
    assert "- Not resampled: fcos rlo seed 1: gone" in text
    assert CAUTION not in markdown(study, study_tables(study))


def test_one_seed_has_values_and_no_interval() -> None:
    text = markdown(_study(seeds=1), study_tables(_study(seeds=1)))
    assert "[n/a] (n/a)" in text
    assert "1 seed: no interval" in text


def test_written_files(tmp_path: Path) -> None:
    paths = write_tables(_study(), tmp_path / "tables", ["AP", "AP_small"])
    assert [path.name for path in paths] == ["tables.md", "differences.csv", "runs.csv"]
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == sorted(
        path.name for path in paths
    )
    rows = _rows(paths[1].read_text(encoding="utf-8"))
    assert {row["metric"] for row in rows} == {"AP", "AP_small", "AP/cat"}
    assert "AP/cat" not in paths[0].read_text(encoding="utf-8")


def test_unknown_metrics_and_empty_studies_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no metric AP_tiny; there are: .*AP_small"):
        study_tables(_study(), ["AP", "AP_tiny"])
    with pytest.raises(UserError, match="no finished run"):
        study_tables(StudyRecords(_study().plan, [], []))
