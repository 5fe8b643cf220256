from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from nba.models import hierarchy, jackknife
from nba.models.hierarchy import Crossed
from nba.models.inputs import Coding

CODING = Coding(("a_e", "b_e"), ("a", "b"), ("e", "e"))


def fitted(n, seed, times=1):
    # A trial in which every customer's row stands `times` times.
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.normal(size=(n, 3))])
    column, offset = rng.integers(0, 3, n), np.full(n, -1.0)
    effect = np.array([0.0, 0.3, 0.5])[column] + (column > 0) * 0.3 * x[:, 1]
    y = (rng.random(n) < expit(offset + effect)).astype(float)
    fold = rng.integers(0, 3, n)
    x, column, offset, y, fold = (np.repeat(part, times, axis=0) for part in (x, column, offset, y, fold))
    paired = np.where(column > 0, column, 1)
    crossed = hierarchy.cross_fit_logit(x, y, offset, np.ones(len(y)), column, paired, fold, CODING, 0.5)
    return crossed, x, column, fold


# by hand


def test_two_folds_by_hand():
    layout = hierarchy.Layout(CODING, 1)  # nuisance, common, a, b, e, own of each: d = 7
    mean, covariance = np.zeros(layout.size), np.zeros((layout.size, layout.size))
    covariance[1, 1] = 0.5  # of what all treatments share
    whole = hierarchy.Hierarchy(layout, mean, covariance, np.ones(layout.size), 0.5)
    moved = [whole.mean.copy(), whole.mean.copy()]
    moved[0][1], moved[1][2] = 0.2, 0.4  # without fold 0 both move by 0.2; without fold 1 the first by 0.4
    others = {number: replace(whole, mean=m) for number, m in enumerate(moved)}
    x, fold = np.ones((6, 1)), np.array([0, 0, 1, 1, 1, 1])
    column = np.array([1, 2, 2, 0, 0, 1])
    crossed = Crossed(whole, np.zeros(6), np.zeros(6), others)
    # Fold 0 holds a third of the rows: (3 - 1) / 2; fold 1 two thirds: (1.5 - 1) / 2. Two rows of each.
    expected = (1.0 * (2 * 0.2**2 + 2 * 0.2**2) + 0.25 * (2 * 0.4**2)) / (4 * 0.5)
    assert jackknife.excess(crossed, x, column, fold) == pytest.approx(expected)
    assert jackknife.excess(replace(crossed, others={0: whole}), x, column, fold) == 0.0
    assert jackknife.excess(crossed, x, np.zeros(6, dtype=int), fold) == 0.0


def test_errors_at_most_quadruple():
    crossed, x, column, fold = fitted(600, 0)
    sure = replace(crossed.model, covariance=crossed.model.covariance * 1e-6)
    assert jackknife.excess(replace(crossed, model=sure), x, column, fold) == 15.0


# recovery


def test_rows_that_repeat_a_customer_leave_the_error_nearly_as_it_is():
    wider = {times: [] for times in (1, 8)}
    posterior = {times: [] for times in (1, 8)}
    for seed in range(8):
        for times in wider:
            crossed, x, column, fold = fitted(1500, seed, times)
            variance = (crossed.model.effect(x[::times], CODING)[1] ** 2).mean()
            posterior[times].append(variance)
            wider[times].append(variance * (1 + jackknife.excess(crossed, x, column, fold)))
    # Eight times the rows look like eight times the knowledge; left-out customers tell that they are not.
    assert np.mean(posterior[8]) < 0.3 * np.mean(posterior[1])
    assert np.mean(wider[8]) == pytest.approx(np.mean(wider[1]), rel=0.5)
