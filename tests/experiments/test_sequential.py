"""Looking early: spending bounds and the confidence sequence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nba.errors import DataError
from nba.experiments import anytime, sequential
from nba.experiments.analyze import Effects

# by hand


def test_one_look_is_the_fixed_test():
    assert sequential.spending_bounds(np.array([1.0]))[0] == pytest.approx(1.959964, abs=1e-6)


def test_all_is_spent_at_the_end_and_nothing_at_the_start():
    assert sequential.spent(np.array([1e-4, 1.0])) == pytest.approx([0.0, 0.025], abs=1e-12)


def test_the_confidence_sequence_by_hand():
    # rho^2 tuned at 100 with alpha 0.05: (-2 ln a + ln(1 - 2 ln a)) / 100.
    rho = (5.991464547 + np.log(6.991464547)) / 100
    by_hand = np.sqrt((100 * rho + 1) / (100 * rho) * np.log((100 * rho + 1) / 0.0025))
    assert sequential.sequence_bound(np.array([100.0]), 100)[0] == pytest.approx(by_hand, rel=1e-9)


def test_below_two_units_there_is_no_interval():
    assert np.isinf(sequential.sequence_bound(np.array([0.0, 1.0]), 100)).all()


@pytest.mark.parametrize("looks", [[], [0.0, 1.0], [0.5, 0.4], [0.5, 1.2]])
def test_looks_out_of_order_are_refused(looks):
    with pytest.raises(DataError, match="looks"):
        sequential.spending_bounds(np.array(looks))


# laws


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.02, 1.0), min_size=1, max_size=6, unique=True))
def test_bounds_never_undercut_the_fixed_test(looks):
    looks = np.array(sorted(looks))
    if (np.diff(looks) > 1e-3).all():
        assert (sequential.spending_bounds(looks) > 1.9599).all()


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_bounds_fall_over_even_looks(n):
    # Over uneven ones they need not: a look soon after another has little error left to spend.
    bound = sequential.spending_bounds(np.arange(1, n + 1) / n)
    assert (np.diff(bound) <= 1e-9).all()


@given(st.floats(2, 1e7), st.floats(10, 1e6))
def test_the_sequence_is_wider_than_the_fixed_interval(n, planned):
    assert sequential.sequence_bound(np.array([n]), planned)[0] > 2.4


# recovery


def crossed(bound, drift=0.0, reps=20_000, seed=0):
    rng = np.random.default_rng(seed)
    k = np.arange(1, len(bound) + 1)
    z = np.cumsum(rng.normal(drift, 1, (reps, len(bound))), axis=1) / np.sqrt(k)
    return (np.abs(z) > bound).any(axis=1).mean()


def test_thirty_looks_at_nothing_alarm_in_five_of_a_hundred():
    k = np.arange(1, 31)
    assert abs(crossed(sequential.spending_bounds(k / 30)) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 20_000)
    assert crossed(np.full(30, 1.96)) > 0.25  # what peeking with a fixed test does
    assert crossed(sequential.sequence_bound(2000.0 * k, 60_000)) < 0.02


def test_effects_watched_at_every_look_are_claimed_in_five_of_a_hundred_at_most():
    looks, cells = 13, 4_000
    rng = np.random.default_rng(8)
    gained = rng.normal(size=(cells, looks)).cumsum(axis=1)  # nothing happens, week by week
    weeks = np.arange(1, looks + 1)
    blank = dict.fromkeys(Effects._fields, np.zeros((1, cells)))
    ever = np.zeros(cells, dtype=bool)
    for k in range(looks):
        effect, se = gained[:, k] / weeks[k], np.full(cells, weeks[k] ** -0.5)
        found = Effects(**blank | {"effect": effect[None], "se": se[None]})
        score = np.broadcast_to(weeks[:k].astype(float), (1, cells, k))
        watched = anytime.watch(found, np.full((1, cells), weeks[k] * 1.0), score, looks, 0.05)
        leaves = (watched.lower[0] > 0) | (watched.upper[0] < 0)
        assert (leaves == (watched.p_value[0] < 0.05)).all()
        ever |= leaves
    assert 0.001 < ever.mean() < 0.05


def test_uneven_looks_keep_the_error_too():
    looks = np.array([0.1, 0.15, 0.6, 0.95, 1.0])
    rng = np.random.default_rng(1)
    steps = np.sqrt(np.diff(looks, prepend=0.0))
    z = np.cumsum(rng.normal(size=(40_000, 5)) * steps, axis=1) / np.sqrt(looks)
    error = (np.abs(z) > sequential.spending_bounds(looks)).any(axis=1).mean()
    assert abs(error - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 40_000)


def test_a_planned_test_keeps_its_power():
    assert crossed(sequential.spending_bounds(np.arange(1, 31) / 30), drift=2.8016 / np.sqrt(30)) > 0.76


def test_no_event_in_either_arm_bounds_the_rates():
    rng = np.random.default_rng(2)
    lower, upper = sequential.zero_events(np.array([300.0]), np.array([300.0]))
    assert lower[0] == -upper[0]
    # Were the rate above the bound, nothing would have happened in fewer than 2.5% of experiments.
    assert (rng.binomial(300, upper[0], 20_000) == 0).mean() < 0.026


# reference


@pytest.mark.parametrize(
    ("looks", "gsdesign"),
    [
        (2, [2.963, 1.969]),
        (4, [4.333, 2.963, 2.359, 2.014]),
        (5, [4.877, 3.357, 2.680, 2.290, 2.031]),
    ],
)
def test_bounds_equal_gsdesign(looks, gsdesign):
    # R: gsDesign(k, test.type = 2, alpha = 0.025, sfu = sfLDOF)$upper$bound
    found = sequential.spending_bounds(np.arange(1, looks + 1) / looks)
    assert found == pytest.approx(gsdesign, abs=6e-4)
