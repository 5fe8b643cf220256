import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nba.evaluation.segments import find, nothing_good

# by hand


def test_customers_without_anything_good_are_found_in_words():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 4))
    X[::9, 3] = np.nan
    flags = X[:, 1] > 0.5
    best = np.where(flags, 0.0, 2.0)
    found = find(X, ["f_age", "f_orders_28", "f_x", "f_y"], flags, best, np.ones(1000))
    segment, rows = found[0]
    assert segment.rule.startswith("orders in 28 days: above 0.5")
    assert (segment.n, segment.n_nothing) == (flags.sum(), flags.sum())
    assert (segment.best, segment.blocked) == (0.0, 1.0)
    assert (rows == flags).all()


def test_flags_and_counts_read_as_such():
    can, count = np.tile([0.0, 1.0], 200), np.repeat(np.arange(4.0), 100)
    X, best = np.column_stack([can, count]), np.ones(400)
    names = ["f_can_email", "f_orders_28"]
    (first, _), (second, _) = find(X, names, can == 0, best, best)
    assert (first.rule, second.rule) == ("can email: no", "can email: yes")
    found = {segment.rule for segment, _ in find(X, names, count == 2, best, best)}
    assert found == {"orders in 28 days: at most 1", "orders in 28 days: 2", "orders in 28 days: at least 3"}


def test_cuts_have_the_fewest_digits_that_part_the_same_customers():
    days = np.concatenate([np.linspace(0.13, 4.21, 100), np.linspace(4.53, 9.87, 100), [6.84] * 100])
    (first, _), (second, _) = find(
        days[:, None], ["f_days_since_contact"], days < 4.3, np.ones(300), np.ones(300)
    )
    assert (first.rule, second.rule) == (
        "days since contact: at most 4.4", "days since contact: above 4.4"
    )  # fmt: skip


def test_nobody_or_everybody_is_one_segment():
    for flags in (np.zeros(50, dtype=bool), np.ones(50, dtype=bool)):
        ((segment, _rows),) = find(np.zeros((50, 2)), ["a", "b"], flags, np.ones(50), np.zeros(50))
        assert (segment.rule, segment.n) == ("everybody", 50)
    assert find(np.zeros((0, 2)), ["a", "b"], np.zeros(0, dtype=bool), np.zeros(0), np.zeros(0)) == []


def test_scores_that_are_all_unknown_are_nothing_good():
    flags, best, blocked = nothing_good(np.full((3, 2), np.nan), np.ones((3, 2), dtype=bool))
    assert flags.all()
    assert (best == 0).all()
    assert (blocked == 0).all()


# laws


@given(st.integers(0, 2**16))
def test_segments_share_out_all_customers(seed):
    rng = np.random.default_rng(seed)
    X, flags = rng.normal(size=(200, 3)), rng.random(200) < 0.4
    found = find(X, ["a", "b", "c"], flags, rng.random(200), rng.random(200))
    assert sum(segment.n for segment, _ in found) == 200
    assert sum(segment.n_nothing for segment, _ in found) == flags.sum()
    assert (np.sum([rows for _, rows in found], axis=0) == 1).all()
