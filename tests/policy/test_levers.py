import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nba.errors import SettingsError
from nba.policy import levers
from nba.policy.explore import Estimate, Greedy, Softmax
from nba.policy.limits import Limited

NO_LIMIT = Limited((), np.zeros((3, 0)), np.zeros(0))
SPENT = np.array([0.0, 0.1, 0.2])


def gains(n: int, seed: int = 0) -> Estimate:
    mean = np.random.default_rng(seed).normal(0.5, 1, (n, 3))
    mean[:, 0] = 0
    return Estimate(mean, np.zeros((n, 3)))


# by hand


def test_a_lever_costs_what_its_detours_lose():
    gain = Estimate(np.array([[0.0, 1.0, 0.9], [0.0, 1.0, 0.2]]), np.zeros((2, 3)))
    weights = {"club": np.array([[1.0, 1.0, 2.0]])}
    found = levers.costs(Greedy(), gain, SPENT, weights, np.ones((2, 3), bool), NO_LIMIT)
    # unweighted: 0.9 twice; with it the first customer gets 0.7 instead
    assert [one.lever for one in found] == ["club", "all"]
    assert found[0].value == pytest.approx(0.7 + 0.9)
    assert found[0].cost == found[1].cost == pytest.approx(0.2)
    assert found[0].moved == pytest.approx(1)


def test_levers_out_of_bounds_are_named():
    with pytest.raises(SettingsError, match="lever 'club' runs from 0 to 1"):
        levers.together({"club": np.array([[1.0, 0.0]]), "sale": np.array([[1.0, 1.0]])})
    assert levers.together({"a": np.array([[8.0]]), "b": np.array([[8.0]])})[0, 0] == levers.HIGH


# laws


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_a_lever_of_one_changes_nothing(seed):
    gain, may = gains(50, seed), np.ones((50, 3), bool)
    limited = Limited(("all",), np.array([[0.0], [1.0], [1.0]]), np.array([20.0]))
    plain = levers.weighted(gain, SPENT, np.ones((1, 1)))
    one = levers.weighted(gain, SPENT, levers.together({"club": np.ones((1, 3)), "loyal": np.ones((50, 1))}))
    np.testing.assert_array_equal(one.mean, plain.mean)
    for found in levers.costs(Softmax(0.1, 0.05), gain, SPENT, {"club": np.ones((1, 3))}, may, limited):
        assert found.cost == pytest.approx(0, abs=1e-9)
        assert found.moved == pytest.approx(0, abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), lever=st.floats(0.1, 10))
def test_without_limits_the_best_choice_cannot_gain_by_a_lever(seed, lever):
    weights = {"club": np.array([[1.0, 1.0, lever]])}
    found = levers.costs(Greedy(), gains(60, seed), SPENT, weights, np.ones((60, 3), bool), NO_LIMIT)
    assert found[0].cost >= -1e-9
