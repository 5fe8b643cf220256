from datetime import timedelta

import numpy as np
import pyarrow.compute as pc
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


def test_what_is_learnt_from_had_closed_when_the_latest_were_decided(varied, catalog, quick):
    early, late = belief.split(varied.examples, 14)
    last, first = pc.max(early["as_of"]).as_py(), pc.min(late["as_of"]).as_py()
    assert first - last >= timedelta(days=14)
    between = early.num_rows + late.num_rows
    near, same = belief.split(varied.examples, 1)
    assert same.equals(late)
    assert between < near.num_rows + late.num_rows == varied.examples.num_rows
    long = belief.choose(varied.examples, catalog, quick, 0, 300)  # nothing had closed by then
    assert (long.settings, long.candidates) == (quick, ())


def test_the_default_gains_nothing_over_itself():
    error = np.random.default_rng(0).random(50)
    assert belief._candidate(("blend", None), error, error, np.arange(50)).gain_se == 0.0
