import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nba import draws
from nba.errors import DataError, SettingsError
from nba.policy.explore import (
    EpsilonGreedy,
    Estimate,
    Greedy,
    Softmax,
    SquareCB,
    Thompson,
    Uniform,
    check,
    choose,
)

POLICIES = [
    Softmax(0.25, 0.05),
    Softmax(3.0, 0.0),
    EpsilonGreedy(0.0),
    EpsilonGreedy(0.3),
    Greedy(),
    Uniform(),
    SquareCB(1.0, 0.0),
    SquareCB(5.0, 0.1),
    Thompson(1.0, 0.05),
]


@st.composite
def cases(draw):
    n, k = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    mean = draw(hnp.arrays(np.float64, (n, k), elements=st.floats(-50, 50)))
    mean[:, 0] = 0
    is_eligible = draw(hnp.arrays(np.bool_, (n, k)))
    is_eligible[:, 0] = True
    se = draw(hnp.arrays(np.float64, (n, k), elements=st.floats(0, 20)))
    se[:, 0] = 0
    return Estimate(mean, se), is_eligible


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


def test_inverse_gap_weighting_is_the_best_of_value_and_barrier():
    belief = Estimate(np.array([[0.0, 1.0, 0.6]]), np.array([[0.0, 0.3, 0.4]]))
    may = np.ones((1, 3), dtype=bool)
    policy = SquareCB(2.0, 0.0)
    gamma = policy.gamma(belief, may)[0]
    assert gamma == pytest.approx(2 * np.sqrt(3) / np.sqrt((0.3**2 + 0.4**2) / 2))
    p = policy.probabilities(belief, may)[0]
    nu = 1 / (gamma * p) + belief.mean[0]
    np.testing.assert_allclose(nu, nu[0], rtol=1e-9)

    def worth(q):
        return q @ belief.mean[0] + np.log(q).sum() / gamma

    rng = np.random.default_rng(0)
    assert all(worth(p) >= worth(q) for q in rng.dirichlet(np.ones(3), 500))


def test_thompson_gives_the_share_of_draws_in_which_each_is_best():
    rng = np.random.default_rng(0)
    mean, se = np.array([0.0, 0.3, 0.5, -1.0]), np.array([0.0, 0.4, 0.05, 2.0])
    p = Thompson(1.0, 0.0).probabilities(Estimate(mean[None], se[None]), np.ones((1, 4), bool))[0]
    n = 200_000
    share = np.bincount((mean + se * rng.normal(size=(n, 4))).argmax(axis=1), minlength=4) / n
    np.testing.assert_allclose(p, share, atol=4 * np.sqrt(0.25 / n))


def test_what_is_not_scored_is_left_to_the_floor_and_a_customer_without_candidates_gets_none():
    belief = Estimate(np.array([[0.0, np.nan, 1.0], [0.0, np.nan, np.nan], [0.0, 5.0, 5.0]]), np.ones((3, 3)))
    may = np.array([[True, True, True], [True, True, True], [True, False, False]])
    for policy in (Softmax(0.1, 0.3), SquareCB(1.0, 0.3), Thompson(1.0, 0.3), EpsilonGreedy(0.3)):
        p = policy.probabilities(belief, may)
        assert p[0, 1] == pytest.approx(0.1)
        np.testing.assert_allclose(p[1], [0.8, 0.1, 0.1])
        np.testing.assert_allclose(p[2], [1, 0, 0])


def test_a_batch_of_which_nothing_is_believed_is_refused():
    may = np.ones((2, 3), dtype=bool)
    with pytest.raises(DataError, match="all 4 scores of eligible treatments are unknown"):
        check(Softmax(), Estimate(np.full((2, 3), np.nan), np.ones((2, 3))), may)
    with pytest.raises(DataError, match="1 of 4 scores are infinite"):
        check(Greedy(), Estimate(np.array([[0, 1, np.inf], [0, 1, 1]]), np.ones((2, 3))), may)
    with pytest.raises(DataError, match="explores by standard errors; all 4 are unknown"):
        check(SquareCB(), Estimate(np.zeros((2, 3)), np.full((2, 3), np.nan)), may)
    check(Uniform(), Estimate(np.full((2, 3), np.nan), np.full((2, 3), np.nan)), may)


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
    np.testing.assert_allclose(mixed, p[rows][:, columns], atol=1e-9)


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None, max_examples=30)
@given(case=cases())
def test_a_candidate_that_nobody_may_have_changes_nothing(policy, case):
    estimate, is_eligible = case
    n = len(is_eligible)
    wider = Estimate(
        np.hstack([estimate.mean, np.full((n, 1), 99.0)]), np.hstack([estimate.se, np.ones((n, 1))])
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


@pytest.mark.parametrize("policy", [p for p in POLICIES if not isinstance(p, Thompson | Uniform)])
@settings(deadline=None, max_examples=30)
@given(case=cases(), seed=st.integers(0, 2**16))
def test_choosing_in_one_pass_is_drawing_from_the_probabilities(policy, case, seed):
    estimate, is_eligible = case
    rng = np.random.default_rng(seed)
    price = np.append(0.0, rng.random(is_eligible.shape[1] - 1))
    draw = rng.random(len(is_eligible))
    p = policy.probabilities(estimate.net_of(price), is_eligible)
    column, chance = choose(policy, estimate, is_eligible, price, draw)
    np.testing.assert_array_equal(column, draws.pick(p, draw))
    np.testing.assert_allclose(chance, p[np.arange(len(p)), column], atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(case=cases(), cut=st.integers(0, 6))
def test_any_partitioning_gives_the_same(case, cut):
    estimate, is_eligible = case
    for policy in POLICIES:
        whole = policy.probabilities(estimate, is_eligible)
        parts = [
            policy.probabilities(Estimate(estimate.mean[rows], estimate.se[rows]), is_eligible[rows])
            for rows in (slice(0, cut), slice(cut, None))
        ]
        np.testing.assert_array_equal(np.vstack(parts), whole)
