"""Effects from decisions whose probabilities learned."""

import numpy as np
import pytest
from scipy import special

from nba.errors import DataError
from nba.experiments import adaptive


def thompson(gap, rng, batches=25, size=100, floor=0.05):
    """Decisions of batched Thompson sampling over two actions."""
    count, total = np.zeros(2), np.zeros(2)
    reward, chosen, p = [], [], []
    for _ in range(batches):
        mean, se = total / np.maximum(count, 1), 1 / np.sqrt(np.maximum(count, 0.01))
        best = special.ndtr((mean[1] - mean[0]) / np.hypot(*se))
        now = floor + (1 - 2 * floor) * np.array([1 - best, best])
        a = (rng.random(size) < now[1]).astype(int)
        y = gap * a + rng.normal(size=size)
        count += np.bincount(a, minlength=2)
        total += np.bincount(a, y, 2)
        reward.append(y)
        chosen.append(a)
        p.append(np.tile(now, (size, 1)))
    y, a = np.concatenate(reward), np.concatenate(chosen)
    batch = np.repeat(np.arange(batches), size)
    return adaptive.Log(y, a, np.concatenate(p), batch, adaptive.lagged_means(y, a, batch, 2))


def contrast(log):
    return np.tile([-1.0, 1.0], (len(log.reward), 1))


def even(n=200, seed=0):
    rng = np.random.default_rng(seed)
    a = np.arange(n) % 2
    y = 1.0 * a + rng.normal(size=n)
    return adaptive.Log(y, a, np.full((n, 2), 0.5), np.zeros(n, int), np.zeros((n, 2)))


# by hand


def test_the_score_by_hand():
    log = adaptive.Log(
        np.array([3.0]), np.array([1]), np.array([[0.8, 0.2]]), np.array([0]), np.array([[1.0, 2.0]])
    )
    # (2 - 1) + (3 - 2) / 0.2
    assert adaptive.scores(log, np.array([[-1.0, 1.0]])).tolist() == [6.0]


def test_models_know_earlier_batches_only():
    y, a = np.array([1.0, 3.0, 10.0, 20.0]), np.array([0, 0, 0, 1])
    model = adaptive.lagged_means(y, a, np.array([0, 0, 1, 2]), 2)
    assert model.tolist() == [[0, 0], [0, 0], [2, 0], [14 / 3, 0]]


def test_few_decisions_are_unknown_with_a_reason():
    log = even(10)
    found = adaptive.final(log, contrast(log))
    assert np.isnan(found.lower)
    assert "needs 30" in found.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"p_action": np.tile([1.0, 0.0], (200, 1))}, "probability 0 was chosen"),
        ({"p_action": np.tile([0.5, 0.6], (200, 1))}, "does not sum to 1"),
        ({"batch": np.arange(200)[::-1]}, "not in order"),
        ({"reward": np.full(200, np.nan)}, "unknown"),
        ({"model": np.zeros((200, 3))}, "expected"),
    ],
)
def test_a_faulty_log_is_refused(change, words):
    log = even()._replace(**change)
    with pytest.raises(DataError, match=words):
        adaptive.final(log, np.tile([-1.0, 1.0], (200, 1)))


# laws


def test_nothing_later_changes_a_model():
    rng = np.random.default_rng(1)
    y, a, batch = rng.normal(size=90), rng.integers(0, 3, 90), np.repeat([0, 1, 2], 30)
    before = adaptive.lagged_means(y, a, batch, 3)
    y[60:] += 100
    assert (adaptive.lagged_means(y, a, batch, 3) == before).all()


def test_repeated_customers_widen_the_interval():
    log = even(400)
    again = log._replace(reward=np.repeat(log.reward[:40], 10), chosen=np.repeat(log.chosen[:40], 10))
    alone = adaptive.final(again, contrast(log)).se
    together = adaptive.final(again._replace(customer=np.repeat(np.arange(40), 10)), contrast(log)).se
    assert together == pytest.approx(alone * np.sqrt(10), rel=0.05)


def test_even_probabilities_give_the_plain_difference():
    log = even(2000)
    found = adaptive.final(log, contrast(log))
    plain = log.reward[log.chosen == 1].mean() - log.reward[log.chosen == 0].mean()
    assert found.value == pytest.approx(plain, abs=1e-9)


# recovery


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_intervals_cover_what_learning_data_hide(gap):
    rng = np.random.default_rng(2)
    reps, held, always = 500, 0, 0
    for _ in range(reps):
        log = thompson(gap, rng)
        found = adaptive.final(log, contrast(log))
        held += found.lower <= gap <= found.upper
        watched = adaptive.monitor(log, contrast(log), planned=2500)
        always += ((watched.lower <= gap) & (gap <= watched.upper)).all()
    assert abs(held / reps - 0.95) < 3 * np.sqrt(0.95 * 0.05 / reps)
    assert always / reps > 0.95


def test_a_policy_value_is_found():
    rng = np.random.default_rng(3)
    log = thompson(0.5, rng, batches=50)
    found = adaptive.final(log, np.tile([0.3, 0.7], (len(log.reward), 1)))
    assert abs(found.value - 0.35) < 3 * found.se
