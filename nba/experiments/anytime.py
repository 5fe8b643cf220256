"""Intervals and p-values of effects that hold whenever one looks, of all customers and of each segment.

The clock is the variance of the score ``(n_eff * se)**2``. It starts at the first look at which an effect
could be estimated, which fixes where its interval is narrowest: before that look nothing holds.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nba import stats
from nba.experiments import analyze

Array = NDArray[np.float64]


class Watched(NamedTuple):
    """What holds at every look, each of the shape of the effects; NaN where it is not known.

    Attributes:
        lower, upper: Ends of the interval.
        p_value: Below `alpha` where, and only where, the interval leaves zero.
    """

    lower: Array
    upper: Array
    p_value: Array


def score(se: Array, n: Array, n_control: Array, is_ratio: NDArray[np.bool_]) -> Array:
    """Give the variance of the score, in the shape of `se`; of ratios the information.

    Args:
        se: Standard errors, shape (metrics, ...).
        n: Customers of the arm, shape of `se`.
        n_control: Customers of the control, shape of `se`.
        is_ratio: Whether a metric is a ratio of totals, shape (metrics,).
    """
    ratio = is_ratio.reshape(-1, *(1,) * (se.ndim - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(ratio, 1 / se**2, (se / (1 / n + 1 / n_control)) ** 2))


def clock(at_looks: Array) -> Array:
    """Give the time at looks in units of the first, which is 2: it never goes back, shape (k,).

    Args:
        at_looks: Score of each look, above 0, shape (k,).
    """
    grown = np.maximum.accumulate(at_looks) * (1 + 1e-9 * np.arange(len(at_looks)))
    return np.asarray(2 * grown / grown[0])


def watch(found: analyze.Effects, now: Array, at_looks: Array, planned: float, alpha: float) -> Watched:
    """Give what holds of effects at the moment of a readout, which need not be a look.

    Args:
        found: The effects, shape (metrics, cells).
        now: Their score, the same shape.
        at_looks: Their score at the looks before, shape (metrics, cells, looks); NaN or 0 where unknown.
        planned: Looks of the plan: there the interval is narrowest.
        alpha: Two-sided error over all looks together, of each effect.
    """
    known = np.where(at_looks > 0, at_looks, np.nan)
    is_known = ~np.isnan(known)
    has = is_known.any(axis=-1)
    if not has.any():
        return Watched(*np.full((3, *found.effect.shape), np.nan))
    first = np.take_along_axis(known, is_known.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    time = 2 * np.fmax(now, np.fmax.reduce(known, axis=-1)) / first
    bound = stats.sequence_bound(time, 2 * planned, alpha)
    z = found.effect / np.where(found.se > 0, found.se, np.nan)
    p = stats.sequence_p_value(z, time, 2 * planned, alpha)
    half = np.where(has, bound, np.nan) * found.se
    return Watched(found.effect - half, found.effect + half, np.where(has, p, np.nan))
