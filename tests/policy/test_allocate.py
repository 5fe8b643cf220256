from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy import stats as scipy_stats
from scipy.optimize import linprog

from nba import draws
from nba.policy import replayed
from nba.policy.allocate import after_trimming, allocate, trim
from nba.policy.explore import EpsilonGreedy, Estimate, Greedy, Softmax, SquareCB, Thompson, Uniform

POLICIES = [
    Softmax(0.25, 0.05),
    Softmax(0.02, 0.0),
    EpsilonGreedy(0.1),
    Greedy(),
    Uniform(),
    SquareCB(1.0, 0.05),
    Thompson(1.0, 0.0),
]
COST = np.array([0.0, 0.002, 0.06, 0.005, 4.0, 0.002, 0.06])
CHANNEL = np.array([-1, 0, 1, 2, 3, 0, 1])


def world(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    k = len(COST)
    mean = rng.normal(0.02, 0.04, (n, k)) * rng.gamma(2, 20, (n, 1)) - COST
    mean[:, 4] += 2
    mean[:, 0] = 0
    is_eligible = rng.random((n, k)) < 0.8
    is_eligible[:, 0] = True
    use = np.column_stack([*[(c == CHANNEL).astype(float) for c in range(4)], COST])
    available = n * np.array([0.3, 0.1, 0.1, 0.05, 0.1])
    se = rng.uniform(0.05, 0.5, (n, k))
    se[:, 0] = 0
    return Estimate(mean, se), is_eligible, use, available


def best_by_linear_programme(estimate, is_eligible, use, available) -> float:
    n = len(is_eligible)
    row, column = np.nonzero(is_eligible)
    each = sparse.csr_matrix((np.ones(len(row)), (row, np.arange(len(row)))), shape=(n, len(row)))
    found = linprog(
        -estimate.mean[row, column],
        A_ub=sparse.csr_matrix(use[column].T),
        b_ub=available,
        A_eq=each,
        b_eq=np.ones(n),
        method="highs",
    )
    return -found.fun


@pytest.fixture
def many_replays(monkeypatch):
    monkeypatch.setattr(replayed, "STEPS", 100_000_000)


def value(p, estimate, is_eligible) -> float:
    return float((p * np.where(is_eligible, estimate.mean, 0)).sum())


def play(found, use, available, ids, salt):
    column = draws.pick(found.drawn, draws.uniform(ids, salt))
    dropped = trim(column, use, available, ids, salt)
    return np.where(dropped >= 0, 0, column)


# by hand


def test_a_binding_limit_is_priced_at_the_marginal_customer():
    mean = np.column_stack([np.zeros(1000), np.arange(1000) / 100])
    found = allocate(
        Greedy(),
        Estimate(mean, mean * 0),
        np.ones((1000, 2), bool),
        np.array([[0.0], [1.0]]),
        np.array([200.0]),
    )
    assert found.price[0] == pytest.approx(8.0, abs=0.05)
    assert found.drawn[:, 1].sum() == pytest.approx(200, abs=1)
    assert (found.drawn[850:, 1] == 1).all()


def test_without_limits_the_policy_is_untouched():
    estimate, is_eligible, use, _ = world(50)
    found = allocate(Softmax(), estimate, is_eligible, use[:, :0], np.zeros(0))
    np.testing.assert_array_equal(found.final, Softmax().probabilities(estimate, is_eligible))


def test_a_loose_limit_costs_nothing():
    estimate, is_eligible, use, _ = world(50)
    found = allocate(Softmax(), estimate, is_eligible, use, np.full(5, 1e6))
    assert (found.price == 0).all()
    np.testing.assert_allclose(found.final, Softmax().probabilities(estimate, is_eligible))


def test_a_closed_channel_is_never_used():
    estimate, is_eligible, use, available = world(300)
    available[1] = 0.0
    for policy in POLICIES:
        found = allocate(policy, estimate, is_eligible, use, available)
        assert (found.drawn[:, CHANNEL == 1] == 0).all()
        assert np.isfinite(found.price).all()


def test_what_costs_more_than_the_whole_budget_is_left_alone():
    estimate, is_eligible, use, available = world(300)
    available[4] = 3.0
    for policy in POLICIES:
        found = allocate(policy, estimate, is_eligible, use, available)
        assert (found.drawn[:, 4] == 0).all()
        assert found.drawn[:, 1].sum() > 0


def test_ties_are_shared_by_chance_instead_of_all_or_nothing():
    mean = np.tile([0.0, 1.0], (500, 1))
    found = allocate(
        Greedy(),
        Estimate(mean, mean * 0),
        np.ones((500, 2), bool),
        np.array([[0.0], [1.0]]),
        np.array([100.0]),
    )
    assert 90 < found.drawn[:, 1].sum() <= 100
    assert np.ptp(found.drawn[:, 1]) == 0


def test_a_floor_that_eats_a_limit_is_cut_and_still_explores():
    estimate, is_eligible, use, available = world(1000)
    available[3] = 5.0
    found = allocate(Softmax(0.25, 0.2), estimate, is_eligible, use, available)
    assert found.floor_kept[4] < 0.2
    assert (found.floor_kept[[1, 3, 5]] == 1).all()
    assert (found.drawn[is_eligible] > 0).all()


def test_trimming_keeps_what_fits_and_drops_by_hash():
    use, available = np.array([[0.0], [1.0]]), np.array([3.0])
    ids = [f"c{i}" for i in range(8)]
    dropped = trim(np.ones(8, dtype=np.int64), use, available, ids, "a")
    assert (dropped == -1).sum() == 3
    assert (trim(np.ones(8, dtype=np.int64), use, available, ids, "b") != dropped).any()
    back = trim(np.ones(8, dtype=np.int64), use, available, ids[::-1], "a")
    np.testing.assert_array_equal(back[::-1], dropped)


def test_the_share_kept_of_a_count_is_that_of_all_outcomes():
    q = np.array([0.9, 0.5, 0.3])
    p = np.column_stack([1 - q, q])
    found = after_trimming(p, np.array([[0.0], [1.0]]), np.array([1.0]))[:, 1]
    expected = np.zeros(3)
    for outcome in np.ndindex(2, 2, 2):
        drawn = np.array(outcome)
        chance = np.prod(np.where(drawn, q, 1 - q))
        expected += chance * drawn / max(drawn.sum(), 1)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("use", "available"),
    [
        ([[0, 0], [1, 1], [0, 1]], [1.0, 1.0]),
        ([[0, 0], [1, 1], [0, 1]], [1.0, 2.0]),
        ([[0], [1], [2]], [2.0]),
        ([[0, 0], [1, 0.5], [1, 2]], [2.0, 2.5]),
    ],
)
def test_what_overlapping_limits_leave_is_that_of_all_draws_and_orders(use, available, many_replays):
    p = np.array([[0.1, 0.5, 0.4], [0.4, 0.3, 0.3], [0.2, 0.2, 0.6]])
    use, room = np.array(use, dtype=float), np.array(available)
    found = after_trimming(p, use, room)
    expected = np.zeros_like(p)
    orders = list(permutations(range(3)))
    for drawn in np.ndindex(3, 3, 3):
        chance = np.prod(p[np.arange(3), drawn])
        for own in product(orders, repeat=len(room)):
            column = np.array(drawn)
            for limit, order in enumerate(own):
                ranked = np.array(order)
                over = np.cumsum(use[column[ranked], limit]) > room[limit]
                column[ranked[over & (use[column[ranked], limit] > 0)]] = 0
            expected[np.arange(3), column] += chance / len(orders) ** len(room)
    np.testing.assert_allclose(found, expected, atol=3e-3)


