import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nba.errors import SettingsError
from nba.policy.explore import EpsilonGreedy, Estimate, Greedy, Softmax, Uniform

POLICIES = [
    Softmax(0.25, 0.05),
    Softmax(3.0, 0.0),
    EpsilonGreedy(0.0),
    EpsilonGreedy(0.3),
    Greedy(),
    Uniform(),
]


@st.composite
def cases(draw):
    n, k = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    mean = draw(hnp.arrays(np.float64, (n, k), elements=st.floats(-50, 50)))
    mean[:, 0] = 0
    is_eligible = draw(hnp.arrays(np.bool_, (n, k)))
    is_eligible[:, 0] = True
    return Estimate(mean, np.zeros((n, k))), is_eligible


# by hand


def test_softmax_is_its_formula_with_a_floor():
    belief = Estimate(np.array([[0.0, 1.0, 9.0]]), np.zeros((1, 3)))
    p = Softmax(0.5, 0.1).probabilities(belief, np.array([[True, True, False]]))
    likely = np.array([1, np.exp(2.0)]) / (1 + np.exp(2.0))
    np.testing.assert_allclose(p[0], [*(0.9 * likely + 0.05), 0.0])


def test_greedy_shares_ties_and_epsilon_greedy_spreads_the_rest():
    belief = Estimate(np.array([[0.0, 2.0, 2.0, 5.0]]), np.zeros((1, 4)))
    may = np.array([[True, True, True, False]])
    np.testing.assert_allclose(Greedy().probabilities(belief, may), [[0, 0.5, 0.5, 0]])
    np.testing.assert_allclose(EpsilonGreedy(0.3).probabilities(belief, may), [[0.1, 0.45, 0.45, 0]])


def test_uniform_does_not_ask_what_is_believed():
    unknown = Estimate(np.full((2, 3), np.nan), np.full((2, 3), np.nan))
    may = np.array([[True, True, True], [True, False, False]])
    np.testing.assert_allclose(Uniform().probabilities(unknown, may), [[1 / 3] * 3, [1, 0, 0]])


def test_parameters_out_of_bounds_are_named():
    with pytest.raises(SettingsError, match="temperature is 0; expected above 0"):
        Softmax(temperature=0.0)
    with pytest.raises(SettingsError, match="expected 0 to 1"):
        EpsilonGreedy(1.5)


# laws


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None, max_examples=30)
@given(case=cases())
def test_probabilities_are_a_distribution_over_what_is_eligible(policy, case):
    estimate, is_eligible = case
    p = policy.probabilities(estimate, is_eligible)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert (p >= 0).all()
    assert (p[~is_eligible] == 0).all()


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None, max_examples=30)
@given(case=cases())
def test_the_floor_is_spread_evenly(policy, case):
    estimate, is_eligible = case
    even = is_eligible / is_eligible.sum(axis=1, keepdims=True)
    assert (policy.probabilities(estimate, is_eligible) >= policy.floor * even - 1e-12).all()


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None, max_examples=30)
@given(case=cases(), seed=st.integers(0, 2**16))
def test_order_of_customers_and_treatments_does_not_matter(policy, case, seed):
    estimate, is_eligible = case
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(is_eligible.shape[0]), rng.permutation(is_eligible.shape[1])
    p = policy.probabilities(estimate, is_eligible)
    mixed = policy.probabilities(
        Estimate(estimate.mean[rows][:, columns], estimate.se[rows][:, columns]),
        is_eligible[rows][:, columns],
    )
    np.testing.assert_allclose(mixed, p[rows][:, columns], atol=1e-12)


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None, max_examples=30)
@given(case=cases())
def test_a_candidate_that_nobody_may_have_changes_nothing(policy, case):
    estimate, is_eligible = case
    n = len(is_eligible)
    wider = Estimate(
        np.hstack([estimate.mean, np.full((n, 1), 99.0)]), np.zeros((n, is_eligible.shape[1] + 1))
    )
    p = policy.probabilities(wider, np.hstack([is_eligible, np.zeros((n, 1), dtype=bool)]))
    np.testing.assert_allclose(p[:, :-1], policy.probabilities(estimate, is_eligible), atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(case=cases(), factor=st.floats(0.01, 100))
def test_money_has_no_unit(case, factor):
    estimate, is_eligible = case
    p = Softmax(0.7, 0.1).probabilities(estimate, is_eligible)
    scaled = Estimate(estimate.mean * factor, estimate.se)
    np.testing.assert_allclose(Softmax(0.7 * factor, 0.1).probabilities(scaled, is_eligible), p, atol=1e-9)
