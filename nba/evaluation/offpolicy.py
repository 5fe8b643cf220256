"""What a policy would have earned, from decisions that other policies made.

All estimators weigh logged rewards by how much likelier the judged policy was to choose what was logged.
Standard errors are of the estimators' influence values (delta method), summed within a customer first, since
one customer's decisions share purchases; intervals follow their skewness (Hall 1992). Where the log cannot
tell, the record says why and is NaN. `dros` is the default: of the settings that `benchmarks` compares it is
never far from the best.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from nba import stats
from nba.evaluation import diagnostics, rewards

Array = NDArray[np.float64]

# Below this size intervals were measured to hold the truth less often than they say (benchmarks, `ope`).
MIN_ESS = diagnostics.ESS
MAX_UNSUPPORTED = diagnostics.MISSING
# The mean weight is 1 where the logged probabilities are true; further off than this many errors it is not.
MAX_WEIGHT_Z = diagnostics.MEAN_Z
# A difference of which so few customers make so much of the variance is theirs alone: the next such one would
# move it, and the skewness by which its interval is lopsided is of these few, too.
FEW, MAX_OF_FEW = 5, 0.9
_SYMMETRIC = 1e-6  # skewness below which quantiles are those of the symmetric
_TOO_FEW = "effective sample size"
_SHRINKAGE = (1.0, 3.0, 1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 1e5)
_THRESHOLDS = (5.0, 10.0, 20.0, 50.0, 100.0, np.inf)


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
    value, influence = _normalised(log, p_target, q)
    return _judged(log, p_target, weights(log, p_target), value, influence, level)


def clipped_ips(log: Log, p_target: Array, level: float = 0.95, most: float = 10.0) -> PolicyValue:
    """IPS with weights cut at `most` (Ionides 2008): steady and biased; its interval is that of IPS.

    Args:
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k).
        level: Confidence level.
        most: Largest weight.
    """
    weight = weights(log, p_target)
    value = float(np.mean(np.minimum(weight, most) * log.reward))
    return _shrunk(ips(log, p_target, level), value)


def dm(log: Log, p_target: Array, q: Array, level: float = 0.95) -> PolicyValue:
    """Direct method: the model's expectation alone; its bias shows in no variance, so it gets no interval.

    Args:
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k).
        q: Expected reward of each treatment, shape (n, k), not learnt from the row itself.
        level: Confidence level.
    """
    found = sndr(log, p_target, q, level)
    if found.reason:
        return found
    nan = float("nan")
    reason = "a model's error cannot be seen from the model: no interval"
    value = float((p_target * q).sum(axis=1).mean())
    return found._replace(value=value, se=nan, lower=nan, upper=nan, reason=reason)


def switch_dr(log: Log, p_target: Array, q: Array, level: float = 0.95) -> PolicyValue:
    """Doubly robust where the weight is at most a threshold, the model alone above (Wang et al. 2017).

    The threshold is chosen as in `dros`, and so is the interval.

    Args:
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k).
        q: Expected reward of each treatment, shape (n, k), not learnt from the row itself.
        level: Confidence level.
    """
    weight = weights(log, p_target)
    tried = [np.where(weight <= most, weight, 0.0) for most in _THRESHOLDS]
    return _shrunk(sndr(log, p_target, q, level), _least_error(log, p_target, q, tried), keep=True)


def dros(log: Log, p_target: Array, q: Array, level: float = 0.95) -> PolicyValue:
    """Doubly robust with optimistic shrinkage of the weights, `t w / (w^2 + t)` (Su et al. 2020).

    The degree t has the smallest estimated squared error: variance, bias squared as seen in the data, and
    that bias's own variance, so that a bias that cannot be seen is not taken for none. Shrinkage's bias does
    not show in its variance: the interval is that of `sndr`, and the value is kept within it. Where the
    effective sample is too small for an interval there is still the value, with the reason.

    Args:
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k).
        q: Expected reward of each treatment, shape (n, k), not learnt from the row itself.
        level: Confidence level.
    """
    weight = weights(log, p_target)
    tried = [t * weight / (weight**2 + t) for t in _SHRINKAGE]
    return _shrunk(sndr(log, p_target, q, level), _least_error(log, p_target, q, tried), keep=True)


def difference(log: Log, p_target: Array, p_base: Array, q: Array, level: float = 0.95) -> PolicyValue:
    """Give how much more one policy would have earned than another, on the same rows (paired `sndr`).

    What both would do alike cancels, row by row; two intervals side by side would hide most differences.
    Refused where either policy is (`unanswerable`), and where a few customers make nearly all its variance.
    The largest weight told is that of both.

    Args:
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k).
        p_base: Probabilities of the policy that it is compared with, shape (n, k).
        q: Expected reward of each treatment, shape (n, k), not learnt from the row itself.
        level: Confidence level.
    """
    value, influence = contrast(log, p_target, p_base, q)
    weight, base = weights(log, p_target), weights(log, p_base)
    thin = weight if stats.effective(weight) <= stats.effective(base) else base
    record = _record(value, influence, thin, log.unit, level)
    record = record._replace(max_weight=float(max(weight.max(initial=0.0), base.max(initial=0.0))))
    reason = unanswerable(log, p_target, p_base)
    if not reason and (share := _share_of_few(influence, log.unit)) > MAX_OF_FEW:
        reason = f"it rests on a few decisions: {FEW} customers make {share:.0%} of its variance"
        reason += f" (largest weight {record.max_weight:.0f})"
    return _unknown(record, reason) if reason else record


def unanswerable(log: Log, *targets: Array) -> str:
    """Say why a log cannot tell of a policy among those given, probabilities (n, k); empty where it can."""
    for p in targets:
        weight = weights(log, p)
        if reason := _refusal(log, p, weight, stats.effective(weight)):
            return reason
    return ""


def between_arms(
    reward: Array,
    is_first: NDArray[np.bool_],
    batch: NDArray[np.int64],
    unit: NDArray[np.int64],
    level: float = 0.95,
) -> PolicyValue:
    """Give how much more one randomised arm earned than another, compared within batches.

    Differences are weighed by the decisions of both arms in the batch, so that arms whose shares or worlds
    change from batch to batch are still compared like with like. Batches with a single decision of an arm, of
    which nothing shows how much they vary, are left out.

    Args:
        reward: Of decisions of the two arms, shape (n,).
        is_first: Whether a decision is the first arm's, shape (n,).
        batch: Number of its batch, shape (n,); each batch holds both arms.
        unit: Number of its customer, shape (n,).
        level: Confidence level.

    Example:
        >>> first, batch = np.array([True, True, False, False] * 2), np.repeat([0, 1], 4)
        >>> between_arms(np.array([3.0, 1, 1, 1, 6, 6, 4, 2]), first, batch, np.arange(8)).value
        2.0
    """
    cell = 2 * batch + is_first
    size = np.bincount(cell, minlength=2 * int(batch.max(initial=-1)) + 2)
    known = (size.reshape(-1, 2).min(axis=1) > 1)[batch]
    if not known.any():
        reason = "no closed batch in which both arms ran these policies, on two customers each or more"
        return PolicyValue.unknown(reason, len(reward))
    reward, is_first, batch, cell = reward[known], is_first[known], batch[known], cell[known]
    unit, n = np.unique(unit[known], return_inverse=True)[1], len(reward)
    size = np.bincount(cell, minlength=len(size))
    mean = np.bincount(cell, reward, minlength=len(size)) / np.maximum(size, 1)
    both = size[::2] + size[1::2]
    value = float(both @ (mean[1::2] - mean[::2]) / n)
    # What a cell's own mean takes from its variance is given back.
    apart = (reward - mean[cell]) * np.sqrt(size[cell] / (size[cell] - 1))
    influence = np.where(is_first, 1, -1) * apart * both[batch] / size[cell]
    return _record(value, influence, np.ones(n), unit, level)


def influences(log: Log, p_target: Array, q: Array) -> tuple[float, Array]:
    """Give the value of `sndr` and the influence of each row, shape (n,), mean 0."""
    return _normalised(log, p_target, q)


def contrast(log: Log, p_target: Array, p_base: Array, q: Array) -> tuple[float, Array]:
    """Give the paired difference of two policies and the influence of each row, shape (n,)."""
    (one, first), (other, second) = (_normalised(log, p, q) for p in (p_target, p_base))
    return one - other, first - second


def weights(log: Log, p_target: Array) -> Array:
    """Give the importance weight of each decision, shape (n,)."""
    every = np.arange(len(log.column))
    return np.asarray(p_target[every, log.column] / log.p_logged[every, log.column])


def unsupported(log: Log, p_target: Array) -> float:
    """Give the share of the judged policy's probability on treatments that the log could not have chosen."""
    return float(np.where(log.p_logged > 0, 0.0, p_target).sum(axis=1).mean())


