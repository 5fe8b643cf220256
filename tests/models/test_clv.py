from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from nba import tables
from nba.errors import DataError, MissingError, SettingsError
from nba.history import History
from nba.models import clv, clv_choice, clv_counts, clv_ml, clv_score
from nba.models.clv_estimators import LifetimeValue, Purchases, Spend
from nba.models.clv_ml import Log
from pipelines import clv as step
from pipelines.progress import silent

AT = datetime(2026, 1, 1, tzinfo=UTC)
DAY = float(AT.timestamp() // 86400)


def play(n: int, seed: int, days: int = 360) -> Log:
    rng = np.random.default_rng(seed)
    begin = rng.uniform(0, days - 60, n)
    gone = begin + rng.exponential(1, n) / rng.gamma(1.0, 1 / 90, n)
    count = rng.poisson(rng.gamma(0.8, 1 / 40, n) * np.minimum(gone - begin, days - begin))
    who = np.concatenate([np.arange(n), np.repeat(np.arange(n), count)])
    span = np.minimum(gone, days) - begin
    moment = np.concatenate([begin, begin[who[n:]] + rng.random(len(who) - n) * span[who[n:]]])
    who, day = np.unique(np.stack([who, np.floor(moment)]), axis=1).astype(np.int64)
    margin = rng.gamma(3, 10 * rng.gamma(4, 0.25, n)[who])
    return Log(who, day + DAY - days, margin, n)


def forecast(log: Log, horizon: int = 180) -> pa.Table:
    choice = clv_choice.choose(log, DAY, float(horizon)).choice
    model = clv.fit(log, DAY, float(horizon), choice)
    ids = pa.array([f"c{i:05d}" for i in range(log.n)])
    return clv.forecast(ids, log, AT, model, horizon_days=horizon, annual_discount=0.1)


def write(root: Path, orders: list[dict[str, object]], customers: list[str]) -> None:
    root.mkdir(exist_ok=True)
    (root / "nba.toml").write_text('[workspace]\nname = "t"\n')
    start = datetime(2025, 1, 1, tzinfo=UTC)
    people = [
        {"customer_id": c, "joined_at": start} | {f"can_{k}": True for k in tables.CHANNELS}
        for c in customers
    ]
    History.read(root).commit(
        append={"customers": tables.CUSTOMERS.build(people), "orders": tables.ORDERS.build(orders)}
    )


def order(i: int, customer: str, day: datetime, margin: float = 10.0) -> dict[str, object]:
    return {
        "order_id": f"o{i}", "customer_id": customer, "ordered_at": day, "revenue": margin * 2,
        "margin": margin, "n_items": 1, "is_return": margin < 0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def played() -> tuple[Log, pa.Table]:
    log = play(900, 1)
    return log, forecast(log)


# by hand


def test_a_look_back_by_hand() -> None:
    log = Log(np.array([0, 0, 0, 1]), np.array([0.0, 4, 9, 2]), np.array([5.0, 7, 9, 1]), 3)
    seen = clv_ml.look(log, 8.0)
    assert seen.customer.tolist() == [0, 1]
    assert seen.n_repeat.tolist() == [1, 0]
    assert seen.age.tolist() == [8, 6]
    assert seen.mean.tolist() == [6, 1]
    count, margin = clv_ml.follow(log, seen, 8.0, 20.0)
    assert (count.tolist(), margin.tolist()) == ([1, 0], [9, 0])


def test_one_purchase_each_is_unknown_with_a_reason() -> None:
    n = 300
    log = Log(np.arange(n), DAY - 1 - np.arange(n) % 200, np.full(n, 10.0), n)
    table = forecast(log)
    assert table["clv"].null_count == n
    assert set(table["reason"].to_pylist()) == {
        "0 of 300 customers bought again; 10 are needed; all margins per purchase are equal"
    }


def test_returns_lower_the_margin_and_are_no_purchase(tmp_path: Path) -> None:
    day = [datetime(2025, 6, d, 12, tzinfo=UTC) for d in (1, 5, 9)]
    write(
        tmp_path,
        [order(1, "a", day[0], 30), order(2, "a", day[1], -10), order(3, "b", day[2], -5)],
        ["a", "b", "c"],
    )
    with History.read(tmp_path).as_of(AT) as snapshot:
        ids, log, _ = clv.read(snapshot)
    assert ids.to_pylist() == ["a", "b", "c"]
    assert log.customer.tolist() == [0]
    assert log.margin.tolist() == [20]


def test_orders_after_the_moment_and_customers_born_later_do_not_count(tmp_path: Path) -> None:
    write(
        tmp_path,
        [order(1, "a", datetime(2025, 6, 1, tzinfo=UTC)), order(2, "a", datetime(2026, 6, 1, tzinfo=UTC))],
        ["a"],
    )
    table = step.clv(tmp_path, AT, progress=silent())
    assert table["n_repeat"].to_pylist() == [0]
    with pytest.raises(DataError, match="lies before 2024"):
        step.clv(tmp_path, datetime(2024, 1, 1, tzinfo=UTC), progress=silent())


def test_what_was_bought_earlier_that_day_counts(tmp_path: Path) -> None:
    at = datetime(2026, 1, 5, 18, tzinfo=UTC)
    write(
        tmp_path, [order(1, "a", at - timedelta(hours=4)), order(2, "b", at - timedelta(days=9))], ["a", "b"]
    )
    table = step.clv(tmp_path, at, progress=silent())
    assert table["age_days"].to_pylist() == [0.75, 9.75]
    assert "has not bought yet" not in table["reason"].to_pylist()


def test_without_orders_the_step_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "nba.toml").write_text('[workspace]\nname = "t"\n')
    with pytest.raises(MissingError, match="orders"):
        step.clv(tmp_path, AT, progress=silent())


def test_no_dropout_is_said_and_nobody_is_at_risk() -> None:
    rng = np.random.default_rng(8)
    n = 1_500
    count = rng.poisson(rng.gamma(2.0, 2.0, n)) + 1
    who = np.repeat(np.arange(n), count)
    who, day = np.unique(np.stack([who, rng.integers(0, 300, len(who))]), axis=1)
    log = Log(who, day + DAY - 300, np.full(len(who), 10.0) + rng.random(len(who)), n)
    model = clv.fit(log, DAY, 90.0, clv.Choice(kind="bg_nbd"))
    assert model.counts.kind == "nbd"
    ids = pa.array([str(i) for i in range(n)])
    table = clv.forecast(ids, log, AT, model, horizon_days=90, annual_discount=0.1)
    assert set(table["p_alive"].to_pylist()) == {1.0}
    assert "nobody counts as lost: p_alive is 1" in table["reason"][0].as_py()
    assert set(table["clv_at_risk"].to_pylist()) == {0.0}


def test_customers_born_after_the_moment_are_not_forecast(tmp_path: Path) -> None:
    day = datetime(2025, 6, 1, tzinfo=UTC)
    write(tmp_path, [order(1, "a", day)], ["a"])
    later = {"customer_id": "z", "joined_at": datetime(2026, 3, 1, tzinfo=UTC)}
    late = [later | {f"can_{k}": True for k in tables.CHANNELS}]
    History.read(tmp_path).commit(append={"customers": tables.CUSTOMERS.build(late)})
    table = step.clv(tmp_path, AT, progress=silent())
    assert table["customer_id"].to_pylist() == ["a"]


def test_a_covariate_that_does_not_exist_is_named(tmp_path: Path) -> None:
    write(tmp_path, [order(1, "a", datetime(2025, 6, 1, tzinfo=UTC))], ["a"])
    with History.read(tmp_path).as_of(AT) as snapshot, pytest.raises(SettingsError, match="'a_chanel'"):
        clv.read(snapshot, "a_chanel")


def test_groups_and_grid_count_everybody_once(tmp_path: Path) -> None:
    orders = [
        order(i, f"c{i % 40:02d}", datetime(2025, 1 + i % 11, 1 + i % 27, tzinfo=UTC)) for i in range(150)
    ]
    write(tmp_path, orders, [f"c{i:02d}" for i in range(45)])
    table = step.clv(tmp_path, AT, progress=silent())
    history = History.read(tmp_path)
    groups, grid = (history.table(name).to_pylist() for name in ("clv_groups", "clv_grid"))
    assert sum(row["n"] for row in grid) == 40
    for attribute in ("all", "cohort"):
        assert sum(row["n"] for row in groups if row["attribute"] == attribute) == 45
    (whole,) = [row for row in groups if row["attribute"] == "all"]
    assert whole["clv_total"] == pytest.approx(np.nansum(table["clv"].to_numpy()))


def test_a_covariate_enters_the_backtest_and_the_forecast(tmp_path: Path) -> None:
    log = play(400, 21)
    begin = datetime(1970, 1, 1, tzinfo=UTC)
    names = [f"c{i:04d}" for i in range(log.n)]
    # Those of the shop lose two of three purchases after their first.
    first = np.append(True, np.diff(log.customer) > 0)
    keep = first | (log.customer % 2 == 0) | (np.arange(len(log.day)) % 3 == 0)
    orders = [
        order(i, names[log.customer[i]], begin + timedelta(days=float(log.day[i])), float(log.margin[i]))
        for i in np.flatnonzero(keep)
    ]
    write(tmp_path, orders, [])
    people = [
        {"customer_id": c, "joined_at": datetime(2024, 1, 1, tzinfo=UTC), "a_channel": ("web", "shop")[i % 2]}
        | {f"can_{k}": True for k in tables.CHANNELS}
        for i, c in enumerate(names)
    ]
    History.read(tmp_path).commit(replace={"customers": tables.CUSTOMERS.build(people)})
    with (tmp_path / "nba.toml").open("a") as file:
        file.write('[models]\nclv_strata = "a_channel"\nclv_horizon_days = 60\n')
    step.clv(tmp_path, AT, progress=silent())
    assert "strata" in History.read(tmp_path).table("clv_backtest")["candidate"].to_pylist()
    with History.read(tmp_path).as_of(AT) as snapshot:
        ids, seen, day = clv.read(snapshot, "a_channel")
    model = clv.fit(seen, day, 60.0, clv.Choice(is_stratified=True))
    assert "+strata" in model.model_id
    table = clv.forecast(ids, seen, AT, model, horizon_days=60, annual_discount=0.0)
    alike = np.array([0.0]), np.array([0.0]), np.array([100.0])
    web, shop = (model.strata[seen.stratum[i]].expected(*alike, 60.0)[0] for i in (0, 1))
    assert web > 1.2 * shop
    got = table["expected_orders"].to_numpy()
    assert np.nanmean(got[::2]) > np.nanmean(got[1::2])


def test_estimators_can_be_cloned_and_agree_with_the_functions() -> None:
    log = play(300, 3)
    estimator = LifetimeValue(AT, horizon_days=90)
    again = clone(estimator)
    assert again.get_params() == estimator.get_params()
    value = again.fit(log).predict(log)
    assert value.shape == (300,)
    fitted = clv.fit(log, DAY, 90.0, again.chosen_.choice)
    names = pa.array([f"{i}" for i in range(log.n)])
    table = clv.forecast(names, log, AT, fitted, horizon_days=90, annual_discount=0.1)
    np.testing.assert_array_equal(value, table["clv"].to_numpy())
    seen = clv_ml.look(log, DAY)
    X = np.column_stack([seen.n_repeat, seen.recency, seen.age])
    counts = clone(Purchases(horizon=90.0)).fit(X)
    np.testing.assert_allclose(
        counts.predict(X), counts.model_.expected(seen.n_repeat, seen.recency, seen.age, 90.0)
    )
    assert ((counts.p_alive(X) >= 0) & (counts.p_alive(X) <= 1)).all()
    spend = clone(Spend()).fit(np.column_stack([seen.n_repeat + 1, seen.mean]))
    assert spend.predict(np.array([[3.0, 20.0]])).shape == (1,)
    with pytest.raises(NotFittedError):
        Purchases().predict(X)


# laws


def test_the_table_keeps_its_contract_and_its_sense(played: tuple[Log, pa.Table]) -> None:
    table = played[1]
    tables.CLV.check(table)
    orders, low, high = (table[c].to_numpy() for c in ("expected_orders", "orders_lower", "orders_upper"))
    assert (low <= high).all()
    assert ((low <= orders + 1) & (orders <= high + 1)).mean() > 0.99
    assert (table["clv"].to_numpy() <= orders * table["expected_margin"].to_numpy() * (1 + 1e-9)).all()
    value, least, most = (table[c].to_numpy() for c in ("clv", "clv_lower", "clv_upper"))
    assert (least <= most).all()
    stays = table["p_alive"].to_numpy() > 0.6  # of who is likely lost all but a few futures are 0
    assert ((least <= value) & (value <= most))[stays].mean() > 0.95
    assert ((low == 0) == (least == 0)).mean() > 0.98  # no orders is no money
    later = [t for t in table["next_order_at"].to_pylist() if t is not None]
    assert min(later) >= AT


def test_reruns_are_bit_equal_and_the_future_changes_nothing(played: tuple[Log, pa.Table]) -> None:
    log, table = played
    more = Log(
        np.append(log.customer, log.n - 1), np.append(log.day, DAY + 3), np.append(log.margin, 1e6), log.n
    )
    assert forecast(more).equals(table)


# recovery


def test_totals_of_an_unseen_period_are_near() -> None:
    log = play(4_000, 4, days=540)
    cut = DAY - 180
    model = clv.fit(log, cut, 180.0, clv_choice.choose(log, cut, 180.0).choice)
    seen = clv_ml.look(log, cut)
    count, margin = clv_ml.follow(log, seen, cut, DAY)
    got = clv_score.score(count, model.orders(seen, 180.0))
    assert 0.85 < got.ratio < 1.15
    assert got.ngini > 0.6
    value = model.value(seen, 180.0)
    assert clv_score.score(margin, value).ngini > 0.6
    ends = clv.span(model, seen, 180.0, value, seed=1)
    for name, came in (("orders", count), ("clv", margin)):
        held = clv_score.held(came, ends[f"{name}_lower"], ends[f"{name}_upper"])
        assert held["cover"] > 0.88
        assert 0.02 < held["above"] < 0.08
    among = margin > 0  # who did buy again spent as the intervals said, too
    assert (margin <= ends["clv_upper"])[among].mean() > 0.8


def test_an_interval_of_value_carries_the_discount_and_the_choice(played: tuple[Log, pa.Table]) -> None:
    log = played[0]
    seen = clv_ml.look(log, DAY)
    model = clv.fit(log, DAY, 180.0, clv.Choice(trees=0))
    value = model.value(seen, 180.0)
    whole, half = (clv.span(model, seen, 180.0, v, seed=3) for v in (value, value / 2))
    np.testing.assert_allclose(half["clv_upper"], whole["clv_upper"] / 2)
    np.testing.assert_array_equal(half["orders_upper"], whole["orders_upper"])


def test_a_candidate_must_win_by_more_than_noise() -> None:
    rng = np.random.default_rng(0)
    base, who = rng.random(400), np.arange(400)
    rows: list[dict[str, object]] = []
    losses = {"default": base, "luckier": base - rng.normal(0.001, 0.1, 400), "better": base - 0.05}
    two = {k: losses[k] for k in ("default", "luckier")}
    assert clv_choice.departs(two, "default", who, 1.0, "orders", rows) == "default"
    assert clv_choice.departs(losses, "default", who, 1.0, "orders", rows) == "better"
    noisy = {"default": base, "longer": base - rng.normal(0.02, 0.1, 400)}
    assert clv_choice.departs(noisy, "default", who, 1.0, "orders", rows) == "longer"
    assert clv_choice.departs(noisy, "default", who, 9.0, "orders", rows) == "default"


def test_strata_that_differ_are_told_apart_and_equal_ones_are_not() -> None:
    fast, slow = play(700, 11), play(700, 12)
    quick = clv_ml.look(fast, DAY)
    other = clv_ml.look(slow, DAY)
    thin = other.n_repeat // 3  # the same customers, buying a third as often
    pooled = clv_counts.fit(
        clv_counts.compress(
            np.concatenate([quick.n_repeat, thin]),
            np.concatenate([quick.recency, np.where(thin > 0, other.recency, 0)]),
            np.concatenate([quick.age, other.age]),
        ),
        "bg_nbd",
    )
    one = clv_counts.compress(quick.n_repeat, quick.recency, quick.age)
    two = clv_counts.compress(thin, np.where(thin > 0, other.recency, 0), other.age)
    few = clv_counts.compress(*(np.array([v]) for v in (2.0, 30.0, 90.0)))
    models = clv_counts.fit_strata([one, two, few], pooled)
    rate = [m.params[0] / m.params[1] for m in models]
    assert rate[0] > pooled.params[0] / pooled.params[1] > rate[1]
    assert models[2].expected(np.array([2.0]), np.array([30.0]), np.array([90.0]), 90.0)[0] == pytest.approx(
        pooled.expected(np.array([2.0]), np.array([30.0]), np.array([90.0]), 90.0)[0], rel=0.35
    )
    same = clv_counts.fit_strata([one, one], clv_counts.fit(one, "bg_nbd"))
    np.testing.assert_allclose(same[0].params, clv_counts.fit(one, "bg_nbd").params, rtol=0.02)
