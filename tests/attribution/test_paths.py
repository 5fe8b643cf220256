from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from nba import tables
from nba.attribution import credit, paths, rules
from nba.history import connect
from nba.settings import Attribution

AT = datetime(2026, 6, 1, tzinfo=UTC)
START = datetime(2026, 1, 1, tzinfo=UTC)


def touch(
    i: int, day: float, channel: str = "email", customer: str = "a", **more: object
) -> dict[str, object]:
    return {
        "touch_id": f"t{i}", "customer_id": customer, "touched_at": START + timedelta(days=day),
        "channel": channel, "kind": "clicked", "cost": 0.1,
    } | more  # fmt: skip


def order(i: int, day: float, customer: str = "a", margin: float = 10.0, **more: object) -> dict[str, object]:
    return {
        "order_id": f"o{i}", "customer_id": customer, "ordered_at": START + timedelta(days=day),
        "revenue": 2 * margin, "margin": margin, "n_items": 1, "is_return": False,
    } | more  # fmt: skip


def build(
    touches: list[dict[str, object]], orders: list[dict[str, object]], **settings: object
) -> duckdb.DuckDBPyConnection:
    connection = connect(threads=1)
    connection.register("touches", pa.concat_tables([tables.TOUCHES.build([t]) for t in touches]))
    connection.register("orders", pa.concat_tables([tables.ORDERS.build([o]) for o in orders]))
    paths.build(connection, Attribution(**settings), AT)  # type: ignore[arg-type]
    return connection


