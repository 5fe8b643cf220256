"""What a policy would have earned, from decisions that other policies made.

All estimators weigh logged rewards by how much likelier the judged policy was to choose what was logged.
Standard errors are of the estimators' influence values (delta method), summed within a customer first, since
one customer's decisions share purchases. Where the log cannot tell, the record says why and is NaN.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

Array = NDArray[np.float64]

MIN_ESS = 100.0
MAX_UNSUPPORTED = 0.01
# The mean weight is 1 where the logged probabilities are true; further off than this many errors it is not.
MAX_WEIGHT_Z = 5.0
_PENALTIES = (1e1, 1e2, 1e3, 1e4, 1e6)


class Log(NamedTuple):
    """Decisions with their outcome.

    Attributes:
        column: Treatment given, shape (n,), column numbers.
        reward: Money, shape (n,).
        p_logged: Probabilities of the policy that decided (each row's own arm), shape (n, k).
        unit: Number of the customer, shape (n,): errors are clustered by it.
    """

    column: NDArray[np.int64]
    reward: Array
    p_logged: Array
    unit: NDArray[np.int64]


class PolicyValue(NamedTuple):
    """Estimated reward per decision of a policy.

    Attributes:
        value, se, lower, upper: Money per decision; NaN where it cannot be known.
        ess: Effective sample size (Kish 1965), decisions.
        n: Decisions it rests on.
        max_weight: Largest importance weight.
        reason: Why it is unknown; else empty.
    """

    value: float
    se: float
    lower: float
    upper: float
    ess: float
    n: int
    max_weight: float
    reason: str = ""

    @classmethod
    def unknown(cls, reason: str, n: int = 0) -> "PolicyValue":
        """Make the record of a value that cannot be known."""
        return cls(np.nan, np.nan, np.nan, np.nan, 0.0, n, 0.0, reason)


def on_policy(reward: Array, unit: NDArray[np.int64], level: float = 0.95) -> PolicyValue:
    """Give the mean reward of the policy that decided.

    Example:
        >>> on_policy(np.array([1.0, 2.0, 3.0]), np.arange(3)).value
        2.0
    """
    n = len(reward)
    if n < 2:
        return PolicyValue.unknown(f"{n} closed decisions; 2 or more are needed", n)
    value = float(reward.mean())
    return _record(value, reward - value, np.ones(n), unit, level)


def ips(log: Log, p_target: Array, level: float = 0.95) -> PolicyValue:
    """Weigh rewards by `p_target / p_logged` of what was chosen (Horvitz and Thompson 1952).

    Args:
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k).
        level: Confidence level.

    Example:
        >>> column, reward = np.array([0, 1] * 200), np.array([0.0, 2.0] * 200)
        >>> log = Log(column, reward, np.full((400, 2), 0.5), np.arange(400))
        >>> ips(log, np.array([[0.0, 1.0]] * 400)).value
        2.0
    """
    weight = weights(log, p_target)
    value = float(np.mean(weight * log.reward))
    return _judged(log, p_target, weight, value, weight * log.reward - value, level)


def snips(log: Log, p_target: Array, level: float = 0.95) -> PolicyValue:
    """IPS divided by the mean weight (Swaminathan and Joachims 2015): steadier, hardly biased.

    Args:
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k).
        level: Confidence level.
    """
    weight = weights(log, p_target)
    mean = max(float(weight.mean()), 1e-300)
    value = float(np.mean(weight * log.reward)) / mean
    return _judged(log, p_target, weight, value, weight * (log.reward - value) / mean, level)


def dr(log: Log, p_target: Array, q: Array, level: float = 0.95) -> PolicyValue:
    """Doubly robust: a model of the reward, corrected by weighted residuals (Dudik et al. 2011).

    Args:
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k).
        q: Expected reward of each treatment, shape (n, k), not learnt from the row itself.
        level: Confidence level.
    """
    weight = weights(log, p_target)
    expected, residual = _model(log, p_target, q)
    value = float(np.mean(expected + weight * residual))
    return _judged(log, p_target, weight, value, expected + weight * residual - value, level)


def sndr(log: Log, p_target: Array, q: Array, level: float = 0.95) -> PolicyValue:
    """Doubly robust with the residual's weights normalised to mean 1.

    Args:
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k).
        q: Expected reward of each treatment, shape (n, k), not learnt from the row itself.
        level: Confidence level.
    """
    weight = weights(log, p_target)
    mean = max(float(weight.mean()), 1e-300)
    expected, residual = _model(log, p_target, q)
    correction = float(np.mean(weight * residual)) / mean
    value = float(expected.mean()) + correction
    influence = expected - expected.mean() + weight * (residual - correction) / mean
    return _judged(log, p_target, weight, value, influence, level)


def weights(log: Log, p_target: Array) -> Array:
    """Give the importance weight of each decision, shape (n,)."""
    every = np.arange(len(log.column))
    return np.asarray(p_target[every, log.column] / log.p_logged[every, log.column])


def unsupported(log: Log, p_target: Array) -> float:
    """Give the share of the judged policy's probability on treatments that the log could not have chosen."""
    return float(np.where(log.p_logged > 0, 0.0, p_target).sum(axis=1).mean())