def test_many_customers_are_corrected_for_themselves_instead_of_taken_out(many_replays, monkeypatch):
    rng = np.random.default_rng(5)
    p = rng.dirichlet([0.3, 0.3, 0.3], 60)
    use, room = np.array([[0, 0.0], [1, 1], [0, 1]]), np.array([8.0, 20.0])
    apart = after_trimming(p, use, room)
    monkeypatch.setattr(replayed, "_FEW", replayed.STEPS)
    np.testing.assert_allclose(after_trimming(p, use, room), apart, atol=4e-3)


@pytest.mark.parametrize("policy", [Softmax(0.25, 0.0), Greedy(), SquareCB(1.0, 0.0), Thompson(1.0, 0.0)])
def test_a_minimum_is_reached_at_a_price_below_nothing(policy, many_replays):
    estimate, is_eligible, use, available = world(2000)
    estimate.mean[:, 5] -= 1.0
    without = allocate(policy, estimate, is_eligible, use, available)
    least = np.zeros(6)
    use, available = np.column_stack([use, np.eye(7)[5]]), np.append(available, np.inf)
    least[5] = 400.0
    found = allocate(policy, estimate, is_eligible, use, available, least)
    assert without.drawn[:, 5].sum() < 350
    assert found.expected_use[5] == pytest.approx(400, rel=0.03)
    assert found.price[5] < 0
    assert (found.price[:5] >= 0).all()


