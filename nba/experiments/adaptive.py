"""Effects of actions and channels from decisions whose probabilities learned from earlier outcomes.

Naive means by action are wrong on such data (an interval for them covered 0-17% in simulations) and are
not offered. What is offered rests on the doubly robust score of each decision: with `model` from earlier
batches only and `p_action` as logged, it is unbiased given the past, whatever the policy learned.

- `final`: adaptively weighted AIPW (Hadad et al. 2021; contextual weights: Zhan et al. 2021), for one
  reading at the end.
- `monitor`: AIPW with the asymptotic confidence sequence, for a look after every batch.

The estimand is named by a target: weights over the candidates of each decision. An action against none
is +1 in its column and -1 in that of none; a policy is its probabilities.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nba.errors import DataError, listed
from nba.experiments.sequential import sequence_bound
from nba.stats import Interval, clustered

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
_LEAST = 30


class Log(NamedTuple):
    """Decisions with what came of them, in the order of their batches.

    Attributes:
        reward: Outcome of each decision, shape (n,).
        chosen: Column chosen, shape (n,).
        p_action: Logged probability of every candidate, shape (n, k); rows sum to 1.
        batch: Number of the batch, not decreasing, shape (n,); within a batch nothing was learned.
        model: Predicted outcome of every candidate from earlier batches only, shape (n, k).
        customer: Number of the customer, shape (n,): decisions of one customer are not independent.
    """

    reward: Array
    chosen: Codes
    p_action: Array
    batch: Codes
    model: Array
    customer: Codes | None = None

    def only(self, rows: NDArray[np.bool_]) -> "Log":
        """Keep the decisions marked, in their order."""
        customer = None if self.customer is None else self.customer[rows]
        kept = (self.reward[rows], self.chosen[rows], self.p_action[rows], self.batch[rows], self.model[rows])
        return Log(*kept, customer)


class Monitored(NamedTuple):
    """An estimate after each batch, with an interval valid at all of them together; shapes (b,).

    Attributes:
        n: Decisions so far.
        value: Estimate, in the reward's unit per decision.
        lower, upper: Ends of the confidence sequence.
    """

    n: Array
    value: Array
    lower: Array
    upper: Array


def scores(log: Log, target: Array) -> Array:
    """Give the doubly robust score of each decision (Robins et al. 1994).

    Args:
        log: The decisions.
        target: Weights that name the estimand, shape (n, k).

    Returns:
        Shape (n,); its mean estimates the mean of ``sum(target * outcome under each candidate)``.

    Raises:
        DataError: when the log breaks its contract, or the target asks for what could not be chosen.
    """
    _check(log, target)
    row = np.arange(len(log.reward))
    weight = target[row, log.chosen] / log.p_action[row, log.chosen]
    residual = log.reward - log.model[row, log.chosen]
    return np.asarray((target * log.model).sum(axis=1) + weight * residual, dtype=np.float64)


def final(log: Log, target: Array, level: float = 0.95) -> Interval:
    """Estimate a target from adaptive decisions, adaptively weighted, for one reading at the end.

    Each batch weighs by ``1 / sqrt(E[sum(target**2 / p_action)])``, the expectation over its contexts:
    what would have a large variance under that batch's probabilities counts less, which is what makes
    the estimate normal though the probabilities learned. Standard errors are clustered by customer.

    Args:
        log: The decisions.
        target: Weights that name the estimand, shape (n, k).
        level: Confidence level.
    """
    n = len(log.reward)
    if n < _LEAST:
        return Interval.unknown(f"{n} decisions; the estimate needs {_LEAST} or more", n)
    score = scores(log, target)
    weight = _batch_weights(log, target)
    if not weight.any():
        return Interval.unknown("the target asks for nothing", n)
    value = float(weight @ score / weight.sum())
    error, _ = clustered(weight * (score - value), log.customer, corrected=False)
    se = float(error / weight.sum())
    if not se > 0:
        return Interval(value, np.nan, np.nan, np.nan, n, "no variance in the rewards")
    half = float(special.ndtri((1 + level) / 2)) * se
    return Interval(value, se, value - half, value + half, n)


def monitor(log: Log, target: Array, planned: float, level: float = 0.95) -> Monitored:
    """Estimate a target after each batch, with an interval that may be looked at every time.

    Args:
        log: The decisions.
        target: Weights that name the estimand, shape (n, k).
        planned: Decisions at which the interval is narrowest; fixed before the start.
        level: Confidence level over all looks together.
    """
    score = scores(log, target)
    last = np.flatnonzero(np.append(np.diff(log.batch) != 0, True)) if len(score) else np.zeros(0, int)
    n = (last + 1).astype(np.float64)
    shifted = score - (score[0] if len(score) else 0.0)
    first, second = np.cumsum(shifted)[last], np.cumsum(shifted**2)[last]
    value = first / n + (score[0] if len(score) else 0.0)
    se = np.sqrt(np.maximum(second / n - (first / n) ** 2, 0.0) / n)
    if log.customer is not None and len(last):
        se = np.maximum(se, _errors(score, log.customer, last))
    half = np.where(n >= _LEAST, sequence_bound(n, planned, 1 - level) * se, np.inf)
    return Monitored(n, value, value - half, value + half)


def lagged_means(
    reward: Array, chosen: Codes, batch: Codes, n_actions: int, context: Codes | None = None
) -> Array:
    """Predict each candidate's outcome by its mean in earlier batches, by context; 0 before the first.

    A model that is always there for the score; a better one makes intervals narrower, never more valid.

    Args:
        reward: Shape (n,).
        chosen: Shape (n,).
        batch: Not decreasing, shape (n,).
        n_actions: Number of candidates k.
        context: Small integer codes, shape (n,); none is one context.

    Returns:
        Shape (n, k).
    """
    context = np.zeros(len(reward), dtype=np.int64) if context is None else context
    _, number = np.unique(batch, return_inverse=True)
    n_batches, n_contexts = int(number.max(initial=0)) + 1, int(context.max(initial=0)) + 1
    cell = (number * n_contexts + context) * n_actions + chosen
    shape = (n_batches, n_contexts, n_actions)
    size = n_batches * n_contexts * n_actions
    count = np.bincount(cell, minlength=size).reshape(shape).cumsum(axis=0)
    total = np.bincount(cell, reward, minlength=size).reshape(shape).cumsum(axis=0)
    before = np.zeros(shape)
    before[1:] = total[:-1] / np.maximum(count[:-1], 1)
    return np.asarray(before[number, context], dtype=np.float64)


def _batch_weights(log: Log, target: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = np.where(target != 0, target**2 / log.p_action, 0.0).sum(axis=1)
    _, number = np.unique(log.batch, return_inverse=True)
    expected = np.bincount(number, cost) / np.bincount(number)
    weight = np.zeros_like(expected)
    weight[expected > 0] = 1 / np.sqrt(expected[expected > 0])
    return np.asarray(weight[number], dtype=np.float64)


def _errors(score: Array, customer: Codes, last: Codes) -> Array:
    out = np.empty(len(last))
    for i, end in enumerate(last + 1):
        part = score[:end] - score[:end].mean()
        out[i] = clustered(part, customer[:end], corrected=False)[0] / end
    return out


def _check(log: Log, target: Array) -> None:
    n, k = log.p_action.shape
    faults = []
    if target.shape != (n, k) or log.model.shape != (n, k):
        faults.append(f"target {target.shape} and model {log.model.shape}; expected {(n, k)}")
    if {len(log.reward), len(log.chosen), len(log.batch)} != {n}:
        faults.append(f"reward, chosen and batch must have {n} values each")
    if faults:
        raise listed(faults, "the log cannot be read")
    if n == 0:
        return
    if np.isnan(log.reward).any() or np.isnan(log.model).any():
        faults.append("rewards or predictions are unknown (NaN)")
    if (np.diff(log.batch) < 0).any():
        faults.append("batches are not in order")
    if (np.abs(log.p_action.sum(axis=1) - 1) > 1e-6).any():
        faults.append("p_action does not sum to 1 within a decision")
    if (log.p_action[np.arange(n), log.chosen] <= 0).any():
        faults.append("a treatment of probability 0 was chosen")
    if ((target != 0) & (log.p_action <= 0)).any():
        faults.append("the target asks for candidates of probability 0: nothing can be known of them")
    if faults:
        raise DataError(
            "\n".join(faults), "Restrict the decisions to those in which the target had a chance."
        )