def outcome_model(X: Array, log: Log, p_target: Array | None = None, folds: int = 3) -> Array:
    """Expect the reward of each treatment, cross-fitted by customer (see `nba.evaluation.rewards`).

    Args:
        X: Features, shape (n, d); NaN stands for the mean.
        log: Decisions with their outcome.
        p_target: Probabilities of the judged policy, shape (n, k): its weights count in the choice of the
            penalties; all alike if absent.
        folds: Number of parts.

    Returns:
        Money, shape (n, k).
    """
    weight = None if p_target is None else weights(log, p_target)
    return rewards.fit_predict(X, log.column, log.reward, log.p_logged.shape[1], log.unit, weight, folds)


def _model(log: Log, p_target: Array, q: Array) -> tuple[Array, Array]:
    return (p_target * q).sum(axis=1), log.reward - q[np.arange(len(q)), log.column]


def _normalised(log: Log, p_target: Array, q: Array) -> tuple[float, Array]:
    # The value of `sndr` and the influence of each row.
    weight = weights(log, p_target)
    mean = max(float(weight.mean()), 1e-300)
    expected, residual = _model(log, p_target, q)
    correction = float(np.mean(weight * residual)) / mean
    influence = expected - expected.mean() + weight * (residual - correction) / mean
    return float(expected.mean()) + correction, influence