@pytest.mark.parametrize("policy", [Softmax(0.25, 0.05), SquareCB(1.0, 0.05)])
def test_prices_meet_limits_exactly(policy):
    estimate, is_eligible, use, available = world(5000)
    found = allocate(policy, estimate, is_eligible, use, available)
    used = found.drawn.sum(axis=0) @ use
    binding = found.price > 0
    assert binding.sum() >= 3
    spread = np.sqrt((found.drawn @ use**2 - (found.drawn @ use) ** 2).sum(axis=0))
    exact = replayed.trims_exactly(use, available)
    assert exact.tolist() == [True] * 4 + [False]
    target = available - np.where(exact, 0.0, np.minimum(2 * spread, 0.05 * available))
    np.testing.assert_allclose(used[binding], target[binding], rtol=5e-3)


# laws


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 80), tight=st.floats(0.02, 1.5))
def test_probabilities_stay_a_distribution_and_no_limit_is_ever_exceeded(policy, seed, n, tight):
    estimate, is_eligible, use, available = world(n, seed)
    available = np.append(np.floor(available[:4] * tight), available[4] * tight)
    found = allocate(policy, estimate, is_eligible, use, available)
    for p in (found.drawn, found.final):
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-9)
        assert (p >= 0).all()
        assert (p[~is_eligible] == 0).all()
        assert (p.sum(axis=0) @ use <= available + 1e-6).all()
    ids = [f"c{i}" for i in range(n)]
    for salt in ("a", "b"):
        column = play(found, use, available, ids, salt)
        assert (use[column].sum(axis=0) <= available + 1e-9).all()
        assert (found.final[np.arange(n), column] > 0).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(0.05, 50))
def test_money_has_no_unit_but_in_the_prices(seed, factor):
    estimate, is_eligible, use, available = world(300, seed)
    found = allocate(Softmax(0.25, 0.05), estimate, is_eligible, use, available)
    other = np.column_stack([use[:, :4], use[:, 4] * factor])
    scaled = allocate(
        Softmax(0.25 * factor, 0.05),
        Estimate(estimate.mean * factor, estimate.se * factor),
        is_eligible,
        other,
        np.append(available[:4], available[4] * factor),
    )
    unit = np.array([factor] * 4 + [1.0])
    np.testing.assert_allclose(scaled.price, found.price * unit, rtol=1e-3, atol=1e-4 * factor)
    np.testing.assert_allclose(scaled.final, found.final, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_customers_does_not_matter(seed):
    estimate, is_eligible, use, available = world(200, seed)
    order = np.random.default_rng(seed).permutation(200)
    found = allocate(Softmax(), estimate, is_eligible, use, available)
    mixed = allocate(
        Softmax(), Estimate(estimate.mean[order], estimate.se[order]), is_eligible[order], use, available
    )
    np.testing.assert_allclose(mixed.final, found.final[order], atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), column=st.integers(1, 6))
