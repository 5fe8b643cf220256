from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import check_grad

from nba.models import clv_counts, clv_spend
from nba.models.clv_counts import CountModel, compress, fit, log_likelihood

PUBLISHED = {
    # Fader, Hardie and Lee 2005; Batislam et al. 2007 (BTYDplus); Schmittlein et al. 1987 on CDNOW.
    "bg_nbd": ((0.2425945, 4.4136023, 0.7929219, 2.4259065), -9582.4292, 1e-4),
    "mbg_nbd": ((0.524843, 6.183085, 0.891359, 1.614002), -9582.1357, 1e-4),
    "pareto_nbd": ((0.553277, 10.57768, 0.60624, 11.66874), -9594.9762, 3e-4),
}


@pytest.fixture(scope="module")
def cdnow(data: Path) -> pd.DataFrame:
    raw = pd.read_csv(
        data / "cdnow" / "CDNOW_sample.txt", sep=r"\s+", header=None, names=["_", "id", "date", "n", "v"]
    )
    raw["day"] = pd.to_datetime(raw.date.astype(str))
    days = raw.groupby(["id", "day"], as_index=False).v.sum()
    return days[days.day <= "1997-09-30"]


def summary(days: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    by = days.groupby("id").day.agg(["min", "max", "size"])
    end = pd.Timestamp("1997-09-30")
    recency, age = ((b - a).dt.days.to_numpy() / 7 for a, b in ((by["min"], by["max"]), (by["min"], end)))
    return by["size"].to_numpy() - 1.0, recency, age


def world(n: int, seed: int, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    r, alpha, s, beta = 0.8, 8.0, 0.9, 12.0
    age = rng.integers(20, 60, n).astype(float)
    rate = rng.gamma(r, 1 / alpha, n)
    x, last = np.zeros(n), np.zeros(n)
    if kind == "pareto_nbd":
        alive = np.minimum(rng.exponential(1, n) / rng.gamma(s, 1 / beta, n), age)
        drop = np.zeros(n)
    else:
        alive, drop = age, rng.beta(1.2, 3.0, n)
    now, active = np.zeros(n), np.ones(n, dtype=bool)
    if kind == "mbg_nbd":
        active &= rng.random(n) >= drop
    while active.any():
        now = now + rng.exponential(1 / rate)
        active &= now < alive
        x[active] += 1
        last[active] = now[active]
        active &= rng.random(n) >= drop
    return x, last, age


# by hand


def test_nbd_likelihood_of_one_customer() -> None:
    rows = compress(np.array([1.0]), np.array([2.0]), np.array([4.0]))
    # Gamma(2) / Gamma(1) * alpha / (alpha + 4)^2 with r = 1, alpha = 4
    assert log_likelihood(rows, "nbd", (1.0, 4.0)) == pytest.approx(np.log(4 / 64))


def test_pareto_dropout_integral_is_the_published_expression() -> None:
    r, alpha, s, beta = 0.55, 10.6, 0.6, 11.7
    x, last, age = 2.0, 30.43, 38.86
    inside, _ = quad(lambda y: s * (alpha + y) ** -(r + x) * (beta + y) ** -(s + 1), last, age)
    alive = (alpha + age) ** -(r + x) * (beta + age) ** -s
    model = CountModel("pareto_nbd", (r, alpha, s, beta), (0.0,) * 4, 0.0, 1, True)
    got = model.p_alive(np.array([x]), np.array([last]), np.array([age]))[0]
    assert got == pytest.approx(alive / (alive + inside), rel=1e-10)


def test_few_repeaters_give_a_reason_and_no_number() -> None:
    model = fit(compress(np.zeros(500), np.zeros(500), np.full(500, 30.0)), "bg_nbd")
    assert np.isnan(model.params).all()
    assert "0 of 500 customers bought again" in model.reason


# laws


@pytest.mark.parametrize("kind", ["bg_nbd", "mbg_nbd", "pareto_nbd", "nbd"])
def test_gradients_are_those_of_the_likelihood(kind: str) -> None:
    rows = compress(*world(300, 1, "bg_nbd"))
    objective = clv_counts._OBJECTIVES[kind]
    theta = np.log([0.7, 5.0, 0.9, 3.0][: len(clv_counts.NAMES[kind])])
    error = check_grad(lambda t: objective(t, rows)[0], lambda t: objective(t, rows)[1], theta)
    assert error < 2e-3 * np.abs(objective(theta, rows)[1]).max()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["bg_nbd", "mbg_nbd", "pareto_nbd"]),
    st.tuples(*[st.floats(0.05, 20)] * 4),
    st.integers(0, 30),
    st.floats(0, 1),
    st.floats(1, 100),
)
def test_forecasts_are_sane_for_all_parameters(
    kind: str, params: tuple[float, ...], repeats: int, share: float, age: float
) -> None:
    model = CountModel(kind, params, (0.0,) * 4, 0.0, 1, True)  # type: ignore[arg-type]
    like = np.array([float(repeats)]), np.array([age * share if repeats else 0.0]), np.array([age])
    alive = model.p_alive(*like)[0]
    short, long = (model.expected(*like, h)[0] for h in (5.0, 50.0))
    assert 0 <= alive <= 1
    assert 0 <= short <= long * (1 + 1e-9)
    assert 0 <= model.next_within(*like, 50.0)[0] <= 1 + 1e-6
    edges = np.linspace(0, 50, 6)
    assert model.discounted(*like, edges, 0.0)[0] == pytest.approx(long, rel=1e-9)
    assert model.discounted(*like, edges, 0.1)[0] <= long * (1 + 1e-9)


