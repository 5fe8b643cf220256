import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nba import stats
from nba.models import balance

# by hand


def test_what_was_no_draw_counts_nothing_but_in_a_holdout():
    column = np.array([1, 1, 0, 0, 1, 0, 0])
    p = np.array([0.5, 1.0, 0.5, 1.0, np.nan, 1.0, 0.0])
    arm = np.array([0, 0, 0, 0, 0, 1, 0])
    found = balance.weights(column, p, arm)
    np.testing.assert_allclose(found, [1, 0, 1, 0, 0, 1, 0])


def test_without_any_chance_all_count_alike():
    assert balance.weights(np.array([0, 1]), np.full(2, np.nan)).tolist() == [1.0, 1.0]
    assert balance.weights(np.array([], dtype=int), np.array([])).tolist() == []


def test_arms_are_pooled_by_what_they_are_worth():
    column, arm = np.ones(6, dtype=int), np.array([0, 0, 0, 0, 1, 1])
    p = np.array([0.5, 0.5, 0.5, 0.5, 0.1, 0.9])
    found = balance.weights(column, p, arm)
    worth = stats.effective(1 / p[4:])  # of two
    np.testing.assert_allclose(found[:4].sum() / found[4:].sum(), 4 / worth)
    assert stats.effective(found) == pytest.approx(4 + worth)
    assert stats.effective(np.zeros(0)) == 0


# laws


@given(st.integers(0, 10_000))
def test_weights_sum_to_the_rows_that_count_and_even_draws_change_nothing(seed):
    rng = np.random.default_rng(seed)
    column, arm = rng.integers(0, 3, 60), rng.integers(0, 2, 60)
    found = balance.weights(column, rng.uniform(0.05, 0.95, 60), arm)
    np.testing.assert_allclose(np.bincount(column, found), np.bincount(column))
    np.testing.assert_allclose(balance.weights(column, np.array([0.5, 0.3, 0.2])[column], arm), 1)


@given(st.integers(0, 10_000))
def test_a_value_of_weight_two_is_two_of_its_unit(seed):
    rng = np.random.default_rng(seed)
    values, control, unit = rng.normal(size=12), np.arange(12) % 2 == 0, np.arange(12) // 3
    times = rng.integers(1, 4, 12)
    weighted = stats.contrast(values, control, 0.9, unit, times.astype(float))
    repeated = stats.contrast(
        *(np.repeat(part, times) for part in (values, control)), 0.9, unit.repeat(times)
    )
    np.testing.assert_allclose(weighted[:4], repeated[:4])
    assert weighted.n == repeated.n


# recovery


def test_weighted_customers_are_those_of_all():
    rng = np.random.default_rng(0)
    x, arm = rng.normal(size=40_000), rng.integers(0, 2, 40_000)
    p_treated = np.where(arm == 0, 1 / (1 + np.exp(-1.5 * x)), 0.3)
    column = (rng.random(40_000) < p_treated).astype(int)
    found = balance.weights(column, np.where(column > 0, p_treated, 1 - p_treated), arm)
    for group in (0, 1):
        at = column == group
        se = x[at].std() / np.sqrt(stats.effective(found[at]))
        assert abs(x[at].mean()) > 0.15
        assert abs(np.average(x[at], weights=found[at])) < 3 * se
