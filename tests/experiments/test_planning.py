"""Sample size, power, and A/A checks."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nba.errors import DataError
from nba.experiments import planning
from nba.experiments.cube import Metric, Sums

FROZEN = json.loads(
    (Path(__file__).parents[1] / "reference" / "experiments.json").read_text(encoding="utf-8")
)

# by hand


def test_cuped_needs_fewer_customers_as_the_covariate_explains():
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000)
    y = 10 + 0.8 * x + 0.6 * rng.normal(size=20_000)
    sums = Sums.of(np.stack([y, x], axis=1), np.zeros(20_000, int), 1)
    found = planning.spread(sums, Metric("y", None, "x"), ("y", "x"))
    assert found.mean == pytest.approx(10, abs=0.03)
    assert (found.sd, found.sd_adjusted) == (pytest.approx(1, abs=0.02), pytest.approx(0.6, abs=0.02))
    plain, adjusted = (planning.sample_size(0.1, sd) for sd in (found.sd, found.sd_adjusted))
    assert adjusted / plain == pytest.approx(0.36, abs=0.02)


def test_more_arms_need_more_customers():
    assert planning.sample_size(0.1, 1.0, arms=3) > 1.2 * planning.sample_size(0.1, 1.0)


def test_the_curve_is_data_for_a_plot():
    spreads = {7: planning.Spread(1000, 2.0, 4.0, 3.0), 28: planning.Spread(1000, 8.0, 9.0, 6.0)}
    found = planning.curve(spreads, (0.9, 0.1))
    assert found["days"].to_pylist() == [7, 28]
    assert (np.array(found["mde_adjusted"]) < np.array(found["mde"])).all()
    assert found["mde_relative"].to_pylist()[1] < found["mde_relative"].to_pylist()[0]


@pytest.mark.parametrize("plan", [{"sd": 0.0}, {"sd": float("nan")}, {"effect": 0.0}])
def test_a_plan_without_spread_or_effect_is_refused(plan):
    with pytest.raises(DataError, match="expected above 0"):
        planning.sample_size(**{"effect": 1.0, "sd": 1.0} | plan)


def test_an_effect_too_far_out_for_the_noncentral_t_is_seen_for_sure():
    assert planning.power(1e9, 3.0, 45, 5) == 1.0
    assert planning.sample_size(1e9, 3.0) == pytest.approx(2.0)


def test_what_a_planned_effect_takes_agrees_with_size_and_power():
    spreads = {d: planning.Spread(2000, 1.0, 2.0 * d**0.5, 1.0 * d**0.5) for d in (7, 28, 56)}
    effects = {d: 0.75 * d / 28 for d in spreads}
    found = planning.need(spreads, effects, 28, (0.6, 0.2))
    sd = 28**0.5
    assert found.n_control == pytest.approx(planning.sample_size(0.75, sd, ratio=3.0))
    assert (found.n, found.n_there, found.n_control_there) == (pytest.approx(3 * found.n_control), 1200, 400)
    assert found.power == pytest.approx(planning.power(0.75, sd, 1200, 400))
    assert found.power < 0.8
    # Effects grow with the days and spreads with their root, so that longer sees more.
    assert found.days == 56
    assert np.isnan(planning.need({28: spreads[28]}, effects, 28, (0.6, 0.2)).days)


# laws


@settings(deadline=None, max_examples=25)
@given(st.floats(0.02, 0.5), st.floats(0.5, 3), st.floats(0.3, 3))
def test_size_effect_and_power_agree(effect, sd, ratio):
    n = planning.sample_size(effect, sd, ratio=ratio)
    assert planning.power(effect, sd, n * ratio, n) == pytest.approx(0.8, abs=1e-6)
    assert planning.detectable(sd, n * ratio, n) == pytest.approx(effect, rel=1e-6)


def test_power_curves_rise():
    curve = planning.power_curve(np.linspace(0, 1, 9), 1.0, 50, 50)
    assert curve[0] == pytest.approx(0.05)
    assert (np.diff(curve) > 0).all()


# recovery


def test_past_customers_do_not_differ_from_themselves():
    rng = np.random.default_rng(1)
    values = rng.lognormal(size=(2000, 1))
    found = planning.aa_check(
        values, Metric("y"), ("y",), lambda i: np.random.default_rng(i).integers(0, 2, 2000)
    )
    assert found.is_fine
    assert found.n == 200


def test_a_broken_split_is_seen():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(500, 1))

    def broken(i):
        return (values[:, 0] + np.random.default_rng(i).normal(0, 3, 500) > 0).astype(int)

    assert not planning.aa_check(values, Metric("y"), ("y",), broken).is_fine


# reference


def test_power_and_size_equal_statsmodels():
    for effect, n, ratio, expected in FROZEN["power"]:
        assert planning.power(effect, 1.0, n * ratio, n) == pytest.approx(expected, rel=1e-9)
    for effect, ratio, expected in FROZEN["size"]:
        assert planning.sample_size(effect, 1.0, ratio=ratio) == pytest.approx(expected, rel=1e-9)