def test_reruns_are_bit_equal_and_order_does_not_matter() -> None:
    x, last, age = world(800, 3, "pareto_nbd")
    turned = np.random.default_rng(0).permutation(800)
    a, b = (fit(compress(x[i], last[i], age[i]), "pareto_nbd") for i in (np.arange(800), turned))
    assert a == b


def test_unit_of_time_only_scales() -> None:
    x, last, age = world(800, 4, "bg_nbd")
    weeks, days = fit(compress(x, last, age), "bg_nbd"), fit(compress(x, 7 * last, 7 * age), "bg_nbd")
    np.testing.assert_allclose(np.array(days.params) / np.array(weeks.params), [1, 7, 1, 1], rtol=1e-6)


# recovery


@pytest.mark.parametrize(
    ("kind", "truth"),
    [
        ("bg_nbd", (0.8, 8.0, 1.2, 3.0)),
        ("mbg_nbd", (0.8, 8.0, 1.2, 3.0)),
        ("pareto_nbd", (0.8, 8.0, 0.9, 12.0)),
    ],
)
def test_parameters_are_recovered(kind: str, truth: tuple[float, ...]) -> None:
    model = fit(compress(*world(6_000, 5, kind)), kind)  # type: ignore[arg-type]
    assert model.is_converged
    assert (np.abs(np.array(model.params) - truth) < 3 * np.array(model.se)).all()


@pytest.mark.parametrize("kind", ["bg_nbd", "mbg_nbd", "pareto_nbd"])
def test_draws_agree_with_expectations(kind: str) -> None:
    model = CountModel(kind, (0.8, 8.0, 1.2, 3.0), (0.0,) * 4, 0.0, 1, True)  # type: ignore[arg-type]
    n = 40_000
    rows = clv_counts.Rows(np.full(n, 3.0), np.full(n, 20.0), np.full(n, 30.0), np.ones(n), np.arange(n))
    draws = model.draw(np.random.default_rng(2), rows, 25.0)
    one = (np.array([3.0]), np.array([20.0]), np.array([30.0]))
    assert abs(draws.mean() - model.expected(*one, 25.0)[0]) < 3 * draws.std() / np.sqrt(n)
    chance = model.next_within(*one, 25.0)[0]
    assert abs((draws > 0).mean() - chance) < 3 * np.sqrt(chance / n)


def test_no_dropout_falls_back_to_nbd_with_a_reason() -> None:
    rng = np.random.default_rng(8)
    n = 1_500
    age = rng.uniform(30, 60, n)
    x = rng.poisson(rng.gamma(1.0, 0.1, n) * age).astype(float)
    last = np.where(x > 0, age * rng.beta(np.maximum(x, 1), 1), 0)
    model = fit(compress(x, last, age), "bg_nbd")
    assert model.kind == "nbd"
    assert "no dropout" in model.reason
    assert np.isfinite(model.expected(x, last, age, 10.0)).all()


# reference


@pytest.mark.data
@pytest.mark.parametrize("kind", list(PUBLISHED))
def test_published_parameters_on_cdnow(kind: str, cdnow: pd.DataFrame) -> None:
    params, value, tolerance = PUBLISHED[kind]
    model = fit(compress(*summary(cdnow)), kind)  # type: ignore[arg-type]
    np.testing.assert_allclose(model.params, params, rtol=tolerance)
    assert model.log_likelihood == pytest.approx(value, abs=1e-3)


@pytest.mark.data
def test_published_forecast_of_one_customer(cdnow: pd.DataFrame) -> None:
    model = fit(compress(*summary(cdnow)), "bg_nbd")
    one = model.expected(np.array([2.0]), np.array([30.43]), np.array([38.86]), 39.0)
    assert one[0] == pytest.approx(1.226, abs=5e-4)


@pytest.mark.data
def test_published_gamma_gamma_on_cdnow(cdnow: pd.DataFrame) -> None:
    first = cdnow.groupby("id").day.transform("min")
    repeat = cdnow[cdnow.day > first].groupby("id").v.agg(["size", "mean"])
    model = clv_spend.fit(repeat["size"].to_numpy(), repeat["mean"].to_numpy())
    assert model.n == 946
    np.testing.assert_allclose(model.params, (6.24957, 3.74422, 15.44352), rtol=1e-4)
    assert model.log_likelihood == pytest.approx(-4055.9177, abs=1e-3)


WHOLE = {
    "bg_nbd": ((0.251624, 4.788943, 0.723434, 2.161089), -95368.4439),
    "mbg_nbd": ((0.637140, 7.310290, 0.807474, 1.228394), -95336.9583),
    "pareto_nbd": ((0.597420, 11.585657, 0.522186, 8.827759), -95415.1186),
}


@pytest.mark.data
def test_parameters_on_the_whole_of_cdnow(data: Path) -> None:
    """The exact optimum on all 23,570 customers, found by another program."""
    raw = pd.read_csv(
        data / "cdnow" / "CDNOW_master.txt", sep=r"\s+", names=["id", "date", "n", "v"], header=0
    )
    raw["day"] = pd.to_datetime(raw.date.astype(str))
    days = raw.groupby(["id", "day"], as_index=False).v.sum()
    days = days[days.day <= "1997-09-30"]
    rows = compress(*summary(days))
    for kind, (params, value) in WHOLE.items():
        model = fit(rows, kind)  # type: ignore[arg-type]
        np.testing.assert_allclose(model.params, params, rtol=3e-4 if kind == "pareto_nbd" else 1e-4)
        assert model.log_likelihood == pytest.approx(value, abs=1e-3)
    first = days.groupby("id").day.transform("min")
    repeat = days[days.day > first].groupby("id").v.agg(["size", "mean"])
    spend = clv_spend.fit(repeat["size"].to_numpy(), repeat["mean"].to_numpy())
    np.testing.assert_allclose(spend.params, (6.275359, 3.624450, 14.983687), rtol=1e-4)
