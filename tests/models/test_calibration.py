import numpy as np
import pytest
from scipy.special import expit, logit

from nba.models import calibration

# by hand


def test_with_times_a_calibration_is_judged_on_the_next_block_not_on_the_rest_of_its_own():
    # Three in ten respond in the first month, seven in the second; the models say one half.
    y = np.tile([0.0] * 7 + [1.0] * 3 + [1.0] * 7 + [0.0] * 3, 100)
    month = np.tile([0] * 10 + [1] * 10, 100)
    found = calibration.losses(np.zeros(2000), y, month, 0)
    assert found["none"] == pytest.approx(np.log(2))
    assert found["platt"] == pytest.approx(-0.7 * np.log(0.3) - 0.3 * np.log(0.7), abs=1e-3)
    assert found["platt"] == pytest.approx(found["isotonic"], abs=0.02)
    first = calibration.losses(np.zeros(1000), y[month == 0], None, 0)  # within a month it looks good
    assert first["platt"] == pytest.approx(-0.7 * np.log(0.7) - 0.3 * np.log(0.3), abs=2e-3)


def test_what_cannot_be_judged_is_not_offered():
    score, y = np.zeros(300), np.arange(300) % 2.0
    assert calibration.losses(score, y, np.zeros(300, int), 0) == {"none": pytest.approx(np.log(2))}
    assert set(calibration.losses(score, y, np.arange(300) // 100, 0)) == {"none", "platt", "isotonic"}
    assert set(calibration.losses(score[:100], y[:100], None, 0)) == {"none", "platt"}
    ordered = np.sort(y)  # the first block holds one class only: nothing can be fitted to it
    assert set(calibration.losses(score, ordered, np.arange(300) // 150, 0)) == {"none"}


# recovery


def test_lines_and_curves_are_found():
    rng = np.random.default_rng(0)
    score, block = rng.normal(size=6000), np.arange(6000) // 1500
    for true, kind in ((lambda z: z, "none"), (lambda z: 0.5 * z - 1, "platt"), (lambda z: z**3, "isotonic")):
        y = (rng.random(6000) < expit(true(score))).astype(float)
        for part in (block, None):
            found = calibration.losses(score, y, part, 0)
            assert found[kind] <= min(found.values()) + 1e-3
        way = calibration.fitted(kind, score, y)
        p = expit(way(score))
        assert np.abs(p - expit(true(score))).mean() < 0.03
        if kind != "none":
            np.testing.assert_array_equal(calibration.restored(kind, vars(way))(score), way(score))


# laws


def test_ranks_survive():
    rng = np.random.default_rng(1)
    score = np.sort(rng.normal(size=500))
    y = (rng.random(500) < expit(score)).astype(float)
    for kind in ("none", "platt", "isotonic"):
        assert (np.diff(calibration.fitted(kind, score, y)(score)) >= 0).all()
    assert np.isfinite(logit(expit(calibration.fitted("isotonic", score, y)(np.array([-9.0, 9.0]))))).all()
