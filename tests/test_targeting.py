import importlib.util
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nba import metrics, targeting
from nba.errors import DataError

REFERENCE = Path(__file__).parent / "reference" / "uplift_metrics.py"
spec = importlib.util.spec_from_file_location("uplift_metrics", REFERENCE)
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
FROZEN = json.loads(REFERENCE.with_suffix(".json").read_text())

# by hand


def test_rate_by_hand():
    scores = np.array([4.0, 2.0, 0.0, -2.0])
    # TOC at u = 1/4, 1/2, 3/4, 1 is 3, 2, 1, 0; sums are straight in between
    assert targeting.rate(scores, scores, "qini") == pytest.approx((0.75 + 1 + 0.75) / 4)
    assert targeting.rate(scores, np.zeros(4), "qini") == pytest.approx(0)
    assert targeting.rate(scores, np.zeros(4)) == pytest.approx(0)
    grid = (np.arange(400_000) + 0.5) / 400_000
    sums = np.interp(grid, [0, 0.25, 0.5, 0.75, 1], np.append(0, np.cumsum(scores)) / 4)
    assert targeting.rate(scores, scores) == pytest.approx(np.mean(sums / grid) - 1, abs=1e-4)


def test_policy_value_by_hand():
    y, arm = np.array([1.0, 3.0, 2.0, 0.0]), np.array([1, 0, 1, 0])
    p_own, policy = np.array([0.5, 0.5, 0.25, 0.75]), np.tile([0.25, 0.75], (4, 1))
    ratio = np.array([1.5, 0.5, 3.0, 1 / 3])
    args = y, arm, p_own, policy
    assert targeting.policy_value(*args, "ipw") == pytest.approx(ratio @ y / 4)
    assert targeting.policy_value(*args, "sn") == pytest.approx(ratio @ y / ratio.sum())
    expected = np.tile([1.0, 2.0], (4, 1))
    dr = 1.75 + ratio @ (y - expected[np.arange(4), arm]) / 4
    assert targeting.policy_value(*args, "dr", expected=expected) == pytest.approx(dr)
    net = targeting.policy_value(*args, "dr", expected=expected, cost=np.array([0.0, 0.4]))
    assert net == pytest.approx(dr - 0.3)
    with pytest.raises(DataError, match="needs expected outcomes"):
        targeting.policy_value(*args)


def test_average_precision_by_hand_and_as_scikit_learn_does():
    from sklearn.metrics import average_precision_score

    y = np.array([1.0, 0.0, 1.0, 0.0])
    assert metrics.pr_auc(y, np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx((1 + 2 / 3) / 2)
    rng = np.random.default_rng(0)
    y, score = (rng.random(500) < 0.2).astype(float), np.round(rng.normal(size=500), 1)
    assert metrics.pr_auc(y, score) == pytest.approx(average_precision_score(y, score), abs=1e-12)
    assert np.isnan(metrics.pr_auc(np.zeros(3), np.ones(3)))


def test_every_measure_says_what_it_is():
    for module in (metrics, targeting):
        for name, measure in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("_") or measure.__module__ != module.__name__:
                continue
            said = targeting.definition(measure)
            assert len(said) > 20
            assert not re.search("Args:|Returns:|Raises:|Example:", said)
    assert "scikit-uplift" in targeting.definition(metrics.qini)
    assert "causalml" in targeting.definition(targeting.qini_causalml)


def test_unusable_rankings_are_named():
    y = np.array([0.0, 1.0, 1.0])
    with pytest.raises(DataError, match="uplift: 1 values are missing"):
        targeting.auuc(y, np.array([1.0, np.nan, 0]), np.array([1.0, 0, 1]))
    assert np.isnan(targeting.auuc(y, y, np.ones(3)))
    found = targeting.interval(lambda w: float("nan"), 5, np.random.default_rng(0))
    assert found.reason


RANKS, BINARY = np.array([3.0, 2, 1]), np.array([0.0, 1, 1])
SURE = np.tile([0.0, 1.0], (3, 1))


@pytest.mark.parametrize(
    ("measure", "args", "message"),
    [
        (metrics.qini, (BINARY * 50, RANKS, BINARY), "y: 2 values are neither 0 nor 1"),
        (metrics.qini, (BINARY, RANKS, BINARY + 1), "treated: 2 values are neither 0 nor 1"),
        (metrics.qini, (BINARY, RANKS, ["a", "b", "a"]), "treated holds <U1; expected numbers"),
        (metrics.qini, (BINARY, RANKS, BINARY, BINARY - 1), "weight: 1 values are negative"),
        (metrics.qini_curve, (BINARY, RANKS * np.nan, BINARY), "uplift: 3 values are missing"),
        (metrics.uplift_at, (BINARY, RANKS, BINARY, 1.5), "share is 1.5; expected a part of the rows"),
        (metrics.auc, (BINARY + 1, RANKS), "y: 2 values are neither 0 nor 1"),
        (metrics.pr_auc, (BINARY, RANKS[:2]), "lengths differ: score 2, y 3"),
        (metrics.log_loss, (BINARY, RANKS), "p: 2 values are not from 0 to 1"),
        (metrics.ece, (BINARY, -RANKS), "p: 3 values are not from 0 to 1"),
        (metrics.ece_of_noise, (RANKS,), "p: 2 values are not from 0 to 1"),
        (metrics.calibration_slope, (BINARY, RANKS), "p: 2 values are not from 0 to 1"),
        (targeting.auuc, (BINARY, RANKS, BINARY + 1), "treated: 2 values are neither 0 nor 1"),
        (targeting.auuc, (BINARY * 50, RANKS, BINARY), "y: 2 values are neither 0 nor 1"),
        (targeting.qini_causalml, (BINARY, RANKS, BINARY + 1), "treated: 2 values are neither 0 nor 1"),
        (targeting.rate, (BINARY * np.nan, RANKS), "scores: 3 values are missing"),
        (targeting.rate, (BINARY, RANKS, "auoc"), "weighting is 'auoc'"),
    ],
)
def test_what_would_be_a_false_number_is_refused(measure, args, message):
    with pytest.raises(DataError, match=message):
        measure(*args)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_own": BINARY}, "p_own: 1 values are 0 for an arm that was given"),
        ({"p_own": np.full(3, np.nan)}, "p_own: 3 values are missing"),
        ({"p_own": np.full(3, 50.0)}, "p_own: 3 values are not from 0 to 1"),
        ({"p_policy": 2 * SURE}, "p_policy: 3 rows are no probabilities that sum to 1"),
        ({"p_policy": SURE[:2]}, r"p_policy has shape \(2, 2\); expected \(3, arms\)"),
        ({"arm": np.array([0, 1, 2])}, "arm: 1 values are not among the 2 columns"),
        ({"estimator": "snips"}, "estimator is 'snips'; expected 'ipw', 'sn' or 'dr'"),
    ],
)
def test_policies_that_cannot_be_valued_are_refused(change, message):
    given = {"y": BINARY, "arm": np.array([0, 1, 1]), "p_own": np.full(3, 0.5), "p_policy": SURE}
    with pytest.raises(DataError, match=message):
        targeting.policy_value(**{**given, "estimator": "sn", **change})