def outcome_model(X: Array, log: Log, p_target: Array | None = None, folds: int = 3) -> Array:
    """Expect the reward of each treatment by a ridge of features and treatments, cross-fitted by customer.

    No row's own customer is in the data that its expectation is learnt from. Doubly robust estimators are
    right whatever this model is; the penalty is the one that leaves the smallest weighted residuals, which
    is what their variance is made of (Farajtabar, Chow and Ghavamzadeh 2018).

    Args:
        X: Features, shape (n, d); NaN stands for the mean.
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k): its weights count in the choice of the
            penalty; all alike if absent.
        folds: Number of parts.

    Returns:
        Money, shape (n, k).
    """
    weight = np.ones(len(X)) if p_target is None else weights(log, p_target)
    design = _design(X, log)
    part = log.unit % folds
    grams = np.stack([design[part == f].T @ design[part == f] for f in range(folds)])
    moments = np.stack([design[part == f].T @ log.reward[part == f] for f in range(folds)])
    out = np.zeros(log.p_logged.shape)
    for held in range(folds):
        others = [f for f in range(folds) if f != held]
        losses = np.zeros(len(_PENALTIES))
        for inner in others:  # the penalty is chosen within the other parts, too
            rest = [f for f in others if f != inner]
            rows = part == inner
            for i, penalty in enumerate(_PENALTIES):
                beta = _ridge(grams[rest].sum(axis=0), moments[rest].sum(axis=0), penalty)
                losses[i] += ((weight[rows] * (log.reward[rows] - design[rows] @ beta)) ** 2).sum()
        best = _PENALTIES[int(np.argmin(losses))]
        beta = _ridge(grams[others].sum(axis=0), moments[others].sum(axis=0), best)
        k = log.p_logged.shape[1]
        out[part == held] = (design[part == held, :-k] @ beta[:-k])[:, None] + beta[-k:]
    return out


def _design(X: Array, log: Log) -> Array:
    # Intercept, standardised features, treatment given: shape (n, 1 + d + k).
    n, k = log.p_logged.shape
    spread = np.array([np.nanstd(column) if np.isfinite(column).any() else 0.0 for column in X.T])
    used = X[:, spread > 0]
    Z = (used - np.nanmean(used, axis=0)) / spread[spread > 0]
    return np.hstack([np.ones((n, 1)), np.clip(np.nan_to_num(Z), -5, 5), np.eye(k)[log.column]])


def _ridge(gram: Array, moment: Array, penalty: float) -> Array:
    shrunk = np.full(len(moment), penalty)
    shrunk[0] = 1e-9  # the intercept is not shrunk
    return np.asarray(np.linalg.solve(gram + np.diag(shrunk), moment))


def _model(log: Log, p_target: Array, q: Array) -> tuple[Array, Array]:
    return (p_target * q).sum(axis=1), log.reward - q[np.arange(len(q)), log.column]


def _judged(
    log: Log, p_target: Array, weight: Array, value: float, influence: Array, level: float
) -> PolicyValue:
    record = _record(value, influence, weight, log.unit, level)
    reason = _refusal(log, p_target, weight, record.ess)
    if not reason:
        return record
    nan = float("nan")
    return record._replace(value=nan, se=nan, lower=nan, upper=nan, reason=reason)


def _refusal(log: Log, p_target: Array, weight: Array, ess: float) -> str:
    missing = unsupported(log, p_target)
    if missing > MAX_UNSUPPORTED:
        return f"no support: {missing:.1%} of the policy's choices could not have been logged"
    if ess < MIN_ESS:
        return f"effective sample size is {ess:.0f}; {MIN_ESS:.0f} are needed"
    error = _clustered(weight - weight.mean(), log.unit)
    if error > 0 and abs(weight.mean() - 1) > MAX_WEIGHT_Z * error:
        return f"weights average {weight.mean():.3f}, not 1: the logged probabilities do not fit the log"
    return ""


def _record(
    value: float, influence: Array, weight: Array, unit: NDArray[np.int64], level: float
) -> PolicyValue:
    total = float((weight**2).sum())
    ess = float(weight.sum() ** 2 / total) if total > 0 else 0.0
    error = _clustered(influence, unit)
    freedom = max(min(ess, len(np.unique(unit))) - 1, 1)
    half = float(scipy_stats.t.ppf((1 + level) / 2, freedom)) * error
    return PolicyValue(
        value, error, value - half, value + half, ess, len(weight), float(weight.max(initial=0.0))
    )


def _clustered(influence: Array, unit: NDArray[np.int64]) -> float:
    # Standard error of a mean whose terms are summed within customers first.
    sums = np.bincount(unit, weights=influence)[np.bincount(unit) > 0]
    if len(sums) < 2:
        return float("nan")
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(influence))
