"""A model of the reward for off-policy estimates: linear in features, by treatment, shrunk and cross-fitted.

Every treatment has coefficients of its own, shrunk towards common ones (a ridge on the differences, and one
on the common part). Doubly robust estimators are right whatever this model is; a better one only makes them
narrower, and shrinking estimators (DRos) less biased. All of it rests on one Gram matrix per fold and
treatment, so that a choice among penalties costs nothing more in rows.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Array = NDArray[np.float64]

# Penalties of the common coefficients and of the treatments' own, in rows; the last shrink all away.
_PENALTIES = ((1e1, 3.0), (1e1, 3e1), (1e1, 1e2), (1e1, 1e3), (1e1, 1e8), (1e2, 1e8), (1e3, 1e8), (1e6, 1e8))
_OWN_MEAN = 3.0  # rows that a treatment's own mean is shrunk by
_FREE = 1e-9


class _Sums(NamedTuple):
    gram: Array  # (folds, k, q, q)
    moment: Array  # (folds, k, q)


def fit_predict(
    X: Array,
    column: NDArray[np.int64],
    reward: Array,
    k: int,
    unit: NDArray[np.int64],
    weight: Array | None = None,
    folds: int = 3,
) -> Array:
    """Expect the reward of each treatment, for every row by a model that has not seen its customer.

    The penalties are the ones with the smallest weighted residuals on parts within the others, which is what
    the variance of a doubly robust estimate is made of (Farajtabar, Chow and Ghavamzadeh 2018).

    Args:
        X: Features, shape (n, d); NaN stands for the mean.
        column: Treatment given, shape (n,), 0 to k - 1.
        reward: Money, shape (n,).
        k: Number of treatments.
        unit: Number of the customer, shape (n,).
        weight: Importance weights, shape (n,); all alike if absent.
        folds: Number of parts.

    Returns:
        Money, shape (n, k).
    """
    weight = np.ones(len(reward)) if weight is None else weight
    Z, part = design(X), unit % folds
    out = np.zeros((len(reward), k))
    solved: dict[tuple[int, ...], Array] = {}  # the same parts are left when held and inner change places
    # Threads of the linear algebra would wait for each other, and their sums would differ by machine.
    with threadpool_limits(limits=1, user_api="blas"):
        sums = _sums(Z, column, reward, k, part, folds)
        for held in range(folds):
            others = [f for f in range(folds) if f != held]
            losses = np.zeros(len(_PENALTIES))
            for inner in others:
                rows = part == inner
                rest = tuple(f for f in others if f != inner)
                if rest not in solved:
                    solved[rest] = _solve(sums, rest, _PENALTIES)
                for i, beta in enumerate(solved[rest]):
                    error = reward[rows] - np.einsum("ij,ij->i", Z[rows], beta[column[rows]])
                    losses[i] += weight[rows] @ error**2
            (beta,) = _solve(sums, others, [_PENALTIES[int(np.argmin(losses))]])
            out[part == held] = Z[part == held] @ beta.T
    return out


def design(X: Array) -> Array:
    """Standardise features, unknown at the mean, after a column of ones; shape (n, 1 + those that vary)."""
    spread = np.array([np.nanstd(column) if np.isfinite(column).any() else 0.0 for column in X.T])
    used = X[:, spread > 0]
    Z = (used - np.nanmean(used, axis=0)) / spread[spread > 0] if used.size else used
    return np.hstack([np.ones((len(X), 1)), np.clip(np.nan_to_num(Z), -5, 5)])


def _sums(
    Z: Array, column: NDArray[np.int64], reward: Array, k: int, part: NDArray[np.int64], folds: int
) -> _Sums:
    q = Z.shape[1]
    gram, moment = np.zeros((folds, k, q, q)), np.zeros((folds, k, q))
    for f in range(folds):
        for a in range(k):
            rows = (part == f) & (column == a)
            gram[f, a], moment[f, a] = Z[rows].T @ Z[rows], Z[rows].T @ reward[rows]
    return _Sums(gram, moment)


def _solve(sums: _Sums, parts: Sequence[int], penalties: Sequence[tuple[float, float]]) -> Array:
    # Coefficients by penalty and treatment, shape (p, k, q): common c and own d_a, by eliminating d_a (Schur
    # complement), once for neighbouring penalties that differ in that of c alone.
    gram, moment = sums.gram[list(parts)].sum(axis=0), sums.moment[list(parts)].sum(axis=0)
    q = gram.shape[1]
    out = []
    for penalty, group in groupby(penalties, key=itemgetter(1)):
        own = np.full(q, penalty)
        own[0] = _OWN_MEAN
        inverse = np.linalg.inv(gram + np.diag(own))
        left = gram @ inverse
        matrix = (gram - left @ gram).sum(axis=0)
        target = (moment - np.einsum("aij,aj->ai", left, moment)).sum(axis=0)
        for of_common, _ in group:
            common = np.full(q, of_common)
            common[0] = _FREE
            shared = np.linalg.solve(matrix + np.diag(common), target)
            out.append(shared + np.einsum("aij,aj->ai", inverse, moment - gram @ shared))
    return np.stack(out)
