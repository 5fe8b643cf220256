import numpy as np
import pytest
from scipy.special import expit, logit

from nba.models import calibration


def losses(score, y, block, seed):
    return {kind: found.mean() for kind, found in calibration.judge(score, y, block, seed).losses.items()}


# by hand


def test_with_times_a_calibration_is_judged_on_the_next_block_not_on_the_rest_of_its_own():
    # Three in ten respond in the first month, seven in the second; the models say one half.
    y = np.tile([0.0] * 7 + [1.0] * 3 + [1.0] * 7 + [0.0] * 3, 100)
    month = np.tile([0] * 10 + [1] * 10, 100)
    found = losses(np.zeros(2000), y, month, 0)
    assert found["none"] == pytest.approx(np.log(2))
    assert found["platt"] == pytest.approx(-0.7 * np.log(0.3) - 0.3 * np.log(0.7), abs=1e-3)
    assert found["platt"] == pytest.approx(found["isotonic"], abs=0.02)
    first = losses(np.zeros(1000), y[month == 0], None, 0)  # within a month it looks good
    assert first["platt"] == pytest.approx(-0.7 * np.log(0.7) - 0.3 * np.log(0.3), abs=2e-3)


def test_what_cannot_be_judged_is_not_offered():
    score, y = np.zeros(300), np.arange(300) % 2.0
    assert losses(score, y, np.zeros(300, int), 0) == {"none": pytest.approx(np.log(2))}
    # Isotonic regression wants 200 rows of each fit that it is judged by, not of all together.
    assert set(losses(score, y, np.arange(300) // 100, 0)) == {"none", "platt"}
    assert set(losses(score, y, None, 0)) == {"none", "platt"}
    score, y = np.zeros(600), np.arange(600) % 2.0
    assert set(losses(score, y, np.arange(600) // 200, 0)) == {"none", "platt", "isotonic"}
    assert set(losses(score[:100], y[:100], None, 0)) == {"none", "platt"}
    ordered = np.sort(y)  # the first block holds one class only: nothing can be fitted to it
    assert set(losses(score, ordered, np.arange(600) // 300, 0)) == {"none"}


def test_isotonic_regression_must_be_better_by_a_standard_error():
    none = np.full(4, 0.7)
    little, more = none - [0.2, -0.2, 0.2, 0.0], none - [0.2, 0.1, 0.2, 0.1]
    assert calibration.choose({"none": none}) == "none"
    assert calibration.choose({"none": none, "platt": none, "isotonic": none}) == "none"
    assert calibration.choose({"none": none, "platt": little}) == "platt"
    assert calibration.choose({"none": none, "isotonic": little}) == "none"  # 0.05 better, its error 0.083
    assert calibration.choose({"none": none, "isotonic": more}) == "isotonic"
    assert calibration.choose({"none": none, "platt": more, "isotonic": little}) == "platt"
    assert calibration.choose({"none": none, "platt": more, "isotonic": more - 0.01}) == "isotonic"
    # Four rows of one customer each, five times, are no twenty: 0.05 better, its error stays 0.083.
    often, customer = {"none": np.tile(none, 5), "isotonic": np.tile(little, 5)}, np.tile(np.arange(4), 5)
    assert calibration.choose(often) == "isotonic"
    assert calibration.choose(often, customer=customer) == "none"
    ones = np.ones(20)
    assert calibration.choose(often, ones, customer) == "none"
    assert calibration.choose({"none": none, "isotonic": more}, np.ones(4), np.arange(4)) == "isotonic"


def test_calibration_of_few_rows_stays_near_the_model():
    intercept, slope = calibration.line(np.array([3.0, -3.0]), np.array([0.0, 1.0]), np.ones(2))
    assert 0.1 <= slope <= 1
    assert abs(intercept) < 1


# recovery


def test_lines_and_curves_are_found():
    rng = np.random.default_rng(0)
    score, block = rng.normal(size=6000), np.arange(6000) // 1500
    for true, kind in ((lambda z: z, "none"), (lambda z: 0.5 * z - 1, "platt"), (lambda z: z**3, "isotonic")):
        y = (rng.random(6000) < expit(true(score))).astype(float)
        for part in (block, None):
            found = losses(score, y, part, 0)
            assert found[kind] <= min(found.values()) + 1e-3
        way = calibration.fitted(kind, score, y)
        p = expit(way(score))
        assert np.abs(p - expit(true(score))).mean() < 0.03
        np.testing.assert_array_equal(calibration.restored(kind, calibration.state(way))(score), way(score))


def test_calibration_undoes_a_wrong_scale():
    rng = np.random.default_rng(0)
    score = rng.normal(size=20_000) - 1
    y = (rng.random(20_000) < expit(score)).astype(float)
    intercept, slope = calibration.line(2 * score + 1, y, np.ones(20_000))
    # standard errors at this size are about 0.02 and 0.01
    assert slope == pytest.approx(0.5, abs=0.03)
    assert intercept == pytest.approx(-0.5, abs=0.06)


def test_across_folds_the_kind_that_serves_the_others_is_chosen():
    rng = np.random.default_rng(0)
    score, fold, ones = rng.normal(size=6000), np.arange(6000) % 3, np.ones(6000)
    for true, kind in ((lambda z: 0.5 * z - 1, "platt"), (lambda z: z**3, "isotonic")):
        y = (rng.random(6000) < expit(true(score))).astype(float)
        found = calibration.cross_fit(score, y, ones, fold)
        assert (found.kind, min(found.losses, key=found.losses.get)) == (kind, kind)
        assert np.abs(expit(found.way(score)) - expit(true(score))).mean() < 0.03
        assert np.abs(expit(found.unseen) - expit(true(score))).mean() < 0.04
    alone = calibration.cross_fit(score, y, ones, np.zeros(6000))
    assert (alone.kind, alone.losses) == ("platt", {})
    few = calibration.cross_fit(score[:200], y[:200], ones[:200], fold[:200])
    assert set(few.losses) == {"none", "platt"}  # a curve wants 200 rows of each fit


# laws


def test_a_fold_has_no_part_in_its_own_calibration():
    rng = np.random.default_rng(2)
    score, fold, ones = rng.normal(size=900), np.arange(900) % 3, np.ones(900)
    y = (rng.random(900) < expit(0.5 * score - 1)).astype(float)
    other = np.where((fold == 0) & (np.arange(900) < 90), 1 - y, y)
    before, after = (calibration.cross_fit(score, part, ones, fold) for part in (y, other))
    assert before.kind == after.kind == "platt"
    np.testing.assert_array_equal(before.unseen[fold == 0], after.unseen[fold == 0])
    assert (before.unseen[fold != 0] != after.unseen[fold != 0]).all()


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_whole_weights_are_rows_as_often(kind):
    rng = np.random.default_rng(3)
    score, times = rng.normal(size=400), rng.integers(0, 4, 400)
    y = (rng.random(400) < expit(score)).astype(float)
    way = calibration.fitted(kind, score, y, times.astype(float))
    again = calibration.fitted(kind, np.repeat(score, times), np.repeat(y, times))
    np.testing.assert_allclose(way(score), again(score), atol=1e-3)


def test_ranks_survive():
    rng = np.random.default_rng(1)
    score = np.sort(rng.normal(size=500))
    y = (rng.random(500) < expit(score)).astype(float)
    for kind in ("none", "platt", "isotonic"):
        assert (np.diff(calibration.fitted(kind, score, y)(score)) >= 0).all()
    assert np.isfinite(logit(expit(calibration.fitted("isotonic", score, y)(np.array([-9.0, 9.0]))))).all()


def test_a_curve_that_is_not_there_is_not_followed():
    chosen, least = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        score = rng.normal(size=500)
        judged = calibration.judge(score, (rng.random(500) < expit(score)).astype(float), None, seed).losses
        assert set(judged) == {"none", "platt", "isotonic"}
        chosen.append(calibration.choose(judged))
        least.append(min(judged, key=lambda kind: judged[kind].mean()))
    assert chosen.count("isotonic") <= 1
    assert chosen.count("isotonic") <= least.count("isotonic")