def test_a_candidate_that_nobody_may_have_changes_nothing(seed, column):
    estimate, is_eligible, use, available = world(200, seed)
    is_eligible[:, column] = False
    found = allocate(Softmax(), estimate, is_eligible, use, available)
    left = np.delete(np.arange(len(COST)), column)
    fewer = Estimate(estimate.mean[:, left], estimate.se[:, left])
    without = allocate(Softmax(), fewer, is_eligible[:, left], use[left], available)
    np.testing.assert_allclose(without.final, found.final[:, left], atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), limit=st.integers(0, 4))
def test_a_larger_limit_is_never_worth_less(seed, limit):
    estimate, is_eligible, use, available = world(300, seed)
    more = available.copy()
    more[limit] *= 1.5
    found, wider = (allocate(Greedy(), estimate, is_eligible, use, room) for room in (available, more))
    assume(found.price[limit] > 0)
    before, after = (value(p.drawn, estimate, is_eligible) for p in (found, wider))
    assert after >= before * (1 - 5e-3)


# recovery


@pytest.mark.parametrize(
    ("policy", "available", "costs"),
    [
        (Softmax(0.5, 0.1), (5.0, 3.0, 1e9), (0, 1, 1, 1)),
        (Softmax(0.5, 0.1), (1.0, 1.0, 1e9), (0, 1, 1, 1)),
        (EpsilonGreedy(0.2), (5.0, 3.0, 1e9), (0, 1, 1, 1)),
        (Uniform(), (20.0, 20.0, 30.0), (0, 0.5, 0.5, 1)),
        (SquareCB(2.0, 0.05), (5.0, 3.0, 1e9), (0, 1, 1, 1)),
        (Thompson(1.0, 0.02), (5.0, 3.0, 6.0), (0, 1, 1, 1)),
        (SquareCB(2.0, 0.05), (5.0, 3.0, 6.0), (0, 1, 1, 1)),
        (EpsilonGreedy(0.2), (6.0, 4.0, 4.5), (0, 1, 0.5, 2)),
        (Thompson(1.0, 0.02), (6.0, 4.0, 4.5), (0, 1, 0.5, 2)),
    ],
)
def test_logged_probabilities_are_the_frequencies_of_replays(policy, available, costs, many_replays):
    n, salts, rng = 40, 1500, np.random.default_rng(3)
    mean = np.column_stack([np.zeros(n), rng.normal(0.5, 1, (n, 3))])
    is_eligible = rng.random((n, 4)) < 0.8
    is_eligible[:, 0] = True
    use = np.column_stack([[0, 1, 1, 0], [0, 0, 0, 1], costs]).astype(float)
    room = np.array(available)
    found = allocate(policy, Estimate(mean, np.full((n, 4), 0.3)), is_eligible, use, room)
    ids, count = [f"c{i}" for i in range(n)], np.zeros((n, 4))
    for salt in range(salts):
        column = play(found, use, room, ids, str(salt))
        assert (use[column].sum(axis=0) <= room + 1e-9).all()
        count[np.arange(n), column] += 1
    expected = found.final * salts
    random = (expected > 5) & (expected < salts - 5)
    square = ((count - expected)[random] ** 2 / expected[random]).sum()
    freedom = random.sum() - random.any(axis=1).sum()
    assert scipy_stats.chi2.sf(square, freedom) > 1e-3


# reference


def test_greedy_within_limits_reaches_the_linear_programme():
    case = world(2000, seed=1)
    estimate, is_eligible = case[:2]
    best = best_by_linear_programme(*case)
    found = allocate(Greedy(), *case)
    assert value(found.final, estimate, is_eligible) >= best * (1 - 1e-3)
    cold = allocate(Softmax(0.002, 0.0), *case)
    assert value(cold.final, estimate, is_eligible) >= best * (1 - 2e-2)
