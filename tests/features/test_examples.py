from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nba.errors import DataError
from nba.features import examples, table

# by hand


def test_each_cutoff_knows_its_past_and_its_closed_window(history_of, small, at):
    history = history_of(small)
    cutoffs = [at - timedelta(days=30), at - timedelta(days=7)]
    rows = examples.snapshots(history, cutoffs, 14, at + timedelta(days=7)).to_pylist()
    found = {(row["customer_id"], row["as_of"]): row for row in rows}
    # Of the orders 20 days before and 1 day after, the first falls into the window of the first cut-off.
    assert [found["anna", moment]["is_response"] for moment in cutoffs] == [True, True]
    assert found["anna", cutoffs[0]]["f_orders_total"] == 1
    assert found["anna", cutoffs[1]]["f_orders_total"] == 2
    assert ("ben", cutoffs[0]) not in found
    assert found["ben", cutoffs[1]]["is_response"] is False


def test_a_window_that_has_not_closed_is_refused(history_of, small, at):
    history = history_of(small)
    with pytest.raises(DataError, match="2026-02-22: the window of 14 days has not closed"):
        examples.snapshots(history, [at - timedelta(days=30), at - timedelta(days=7)], 14, at)
    with pytest.raises(DataError, match="no cut-off"):
        examples.snapshots(history, [], 14, at)


def test_one_definition_serves_training_and_scoring(history_of, small, at):
    history = history_of(small)
    trained = examples.snapshots(history, [at], 1, at + timedelta(days=2)).drop_columns(["is_response"])
    with history.as_of(at) as snapshot:
        np.testing.assert_equal(trained.to_pydict(), table.build(snapshot).to_pydict())


def test_features_that_know_the_future_are_named():
    rng = np.random.default_rng(5)
    y = rng.random(2000) < 0.2
    late = np.where(y, 3.0, np.nan)
    rows = pa.table(
        {
            "is_response": y,
            "f_honest": rng.normal(size=2000) + y,
            "f_leak": -rng.random(2000) - 5.0 * y,
            "f_only_then": pa.array(late),
            "f_constant": np.ones(2000),
        }
    )
    found = examples.suspects(rows).to_pylist()
    assert [(row["feature"], row["by"]) for row in found] == [
        ("f_leak", "value"),
        ("f_only_then", "being known"),
    ]
    assert examples.suspects(rows.slice(0, 0)).num_rows == 0


# laws


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
def test_separation_is_the_share_of_pairs_in_order(pairs):
    x, y = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    yes, no = x[y], x[~y]
    if len(yes) and len(no):
        share = np.mean([(a > b) + 0.5 * (a == b) for a in yes for b in no])
        assert examples._separation(x, y) == pytest.approx(max(share, 1 - share))
    else:
        assert examples._separation(x, y) == 0.5
