import numpy as np
import pytest
from scipy.special import expit

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