def steps(connection: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    return connection.execute(
        "select touch_id, order_id, position, n from steps order by touch_id, order_id"
    ).fetchall()


def shares(connection: duckdb.DuckDBPyConnection, method: str) -> dict[str, float]:
    table = credit.credits(connection, Attribution(methods=(method,), calibrate=None))  # type: ignore[arg-type]
    return dict(zip(table["touch_id"].to_pylist(), np.round(table["share"].to_numpy(), 6).tolist()))


# by hand


def test_a_touch_after_the_order_does_not_count() -> None:
    assert steps(build([touch(1, 1), touch(2, 6)], [order(1, 5)])) == [("t1", "o1", 1, 1), ("t2", None, 1, 1)]


def test_a_touch_counts_for_the_next_order_only_unless_each_is_asked_for() -> None:
    touches, orders = [touch(1, 1)], [order(1, 5), order(2, 9)]
    assert steps(build(touches, orders)) == [("t1", "o1", 1, 1)]
    assert steps(build(touches, orders, repeat="each")) == [("t1", "o1", 1, 1), ("t1", "o2", 1, 1)]


def test_the_lookback_ends_and_old_touches_lead_nowhere() -> None:
    got = build([touch(1, 1), touch(2, 40)], [order(1, 45)])
    assert steps(got) == [("t1", None, 1, 1), ("t2", "o1", 1, 1)]
    nulls = paths.sequences(got).to_pylist()
    assert [(r["path"], r["conversions"], r["nulls"]) for r in nulls] == [(["email"], 1.0, 1.0)]


def test_young_journeys_without_an_order_are_open_and_no_nulls() -> None:
    got = build([touch(1, 1), touch(2, 149, customer="b")], [order(1, 2)])
    assert paths.sequences(got)["nulls"].to_pylist() == [0.0]
    assert ("journeys", "still open", 1.0) in [
        (r["measure"], r["item"], r["nulls"]) for r in paths.statistics(got).to_pylist()
    ]


def test_touches_of_one_decision_count_once_and_failed_ones_never() -> None:
    one = [touch(1, 1, kind="sent", decision_id="d"), touch(2, 2, decision_id="d")]
    failed = [touch(3, 3, kind="sent", decision_id="e"), touch(4, 3.1, kind="failed", decision_id="e")]
    assert steps(build(one + failed, [order(1, 5)])) == [("t1", "o1", 1, 1)]


def test_a_session_is_one_touch() -> None:
    got = build([touch(1, 1, "direct"), touch(2, 1.01, "direct"), touch(3, 1.2, "direct")], [order(1, 5)])
    assert [s[0] for s in steps(got)] == ["t1", "t3"]


def test_repeated_ids_and_returns_are_no_second_conversion() -> None:
    got = build(
        [touch(1, 1), touch(1, 1)], [order(1, 5), order(1, 5), order(2, 6, margin=-3.0, is_return=True)]
    )
    assert steps(got) == [("t1", "o1", 1, 1)]


def test_a_return_lowers_the_order_before_it_however_late() -> None:
    back = {"is_return": True}
    orders = [order(1, 5), order(2, 6), order(3, 7, margin=-4.0, **back), order(4, 25, margin=-1.0, **back)]
    alone = [order(5, 1, "b", margin=-3.0, **back), order(6, 4, "b")]  # came back from before the history
    got = build([touch(1, 1), touch(2, 5.5), touch(3, 2, customer="b")], orders + alone)
    table = credit.credits(got, Attribution(methods=("linear",)))
    money = dict(zip(table["order_id"].to_pylist(), table["credit"].to_pylist()))
    revenue = dict(zip(table["order_id"].to_pylist(), table["revenue_credit"].to_pylist()))
    assert money == {"o1": 10, "o2": 5, "o6": 10}
    assert revenue == {"o1": 20, "o2": 10, "o6": 20}


def test_rules_by_hand() -> None:
    touches = [touch(1, 1), touch(2, 8, "sms"), touch(3, 15, "direct")]
    got = build(touches, [order(1, 15.5)])
    assert shares(got, "first") == {"t1": 1}
    assert shares(got, "last") == {"t3": 1}
    assert shares(got, "last_ad") == {"t2": 1}
    assert shares(got, "linear") == {"t1": 0.333333, "t2": 0.333333, "t3": 0.333333}
    assert shares(got, "position") == {"t1": 0.4, "t2": 0.2, "t3": 0.4}
    assert shares(got, "time_decay") == {"t1": 0.142857, "t2": 0.285714, "t3": 0.571429}
    assert shares(got, "last_ads") == {"t2": 1}
    assert shares(got, "linear_ads") == {"t1": 0.5, "t2": 0.5}


def test_orders_without_touches_and_touches_without_orders() -> None:
    got = build([touch(1, 1, customer="b")], [order(1, 5)])
    for method in ("linear", "markov_1", "shapley_rate"):
        assert shares(got, method) == {}


def test_zero_and_negative_margins_are_shared_as_they_are() -> None:
    got = build([touch(1, 1), touch(2, 1, customer="b")], [order(1, 5, margin=0.0), order(2, 5, "b", -4.0)])
    table = credit.credits(got, Attribution(methods=("linear",)))
    assert sorted(table["credit"].to_pylist()) == [-4, 0]


def test_a_channel_seen_once_a_loop_and_one_touch_paths() -> None:
    touches = [touch(i, i, "email") for i in range(1, 4)] + [touch(9, 1, "sms", "b"), touch(8, 1, "fax", "c")]
    got = build(touches, [order(1, 5), order(2, 5, "b")])
    for method in ("markov_1", "shapley_count", "linear", "position", "time_decay"):
        given_ = shares(got, method)
        assert given_["t9"] == 1  # a path of one touch
        assert sum(given_[f"t{i}"] for i in (1, 2, 3)) == pytest.approx(1, abs=1e-5)  # a loop
        assert "t8" not in given_  # seen once, led nowhere


def test_everybody_buys_and_nobody_buys() -> None:
    touches = [touch(1, 1), touch(2, 1, "sms", "b")]
    everybody = build(touches, [order(1, 5), order(2, 5, "b")])
    nobody = build(touches, [order(1, 0.5)])
    for method in ("markov_1", "markov_3", "shapley_rate", "first"):
        assert shares(everybody, method) == {"t1": 1, "t2": 1}
        assert shares(nobody, method) == {}


def test_revenue_is_credited_beside_margin() -> None:
    got = build([touch(1, 1), touch(2, 2, "sms")], [order(1, 5, margin=10.0)])
    for method in ("linear", "markov_1"):
        given_ = Attribution(methods=(method,), calibrate=None)  # type: ignore[arg-type]
        table = credit.credits(got, given_)
        assert (sum(table["credit"].to_pylist()), sum(table["revenue_credit"].to_pylist())) == (10, 20)


def test_a_tiny_half_life_does_not_underflow() -> None:
    got = build([touch(1, 1), touch(2, 2)], [order(1, 29)])
    table = rules.credits(got, ("time_decay",), 0.001)
    assert table["share"].to_numpy().sum() == pytest.approx(1)


# laws


@pytest.fixture(scope="module")
def busy() -> Iterator[duckdb.DuckDBPyConnection]:
    rng = np.random.default_rng(0)
    channels = ["email", "sms", "push", "direct", "organic"]
    touches = [
        touch(i, float(rng.uniform(0, 90)), str(rng.choice(channels)), f"c{rng.integers(60)}")
        for i in range(600)
    ]
    orders = [
        order(i, float(rng.uniform(0, 90)), f"c{rng.integers(60)}", float(rng.gamma(2, 5)))
        for i in range(150)
    ]
    connection = connect(threads=1)
    connection.register("touches", tables.TOUCHES.build(touches))
    connection.register("orders", tables.ORDERS.build(orders))
    paths.build(connection, Attribution(), AT)
    yield connection
    connection.close()


METHODS = (
    *rules.RULES, "markov_1", "markov_2", "markov_3", "markov_1_ads", "shapley_count", "shapley_rate",
    "shapley_rate_ads",
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_shares_sum_to_one_and_credit_to_the_margin(busy: duckdb.DuckDBPyConnection, method: str) -> None:
    table = credit.credits(busy, Attribution(methods=(method,), calibrate=None))  # type: ignore[arg-type]
    busy.register("made", table)
    assert table.num_rows
    assert table["share"].to_numpy().min() > 0
    off = busy.execute(
        """select count(*) from (select order_id, abs(sum(share) - 1) as a,
            abs(sum(credit) - any_value(margin)) as b
        from made join conversions using (order_id) group by 1) where a > 1e-9 or b > 1e-9"""
    ).fetchall()
    assert off == [(0,)]


def test_a_models_orders_add_up_to_its_channel_totals(busy: duckdb.DuckDBPyConnection) -> None:
    channels, share = credit.totals("markov_1", paths.sequences(busy))
    table = credit.credits(busy, Attribution(methods=("markov_1",), calibrate=None))
    busy.register("made", table)
    got = dict(busy.execute("select channel, sum(share) from made group by 1").fetchall())
    total = sum(got.values())
    np.testing.assert_allclose([got[c] / total for c in channels], share, atol=1e-4)


def test_totals_query_equals_the_credits(busy: duckdb.DuckDBPyConnection) -> None:
    names = ("first", "last", "last_ad", "linear", "time_decay", "position")
    rows = busy.execute(rules.totals_query(names, 7.0)).fetchall()
    table = rules.credits(busy, names, 7.0)
    busy.register("made", table)
    for channel, *sums in rows:
        got = dict(
            busy.execute(
                "select method, sum(share) from made where channel = ? group by 1", [channel]
            ).fetchall()
        )
        np.testing.assert_allclose(sums[::2], [got[name] for name in names])
