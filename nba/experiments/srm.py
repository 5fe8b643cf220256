"""Sample-ratio mismatch: whether the arms have the customers that their shares promise.

Three checks: Pearson's chi-square for one reading (alarm below 0.001), a sequential multinomial test that
may be read at any time (Lindon and Malek 2022), and a test of adaptive traffic against its logged
probabilities, for any time as well. Shares may differ by stratum: a phase, or a batch.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nba.errors import DataError

Array = NDArray[np.float64]
ALARM = 0.001
SEQUENTIAL_ALARM = 0.01
_LEAST = 5.0
# How near their shares mismatches are expected to be, in customers: of all arms; of one that strays alone.
_CONCENTRATION = 1000.0
_OF_ONE = 50.0
_PARTS, _PART = 8, 50  # blocks of a batch at most, and decisions of one at least


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


def sequential(counts: Array, shares: Array, concentration: float = _CONCENTRATION) -> Array:
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


def logged(
    chosen: NDArray[np.int64], p_action: Array, batch: NDArray[np.int64], alarm: float = ALARM
) -> Mismatch:
    """Check adaptive traffic against the probabilities that were logged, not against equal shares.

    Half of the evidence bets that one treatment (each in turn) is chosen more or less often than logged, half
    that all are, by what was seen in the blocks before, shrunk. If choices follow their probabilities the
    bets are a martingale, whatever the policy learned in between, so the p-value may be read at any time
    (Ville 1939).

    Args:
        chosen: Column chosen by each decision, shape (n,), in an order that no choice had a say in.
        p_action: Logged probability of every candidate, shape (n, k); rows sum to 1.
        batch: Number of the batch, not decreasing, shape (n,).
        alarm: Alarm below this p-value.

    Example:
        >>> p = np.tile([0.5, 0.5], (2000, 1))
        >>> always_first = np.zeros(2000, dtype=np.int64)
        >>> logged(always_first, p, always_first).is_alarm
        True
    """
    n, k = p_action.shape
    expected = p_action.sum(axis=0)
    if n == 0:
        return Mismatch(np.nan, False, expected, "no decisions")
    if (p_action[np.arange(n), chosen] <= 0).any():
        return Mismatch(0.0, True, expected, "a treatment of probability 0 was chosen")
    if (p_action * (1 - p_action)).sum(axis=0).max() < _LEAST:
        return Mismatch(np.nan, False, expected, "no candidate was chosen at random often enough")
    evidence, most = np.zeros(k + 1), 0.0
    weight = np.log(np.append(np.full(k, 0.5 / k), 0.5))
    seen, due = np.zeros(k), np.zeros(k)
    for part in _blocks(batch):
        p, own = p_action[part], chosen[part]
        promised, count = p.sum(axis=0), np.bincount(own, minlength=k)
        prior = _CONCENTRATION * (due + promised) / (due + promised).sum()
        every = np.divide(prior + seen, prior + due, out=np.ones(k), where=prior > 0)
        one = (_OF_ONE + seen) / (_OF_ONE + due)
        evidence[:k] += count * np.log(one) - np.log1p(p * (one - 1)).sum(axis=0)
        evidence[k] += count @ np.log(every) - np.log(p @ every).sum()
        most = max(most, float(special.logsumexp(weight + evidence)))
        seen, due = seen + count, due + promised
    p_value = float(np.exp(-most))
    return Mismatch(p_value, p_value < alarm, expected)


def _blocks(batch: NDArray[np.int64]) -> list[slice]:
    # Parts of each batch, so that the first one can be checked too.
    starts = np.append(np.flatnonzero(np.diff(batch, prepend=batch[:1] - 1)), len(batch))
    out = []
    for low, high in pairwise(starts.tolist()):
        parts = min(max((high - low) // _PART, 1), _PARTS)
        edges = np.linspace(low, high, parts + 1).astype(int).tolist()
        out += [slice(a, b) for a, b in pairwise(edges)]
    return out


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
