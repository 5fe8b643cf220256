"""The oracle of the simulated world: hard limits, a bound that is close, and what choosing is worth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from nba.histories import simulated_truth as truths
from nba.histories.simulated import World
from nba.histories.simulated_oracle import best_within, choose_oracle
from nba.histories.simulated_settings import default_limits

# laws


@st.composite
def problems(draw):
    seed, n, k = draw(st.integers(0, 10_000)), draw(st.integers(1, 40)), draw(st.integers(2, 6))
    rng = np.random.default_rng(seed)
    value = rng.normal(0.3, 1.0, (n, k))
    value[rng.random((n, k)) < 0.2] = -np.inf
    value[:, 0] = 0.0
    use = np.column_stack([rng.integers(0, 2, k), rng.integers(0, 2, k), rng.random(k).round(2)])
    use[0] = 0.0
    return value, use.astype(float), np.array([n * 0.3, n * 0.2, n * 0.15]).round()


@given(problem=problems())
@hypothesis_settings(max_examples=40, deadline=None)
def test_an_assignment_keeps_hard_limits_and_its_bound(problem):
    value, use, available = problem
    got = best_within(value, use, available)
    chosen = value[np.arange(len(value)), got.column]
    assert np.isfinite(chosen).all()
    assert (chosen >= 0).all()
    assert (use[got.column].sum(axis=0) <= available + 1e-6).all()
    np.testing.assert_allclose(got.value, chosen.sum())
    assert got.value <= got.bound + 1e-6 * max(1.0, abs(got.bound))


def test_the_oracle_keeps_the_rules_of_a_policy():
    world = World.create(2000, 11, n_batches=6, weeks_before=6)
    capacity, budget = default_limits(2000)
    sent, batches = [], []

    def watch(seen):
        column = choose_oracle(seen)
        sent.append(column)
        batches.append(seen)
        return column

    result = world.play_oracle(choose=watch)
    for column, seen in zip(sent, batches):
        channel = truths.CATALOG.channel[column]
        assert all((channel == name).sum() <= limit for name, limit in capacity.items())
        assert truths.CATALOG.cost[column].sum() <= budget + 1e-6
        assert seen.is_eligible[np.arange(2000), column].all()
        assert (seen.value[np.arange(2000), column] >= 0).all()
    chosen = np.stack(sent)
    assert result.n_contacts.sum() == (chosen > 0).sum()
    np.testing.assert_allclose(sum(result.by_batch), result.value)
    assert world.next_batch == 0


# recovery


def test_choosing_matters():
    """Random contact gains little, going for likely buyers gains less than going for effects."""
    world = World.create(4000, 21, n_batches=6, weeks_before=10)
    rng = np.random.default_rng(2)

    def by(score):
        def choose(seen):
            value = np.where(seen.is_eligible, score(seen), -np.inf)
            value[:, 0] = 0.0
            return best_within(value, seen.use, seen.available).column

        return choose

    margin = world._truth.margin[:, None]
    oracle = world.play_oracle()
    random = world.play_oracle(choose=by(lambda seen: 1 + rng.random(seen.value.shape)))
    likely = world.play_oracle(choose=by(lambda seen: seen.p_response * margin - truths.CATALOG.cost))
    nobody = world.play_oracle(choose=lambda seen: np.zeros(4000, dtype=np.int64))
    assert nobody.value == 0
    assert 0 < random.value < 0.4 * oracle.value
    assert random.value < likely.value < 0.85 * oracle.value
    gain = oracle.margin - oracle.cost - nobody.margin
    noise = (gain - oracle.per_customer).std() / np.sqrt(4000)
    assert abs(gain.mean() - oracle.value) < 3 * noise + 0.1  # opt-outs are counted in the value only
    net = oracle.margin - oracle.cost
    holdout = np.sqrt(net.var() * (1 / 2000 + 1 / 14_000))
    assert oracle.value > 4 * holdout


# reference


@pytest.mark.parametrize("seed", range(3))
def test_the_assignment_is_the_optimum_of_highs(seed):
    rng = np.random.default_rng(seed)
    n, k = 150, 5
    value = rng.gamma(1.0, 1.0, (n, k)) - 0.4
    value[:, 0] = 0.0
    use = np.array([[0, 0, 0], [1, 0, 0.1], [1, 0, 0.1], [0, 1, 1.0], [0, 1, 1.5]], dtype=float)
    available = np.array([40.0, 25.0, 20.0])
    once = np.kron(np.eye(n), np.ones(k))
    limits = np.tile(use.T, n)
    solved = milp(
        -value.ravel(),
        integrality=np.ones(n * k),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(once, 0, 1), LinearConstraint(limits, -np.inf, available)],
        options={"mip_rel_gap": 1e-6},
    )
    got = best_within(value, use, available)
    assert got.value <= -solved.fun + 1e-6 <= got.bound + 1e-3
    assert got.value >= -solved.fun - len(available) * value.max() * 0.5  # at most 3 customers were split
    assert got.value >= -solved.fun * (1 - 1e-2)


def test_the_gap_is_small_at_size():
    world = World.create(20_000, 7, weeks_before=4)
    capacity, budget = default_limits(20_000)
    seen = world._batch(world._state, 0, capacity, budget, 28, 3)
    value = np.where(seen.is_eligible, seen.value, -np.inf)
    value[:, 0] = 0.0
    got = best_within(value, seen.use, seen.available)
    assert got.bound - got.value <= 2e-4 * got.bound
    assert got.price.max() > 0
