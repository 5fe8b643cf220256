"""Features that know what came later: the outcome, or what the treatment did.

A feature may tell by its value or by being known at all, and within one arm alone (only the treated can open
a mail). What is known before the treatment cannot differ between arms by more than their probabilities allow.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from nba import stats

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_LEAK = 0.999  # AUC or rank correlation of one feature with the outcome above which it is taken for it
_LEAST = 20  # rows with the feature
_OTHERS = 10  # rows of the rarer outcome, where a part of the rows, or a flag, could tell it by chance
_MOST = 5_000  # rows that leaks are looked for in
_HIGH = 0.9  # AUC of a feature from which on it is suspected,
_ABOVE = 0.1  # if it is so much above the next feature's that is not
_APART = 5.0  # standard errors that a feature may differ between arms
_CELLS = 6_000_000  # values that are compared between arms, for time and memory
CERTAIN = 1 - 1e-9  # probability above which nothing else was possible
_SLACK = 0.05  # and these standard deviations, as estimated probabilities are not exact


def leaks(X: Array, y: Array, arm: Whole | None = None, most: int = _MOST) -> list[int]:
    """Name features whose order is that of the outcome (|rank correlation| or AUC above 0.999).

    By their values where they are known, or by being known; in all rows or within an arm.

    Args:
        X: Shape (n, p).
        y: Shape (n,).
        arm: Column of the arm of each row, shape (n,); None where there is one.
        most: Rows that are looked at.
    """
    if len(y) < _LEAST or np.ptp(y) == 0:
        return []
    at = _part(len(y), most)
    part, target = X[at], y[at]
    groups = [] if arm is None else [arm[at] == k for k in np.unique(arm[at])]
    groups = [group for group in groups if _varies(target[group])]
    out = []
    for j in range(X.shape[1]):
        x, known = part[:, j], np.isfinite(part[:, j])
        is_leak = known.sum() >= _LEAST and _tells(x[known], target[known])
        for group in groups:
            seen = group & known
            is_leak = is_leak or (_varies(target[seen]) and _tells(x[seen], target[seen]))
        for group in [np.ones(len(x), dtype=bool), *groups]:
            is_leak = is_leak or (_varies(target[group]) and _known_tells(known[group], target[group]))
        if is_leak:
            out.append(j)
    return out


def suspected(X: Array, y: Array, most: int = 20_000) -> list[tuple[int, float, float]]:
    """Name features that tell a 0/1 outcome far better than any other does, without being it.

    A feature is suspected whose AUC is above 0.9 and by 0.1 or more above the best that is not; `leaks` are
    left out. That may be right (a strong habit): a suspicion is no fault.

    Args:
        X: Shape (n, p).
        y: 0 or 1, shape (n,); of other outcomes nothing is suspected.
        most: Rows that are looked at.

    Returns:
        Column, AUC (of its order in either direction, where it is known) and the AUC of the best that is not
        suspected, 0.5 if there is none.
    """
    if not np.isin(y, (0.0, 1.0)).all() or not _varies(y):
        return []
    at = _part(len(y), most)
    part, target = X[at], y[at]
    area = np.full(X.shape[1], 0.5)
    for j, x in enumerate(part.T):
        known = np.isfinite(x)
        if _varies(target[known]):
            area[j] = 0.5 + abs(_auc(x[known], target[known]) - 0.5)
    told = area > _LEAK
    high = (area > _HIGH) & ~told
    rest = max(area[~high & ~told].max(initial=0.5), 0.5)
    return [(int(j), float(area[j]), float(rest)) for j in np.flatnonzero(high & (area > rest + _ABOVE))]


def _auc(x: Array, y: Array) -> float:
    low, high = x[y == 0], x[y == 1]
    cut = np.sort(low)
    below = (np.searchsorted(cut, high, "left") + np.searchsorted(cut, high, "right")) / 2
    return float(below.mean() / len(low))


def _part(n: int, most: int = _MOST) -> Whole:
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)


def _varies(y: Array) -> bool:
    # Whether enough rows differ from what most have, so that no feature tells which by chance.
    if len(y) < _LEAST:
        return False
    return bool(len(y) - np.unique(y, return_counts=True)[1].max() >= _OTHERS)


def _known_tells(known: NDArray[np.bool_], y: Array) -> bool:
    # Of money, being known can tell whether there is some.
    return not known.all() and _tells(known.astype(np.float64), (y != 0).astype(np.float64))


def _tells(x: Array, y: Array) -> bool:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return False
    if np.isin(y, (0.0, 1.0)).all():
        return bool(abs(_auc(x, y) - 0.5) > _LEAK - 0.5)
    return bool(abs(np.corrcoef(rankdata(x), rankdata(y))[0, 1]) > _LEAK)


def uneven(
    X: Array,
    arm: Whole,
    p: Array,
    weight: Array | None = None,
    customer: Whole | None = None,
    most: int = 60_000,
) -> list[int]:
    """Name features that differ between arms by more than the arms' probabilities allow.

    Rows that got an arm, each for 1/p, stand for all that could have got it: by their values (as ranks, of
    which a few cannot be all) and by how many of them are known. Differences up to five standard errors,
    more where there are many features, and 0.05 standard deviations are let pass. Where the probability of
    another arm is not known, a row counts as able to get it, unless its own is 1: that arms stand for as many
    is for the caller to know (`nba.models.trial.contradictions`).

    Args:
        X: Shape (n, p).
        arm: Column of the arm of each row, 0 is the control, shape (n,).
        p: Probability of each arm, shape (n, 1 + T); above 0 of the row's own, NaN where not known.
        weight: Shape (n,).
        customer: Code of each row's customer, shape (n,).
        most: Rows that are looked at.
    """
    at = _part(len(arm), min(most, max(_MOST, _CELLS // max(X.shape[1], 1))))
    arm, p = arm[at], p[at]
    w = np.ones(len(at)) if weight is None else weight[at]
    own = p[np.arange(len(at)), arm]
    if p.shape[1] == 2:
        p = np.where(np.isnan(p), 1 - own[:, None], p)
    z = _views(X[at])
    limit = max(_APART, float(norm.isf(1e-3 / max(z.shape[1] * p.shape[1], 1))))
    out = np.zeros(z.shape[1], dtype=bool)
    for k, chance in enumerate(p.T):
        got = arm == k
        apart = w * (np.where(got, 1 / own, 0.0) - np.where(np.isnan(chance), own < CERTAIN, chance > 0))
        found = apart[:, None] * z
        sums = found if customer is None else stats.sums(found, customer[at])[0]
        # What the draws vary by, if p is right: the rows drawn say too little of it where p is small.
        drawn = np.divide(1.0, chance, out=np.ones(len(at)), where=chance > 0) - 1
        error = np.maximum((sums**2).sum(axis=0), (w**2 * drawn) @ z**2)
        out |= np.abs(found.sum(axis=0)) > limit * np.sqrt(error) + _SLACK * w.sum()
    return np.flatnonzero(out.reshape(2, -1).any(axis=0)).tolist()


def _views(X: Array) -> Array:
    # Values as ranks, and whether they are known, both with mean 0 and variance 1 where they vary.
    known = np.isfinite(X)
    ranks = rankdata(np.where(known, X, np.inf), axis=0)
    ranks = np.where(known, ranks - (known.sum(axis=0) + 1) / 2, 0.0)
    both = np.hstack([ranks, known - known.mean(axis=0)])
    scale = both.std(axis=0)
    return np.divide(both, scale, out=np.zeros_like(both), where=scale > 1e-9)