def _least_error(log: Log, p_target: Array, q: Array, tried: list[Array]) -> float:
    # The doubly robust value whose weights have the smallest estimated squared error.
    weight = weights(log, p_target)
    expected, residual = _model(log, p_target, q)
    best = (np.inf, 0.0)
    for shrunk in tried:
        score, lost = expected + shrunk * residual, (weight - shrunk) * residual
        value, bias = float(score.mean()), float(lost.mean())
        spread = _error(score - value, log.unit) ** 2 + _error(lost - bias, log.unit) ** 2
        best = min(best, (spread + bias**2, value))
    return best[1]


def _shrunk(whole: PolicyValue, value: float, *, keep: bool = False) -> PolicyValue:
    if not whole.reason:
        return whole._replace(value=float(np.clip(value, whole.lower, whole.upper)))
    return whole._replace(value=value) if keep and whole.reason.startswith(_TOO_FEW) else whole


def _unknown(record: PolicyValue, reason: str) -> PolicyValue:
    nan = float("nan")
    return record._replace(value=nan, se=nan, lower=nan, upper=nan, reason=reason)


def _judged(
    log: Log, p_target: Array, weight: Array, value: float, influence: Array, level: float
) -> PolicyValue:
    record = _record(value, influence, weight, log.unit, level)
    reason = _refusal(log, p_target, weight, record.ess)
    return _unknown(record, reason) if reason else record


def _refusal(log: Log, p_target: Array, weight: Array, ess: float) -> str:
    missing = unsupported(log, p_target)
    if missing > MAX_UNSUPPORTED:
        return f"no support: {missing:.1%} of the policy's choices could not have been logged"
    if ess < MIN_ESS:
        return f"{_TOO_FEW} is {ess:.0f}; {MIN_ESS:.0f} are needed"
    error = _error(weight - weight.mean(), log.unit)
    if error > 0 and abs(weight.mean() - 1) > MAX_WEIGHT_Z * error:
        return f"weights average {weight.mean():.3f}, not 1: the logged probabilities do not fit the log"
    return ""


def _record(
    value: float, influence: Array, weight: Array, unit: NDArray[np.int64], level: float
) -> PolicyValue:
    ess = stats.effective(weight)
    error, units = stats.clustered(influence, unit)
    error /= max(len(influence), 1)
    freedom = max(min(ess, units) - 1, 1)
    t = float(scipy_stats.t.ppf((1 + level) / 2, freedom))
    skew = _skewness(influence, unit)
    lower, upper = value - error * _unskewed(t, skew), value - error * _unskewed(-t, skew)
    return PolicyValue(value, error, lower, upper, ess, len(weight), float(weight.max(initial=0.0)))


def _unskewed(t: float, skew: float) -> float:
    # Hall's (1992) cubic transformation turned round: the quantile of a studentised mean whose terms are
    # skewed. Few large weights make sums that are small more often than large: the upper end lies further.
    if abs(skew) < _SYMMETRIC or not np.isfinite(skew):
        return t
    return float(3 / skew * (np.cbrt(1 + skew * (t - skew / 6)) - 1))


def _skewness(influence: Array, unit: NDArray[np.int64]) -> float:
    # Skewness of the customers' sums over the square root of their number.
    sums = np.bincount(unit, weights=influence)[np.bincount(unit) > 0]
    spread = float(sums.std()) if len(sums) else 0.0
    if spread == 0:
        return 0.0
    return float(np.mean((sums - sums.mean()) ** 3) / spread**3 / np.sqrt(len(sums)))


def _share_of_few(influence: Array, unit: NDArray[np.int64]) -> float:
    # Of the sum of squares of the customers' sums.
    square = np.sort(np.bincount(unit, weights=influence) ** 2)
    return float(square[-FEW:].sum() / max(square.sum(), 1e-300))


def _error(influence: Array, unit: NDArray[np.int64]) -> float:
    return stats.clustered(influence, unit)[0] / max(len(influence), 1)
