import numpy as np
import pytest

from nba.models.clv_spend import fit


def world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 8, n)
    rate = rng.gamma(4.0, 1 / 15.0, n)
    return count, rng.gamma(6.0 * count, 1 / rate) / count


# by hand


def test_equal_margins_are_their_mean_with_a_reason() -> None:
    model = fit(np.full(50, 3), np.full(50, 20.0))
    assert model.kind == "shrunk_mean"
    assert "equal" in model.reason
    assert model.expected(np.array([1.0]), np.array([20.0]))[0] == pytest.approx(20)


def test_nobody_has_bought() -> None:
    model = fit(np.zeros(5), np.zeros(5))
    assert np.isnan(model.mean)
    assert model.reason == "nobody has bought"


def test_mostly_negative_margins_get_the_shrunk_mean_and_stay_negative() -> None:
    rng = np.random.default_rng(1)
    mean = rng.normal(-5, 3, 400)
    model = fit(np.full(400, 4), mean, mean**2 + 9)
    assert model.kind == "shrunk_mean"
    assert "no positive margin" in model.reason
    assert model.expected(np.array([4.0]), np.array([-5.0]))[0] < 0


def test_futures_of_the_shrunk_mean_have_its_mean_and_spread() -> None:
    rng = np.random.default_rng(5)
    own = rng.normal(-5, 3, 4_000)
    mean = own + rng.normal(0, 1.5, 4_000)
    model = fit(np.full(4_000, 4), mean, mean**2 + 6.75)  # 9 within a purchase of which 4 were seen
    drawn = model.draw(rng, np.full(1, 4.0), np.full(1, -8.0), np.full((1, 40_000), 2))
    expected = 2 * model.expected(np.array([4.0]), np.array([-8.0]))[0]
    spread = 4 * model.between * (model.within / 4) / (model.between + model.within / 4) + 2 * model.within
    assert abs(drawn.mean() - expected) < 3 * drawn.std() / 200
    assert drawn.var() == pytest.approx(spread, rel=0.03)
    assert model.draw(rng, np.full(1, 4.0), np.full(1, -8.0), np.zeros((1, 3), dtype=int)).tolist() == [
        [0] * 3
    ]


# laws


def test_expectation_lies_between_the_customer_and_everybody() -> None:
    count, mean = world(2_000, 2)
    model = fit(count, mean)
    p, q, v = model.params
    overall = p * v / (q - 1)
    got = model.expected(count, mean)
    assert ((got - np.minimum(mean, overall) > -1e-9) & (got - np.maximum(mean, overall) < 1e-9)).all()


def test_money_only_scales() -> None:
    count, mean = world(1_000, 3)
    euro, cent = fit(count, mean), fit(count, 100 * mean)
    np.testing.assert_allclose(np.array(cent.params) / np.array(euro.params), [1, 1, 100], rtol=1e-5)


# recovery


def test_parameters_are_recovered() -> None:
    model = fit(*world(8_000, 4))
    assert (np.abs(np.array(model.params) - (6.0, 4.0, 15.0)) < 3 * np.array(model.se)).all()


def test_futures_of_gamma_gamma_hold_what_customers_spend_next() -> None:
    rng = np.random.default_rng(6)
    n, rate = rng.integers(1, 8, 6_000), rng.gamma(4.0, 1 / 15.0, 6_000)
    mean = rng.gamma(6.0 * n, 1 / rate) / n
    later, count = rng.gamma(6.0 * 3, 1 / rate), np.full((6_000, 100), 3)
    model = fit(n, mean)
    drawn = model.draw(rng, n.astype(float), mean, count)
    total = 3 * model.expected(n, mean).sum()
    assert drawn.mean(axis=1).sum() == pytest.approx(total, rel=0.01)
    lower, upper = np.quantile(drawn, [0.05, 0.95], axis=1)
    held = ((lower <= later) & (later <= upper)).mean()
    assert abs(held - 0.9) < 0.02  # 100 futures find the ends a little too near
