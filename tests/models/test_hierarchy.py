import numpy as np
import pytest
from scipy.special import expit, logit

from nba.models import hierarchy
from nba.models.inputs import Coding

CODING = Coding(("a_e", "a_s", "b_e"), ("a", "a", "b"), ("e", "s", "e"))


def rows(n, seed, odds=(0.3, 0.6, 0.2), slope=0.0, share=0.5):
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.normal(size=(n, 4))])
    column = np.where(rng.random(n) < share, rng.integers(1, 4, n), 0)
    offset = -1.5 + 0.5 * x[:, 1]
    effect = np.array([0.0, *odds])[column] + (column > 0) * slope * x[:, 2]
    y = (rng.random(n) < expit(offset + effect)).astype(float)
    paired = np.where(column > 0, column, rng.integers(1, 4, n))
    return x, y, offset, np.ones(n), column, paired, rng.integers(0, 4, n), CODING


# by hand


def test_sums_by_treatment():
    x = np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 5.0]])
    found = hierarchy.sums(x, np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 2.0]), np.array([0, 1, 1]), 2)
    assert found.n.tolist() == [1, 2]
    np.testing.assert_allclose(found.gram[1], [[3, 13], [13, 59]])
    np.testing.assert_allclose(found.moment[1], [8, 36])


def test_posterior_is_the_ridge_solution():
    rng = np.random.default_rng(0)
    X, y, variance = rng.normal(size=(50, 3)), rng.normal(size=50), np.array([0.5, 1.0, 2.0])
    mean, covariance = hierarchy._posterior(X.T @ X, X.T @ y, variance)
    inverse = np.linalg.inv(X.T @ X + np.diag(1 / variance))
    np.testing.assert_allclose(covariance, inverse, atol=1e-12)
    np.testing.assert_allclose(mean, inverse @ X.T @ y, atol=1e-12)


def test_precision_is_that_of_the_written_out_design():
    x, y, _, w, column, *_ = rows(60, 0)
    layout = hierarchy.Layout(CODING, 5)
    precision, target = hierarchy._assemble(hierarchy.sums(x, y, w, column, 4), layout)
    design = np.zeros((60, layout.size))
    for i, c in enumerate(column):
        design[i, :5] = x[i]
        if c:
            for start in layout.effect_starts(CODING.action_ids[c - 1], CODING.channels[c - 1]):
                design[i, start : start + 5] = x[i]
            design[i, layout.own(CODING.treatment_ids[c - 1])] = 1
    np.testing.assert_allclose(precision, design.T @ design, atol=1e-9)
    np.testing.assert_allclose(target, design.T @ y, atol=1e-9)


# laws


def test_less_tried_means_less_known():
    x, y, offset, w, column, paired, fold, coding = rows(6000, 1)
    few = np.where((column == 3) & (np.arange(6000) % 20 > 0), 0, column)
    model = hierarchy.cross_fit_logit(x, y, offset, w, column, paired, fold, coding, 0.5).model
    less = hierarchy.cross_fit_logit(x, y, offset, w, few, paired, fold, coding, 0.5).model
    assert (less.effect(x[:50], coding)[1][:, 2] > model.effect(x[:50], coding)[1][:, 2]).all()


def test_unknown_treatments_borrow_and_are_less_certain():
    x, y, offset, w, column, paired, fold, coding = rows(6000, 2)
    model = hierarchy.cross_fit_logit(x, y, offset, w, column, paired, fold, coding, 0.5).model
    new = Coding(("a_e", "b_s", "a_x", "z_z"), ("a", "b", "a", "z"), ("e", "s", "x", "z"))
    mean, se = model.effect(x[:1, :], new)
    assert (np.diff(se[0]) > 0).all()  # known, new pair of known parts, new channel, all new
    assert se[0, 3] >= 0.5
    assert np.isfinite(mean).all()


def test_no_treated_rows_leave_the_prior():
    x, y, offset, w, _, paired, fold, coding = rows(2000, 3)
    model = hierarchy.cross_fit_logit(x, y, offset, w, np.zeros(2000, int), paired, fold, coding, 0.5).model
    mean, se = model.effect(x[:5], coding)
    np.testing.assert_allclose(mean, 0, atol=1e-6)
    assert (se > 0.5).all()


# recovery


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_odds_ratios_within_their_standard_errors(seed):
    x, y, offset, w, column, paired, fold, coding = rows(20_000, seed)
    model = hierarchy.cross_fit_logit(x, y, offset, w, column, paired, fold, coding, 0.5).model
    mean, se = model.effect(np.eye(1, 5), coding)
    assert (np.abs(mean[0] - [0.3, 0.6, 0.2]) < 3 * se[0]).all()


def test_slopes_are_found_where_they_are_and_vanish_where_not():
    moved, still = (
        hierarchy.cross_fit_logit(*rows(20_000, 4, slope=slope), 0.5).model for slope in (0.5, 0.0)
    )
    coefficients, covariance = moved.of("a_e", "a", "e")
    assert abs(coefficients[2] - 0.5) < 3 * np.sqrt(covariance[2, 2])
    assert np.abs(still.coefficients(CODING)[:, 1:]).max() < 0.1


def test_nuisance_mends_a_wrong_baseline():
    x, y, offset, w, column, paired, fold, coding = rows(20_000, 5)
    wrong = offset - 0.7 + 0.3 * x[:, 3]
    found = hierarchy.cross_fit_logit(x, y, wrong, w, column, paired, fold, coding, 0.5)
    mended = wrong + found.nuisance
    assert np.sqrt(np.mean((mended - offset) ** 2)) < 0.1
    mean, se = found.model.effect(np.eye(1, 5), coding)
    assert (np.abs(mean[0] - [0.3, 0.6, 0.2]) < 3 * se[0]).all()


def test_identity_link_gives_means_of_residuals():
    rng = np.random.default_rng(6)
    column = rng.integers(0, 4, 8000)
    residual = np.array([0.0, 1.0, 2.0, 3.0])[column] + rng.normal(size=8000)
    ones, paired = np.ones((8000, 1)), np.maximum(column, 1)
    found = hierarchy.cross_fit(ones, residual, np.ones(8000), column, paired, column * 0, CODING, 1.0)
    mean, se = found.model.effect(ones[:1], CODING)
    assert (np.abs(mean[0] - [1, 2, 3]) < 3 * se[0]).all()
    assert se.max() < 0.05


def test_fit_to_all_agrees_with_the_odds_of_a_table():
    x, y, _, w, column, paired, _, coding = rows(30_000, 7, share=0.75)
    ones = x[:, :1]
    rate = y[column == 0].mean()
    offset = np.full(len(y), logit(rate))
    y0 = y.copy()
    model = hierarchy.cross_fit_logit(ones, y0, offset, w, column, paired, column * 0, coding, 0.5).model
    mean, _ = model.effect(ones[:1], coding)
    table = [logit(y[column == c].mean()) - logit(rate) for c in (1, 2, 3)]
    np.testing.assert_allclose(mean[0], table, atol=0.03)
