"""Weights that make the customers of each treatment alike, where a policy chose whom to give what.

A decision that was taken with probability p counts 1 / p (Horvitz, Thompson 1952), so that the decisions of
a treatment stand for all customers who could have been given it, not for those whom the policy preferred.
Arms of an experiment are drawn by chance: each gives such an estimate of its own, and they are pooled by how
many decisions they are worth, (Σ 1/p)² / Σ 1/p² (Kish 1965), so that an arm that draws evenly is not drowned
by one of small probabilities.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_SURE = 1 - 1e-9


def weights(column: Whole, p_action: Array, arm: Whole | None = None) -> Array:
    """Give the weight of each decision in comparisons of treatments with `none`.

    Args:
        column: Treatment of each row, 0 is `none`, shape (n,).
        p_action: Logged chance of it within the arm, shape (n,); NaN or 0 where it is not known.
        arm: Code of the arm, shape (n,); None where there is one.

    Returns:
        Shape (n,). Weights of a treatment sum to the number of its rows that count. A row counts 0 where its
        chance is unknown or 1: what was no draw has nothing to compare with, unless its arm gives nothing but
        `none` (a holdout). All are 1 where no chance is known.

    Example:
        >>> weights(np.array([1, 1, 0, 0]), np.array([0.2, 0.8, 0.8, 0.2])).round(2).tolist()
        [1.6, 0.4, 0.4, 1.6]
    """
    known = np.isfinite(p_action) & (p_action > 0)
    if not known.any():
        return np.ones(len(column))
    arm = np.zeros(len(column), dtype=np.int64) if arm is None else arm
    contacts = np.bincount(arm, column > 0) > 0
    known &= (p_action < _SURE) | ~contacts[arm]
    inverse = np.divide(1.0, p_action, out=np.zeros(len(column)), where=known)
    _, cell = np.unique(arm * (column.max() + 1) + column, return_inverse=True)
    worth = np.bincount(cell, inverse) / np.maximum(np.bincount(cell, inverse**2), 1e-300)
    pooled = inverse * worth[cell]
    total = np.maximum(np.bincount(column, pooled), 1e-300)
    return np.asarray(pooled * (np.bincount(column, known) / total)[column])
