"""Sample-ratio mismatch: whether the arms have the customers that their shares promise.

Three checks: Pearson's chi-square for one reading (alarm below 0.001), a sequential multinomial test that
may be read at any time (Lindon and Malek 2022), and a test of adaptive traffic against its logged
probabilities. Shares may differ by stratum: a phase, or a batch.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nba.errors import DataError

Array = NDArray[np.float64]
ALARM = 0.001
SEQUENTIAL_ALARM = 0.01
_LEAST = 5.0


class Mismatch(NamedTuple):
    """Result of a check of counts against their shares.

    Attributes:
        p_value: Chance of counts this uneven if assignment works; NaN if it cannot be known.
        is_alarm: Whether the readout must not be trusted.
        expected: Customers that the shares promise, by arm, shape (a,).
        reason: Why it is unknown, where it is; else empty.
    """

    p_value: float
    is_alarm: bool
    expected: Array
    reason: str = ""


def chi_square(counts: Array, shares: Array, alarm: float = ALARM) -> Mismatch:
    """Check counts against shares once.

    Args:
        counts: Customers by arm, shape (a,), or by stratum and arm, shape (s, a).
        shares: What was promised, same shape; rows sum to 1.
        alarm: Alarm below this p-value.

    Raises:
        DataError: when shares do not sum to 1 or someone is in an arm of share 0.

    Example:
        >>> chi_square(np.array([510.0, 490.0]), np.array([0.5, 0.5])).is_alarm
        False
    """
    counts, shares = _checked(counts, shares)
    expected = shares * counts.sum(axis=1, keepdims=True)
    used = expected > 0
    if counts.sum() == 0:
        return Mismatch(np.nan, False, expected.sum(axis=0), "nobody is assigned yet")
    freedom = int((used.sum(axis=1) - 1).clip(min=0).sum())
    if freedom == 0 or expected[used].min() < _LEAST:
        reason = f"an arm is promised {expected[used].min():.1f} customers; the check needs {_LEAST:g}"
        return Mismatch(np.nan, False, expected.sum(axis=0), reason)
    statistic = ((counts[used] - expected[used]) ** 2 / expected[used]).sum()
    p_value = float(special.chdtrc(freedom, statistic))
    return Mismatch(p_value, p_value < alarm, expected.sum(axis=0))


def sequential(counts: Array, shares: Array, concentration: float = 1000.0) -> Array:
    """Give p-values that stay valid however often the counts are read (Lindon and Malek 2022).

    The evidence is the Bayes factor of a Dirichlet around the shares against the shares themselves, a
    martingale if assignment works; evidence of independent strata multiplies. An alarm below 0.01 is
    false in at most 1% of experiments, over all looks together.

    Args:
        counts: Customers so far at each look, by arm, shape (k, a), or by stratum, shape (k, s, a).
        shares: What was promised, shape (a,) or (s, a).
        concentration: How near the shares a mismatch is expected to be.

    Returns:
        Shape (k,), decreasing.

    Example:
        >>> looks = np.array([[500.0, 500.0], [5000.0, 5600.0]])
        >>> sequential(looks, np.array([0.5, 0.5])).round(6).tolist()
        [1.0, 1e-06]
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim == 2:
        counts, shares = counts[:, None, :], np.asarray(shares)[None, :]
    shares = np.asarray(shares, dtype=np.float64)
    for look in counts[-1:]:
        _checked(look, shares)
    prior = np.where(shares > 0, concentration * shares, 1.0)
    log_share = np.log(np.where(shares > 0, shares, 1.0))
    used = shares > 0
    gained = np.where(used, special.gammaln(prior + counts) - special.gammaln(prior), 0.0).sum(axis=2)
    total = counts.sum(axis=2)
    whole = np.where(used, prior, 0.0).sum(axis=1)
    evidence = special.gammaln(whole) - special.gammaln(whole + total) + gained
    evidence = (evidence - (counts * log_share).sum(axis=2)).sum(axis=1)
    return np.asarray(np.exp(-np.maximum.accumulate(np.maximum(evidence, 0.0))), dtype=np.float64)


def logged(chosen: NDArray[np.int64], p_action: Array, alarm: float = ALARM) -> Mismatch:
    """Check adaptive traffic against the probabilities that were logged, not against equal shares.

    What was chosen less its probability sums to 0 on average, with a known covariance, whatever the
    policy learned in between; the quadratic form is chi-square.

    Args:
        chosen: Column chosen by each decision, shape (n,).
        p_action: Logged probability of every candidate, shape (n, k); rows sum to 1.
        alarm: Alarm below this p-value.
    """
    n, k = p_action.shape
    if n == 0:
        return Mismatch(np.nan, False, np.zeros(k), "no decisions")
    counts = np.bincount(chosen, minlength=k).astype(np.float64)
    expected = p_action.sum(axis=0)
    covariance = np.diag(expected) - p_action.T @ p_action
    enough = np.diag(covariance) >= _LEAST
    freedom = int(np.linalg.matrix_rank(covariance[np.ix_(enough, enough)])) if enough.any() else 0
    if freedom == 0:
        return Mismatch(np.nan, False, expected, "no candidate was chosen at random often enough")
    gap = (counts - expected)[enough]
    statistic = gap @ np.linalg.pinv(covariance[np.ix_(enough, enough)], hermitian=True) @ gap
    p_value = float(special.chdtrc(freedom, statistic))
    impossible = bool((p_action[np.arange(n), chosen] <= 0).any())
    if impossible:
        return Mismatch(0.0, True, expected, "a treatment of probability 0 was chosen")
    return Mismatch(p_value, p_value < alarm, expected)


def _checked(counts: Array, shares: Array) -> tuple[Array, Array]:
    counts, shares = np.atleast_2d(np.asarray(counts, float)), np.atleast_2d(np.asarray(shares, float))
    faults = []
    if counts.shape != shares.shape:
        faults.append(f"counts have shape {counts.shape}, shares {shares.shape}; expected the same")
    elif ((shares <= 0) & (counts > 0)).any():
        faults.append("customers are in an arm of share 0")
    if (np.abs(shares.sum(axis=1) - 1) > 1e-9).any():
        faults.append(f"shares sum to {shares.sum(axis=1).tolist()}; expected 1")
    if faults:
        raise DataError("\n".join(faults), "Declare the shares that were in force, with a phase per change.")
    return counts, shares
