import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nba.models import uplift
from nba.models.uplift import Scaling

# by hand


def test_scaling_of_logarithms_and_unknowns():
    X = np.array([[0.0, 1.0], [np.e - 1, 1.0], [np.nan, 1.0], [1 - np.e, 1.0]])
    scaling = Scaling.of(X, np.full(4, 0.5))
    x = scaling.apply(X, np.full(4, 0.5))
    assert x.shape == (4, 4)
    s = np.sqrt(2 / 3)
    np.testing.assert_allclose(x[:, 1], [0, 1 / s, 0, -1 / s])
    np.testing.assert_allclose(x[:, 2:], 0)  # a column that does not vary says nothing


def test_blend_takes_what_is_true_and_leaves_noise():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=5000) * 0.1
    noise = rng.normal(size=5000) * 0.1
    target = truth + rng.normal(size=5000) * 0.3
    weights, losses = uplift.blend(np.column_stack([noise, truth]), target, np.full(5000, 1 / 0.09))
    assert weights[1] == pytest.approx(1, abs=0.15)
    assert weights[0] < 0.1
    assert losses["blend"] < losses["constant"]


def test_blend_without_rows_or_candidates_is_constant():
    for parts, n in ((np.empty((0, 2)), 0), (np.zeros((4, 2)), 4)):
        weights, _ = uplift.blend(parts, np.ones(n), np.ones(n))
        assert weights.tolist() == [0, 0]


# laws


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.integers(1, 4))
def test_weights_are_not_negative_and_bounded(seed, m):
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(50, m))
    weights, _ = uplift.blend(parts, parts @ rng.normal(size=m) * 3, np.ones(50))
    assert (weights >= 0).all()
    assert weights.sum() <= 1.25 + 1e-9


# recovery


def test_noise_is_weighed_down_as_it_becomes_clear_and_the_prior_holds_before():
    rng = np.random.default_rng(1)

    def mean_weight(n):
        totals = []
        for _ in range(40):
            parts = rng.normal(size=(n, 2)) * 0.1
            target = rng.normal(size=n) * 0.3
            totals.append(uplift.blend(parts, target, np.full(n, 1 / 0.09))[0][1])
        return np.mean(totals)

    few, some, many = mean_weight(5), mean_weight(300), mean_weight(20_000)
    assert few == pytest.approx(uplift.PRIOR_WEIGHTS[1], abs=0.1)
    assert few > some > many
    assert many < 0.02
