import numpy as np
import pytest
from scipy import stats

from nba import draws
from nba.evaluation.diagnostics import calibration, examine

# by hand


def test_two_fair_columns():
    found = calibration(np.array([0] * 40 + [1] * 60), np.full((100, 2), 0.5))
    assert found.z.tolist() == pytest.approx([-2.0, 2.0])
    assert found.chi_square == pytest.approx(4.0)
    assert found.p_value == pytest.approx(float(stats.chi2.sf(4.0, 1)))


def test_a_log_without_chance_has_nothing_to_test():
    found = calibration(np.zeros(10, dtype=np.int64), np.tile([1.0, 0.0], (10, 1)))
    assert found.freedom == 0
    assert np.isnan(found.p_value)
    assert np.isnan(found.z).all()


# laws


def test_p_values_are_uniform_where_the_log_is_true_and_tiny_where_it_is_not():
    rng = np.random.default_rng(0)
    ids = [f"c{i}" for i in range(500)]
    p = rng.dirichlet([1, 1, 1, 0.2], 500)
    found = [calibration(draws.pick(p, draws.uniform(ids, str(i))), p).p_value for i in range(200)]
    assert stats.kstest(found, "uniform").pvalue > 1e-3
    wrong = 0.8 * p + 0.2 * np.array([1.0, 0, 0, 0])
    assert calibration(draws.pick(wrong, draws.uniform(ids, "x")), p).p_value < 1e-6


def test_what_an_estimate_rests_on_is_named():
    rng = np.random.default_rng(1)
    p = np.tile([0.5, 0.3, 0.2], (3000, 1))
    column = rng.choice(3, 3000, p=p[0])
    status = {f.check: f.status for f in examine(column, p, p)}
    assert set(status.values()) == {"ok"}
    never = np.tile([0.6, 0.4, 0.0], (3000, 1))
    found = {f.check: f for f in examine(np.minimum(column, 1), never, p)}
    assert found["support"].status == "refused"
    assert found["support"].value == pytest.approx(0.2)
    assert found["logged probabilities"].status == "refused"  # 0.5 of column 1 came, 0.4 were logged
    # What the other policy favours came more often than by chance, by 4 errors, and by 10.
    for errors, expected in ((2, "ok"), (4, "warning"), (10, "refused")):
        likelier = np.zeros(3000, dtype=np.int64)
        likelier[: 1500 + int(errors * np.sqrt(3000) / 2)] = 1
        even, favours = np.full((3000, 2), 0.5), np.tile([0.3, 0.7], (3000, 1))
        found = {f.check: f for f in examine(likelier, even, favours)}
        assert found["mean weight"].status == expected
        assert found["mean weight"].value == pytest.approx(errors, rel=0.1)
    rare = np.tile([0.998, 0.001, 0.001], (3000, 1))
    drawn = rng.choice(3, 3000, p=rare[0])
    found = {f.check: f for f in examine(drawn, rare, p)}
    assert found["effective sample size"].status == "refused"
    assert found["largest weight"].status == "warning"
