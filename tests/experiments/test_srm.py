"""Sample-ratio mismatch."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nba.errors import DataError
from nba.experiments import srm

FROZEN = json.loads(
    (Path(__file__).parents[1] / "reference" / "experiments.json").read_text(encoding="utf-8")
)
HALF = np.array([0.5, 0.5])

# by hand


def test_an_even_split_is_fine_and_a_skewed_one_alarms():
    assert srm.chi_square(np.array([5000.0, 5000.0]), HALF).p_value == 1.0
    found = srm.chi_square(np.array([5000.0, 5600.0]), HALF)
    assert found.is_alarm
    assert found.expected.tolist() == [5300.0, 5300.0]


def test_ninety_ten_is_judged_by_ninety_ten():
    assert not srm.chi_square(np.array([9000.0, 1000.0]), np.array([0.9, 0.1])).is_alarm


def test_phases_are_judged_by_their_own_shares():
    # Pooled the split is 65 to 35, yet each phase keeps its promise.
    counts = np.array([[5000.0, 5000.0], [8000.0, 2000.0]])
    shares = np.array([[0.5, 0.5], [0.8, 0.2]])
    assert srm.chi_square(counts, shares).p_value == pytest.approx(1.0)
    assert srm.sequential(counts[None], shares)[0] == 1.0
    assert srm.chi_square(counts.sum(axis=0), HALF).is_alarm


def test_too_few_customers_are_no_evidence():
    found = srm.chi_square(np.array([3.0, 0.0]), HALF)
    assert np.isnan(found.p_value)
    assert "needs 5" in found.reason
    assert srm.chi_square(np.zeros(2), HALF).reason == "nobody is assigned yet"


@pytest.mark.parametrize(
    ("counts", "shares", "words"),
    [
        ([5.0, 5.0], [0.5, 0.6], "sum to"),
        ([5.0, 5.0], [1.0, 0.0], "arm of share 0"),
        ([5.0, 5.0, 1.0], [0.5, 0.5], "shape"),
    ],
)
def test_shares_that_cannot_be_are_refused(counts, shares, words):
    with pytest.raises(DataError, match=words):
        srm.chi_square(np.array(counts), np.array(shares))


def test_a_treatment_that_could_not_be_chosen_is_an_alarm():
    p = np.tile([0.5, 0.5, 0.0], (100, 1))
    chosen = np.array([0, 1] * 49 + [0, 2])
    found = srm.logged(chosen, p, np.zeros(100, dtype=np.int64))
    assert found.is_alarm
    assert "probability 0" in found.reason


def test_choices_without_chance_say_nothing():
    p = np.tile([0.0, 1.0], (100, 1))
    found = srm.logged(np.ones(100, dtype=np.int64), p, np.zeros(100, dtype=np.int64))
    assert np.isnan(found.p_value)
    assert not found.is_alarm
    assert "at random" in found.reason
    assert srm.logged(np.zeros(0, dtype=np.int64), np.zeros((0, 2)), np.zeros(0)).reason == "no decisions"


# laws


@given(st.lists(st.integers(0, 500), min_size=2, max_size=20))
def test_the_sequential_p_value_never_rises(steps):
    counts = np.cumsum([[s, 500 - s] for s in steps], axis=0).astype(float)
    p = srm.sequential(counts, HALF)
    assert (np.diff(p) <= 1e-15).all()
    assert ((p >= 0) & (p <= 1)).all()


# recovery


def test_thirty_looks_seldom_alarm_falsely_and_mostly_find_a_skew():
    rng = np.random.default_rng(0)
    alarms = {}
    for share in (0.5, 0.51):
        first = rng.binomial(2000, share, (1500, 30)).cumsum(axis=1)
        total = 2000 * np.arange(1, 31)
        p = [srm.sequential(np.stack([f, total - f], axis=1).astype(float), HALF)[-1] for f in first]
        alarms[share] = np.mean(np.array(p) < srm.SEQUENTIAL_ALARM)
    assert alarms[0.5] <= 0.011
    assert alarms[0.51] >= 0.88


def test_adaptive_traffic_is_judged_by_its_logged_probabilities():
    # The probability follows what was chosen before, as that of a policy that learns.
    rng = np.random.default_rng(1)
    batch = np.repeat(np.arange(10), 50)
    alarms = 0
    for _ in range(200):
        favourite = rng.random((500, 1))
        p = np.hstack([0.9 * favourite, 0.9 * (1 - favourite), np.full((500, 1), 0.1)])
        chosen = (rng.random((500, 1)) > p.cumsum(axis=1)).sum(axis=1)
        # Its p-value is the least of all looks so far: one reading at the end stands for all of them.
        alarms += srm.logged(chosen, p, batch, alarm=0.05).is_alarm
    assert alarms / 200 <= 0.05
    skewed = np.where(rng.random(500) < 0.15, 2, chosen)
    assert srm.logged(skewed, p, batch).is_alarm


def test_one_treatment_of_twenty_that_strays_is_found():
    rng = np.random.default_rng(2)
    batch = np.repeat(np.arange(10), 3000)
    p = rng.dirichlet(np.full(20, 2.0), size=len(batch))
    for tilt in (1.0, 1.25):
        drawn = p * np.append(tilt, np.ones(19))
        edges = (drawn / drawn.sum(axis=1, keepdims=True)).cumsum(axis=1)
        chosen = (rng.random((len(batch), 1)) > edges).sum(axis=1).clip(max=19)
        assert srm.logged(chosen, p, batch).is_alarm == (tilt > 1)


# reference


@pytest.mark.parametrize(("counts", "shares", "p_value"), FROZEN["chi_square"])
def test_chi_square_equals_scipy(counts, shares, p_value):
    assert srm.chi_square(np.array(counts), np.array(shares)).p_value == pytest.approx(p_value, rel=1e-9)
