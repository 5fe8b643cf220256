import numpy as np
import pytest

from nba.models import belief

# by hand


def test_gains_are_clustered_by_customer():
    rng = np.random.default_rng(0)
    default, other = rng.random(400), rng.random(400)
    gap = default - other
    apart = belief._candidate(("trees", None), other, default, np.arange(400))
    assert apart.loss == pytest.approx(other.mean())
    assert apart.gain_se == pytest.approx(gap.mean() / (gap.std() / 20))
    # The same customers five times tell no more than once.
    five = belief._candidate(
        ("trees", None), np.repeat(other, 5), np.repeat(default, 5), np.repeat(np.arange(400), 5)
    )
    assert five.gain_se == pytest.approx(apart.gain_se)
    assert (five.n, apart.n) == (2000, 400)


def test_the_default_gains_nothing_over_itself():
    error = np.random.default_rng(0).random(50)
    assert belief._candidate(("blend", None), error, error, np.arange(50)).gain_se == 0.0
