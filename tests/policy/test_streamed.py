from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from nba.policy import replayed
from nba.policy.allocate import after_trimming
from nba.policy.explore import Estimate, Softmax
from nba.policy.streamed import Cut, Totals, logged, probabilities, trimmed

ONE = 2.0**32

# by hand


def test_sums_of_two_customers():
    p = np.array([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
    use = np.array([[0.0], [1.0], [2.0]])
    found = Totals.of(p, use)
    assert (found.p / ONE).tolist() == [0.75, 0.75, 0.5]
    # Expected use .5 and 1.25; its square .5 and 2.25.
    assert (found.own / ONE).tolist() == [0.25 + 1.5625]
    assert (found.variance / ONE).tolist() == [2.75 - 0.25 - 1.5625]


def test_what_a_cut_takes_goes_to_none():
    sure = Softmax(temperature=1e-9, floor=0.3)
    estimate = Estimate(np.array([[0.0, 5.0, 1.0]]), np.ones((1, 3)))
    cut = Cut.none(3, 1)._replace(floor_kept=np.array([1.0, 1.0, 0.5]), kept=np.array([1.0, 0.5, 1.0]))
    found = probabilities(sure, estimate, np.ones((1, 3), dtype=bool), np.ones((3, 1)), cut)
    # The best has .7 and an even .1, half of which is kept; the third keeps half of its even .1.
    assert found[0].tolist() == pytest.approx([0.55, 0.4, 0.05])


def test_of_two_who_want_one_contact_each_is_left_by_the_others_chance():
    p = np.array([[0.5, 0.5], [0.75, 0.25]])
    use, available = np.array([[0.0], [1.0]]), np.array([1.0])
    cut = trimmed(Cut.none(2, 1), Totals.of(p, use), use, available)
    # The first keeps 1 - .25 / 2, the second 1 - .5 / 2; together .4375 and .1875 of .75.
    np.testing.assert_allclose(logged(p, use, cut)[:, 1], [0.5 * 0.875, 0.25 * 0.75], atol=1e-9)
    assert cut.after.tolist() == pytest.approx([1.0, 0.625 / 0.75])
    assert cut.amounts.tolist() == [1.0, 1.0]


def test_one_whose_own_amount_is_over_a_limit_is_never_left():
    p = np.array([[0.2, 0.4, 0.4]])
    use, available = np.array([[0.0], [1.0], [3.0]]), np.array([2.0])
    cut = trimmed(Cut.none(3, 1), Totals.of(p, use), use, available)
    assert logged(p, use, cut)[0, 2] == 0
    assert (cut.counts == 1).all()


# laws


def _some(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Cut]:
    generator = np.random.default_rng(seed)
    n, k, m = int(generator.integers(1, 40)), int(generator.integers(2, 8)), int(generator.integers(0, 4))
    eligible = generator.random((n, k)) < 0.6
    eligible[:, 0] = True
    mean = generator.normal(size=(n, k))
    mean[:, 0] = 0.0
    use = generator.random((k, m)) * (generator.random((k, m)) < 0.5)
    use[0] = 0.0
    cut = Cut(
        generator.random(m),
        np.append(1.0, generator.random(k - 1)),
        np.append(1.0, generator.random(k - 1)),
        np.ones(k),
        np.ones(k),
        np.ones((m, 256)),
        np.full(m, 1 << 20),
        np.append(True, generator.random(k - 1) < 0.8),
        np.zeros((0, k)),
        np.zeros((0, k)),
    )
    return mean, eligible, use, np.full((n, k), 0.1), cut


@given(seed=st.integers(0, 10**6), floor=st.sampled_from([0.0, 0.05, 1.0]))
@hypothesis_settings(max_examples=60, deadline=None)
def test_probabilities_sum_to_one_whatever_the_cut_and_the_company(seed, floor):
    mean, eligible, use, se, cut = _some(seed)
    policy = Softmax(temperature=0.2, floor=floor)
    p = probabilities(policy, Estimate(mean, se), eligible, use, cut)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-12)
    assert (p >= 0).all()
    assert not p[~(eligible & cut.possible)].any()
    alone = probabilities(policy, Estimate(mean[:1], se[:1]), eligible[:1], use, cut)
    assert (alone == p[:1]).all()


@given(seed=st.integers(0, 10**6))
@hypothesis_settings(max_examples=60, deadline=None)
def test_sums_of_parts_are_those_of_the_whole_bit_for_bit(seed):
    mean, eligible, use, se, cut = _some(seed)
    p = probabilities(Softmax(temperature=0.2, floor=0.05), Estimate(mean, se), eligible, use, cut)
    whole, middle = Totals.of(p, use), len(p) // 2
    parts = Totals.of(p[middle:], use) + Totals.of(p[:middle], use)
    assert all((a == b).all() for a, b in zip(whole, parts))
    expected, square = p @ use, p @ use**2
    for found, right in zip(whole, (p, square - expected**2, expected**2)):
        np.testing.assert_allclose(found / ONE, right.sum(axis=0), atol=1e-8)


@given(seed=st.integers(0, 10**6))
@hypothesis_settings(max_examples=60, deadline=None)
def test_what_trimming_leaves_is_what_the_batch_solved_whole_says(seed):
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 60))
    p = generator.dirichlet(np.full(5, 0.5), n)
    # Two caps on contacts and a budget, each of them tight or loose.
    use = np.array([[0, 0, 0], [1, 0, 0.5], [1, 0, 1.0], [0, 1, 0.25], [0, 2, 0]])[:, : int(seed % 2) + 2]
    use[4, 1] = use[3, 1]
    available = np.array([n * 0.4, n * 0.2, n * 0.3])[: use.shape[1]] * generator.uniform(0.2, 1.5)
    cut = trimmed(Cut.none(5, len(available)), Totals.of(p, use), use, available)
    found = logged(p, use, cut)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)
    with patch.object(replayed, "pays", lambda *_: False):  # parts have the formulas only
        right = after_trimming(p, use, available)
    # A budget's share is read off sums over customers, after caps took theirs alike from all.
    np.testing.assert_allclose(found, right, atol=1e-8 if use.shape[1] == 2 else 0.05)
