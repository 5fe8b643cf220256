"""The gate: whether choosing by customer pays, by scores that are unbiased whatever the model says.

The doubly robust value of treating each customer with the best-looking treatment is compared with that of
one treatment for all, or none. Unless the difference has a positive lower bound, the simpler rule is
recommended, and what the data could not have shown is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from nba import stats
from nba.stats import Interval

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_SMALL = 0.1  # of what a customer is worth on average: what gains must lie below for "nothing to find"
HALF = float(norm.ppf(0.975))  # half of a 95% interval, in standard errors


@dataclass(frozen=True)
class Gate:
    """Whether to personalise.

    Attributes:
        rule: "personalise", the name of the treatment that everyone should get, or the control.
        gain: Value per customer of personalising over the best single rule, with its 95% interval.
        single: The best single rule.
        single_gain: Value per customer of it over the control.
        rate: Area under the targeting operator curve (Qini weights) of the effects, mean over treatments, as
            in the table of candidates: whether the ranking is better than chance, which pays under a budget.
        reason: One or two sentences.
    """

    rule: Any
    gain: Interval
    single: Any
    single_gain: Interval
    rate: Interval
    reason: str


@dataclass(frozen=True)
class Evidence:
    """What else is known of the effects, beside what choosing by them is worth.

    Attributes:
        rate: Of the stack's effects; see `Gate`.
        better: Names of the candidates, the stack included, whose gain or RATE has a positive lower bound.
        raising: Number of treatments whose average effect on the outcome has a positive lower bound.
        level: Value of the outcome per customer, money, whatever they got.
        n: Effective rows: what weighing by the logged probabilities leaves (Kish).
    """

    rate: Interval
    better: tuple[str, ...]
    raising: int
    level: float
    n: float


def ranking(
    part: Array,
    effects: Array,
    level: float = 0.95,
    customer: Whole | None = None,
    possible: NDArray[np.bool_] | None = None,
    weight: Array | None = None,
) -> Interval:
    """Qini-weighted RATE averaged over treatments: covariance of the score with the rank by prediction.

    Ties share their mean rank, so that a constant is worth exactly 0. The interval is normal, from the
    influence of single customers with ranks held fixed (Yadlowsky et al. 2025).

    Args:
        part: What rows are ranked by, shape (n, T).
        effects: Unbiased scores of the effects, shape (n, T).
        level: Confidence level.
        customer: Code of each row's customer, shape (n,); None where every row is another's.
        possible: Which treatments each row could have got, shape (n, T): a treatment ranks those alone.
        weight: Shape (n,).
    """
    w = np.ones(part.shape) if weight is None else np.repeat(weight[:, None], part.shape[1], axis=1)
    if possible is not None:
        w = w * possible
    columns = zip(part.T, effects.T, w.T)
    return stats.mean(np.mean([_ranked(*column) for column in columns], axis=0), level, customer)


def _ranked(part: Array, effect: Array, weight: Array) -> Array:
    # One treatment: the influence of each row.
    if not weight.any():
        return np.zeros(len(part))
    _, code = np.unique(part, return_inverse=True)
    size = np.bincount(code, weight)
    rank = ((np.cumsum(size) - size / 2) / size.sum())[code] - 0.5
    return stats.weighed((effect - np.average(effect, weights=weight)) * rank, weight)


def levelled(part: Array, fold: Whole, weight: Array) -> Array:
    """Give every fold the mean of all, as candidates are judged by how they tell customers apart.

    What is learnt without a fold leans against its level: where there is nothing to find, a ranking over all
    folds would look worse than chance.

    Args:
        part: Out-of-fold effects, shape (n, T).
        fold: Shape (n,).
        weight: Of each effect in the means, shape (n, T).

    Example:
        >>> two = np.array([[1.0], [3.0], [5.0], [9.0]])
        >>> levelled(two, np.array([0, 0, 1, 1]), np.ones((4, 1))).ravel().tolist()
        [3.5, 5.5, 2.5, 6.5]
    """
    number, n = np.unique(fold, return_inverse=True)[1], np.unique(fold).size
    total, sums = np.zeros((n, part.shape[1])), np.zeros((n, part.shape[1]))
    np.add.at(total, number, weight)
    np.add.at(sums, number, weight * part)
    own = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
    whole = sums.sum(axis=0) / np.maximum(total.sum(axis=0), 1e-300)
    apart = part - own[number]
    # What is alike within a fold stays so to the last digit, as ties share their rank.
    return np.asarray(whole + np.where(np.abs(apart) > 1e-12 * np.abs(part).max(initial=0.0), apart, 0.0))


def shown(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Name the candidates of the table whose gain or RATE has a positive lower bound: signs of something.

    That no effect at all does better than the constant one is none.
    """
    return tuple(
        str(row["candidate"])
        for row in rows
        if row["candidate"] not in ("none", "constant") and max(row["gain_lower"], row["rate_lower"]) > 0
    )