# laws


@given(seed=st.integers(0, 19), order=st.integers(0, 1000))
def test_order_of_the_rows_does_not_matter(seed, order):
    y, uplift, t = (part[:80] for part in reference.case(seed))
    uplift = np.round(uplift)
    moved = np.random.default_rng(order).permutation(len(y))
    for measure in (
        metrics.qini,
        targeting.auuc,
        targeting.qini_causalml,
        targeting.auuc_causalml,
        lambda y, u, t: metrics.uplift_at(y, u, t, 0.3),
        lambda y, u, t: targeting.rate(y * t, u),
        lambda y, u, t: targeting.rate(y * t, u, "qini"),
        lambda y, u, t: metrics.pr_auc(y, u),
    ):
        assert measure(y[moved], uplift[moved], t[moved]) == pytest.approx(
            measure(y, uplift, t), abs=1e-9, nan_ok=True
        )


@given(seed=st.integers(0, 19))
def test_whole_weights_are_repeats(seed):
    y, uplift, t = (part[:60] for part in reference.case(seed))
    times = np.random.default_rng(seed).integers(1, 4, len(y))
    again = [np.repeat(part, times) for part in (y, uplift, t)]
    w = times.astype(float)
    assert targeting.auuc(y, uplift, t, w) == pytest.approx(targeting.auuc(*again), nan_ok=True)
    for measure in (targeting.qini_causalml, targeting.auuc_causalml):
        for outcome in (y, 50 * y):
            found = measure(outcome, uplift, t, w)
            repeated = measure(np.repeat(outcome, times), *again[1:])
            assert found == pytest.approx(repeated, nan_ok=True)
    assert targeting.rate(y, uplift, weight=w) == pytest.approx(targeting.rate(again[0], again[1]))


# recovery


def test_interval_of_customers_is_wider_than_that_of_their_repeated_rows():
    rng = np.random.default_rng(0)
    y = np.repeat(rng.normal(size=100), 10)

    def mean(w):
        return float(w @ y / w.sum())

    rows = targeting.interval(mean, 1000, np.random.default_rng(1))
    customers = targeting.interval(mean, 1000, np.random.default_rng(1), customers=np.arange(1000) // 10)
    assert customers.se == pytest.approx(rows.se * np.sqrt(10), rel=0.25)
    assert customers.n == 100


def test_doubly_robust_value_is_right_if_either_model_is():
    rng = np.random.default_rng(0)
    n = 20_000
    x = rng.normal(size=n)
    p1 = 1 / (1 + np.exp(-x))
    arm = (rng.random(n) < p1).astype(int)
    y = x + arm * (1 + x) + rng.normal(size=n)
    policy = np.column_stack([x <= 0, x > 0]).astype(float)
    truth = np.mean(x + (x > 0) * (1 + x))
    p_own = np.where(arm == 1, p1, 1 - p1)
    right, wrong = np.column_stack([x, 1 + 2 * x]), np.zeros((n, 2))
    for p, expected in ((p_own, wrong), (np.full(n, 0.5), right)):
        found = targeting.policy_value(y, arm, p, policy, expected=expected)
        assert found == pytest.approx(truth, abs=0.1)


# reference


@pytest.mark.parametrize("seed", range(reference.CASES))
def test_equal_to_scikit_uplift(seed):
    y, uplift, t = reference.case(seed)
    frozen = FROZEN["sklift"][seed]
    distinct = uplift + 1e-6 * np.arange(len(y))[::-1]
    assert metrics.qini(y, uplift, t) == pytest.approx(frozen["qini"], abs=1e-12)
    assert targeting.auuc(y, uplift, t) == pytest.approx(frozen["auuc"], abs=1e-12)
    assert metrics.uplift_at(y, distinct, t, 0.3) == pytest.approx(frozen["at30"], abs=1e-12)


@pytest.mark.parametrize("seed", range(reference.CASES))
def test_equal_to_causalml(seed):
    y, uplift, t = reference.case(seed)
    distinct = uplift + 1e-6 * np.arange(len(y))[::-1]
    frozen = FROZEN["causalml"][seed]
    assert targeting.qini_causalml(y, distinct, t) == pytest.approx(frozen["qini"], abs=1e-9)
    assert targeting.auuc_causalml(y, distinct, t) == pytest.approx(frozen["auuc"], abs=1e-9)
