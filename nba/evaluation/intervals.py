"""Other intervals for the same estimates: bootstrap by customer, looks at every night, rare events."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from nba import stats
from nba.evaluation import offpolicy
from nba.evaluation.offpolicy import Log

Array = NDArray[np.float64]
_LEAST = 30
_BLOCK = 64


class Look(NamedTuple):
    """What was known of a difference after a batch.

    Attributes:
        n: Decisions so far.
        value: Money per decision.
        lower, upper: Ends of the confidence sequence; infinite while there is too little.
    """

    n: int
    value: float
    lower: float
    upper: float


def bootstrap(
    log: Log,
    p_target: Array,
    q: Array,
    rng: np.random.Generator,
    *,
    repeats: int = 1000,
    level: float = 0.95,
    p_base: Array | None = None,
) -> tuple[float, float]:
    """Draw customers with replacement and take quantiles of the self-normalised doubly robust value.

    Args:
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k).
        q: Expected reward of each treatment, shape (n, k), not learnt from the row itself.
        rng: Draws the customers.
        repeats: Draws.
        level: Confidence level.
        p_base: Compare with this policy instead of judging alone, shape (n, k).

    Returns:
        Lower and upper end, money per decision.
    """
    policies = [p_target] if p_base is None else [p_target, p_base]
    sums = []
    for p in policies:
        weight = offpolicy.weights(log, p)
        residual = log.reward - q[np.arange(len(q)), log.column]
        parts = (np.ones(len(q)), (p * q).sum(axis=1), weight * residual, weight)
        sums.append(np.stack([np.bincount(log.unit, part) for part in parts], axis=1))
    m = len(sums[0])
    values = []
    for begin in range(0, repeats, _BLOCK):
        drawn = rng.multinomial(m, np.full(m, 1 / m), min(_BLOCK, repeats - begin)).astype(np.float64)
        found = [_value(drawn @ part) for part in sums]
        values.append(found[0] if p_base is None else found[0] - found[1])
    ends = np.quantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    return float(ends[0]), float(ends[1])


def sequence(
    influence: Array, value: Array, batch: NDArray[np.int64], unit: NDArray[np.int64], planned: float,
    level: float = 0.95,
) -> list[Look]:  # fmt: skip
    """Look after every batch with an interval that holds at all looks together, whatever stops them.

    The asymptotic confidence sequence (Waudby-Smith et al. 2024) of the mean score; errors are clustered by
    customer.

    Args:
        influence: Score of each decision, centred or not, shape (n,).
        value: The same score with the estimate added, shape (n,): its mean so far is the estimate.
        batch: Number of the batch, not decreasing, shape (n,).
        unit: Number of the customer, shape (n,).
        planned: Decisions at which the interval is narrowest; fixed before the start.
        level: Confidence level over all looks together.
    """
    last = np.flatnonzero(np.append(np.diff(batch) != 0, True)) if len(batch) else np.zeros(0, dtype=int)
    out = []
    for end in last + 1:
        mean = float(value[:end].mean())
        part = influence[:end] - influence[:end].mean()
        se = stats.clustered(part, unit[:end], corrected=False)[0] / end
        bound = float(stats.sequence_bound(np.array([float(end)]), planned, 1 - level)[0])
        half = bound * se if end >= _LEAST and se > 0 else np.inf
        out.append(Look(int(end), mean, mean - half, mean + half))
    return out


def rare(sums: Array, n: int, weight: float, alpha: float) -> float:
    """Give the upper bound of a difference of weighted rates of rare events, such as opt-outs.

    Few events of unlike weight make a variance that is small by chance as long as none of large weight has
    come. The bound of each rate is that of Fay and Feuer (1997): a gamma distribution with the mean and
    variance of the events and of one more; equal weights make it the exact bound of Poisson counts. Events
    that lower the difference have the gamma's lower end, and the two meet as recovered variances (Zou and
    Donner 2008).

    Args:
        sums: Weights of the customers' events, summed, negative where they lower the difference, shape (u,).
        n: Decisions.
        weight: Of the one more event.
        alpha: Error, one-sided.

    Returns:
        Events per decision.

    Example:
        >>> round(rare(np.array([1.0]), 1, 1.0, 0.025), 3)  # of one event: Garwood 1936
        5.572
    """
    up, down = sums[sums > 0], -sums[sums < 0]
    mean, variance = up.sum() + weight, (up**2).sum() + weight**2
    above = scipy_stats.gamma.isf(alpha, mean**2 / variance, scale=variance / mean) - up.sum()
    below = 0.0
    if len(down):
        mean, variance = down.sum(), (down**2).sum()
        below = mean - scipy_stats.gamma.ppf(alpha, mean**2 / variance, scale=variance / mean)
    return float(sums.sum() + np.hypot(above, below)) / n


def _value(sums: Array) -> Array:
    n, expected, residual, weight = sums.T
    return np.asarray(expected / n + residual / np.maximum(weight, 1e-300))
