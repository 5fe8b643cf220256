"""Fixed-horizon effects from sufficient statistics."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nba.errors import DataError
from nba.experiments import analyze, cube
from nba.experiments.cube import Metric, Sums
from nba.stats import difference

FROZEN = json.loads(
    (Path(__file__).parents[1] / "reference" / "experiments.json").read_text(encoding="utf-8")
)
METRICS = {
    "mean": Metric("revenue"),
    "binary": Metric("bought"),
    "cuped": Metric("revenue", None, "revenue_before"),
    "cuped_orders": Metric("orders", None, "before"),
    "ratio": Metric("orders", "sessions"),
    "ratio_cuped": Metric("orders", "sessions", "before", "sessions_before"),
}


def compared(rows, metric, cell, treated=(1,), control=(0,), n_cells=2):
    names = list(rows)
    values = np.stack([rows[name] for name in names], axis=1)
    sums = Sums.of(values, np.asarray(cell), n_cells)
    return analyze.compare(sums, cube.columns_of((metric,), names), np.array(treated), np.array(control))


def reasons(found):
    return [analyze.REASONS[int(code)] for code in found.reason[0]]


# by hand


def test_a_difference_by_hand():
    found = compared({"y": np.array([1.0, 3.0, 2.0, 6.0])}, Metric("y"), [0, 0, 1, 1])
    assert found.effect[0, 0] == 2.0
    assert found.se[0, 0] == pytest.approx(np.sqrt(8 / 2 + 2 / 2))
    assert found.relative_effect[0, 0] == pytest.approx(1.0)


def test_a_ratio_without_a_past_stands_as_it_is():
    rng = np.random.default_rng(5)
    rows = {"y": rng.poisson(2.0, 60), "d": 1 + rng.poisson(3.0, 60), "x": np.zeros(60), "w": np.zeros(60)}
    rows = {name: column.astype(float) for name, column in rows.items()}
    arm = np.arange(60) % 2
    plain = compared(rows, Metric("y", "d"), arm)
    for late in (0.0, 3.0):  # nobody has a past, or those of one arm alone
        rows["w"], rows["x"] = late * arm, late * arm
        found = compared(rows, Metric("y", "d", "x", "w"), arm)
        assert reasons(found) == [""]
        assert found.explained[0, 0] == 0
        np.testing.assert_array_equal(found.lower, plain.lower)
        np.testing.assert_array_equal(found.mean, plain.mean)


def test_cuped_takes_away_what_the_covariate_explains():
    x = np.array([1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0])
    noise = np.array([0.0, 0.1, -0.1, 0.0, 0.05, -0.05, 0.0, 0.0])
    arm = np.array([0] * 4 + [1] * 4)
    found = compared({"y": 2 * x + arm + noise, "x": x}, Metric("y", None, "x"), arm)
    assert found.effect[0, 0] == pytest.approx(1.0)
    assert found.explained[0, 0] > 0.99


@pytest.mark.parametrize(
    ("values", "cell", "reason"),
    [
        ([1.0, 2.0], [0, 0], "an arm has no customers"),
        ([1.0, 2.0, 3.0], [0, 0, 1], "an arm has one customer; an interval needs 2 or more"),
        ([1.0, 1.0, 1.0, 1.0], [0, 0, 1, 1], "no variance in either arm"),
        ([1.0, np.nan, 2.0, 3.0], [0, 0, 1, 1], "a value is unknown for a customer in it"),
    ],
)
def test_what_cannot_be_known_is_nan_with_its_reason(values, cell, reason):
    found = compared({"y": np.array(values)}, Metric("y"), cell)
    assert reasons(found) == [reason]
    assert np.isnan([found.lower[0, 0], found.upper[0, 0], found.p_value[0, 0], found.se[0, 0]]).all()


@pytest.mark.parametrize("same", [0.0, 0.1, 1e6 / 3])
def test_equal_values_leave_no_variance_by_rounding(same):
    values = np.concatenate([np.full(77, same), np.full(50, same)])
    found = compared({"y": values}, Metric("y"), [0] * 77 + [1] * 50)
    assert reasons(found) == ["no variance in either arm"]
    rare = np.concatenate([np.full(208, same), np.full(1380, same), np.full(4, same + 1)])
    found = compared({"y": rare}, Metric("y"), [0] * 208 + [1] * 1384)
    assert found.mean_control[0, 0] == pytest.approx(same)
    # Four customers of 1,592 fall into the larger arm by chance more often than not.
    assert found.p_value[0, 0] > 0.3


def test_all_conversions_in_one_arm_still_have_an_interval():
    found = compared({"y": np.array([0.0] * 50 + [1.0, 0.0] * 25)}, Metric("y"), [0] * 50 + [1] * 50)
    pooled = np.var([0.0] * 75 + [1.0] * 25, ddof=1)
    assert found.se[0, 0] == pytest.approx(np.sqrt(pooled / 50 + np.var([1.0, 0.0] * 25, ddof=1) / 50))
    assert found.lower[0, 0] > 0
    # A control of 0 has no relative effect, and the row says so.
    assert np.isnan([found.relative_effect[0, 0], found.relative_upper[0, 0]]).all()
    assert reasons(found) == ["relative effect: a mean is not above 0"]


def test_a_ratio_over_nothing_is_unknown():
    rows = {"y": np.array([1.0, 2.0, 3.0, 4.0]), "d": np.array([0.0, 0.0, 1.0, 2.0])}
    assert reasons(compared(rows, Metric("y", "d"), [0, 0, 1, 1])) == [
        "the denominator's mean is 0 in an arm"
    ]


def test_a_ratio_over_hardly_anything_is_unknown():
    # 20 and 80 orders of 200 customers: relative standard errors of 0.21 and 0.09.
    rows = {"y": np.zeros(400), "d": np.zeros(400)}
    for first, orders in ((0, 20), (200, 80)):
        rows["d"][first : first + orders] = 1.0
        rows["y"][first : first + orders] = 10.0 + np.arange(orders) % 3
    cell = [0] * 200 + [1] * 200
    found = compared(rows, Metric("y", "d"), cell)
    assert reasons(found) == ["the denominator's mean is too uncertain in an arm for a ratio"]
    assert np.isnan([found.effect[0, 0], found.lower[0, 0], found.p_value[0, 0]]).all()
    rows["d"][20:80], rows["y"][20:80] = 1.0, 11.0
    assert reasons(compared(rows, Metric("y", "d"), cell)) == [""]
    assert reasons(compared(rows, Metric("y"), cell)) == [""]


def test_a_metric_column_that_does_not_exist_is_named():
    with pytest.raises(DataError, match=r"\['z'\] do not exist; found \['y'\]"):
        cube.columns_of((Metric("z"),), ["y"])


def test_strata_compare_like_with_like():
    # Within each stratum the effect is 1; pooled, the unequal shares would turn the sign.
    rows = np.concatenate(
        [np.tile([0.0, 2.0], 40), np.tile([1.0, 3.0], 5), np.tile([10.0, 12.0], 5), np.tile([11.0, 13.0], 40)]
    )
    cell = np.repeat([0, 1, 2, 3], [80, 10, 10, 80])
    sums = Sums.of(rows[:, None], cell, 6)
    columns = np.array([[0, -1, -1, -1]])
    found = analyze.compare(sums, columns, np.array([[1, 3, 5]]), np.array([[0, 2, 4]]))
    assert found.effect[0, 0] == pytest.approx(1.0)
    assert found.n[0, 0] == 90


# laws


@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=30), st.floats(-100, 100), st.floats(0.1, 10))
def test_shift_and_scale_carry_through(values, shift, scale):
    y = np.array(values)
    arm = np.arange(len(y)) % 2
    plain = compared({"y": y}, Metric("y"), arm)
    moved = compared({"y": scale * y + shift}, Metric("y"), arm)
    if plain.reason[0, 0] == 0 and plain.se[0, 0] > 1e-3:
        assert moved.effect[0, 0] == pytest.approx(scale * plain.effect[0, 0], abs=1e-6)
        assert moved.se[0, 0] == pytest.approx(scale * plain.se[0, 0], rel=1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrections_only_raise_p_values_and_keep_their_order(p):
    p = np.array(p)
    for method in ("holm", "bh"):
        raised = analyze.correct(p, method).p_value
        assert (raised >= p - 1e-12).all()
        assert (np.diff(raised[np.argsort(p)]) >= -1e-12).all()


def test_the_same_effect_as_the_plain_difference():
    rng = np.random.default_rng(0)
    y, arm = rng.gamma(2, 3, 400), rng.integers(0, 2, 400)
    found = compared({"y": y}, Metric("y"), arm)
    plain = difference(y[arm == 1], y[arm == 0])
    assert (found.lower[0, 0], found.upper[0, 0]) == pytest.approx((plain.lower, plain.upper), rel=1e-12)


def test_a_secondary_metric_changes_nothing_of_the_primary():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(300, 3))
    sums = Sums.of(values, np.arange(300) % 2, 2)
    one = analyze.compare(sums, np.array([[0, -1, 1, -1]]), np.array([1]), np.array([0]))
    two = analyze.compare(sums, np.array([[0, -1, 1, -1], [2, -1, -1, -1]]), np.array([1]), np.array([0]))
    assert one.p_value[0, 0] == two.p_value[0, 0]


# recovery


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    reps, n = 4000, 200
    level = rng.normal(size=(2 * reps, n))
    x = np.exp(0.7 * (level + 0.6 * rng.normal(size=level.shape)))
    y = np.exp(0.7 * (level + 0.6 * rng.normal(size=level.shape)))
    y[reps:] += 0.2
    values = np.stack([y, x], axis=2)
    second = np.einsum("cni,cnj->cij", values, values)
    sums = Sums(np.full(2 * reps, float(n)), np.zeros(2), values.sum(axis=1), second)
    found = analyze.compare(sums, np.array([[0, -1, 1, -1]]), np.arange(reps) + reps, np.arange(reps))
    held = ((found.lower <= 0.2) & (found.upper >= 0.2)).mean()
    assert abs(held - 0.95) < 3 * np.sqrt(0.95 * 0.05 / reps) + 0.005
    assert found.explained.mean() > 0.3


def test_a_quantile_effect_finds_a_shift_and_says_when_it_cannot():
    rng = np.random.default_rng(3)
    found = analyze.quantile_effect(rng.normal(1, 1, 400), rng.normal(0, 1, 400), 0.9, rng, n_resamples=300)
    assert abs(found.value - 1) < 3 * found.se
    assert found.lower < found.value < found.upper
    still = analyze.quantile_effect(np.ones(50), np.ones(50), 0.5, rng, n_resamples=50)
    assert "does not vary" in still.reason
    few = analyze.quantile_effect(rng.normal(size=99), rng.normal(size=400), 0.95, rng, n_resamples=50)
    assert np.isnan(few.lower)
    assert few.reason == "a group has fewer than 100 customers"


def test_segments_that_differ_are_seen_and_equal_ones_are_not():
    assert analyze.heterogeneity(np.array([0.0, 5.0]), np.array([1.0, 1.0])) < 0.001
    assert analyze.heterogeneity(np.array([1.0, 1.0, np.nan]), np.array([1.0, 1.0, np.nan])) == 1.0
    assert np.isnan(analyze.heterogeneity(np.array([1.0]), np.array([1.0])))


# the cube


def test_the_cube_from_sql_equals_the_sums_in_memory_and_a_null_is_unknown():
    rng = np.random.default_rng(4)
    y, x = rng.normal(5, 2, 500), rng.normal(1, 1, 500)
    arm = rng.integers(0, 2, 500)
    with duckdb.connect() as connection:
        connection.register("rows", pa.table({"arm": arm, "y": y, "x": x, "bad": [None, *y[1:].tolist()]}))
        made = cube.build(connection, "rows", ["arm"], [Metric("y", None, "x"), Metric("bad")])
        with pytest.raises(DataError, match="columns \\['z'\\] do not exist"):
            cube.build(connection, "rows", ["arm"], [Metric("z")])
    same = Sums.of(np.stack([y, x], axis=1), arm, 2)
    assert made.sums.mean()[:, :2] == pytest.approx(same.mean(), rel=1e-12)
    assert made.sums.covariance()[:, :2, :2] == pytest.approx(same.covariance(), rel=1e-12)
    bad = analyze.compare(
        made.sums, cube.columns_of([Metric("bad")], made.variables), np.array([1 - arm[0]]), arm[:1]
    )
    assert reasons(bad) == ["a value is unknown for a customer in it"]


def test_variance_survives_a_mean_a_million_times_the_spread():
    values = 1e6 + np.random.default_rng(5).normal(size=200_000)
    with duckdb.connect() as connection:
        connection.register("rows", {"arm": np.zeros(len(values), np.int8), "y": values})
        made = cube.build(connection, "rows", ["arm"], [Metric("y")])
    exact = np.longdouble(values)
    truth = ((exact - exact.mean()) ** 2).sum() / (len(values) - 1)
    assert abs(float(made.sums.covariance()[0, 0, 0] / truth - 1)) < 1e-9


def test_days_one_by_one_give_the_cube_of_all_days():
    rng = np.random.default_rng(6)
    n, metrics = 300, [Metric("y", None, "x"), Metric("num", "den")]
    base = {"unit": np.arange(n), "arm": np.arange(n) % 3, "x": rng.normal(size=n)}
    zero = {name: np.zeros(n) for name in ("y", "num", "den")}
    total = {name: np.zeros(n) for name in zero}
    with duckdb.connect() as connection:
        connection.register("start", pa.table(base | zero))
        connection.execute("create table totals as from start").fetchall()
        made = cube.build(connection, "totals", ["arm"], metrics)
        for _ in range(4):
            active = np.sort(rng.choice(n, 60, replace=False))
            gain = {name: rng.gamma(1, 2, 60) for name in zero}
            for name in zero:
                total[name][active] += gain[name]
            connection.register("today", pa.table({"unit": active, **gain}))
            made = cube.advance(connection, made, "totals", "today", metrics, tuple(zero))
        connection.register("whole", pa.table(base | total))
        again = cube.build(connection, "whole", ["arm"], metrics)
        assert made.sums.mean() == pytest.approx(again.sums.mean(), rel=1e-12)
        assert made.sums.covariance() == pytest.approx(again.sums.covariance(), rel=1e-10, nan_ok=True)
        kept = connection.execute("select sum(y) from totals").fetchall()[0][0]
        assert kept == pytest.approx(total["y"].sum())


# reference


def made_again(seed, n_control, n_treated):
    # The rule of tests/reference/experiments.py, which made the frozen values.
    rng = np.random.Generator(np.random.PCG64(seed))
    n = n_control + n_treated
    arm = np.repeat([0, 1], [n_control, n_treated])
    level = rng.random(n)
    before = np.floor(10 * level + 5 * rng.random(n))
    orders = np.floor(10 * level + 5 * rng.random(n) + arm * rng.random(n))
    sessions = 1 + np.floor(8 * rng.random(n) + orders)
    sessions_before = 1 + np.floor(8 * rng.random(n) + before)
    revenue = 100 + 50 * orders * rng.random(n)
    revenue_before = 100 + 50 * before * rng.random(n)
    rows = {
        "orders": orders, "before": before, "sessions": sessions, "sessions_before": sessions_before,
        "revenue": revenue, "revenue_before": revenue_before, "bought": (orders > 7).astype(float),
    }  # fmt: skip
    return arm, rows


@pytest.mark.parametrize("case", FROZEN["effects"], ids=lambda c: f"{c['by']}-{c['metric']}-{c['seed']}")
def test_agrees_with_other_libraries(case):
    arm, rows = made_again(case["seed"], *case["sizes"])
    found = compared(rows, METRICS[case["metric"]], arm)
    for field in set(case) - {"seed", "sizes", "metric", "by"}:
        assert getattr(found, field)[0, 0] == pytest.approx(case[field], rel=1e-9), field


def test_corrections_and_heterogeneity_agree_with_statsmodels():
    for method in ("holm", "bh"):
        p, expected = FROZEN[method]
        assert analyze.correct(np.array(p), method).p_value == pytest.approx(expected, rel=1e-12)
    effect, se, expected = FROZEN["heterogeneity"]
    assert analyze.heterogeneity(np.array(effect), np.array(se)) == pytest.approx(expected, rel=1e-9)