def decide(
    believed: Array,
    scores: Array,
    arms: Sequence[Any],
    weight: Array,
    customer: Whole | None = None,
    known: Evidence | None = None,
) -> Gate:
    """Decide whether personalising pays.

    That there is nothing to find is only said where no candidate and no average shows anything and gains
    above a tenth of what a customer is worth are excluded; else, what these data could not have shown.

    Args:
        believed: Out-of-fold net value of each treatment over the control, money, shape (n, T); −inf where
            a row could not have got it.
        scores: Unbiased scores of the same, shape (n, T).
        arms: Names, the control first.
        weight: Shape (n,).
        customer: Code of each row's customer, shape (n,); None where every row is another's.
        known: What else the data show; without it the ranking by net value is all.
    """
    n, w = len(scores), weight / weight.mean()
    if known is None:
        known = Evidence(
            ranking(believed, scores, customer=customer, possible=np.isfinite(believed), weight=w),
            (),
            0,
            float("nan"),
            stats.effective(w),
        )
    zero = np.zeros((n, 1))
    value = np.hstack([zero, scores])
    chosen = np.hstack([zero, believed]).argmax(axis=1)
    every = [stats.mean(w * column, unit=customer) for column in scores.T]
    best = int((w[:, None] * value).mean(axis=0).argmax())
    gain = stats.mean(w * (value[np.arange(n), chosen] - value[:, best]), unit=customer)
    single = every[best - 1] if best else Interval(0.0, 0.0, 0.0, 0.0, n)
    if gain.lower > 0:
        rule = "personalise"
        reason = f"Choosing by customer is worth {gain.value:.4g} more each (95%: from {gain.lower:.4g})."
    elif best and single.lower > 0:
        rule = arms[best]
        reason = (
            f"{arms[best]!r} to everyone is worth {single.value:.4g} each (from {single.lower:.4g}); that"
            f" choosing by customer beats it does not show ({gain.value:.4g}, {gain.lower:.4g} to"
            f" {gain.upper:.4g})."
        )
    else:
        rule = arms[0]
        reason = _none_pays(gain, every, arms, known)
    return Gate(rule, gain, arms[best], single, known.rate, f"{reason} {_ranks(known.rate)}")


def _none_pays(gain: Interval, every: Sequence[Interval], arms: Sequence[Any], known: Evidence) -> str:
    bound = max(gain.upper, *(one.upper for one in every))
    is_silent = known.rate.lower <= 0 and not known.better and not known.raising
    if is_silent and bound <= _SMALL * known.level:
        return (
            f"There is nothing to find: no treatment to everyone and no choice by customer is distinguishable"
            f" from {arms[0]!r}, and more than {bound:.2g} each, {bound / known.level:.0%} of what a customer"
            " is worth, is excluded (95%)."
        )
    top = max(every, key=lambda one: one.value)
    said = [
        f"No treatment to everyone and no choice by customer shows to be worth more than {arms[0]!r}, but"
        f" these data cannot tell that none is: with {known.n:,.0f} effective rows a gain below"
        f" {HALF * max(gain.se, top.se):.2g} each would not show."
    ]
    if known.raising:
        said.append(f"{known.raising} of {len(every)} treatments raise the outcome by more than chance.")
    if known.better:
        said.append(f"Better than one effect for all, or than chance in ranking: {', '.join(known.better)}.")
    return " ".join(said)


def _ranks(rate: Interval) -> str:
    told = f"(RATE {rate.value:.2g}, 95% {rate.lower:.2g} to {rate.upper:.2g})"
    if rate.lower > 0:
        return f"The ranking is better than chance {told}."
    return f"That the ranking is better than chance does not show {told}."
