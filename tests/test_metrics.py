import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from nba import metrics
from nba.errors import DataError


def case(seed, n=400):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    treated = (rng.random(n) < 0.4).astype(float)
    y = (rng.random(n) < 0.2 + 0.15 * treated * (x > 0)).astype(float)
    return y, np.round(x + rng.normal(size=n), 1), treated


# by hand


def test_auc_counts_pairs_and_halves_ties():
    y, score = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.5, 0.5, 0.9])
    assert metrics.auc(y, score) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert metrics.gini(y, score) == pytest.approx(0.75)


def test_one_class_is_unknown():
    assert np.isnan(metrics.auc(np.ones(3), np.arange(3.0)))
    assert np.isnan(metrics.qini(np.ones(3), np.arange(3.0), np.ones(3)))
    assert np.isnan(metrics.uplift_at(np.ones(3), np.arange(3.0), np.ones(3), 0.5))
    assert np.isnan(metrics.calibration_slope(np.ones(5), np.linspace(0.1, 0.9, 5)))
    assert metrics.qini_interval(np.ones(3), np.arange(3.0), np.ones(3), np.random.default_rng(0)).reason


def test_log_loss_of_even_odds():
    assert metrics.log_loss(np.array([1.0, 0.0]), np.array([0.5, 0.5])) == pytest.approx(np.log(2))
    weighted = metrics.log_loss(np.array([1.0, 0.0]), np.array([0.9, 0.5]), np.array([3.0, 1.0]))
    assert weighted == pytest.approx(-(3 * np.log(0.9) + np.log(0.5)) / 4)


def test_calibration_by_hand():
    table = metrics.calibration(np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.1, 0.2, 0.8, 0.9]), bins=2)
    assert table.to_pydict() == {
        "bin": [1, 2],
        "n": [2, 2],
        "predicted": [pytest.approx(0.15), pytest.approx(0.85)],
        "observed": [0.5, 1.0],
    }
    assert metrics.ece(
        np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.1, 0.2, 0.8, 0.9]), bins=2
    ) == pytest.approx(0.25)


def test_by_decile_puts_the_highest_first():
    table = metrics.by_decile(np.arange(20.0), np.arange(20.0) * 2, bins=2)
    assert table["decile"].to_pylist() == [1, 2]
    assert table["predicted"].to_pylist() == [14.5, 4.5]
    assert table["observed"].to_pylist() == [29.0, 9.0]
    assert all(
        low < o < high
        for low, o, high in zip(*(table[c].to_pylist() for c in ("lower", "observed", "upper")))
    )
    assert metrics.by_decile(np.empty(0), np.empty(0)).num_rows == 0
    with pytest.raises(DataError, match=r"predicted: 1 values are missing(.|\n)*observed: 2 values are"):
        metrics.by_decile(np.array([np.nan, 1.0, 2.0]), np.array([np.inf, 1.0, np.nan]))


def test_by_decile_weighs_rows():
    weight = np.array([1.0, 3.0, 1.0, 1.0])
    table = metrics.by_decile(np.array([1.0, 1, 2, 2]), np.array([0.0, 4, 1, 2]), bins=2, weight=weight)
    assert table["observed"].to_pylist() == [1.5, 3.0]


def test_by_decile_subtracts_what_the_control_has_too():
    predicted, control = np.repeat([0.1, 0.3], 4), np.tile([False, True], 4)
    observed = np.array([0.3, 0.1, 0.1, -0.1, 0.6, 0.2, 0.4, 0.0])
    table = metrics.by_decile(predicted, observed, bins=2, control=control)
    assert table["n"].to_pylist() == [2, 2]
    assert table["predicted"].to_pylist() == pytest.approx([0.3, 0.1])
    assert table["observed"].to_pylist() == pytest.approx([0.5 - 0.1, 0.2 - 0.0])
    # Each side's variance is 0.02 over 2 rows; Welch's degrees of freedom are 2.
    assert table["upper"].to_pylist()[0] == pytest.approx(0.4 + 4.3027 * np.sqrt(0.02), abs=1e-4)
    # A customer on both sides: what is his own cancels.
    both = metrics.by_decile(predicted, observed, bins=2, customer=np.arange(8) // 2, control=control)
    assert both["upper"].to_pylist() == pytest.approx(both["observed"].to_pylist())
    one = metrics.by_decile(predicted, observed, bins=2, customer=np.zeros(8, dtype=int), control=control)
    assert one.num_rows == 0


def test_auc_interval_by_hand():
    y, score = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.5, 0.5, 0.9])
    found = metrics.auc_interval(y, score)
    # Placements are 0.75 and 1 on both sides, each 1/8 from 0.875 and counting twice: 4 (4/64) over 3 and 4.
    assert found.value == 0.875
    assert found.se == pytest.approx(np.sqrt(4 * 4 / 64 / 3 / 4))
    assert (found.lower, found.upper) == (pytest.approx(0.875 - 3.1824 * found.se, abs=1e-4), 1.0)
    assert metrics.auc_interval(np.ones(3), score[:3]).reason


