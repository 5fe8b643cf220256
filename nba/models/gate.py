"""The gate: whether choosing by customer pays, by scores that are unbiased whatever the model says.

Two questions are put to the control by doubly robust values: is giving each customer the treatment that looks
best, or none, worth more, and is one of T treatments for all? Each may err in 2.5% of all trials in which
nothing helps, the second over all T (Bonferroni), so that treatments that do nothing, however many, are
recommended in 5% at most. Where one treatment for all is worth more, choosing by customer must be better than
that too; and it must at least look better than the treatment for all that looks best, shown or not. Else the
simpler rule is recommended. What the data could not have shown is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special
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
        choice: Value per customer of personalising over the control, with its 95% interval.
        single: The best single rule: of the treatments that show to be better than the control, else of all
            and the control.
        single_gain: Value per customer of it over the control; of T treatments with its interval at
            1 − 5%/T, since it is the best of them.
        rate: Area under the targeting operator curve (Qini weights) of the effects, mean over treatments, as
            in the table of candidates: whether the ranking is better than chance, which pays under a budget.
        reason: One or two sentences.
    """

    rule: Any
    gain: Interval
    choice: Interval
    single: Any
    single_gain: Interval
    rate: Interval
    reason: str


@dataclass(frozen=True)
class Evidence:
    """What else is known of the effects, beside what choosing by them is worth.

    Attributes:
        rate: Of the stack's effects; see `Gate`.
        better: The candidates, the stack included, that show that effects differ, and by what; see `shown`.
        raising: Number of treatments that raise the outcome on average; see `raising`.
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


def shown(rows: Sequence[Mapping[str, Any]], units: int) -> tuple[str, ...]:
    """Name the candidates that show that effects differ, and whether by their loss or by their rank.

    A candidate does whose gain or RATE has a positive lower bound that holds for both of all candidates at
    once; what ranks well with a worse loss than one effect for all is said to. That no effect at all does
    better than the constant one is no sign.

    Args:
        rows: Of the table of candidates: candidate, gain and rate with their 95% intervals.
        units: Customers that the intervals rest on.

    Example:
        >>> row = {"gain": -3.0, "gain_lower": -4.0, "gain_upper": -2.0, "rate": 9.0, "rate_lower": 7.0}
        >>> shown([{"candidate": "dr_trees", **row}], 100)
        ('dr_trees (rank alone: its loss is worse)',)
    """
    asked = [row for row in rows if row["candidate"] not in ("none", "constant")]
    quantiles = special.stdtrit(max(units - 1, 1), [0.975, 1 - _tail(2 * len(asked))])
    wider = float(quantiles[1] / quantiles[0])
    out = []
    for row in asked:
        found = [k for k in ("gain", "rate") if row[k] - wider * (row[k] - row[f"{k}_lower"]) > 0]
        how = " and ".join({"gain": "loss", "rate": "rank"}[k] for k in found)
        if found == ["rate"] and row["gain_upper"] < 0:
            how = "rank alone: its loss is worse"
        out += [f"{row['candidate']} ({how})"] if found else []
    return tuple(out)


def raising(average: Array, se: Array) -> int:
    """Count the averages, shape (T,), that are above 0 by a bound that holds for all of them at once."""
    return int((average > norm.isf(_tail(len(average))) * se).sum())


def _tail(m: int) -> float:
    # What each of m bounds may miss on one side, so that all hold in 97.5% (Bonferroni).
    return 0.025 / max(m, 1)


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
    chosen = value[np.arange(n), np.hstack([zero, believed]).argmax(axis=1)]
    level = 1 - 2 * _tail(len(scores.T))  # of so many, the best looks good by chance
    every = [stats.mean(w * column, level, customer) for column in scores.T]
    choice = stats.mean(w * chosen, unit=customer)
    worth = np.array([0.0, *(one.value for one in every)])
    pays = np.array([False, *(one.lower > 0 for one in every)])
    top = int(worth.argmax())
    best = int(np.where(pays, worth, -np.inf).argmax()) if pays.any() else top
    gain = stats.mean(w * (chosen - value[:, best]), unit=customer)
    over = stats.mean(w * (chosen - value[:, top]), unit=customer)
    found = _Found(gain, choice, tuple(every), best, arms)
    shows = gain.lower > 0 if pays[best] else choice.lower > 0
    if shows and over.value > 0:
        rule, reason = "personalise", _choice_pays(found, single_pays=bool(pays[best]))
    elif shows:
        rule = arms[best] if pays[best] else arms[0]
        reason = _untold(found, top, over, single_pays=bool(pays[best]))
    elif pays[best]:
        rule, reason = arms[best], _one_pays(found)
    else:
        rule, reason = arms[0], _none_pays(found, known)
    return Gate(rule, gain, choice, arms[best], found.single, known.rate, f"{reason} {_ranks(known.rate)}")


@dataclass(frozen=True)
class _Found:
    # What was compared: `every` treatment and the `choice` with the control, the `gain` is over the best.
    gain: Interval
    choice: Interval
    every: tuple[Interval, ...]
    best: int
    arms: Sequence[Any]

    @property
    def single(self) -> Interval:
        return self.every[self.best - 1] if self.best else Interval(0.0, 0.0, 0.0, 0.0, self.gain.n)

    @property
    def name(self) -> str:
        return f"{self.arms[self.best]!r} to everyone"

    @property
    def best_of(self) -> str:
        return f", as the best of {len(self.every)}" if len(self.every) > 1 else ""


def _choice_pays(found: _Found, *, single_pays: bool) -> str:
    gain, choice, single, none = found.gain, found.choice, found.single, repr(found.arms[0])
    one = f"{single.value:.4g} (from {single.lower:.4g}{found.best_of})"
    if single_pays:
        return (
            f"Choosing by customer is worth {gain.value:.4g} more each than {found.name} (95%: from"
            f" {gain.lower:.4g}), which itself is worth more than {none} by {one}."
        )
    beats = f"more each than {none} (95%: from {choice.lower:.4g})"
    said = f"Choosing by customer is worth {choice.value:.4g} {beats}"
    if not found.best:
        return f"{said}; no treatment to everyone looks to be worth more."
    over = "The choice is better than that" if gain.lower > 0 else "That the choice is better does not show"
    return (
        f"{said}; {found.name}, the best that all could get, does not show to be: {one}. {over}:"
        f" {gain.value:.4g}, {gain.lower:.4g} to {gain.upper:.4g}."
    )


def _untold(found: _Found, top: int, over: Interval, *, single_pays: bool) -> str:
    # Choosing is shown to beat what could be shown, but another rule for all looks as good or better.
    looks, none = found.every[top - 1], repr(found.arms[0])
    beaten, shown = (found.name, found.gain) if single_pays else (none, found.choice)
    stays = found.name if single_pays else none
    return (
        f"Choosing by customer is worth {shown.value:.4g} more each than {beaten} (95%: from"
        f" {shown.lower:.4g}), but does not look better than {found.arms[top]!r} to everyone"
        f" ({over.value:.4g}, {over.lower:.4g} to {over.upper:.4g}), which itself does not show to be worth"
        f" more than {none}: {looks.value:.4g} (from {looks.lower:.4g}{found.best_of}). Which"
        f" of the two is best cannot be told; until it can, the simpler rule stands, {stays}."
    )


def _one_pays(found: _Found) -> str:
    gain, single = found.gain, found.single
    return (
        f"{found.name} is worth {single.value:.4g} more each than {found.arms[0]!r} (from"
        f" {single.lower:.4g}{found.best_of}); that choosing by customer beats it does not show"
        f" ({gain.value:.4g}, {gain.lower:.4g} to {gain.upper:.4g})."
    )


def _none_pays(found: _Found, known: Evidence) -> str:
    choice, every, none, n = found.choice, found.every, repr(found.arms[0]), len(found.every)
    bound = max(choice.upper, *(one.upper for one in every))
    is_silent = known.rate.lower <= 0 and not known.better and not known.raising
    if is_silent and bound <= _SMALL * known.level:
        return (
            "There is nothing to find: neither the choice by customer that the models make nor any treatment"
            f" to everyone is distinguishable from {none}, and that one of these is worth more than"
            f" {bound:.2g} each, {bound / known.level:.0%} of what a customer is worth, is excluded (95%)."
        )
    top = max(every, key=lambda one: one.value)
    unseen = max(HALF * choice.se, norm.isf(_tail(n)) * top.se)
    said = [
        f"Neither choosing by customer ({choice.value:.4g} each, {choice.lower:.4g} to {choice.upper:.4g})"
        f" nor any treatment to everyone shows to be worth more than {none}, but these data cannot tell that"
        f" none is: with {known.n:,.0f} effective rows a gain below {unseen:.2g} each would not show."
    ]
    if known.raising:
        by = "by more than chance" if n == 1 else f"by more than the best of {n} by chance"
        said.append(f"{known.raising} of {n} treatments raise the outcome {by}.")
    if known.better:
        said.append(
            f"Signs that effects differ, beyond chance among all candidates: {', '.join(known.better)}."
        )
    return " ".join(said)


def _ranks(rate: Interval) -> str:
    told = f"(RATE {rate.value:.2g}, 95% {rate.lower:.2g} to {rate.upper:.2g})"
    if rate.lower > 0:
        return f"The ranking is better than chance {told}."
    return f"That the ranking is better than chance does not show {told}."
