from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from nba import metrics
from nba.models import response

# by hand


def test_faults_name_everything_that_lacks():
    assert len(response.check_responses(np.zeros(10))) == 2
    assert response.check_responses(np.tile([0.0, 1.0], 100)) == []


def test_calibration_of_few_rows_stays_near_the_model():
    intercept, slope = response.calibrate(np.array([3.0, -3.0]), np.array([0.0, 1.0]), np.ones(2))
    assert 0.1 <= slope <= 1
    assert abs(intercept) < 1


# recovery


def test_calibration_undoes_a_wrong_scale():
    rng = np.random.default_rng(0)
    score = rng.normal(size=20_000) - 1
    y = (rng.random(20_000) < expit(score)).astype(float)
    intercept, slope = response.calibrate(2 * score + 1, y, np.ones(20_000))
    # standard errors at this size are about 0.02 and 0.01
    assert slope == pytest.approx(0.5, abs=0.03)
    assert intercept == pytest.approx(-0.5, abs=0.06)


def test_joint_model_is_calibrated_out_of_fold_and_knows_treatments(scorer, varied, catalog):
    assert scorer.report.metrics["ece"] < 0.012
    assert scorer.report.metrics["log_loss"] < scorer.report.metrics["log_loss_constant"]
    p = scorer.scores(varied.examples).p_response
    assert np.corrcoef(p[:, 0], varied.chance[:, 0])[0, 1] > 0.85
    assert p[:, 4].mean() > p[:, 0].mean()


def snapshots(n, seed, drift=0.0):
    rng = np.random.default_rng(seed)
    parts = []
    for month in (1, 2, 3, 4):
        x = rng.normal(size=(n, 3))
        y = rng.random(n) < expit(-1 + x[:, 0] + drift * (month == 4))
        at = pa.array([datetime(2026, month, 1, tzinfo=UTC)] * n, pa.timestamp("us", tz="UTC"))
        data = {f"f_{j}": x[:, j] for j in range(3)}
        ids = [f"c{i}" for i in range(n)]
        parts.append(pa.table({"customer_id": ids, "as_of": at, "is_response": y, **data}))
    return pa.concat_tables(parts)


def test_snapshot_model_is_judged_on_the_last_cutoff_by_a_model_of_the_earlier(quick):
    usual = response.fit_snapshot(snapshots(2000, 0), quick, seed=0)
    assert usual.metrics["n"] == 2000
    assert usual.metrics["auc"] > 0.7
    assert usual.metrics["ece"] < 0.05
    moved = response.fit_snapshot(snapshots(2000, 0, drift=2.0), quick, seed=0)
    assert moved.metrics["ece"] > 0.2  # a change in the last month must show: it was not fitted on
    rows = snapshots(500, 1)
    y = rows["is_response"].to_numpy().astype(float)
    assert metrics.auc(y, usual.scores(rows)) > 0.7


def test_two_cutoffs_suffice(quick):
    rows = snapshots(1000, 2)
    rows = rows.slice(2000)
    assert response.fit_snapshot(rows, quick, seed=0).metrics["auc"] > 0.65