def test_rows_of_one_customer_count_once():
    y, uplift, treated = case(0)
    twice, customer = (lambda x: np.repeat(x, 3)), np.repeat(np.arange(len(y)), 3)
    once = metrics.auc_interval(y, uplift)
    assert metrics.auc_interval(twice(y), twice(uplift), customer).se == pytest.approx(once.se)
    assert metrics.auc_interval(twice(y), twice(uplift)).se < 0.6 * once.se
    whole = metrics.by_decile(uplift, y, bins=2).to_pydict()
    again = metrics.by_decile(twice(uplift), twice(y), bins=2, customer=customer).to_pydict()
    assert again == {**{k: pytest.approx(v) for k, v in whole.items()}, "n": [3 * n for n in whole["n"]]}
    found = metrics.qini_interval(y, uplift, treated, np.random.default_rng(0))
    rows = [twice(x) for x in (y, uplift, treated)]
    clustered = metrics.qini_interval(*rows, np.random.default_rng(0), customer=customer)
    assert clustered.value == pytest.approx(found.value)
    assert clustered.se == pytest.approx(found.se, rel=0.3)
    assert metrics.qini_interval(*rows, np.random.default_rng(0)).se < 0.75 * found.se


# laws


@given(seed=st.integers(0, 1000), shift=st.floats(-3, 3), scale=st.floats(0.5, 5))
def test_ranking_measures_see_order_only(seed, shift, scale):
    y, uplift, treated = case(seed, 80)
    moved = scale * uplift + shift
    assert metrics.auc(y, moved) == pytest.approx(metrics.auc(y, uplift))
    assert metrics.qini(y, moved, treated) == pytest.approx(metrics.qini(y, uplift, treated), nan_ok=True)


@given(seed=st.integers(0, 1000))
def test_whole_weights_are_repeats(seed):
    y, uplift, treated = case(seed, 60)
    times = np.random.default_rng(seed).integers(1, 4, len(y))
    repeated = metrics.qini(*(np.repeat(part, times) for part in (y, uplift, treated)))
    assert metrics.qini(y, uplift, treated, times.astype(float)) == pytest.approx(repeated, nan_ok=True)


@given(seed=st.integers(0, 1000))
def test_constant_ranking_is_worth_nothing_and_the_perfect_one_is_one(seed):
    y, _, treated = case(seed, 60)
    if not 0 < treated.sum() < len(y) or not y.any():
        return
    assert metrics.qini(y, np.zeros(len(y)), treated) == pytest.approx(0, abs=1e-12, nan_ok=True)
    assert metrics.qini(y, y * (2 * treated - 1), treated) == pytest.approx(1, nan_ok=True)


@given(seed=st.integers(0, 1000), points=st.integers(2, 60))
def test_curve_for_the_figure_ends_where_chance_ends(seed, points):
    table = metrics.qini_table(*case(seed, 80), points=points)
    assert table.num_rows == points + 1
    assert table["qini"][0].as_py() == table["random"][0].as_py() == 0
    assert table["qini"][-1].as_py() == pytest.approx(table["random"][-1].as_py())


# recovery


def test_calibration_slope_finds_overconfidence():
    rng = np.random.default_rng(0)
    score = rng.normal(-1, 1, 40_000)
    y = (rng.random(len(score)) < expit(score)).astype(float)
    # standard error of a logistic slope at this size is about 0.014
    assert metrics.calibration_slope(y, expit(score)) == pytest.approx(1, abs=0.042)
    assert metrics.calibration_slope(y, expit(2 * score)) == pytest.approx(0.5, abs=0.021)
    assert metrics.ece(y, expit(score)) < 0.01 < metrics.ece(y, expit(2 * score))


def test_calibration_error_of_noise_is_what_calibrated_predictions_have():
    rng = np.random.default_rng(1)
    p = expit(rng.normal(-1, 1, 1_500))
    drawn = [metrics.ece((rng.random(len(p)) < p).astype(float), p) for _ in range(60)]
    expected = metrics.ece_of_noise(p)
    assert np.mean(drawn) == pytest.approx(expected, abs=3 * np.std(drawn) / np.sqrt(60))
    assert metrics.ece_of_noise(np.tile(p, 9)) == pytest.approx(expected / 3)


def test_interval_covers_the_value_and_widens_with_fewer_rows():
    few = metrics.qini_interval(*case(5, 400), np.random.default_rng(0))
    many = metrics.qini_interval(*case(5, 6400), np.random.default_rng(0))
    assert few.lower < few.value < few.upper
    assert many.upper - many.lower < 0.5 * (few.upper - few.lower)
