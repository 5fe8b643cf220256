"""What each channel caused: from randomisation where there is any, from timing where there is none.

Three estimators, one record. `held_out` compares customers who were randomly never served a channel with
the others. `decided` weighs logged decisions by their probabilities (doubly robust for the effect on those
contacted: Robins, Rotnitzky and Zhao 1994; Hirano, Imbens and Ridder 2003). `observed` is a discrete-time
additive hazard (Aalen 1980) of daily orders on fading memories of touches, with each customer's habits as
controls; it rests on the assumption that, given habits and memories, the day of a touch is chance.
`combine` shrinks the randomised estimates toward the observed ones (empirical Bayes, Morris 1983).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Singles = NDArray[np.float32]
TAUS = (2.0, 6.0)
MIN_P = 0.02  # decisions where no contact was less likely say nothing of it
MOST_ROWS = 400_000
MIN_ORDERS = 30
LEVEL_SD = 0.5  # how far the level of an observed estimate may be off, before any experiment
SPREAD_SD = 0.3  # and how far channels may be off around that level


@dataclass(frozen=True)
class Caused:
    """What channels caused, in total over what was looked at.

    Attributes:
        value: Caused by each channel, orders or money as given, shape (k,); NaN where unknown.
        se: Standard errors, shape (k,).
        n: Independent units behind each, shape (k,).
        source: randomised, observed or combined.
        reason: Why a channel is unknown, empty where it is known, k texts.
    """

    value: Array
    se: Array
    n: Codes
    source: str
    reason: tuple[str, ...]

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Give the ends of the two-sided normal intervals, shapes (k,)."""
        half = norm.ppf((1 + level) / 2) * self.se
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Days:
    """Customers by day, as flat arrays.

    Attributes:
        n: Customers, numbered from 0.
        n_days: Days, numbered from 0.
        touch: Customer, day and channel of every touch, three arrays of shape (m,).
        order: Customer, day and worth of every order, three arrays of shape (o,).
        first, last: First and last day on which each customer was watched, shapes (n,).
        is_ad: Which channels advertise, shape (k,).
        is_ended: Whether a customer is no longer watched after an order.
    """

    n: int
    n_days: int
    touch: tuple[Codes, Codes, Codes]
    order: tuple[Codes, Codes, Array]
    first: Codes
    last: Codes
    is_ad: NDArray[np.bool_]
    is_ended: bool = False


def held_out(outcome: Array, served: NDArray[np.bool_], min_held: int = 30) -> Caused:
    """Compare customers who could be served a channel with those randomly held out of it.

    All channels' holdouts are read together (least squares on the indicators, HC2 errors), so that one
    channel's chance imbalance in another is not taken for its effect.

    Args:
        outcome: Orders or money of each customer, shape (n,).
        served: Whether the customer was not held out, shape (n, k).
        min_held: Fewer held-out (or served) customers than this make a channel unknown.

    Returns:
        Totals over the customers served: effect per customer times their number.
    """
    n, k = served.shape
    held = (~served).sum(axis=0)
    usable = (held >= min_held) & (n - held >= min_held)
    value, se = np.full(k, np.nan), np.full(k, np.nan)
    reason = tuple(
        "" if ok else f"{int(h)} customers held out of {n}; {min_held} are needed on both sides"
        for ok, h in zip(usable, held)
    )
    if usable.any() and n > usable.sum() + 1:
        x = np.column_stack([np.ones(n), served[:, usable].astype(float)])
        bread = np.linalg.pinv(x.T @ x)
        beta = bread @ (x.T @ outcome)
        leverage = np.einsum("ij,jk,ik->i", x, bread, x)
        rest = (outcome - x @ beta) / np.sqrt(np.maximum(1 - leverage, 1e-9))
        meat = (x * (rest**2)[:, None]).T @ x
        spread = np.sqrt(np.maximum(np.diag(bread @ meat @ bread), 0.0))  # rounding, where nothing varies
        size = served[:, usable].sum(axis=0)
        value[usable], se[usable] = beta[1:] * size, spread[1:] * size
    return Caused(value, se, np.where(usable, n, held), "randomised", reason)


def decided(
    outcome: Array,
    channel: Codes,
    p_channel: Array,
    p_none: Array,
    customer: Codes,
    features: Array | None = None,
    *,
    min_none: int = 30,
    min_p: float = MIN_P,
    marginal: bool = False,
) -> Caused:
    """Estimate what the contacts of each channel caused, from decisions with logged probabilities.

    For a channel c it is the sum over decisions of 1{c} (y - m) - 1{none} (p_c / p_none) (y - m), m being
    the outcome expected without contact: unbiased whatever m is, and precise where m is good.

    Args:
        outcome: What followed each decision, shape (n,).
        channel: Channel chosen, -1 for none, shape (n,).
        p_channel: Chance of each channel, shape (n, k).
        p_none: Chance of no contact, shape (n,).
        customer: Number of the customer, for errors that allow for repeats, shape (n,).
        features: What was known before, shape (n, d), for m; absent, m is the weighted mean.
        min_none: Fewer decisions without contact where the channel was possible make it unknown.
        min_p: Decisions where no contact was less likely are left out: the few of them without contact
            would stand for too many (Crump, Hotz, Imbens and Mitnik 2009).
        marginal: Estimate instead what one more contact causes, if p_c grows a little in proportion at the
            expense of no contact: such contacts come where p_c p_none / (p_c + p_none) is large, so these
            are the weights (Li, Morgan and Zaslavsky 2018; Kennedy 2019). They are bounded: nothing is left
            out.

    Returns:
        Totals over the decisions on which both the channel and no contact were possible enough; per
        contact where `marginal`.
    """
    n, k = p_channel.shape
    value, se, count = np.full(k, np.nan), np.full(k, np.nan), np.zeros(k, dtype=np.int64)
    reason = []
    is_none = channel == -1
    for c in range(k):
        able = (p_channel[:, c] > 0) & (p_none >= (1e-12 if marginal else max(min_p, 1e-12)))
        alone = is_none & able
        count[c] = int(able.sum())
        lost = (channel == c) & ~able
        if alone.sum() < min_none or not ((channel == c) & able).any():
            found = (
                f"{int(alone.sum())} decisions without contact where it was possible; {min_none} are needed"
            )
            reason.append(found if (channel == c).any() else "never chosen")
            continue
        both = p_none + p_channel[:, c] * marginal  # the score is that of all contacts over 1 + p_c / p_none
        ratio = np.divide(p_channel[:, c], both, out=np.zeros(n), where=able)
        m = _baseline(outcome, alone, ratio, features, customer)
        part = np.where(channel == c, np.divide(p_none, both, out=np.zeros(n), where=able), 0.0)
        score = (part - np.where(alone, ratio, 0.0)) * (outcome - m)
        by_customer = np.bincount(customer, score).astype(np.float64)
        size = int(np.count_nonzero(np.bincount(customer, able)))
        contacts = float((ratio * p_none).sum()) if marginal else 1.0
        value[c], se[c] = score.sum() / contacts, np.sqrt(_cluster_variance(by_customer, size)) / contacts
        left = f"{int(lost.sum()):,} of {int((channel == c).sum()):,} contacts had too little chance of none"
        reason.append(left if lost.any() else "")
    return Caused(value, se, count, "randomised", tuple(reason))


def observed(days: Days, ridge: float = 1e-6) -> Caused:
    """Estimate what channels caused from the timing of touches, without randomisation.

    Orders of a customer-day are regressed (weighted least squares, two passes) on memories of each
    advertising channel, fading over `TAUS` days, and on controls: how often the customer met each
    channel before (habits, which show inclination) and time.

    Returns:
        Totals over the days watched, by channel; NaN for channels that only follow intent.
    """
    k, ads = len(days.is_ad), np.flatnonzero(days.is_ad)
    orders = len(days.order[0])
    missing = "no touches" if not len(days.touch[0]) else "no orders" if not orders else ""
    if not missing and not len(ads):
        missing = "no advertising channels"
    if not missing and orders < MIN_ORDERS:
        missing = f"{orders} orders; {MIN_ORDERS} are needed to see what touches did"
    if missing:
        nan, why = np.full(k, np.nan), missing
        return Caused(nan, nan, np.zeros(k, dtype=np.int64), "observed", (why,) * k)
    rows = _Rows(days, ads)
    beta, cov = rows.solve(ridge)
    value, se = np.full(k, np.nan), np.full(k, np.nan)
    count = np.bincount(days.touch[2], minlength=k).astype(np.int64)
    reason = ["" if ad else "only follows intent" for ad in days.is_ad]
    for j, c in enumerate(ads):
        if not count[c]:
            reason[c] = "no touches"
            continue
        load = np.zeros(len(beta))
        own = slice(j * len(TAUS), (j + 1) * len(TAUS))
        load[own] = rows.total[own]
        value[c], se[c] = load @ beta, np.sqrt(max(float(load @ cov @ load), 0.0))
    return Caused(value, se, count, "observed", tuple(reason))


def combine(randomised: Caused, seen: Caused) -> Caused:
    """Shrink randomised estimates toward observed ones scaled to the same level.

    The observed estimates say how credit divides, the randomised ones set the level and, where they are
    precise, overrule the division: theta_c ~ N(scale x observed_c, se_c^2 + (spread x observed_c)^2), with
    scale ~ N(1, LEVEL_SD^2) and spread ~ |N(0, SPREAD_SD^2)|, both integrated out (the spread on a grid).

    Returns:
        Posterior means and standard deviations; where only one estimate is known, that one.
    """
    e, s = randomised.value, randomised.se
    o = np.where(np.isfinite(seen.value), np.maximum(seen.value, 0.0), np.nan)
    both = np.isfinite(e) & np.isfinite(o) & (s > 0)
    value, se = np.where(np.isfinite(e), e, seen.value), np.where(np.isfinite(e), s, seen.se)
    reason = tuple(
        a if np.isfinite(x) else b or f"observed only: {a}"
        for a, b, x in zip(randomised.reason, seen.reason, e)
    )
    source = "combined" if np.isfinite(e).any() else seen.source
    n = np.where(np.isfinite(e), randomised.n, seen.n)
    if both.sum() < 3 or not o[both].sum() > 0:
        return Caused(value, se, n, source, reason)
    e, s, o, so = e[both], s[both], o[both], np.nan_to_num(seen.se[both])
    size = np.maximum(o, 0.1 * o.mean())
    spreads = np.linspace(0.0, 1.5, 61)[:, None]
    prior = so**2 + (spreads * size) ** 2
    variance = s**2 + prior
    precision = (o * o / variance).sum(axis=1, keepdims=True) + 1 / LEVEL_SD**2
    scale = ((o * e / variance).sum(axis=1, keepdims=True) + 1 / LEVEL_SD**2) / precision
    rest = ((e - scale * o) ** 2 / variance + np.log(variance)).sum(axis=1, keepdims=True)
    fit = rest + np.log(precision) + ((scale - 1) / LEVEL_SD) ** 2 + (spreads / SPREAD_SD) ** 2
    weight = np.exp(-0.5 * (fit - fit.min()))
    weight /= weight.sum()
    keep = prior / variance
    mean = scale * o + keep * (e - scale * o)
    within = keep * s**2 + (1 - keep) ** 2 * o**2 / precision
    value[both] = (weight * mean).sum(axis=0)
    # Not knowing the spread is part of what is not known: without it the intervals are too narrow.
    se[both] = np.sqrt((weight * (within + (mean - value[both]) ** 2)).sum(axis=0))
    return Caused(value, se, n, source, reason)


def _baseline(
    outcome: Array, alone: NDArray[np.bool_], ratio: Array, features: Array | None, customer: Codes
) -> Array:
    # Cross-fitted in two halves by customer, weighted as the comparison weighs; ridge for stability.
    weight = ratio * alone
    if features is None:
        features = np.empty((len(outcome), 0))
    x = np.column_stack([np.ones(len(outcome)), np.nan_to_num(features)])
    half = (customer * 2654435761 >> 7) % 2
    out = np.empty(len(outcome))
    for side in (0, 1):
        learn = (half != side) & alone
        if learn.sum() <= 2 * x.shape[1]:
            learn = alone
        scale = np.sqrt(weight[learn])[:, None]
        penalty = 1e-3 * learn.sum() * np.diag([0.0, *np.ones(x.shape[1] - 1)])
        gram = (x[learn] * scale).T @ (x[learn] * scale)
        right = (x[learn] * scale**2).T @ outcome[learn]
        out[half == side] = x[half == side] @ np.linalg.lstsq(gram + penalty, right, rcond=None)[0]
    return out


def _cluster_variance(total: Array, size: int) -> float:
    if size < 2:
        return float("nan")
    return float(((total**2).sum() - total.sum() ** 2 / size) * size / (size - 1))


class _Rows:
    """Customer-days of the hazard: all with an order, and a hashed sample of the others, weighted up."""

    def __init__(self, days: Days, ads: Codes) -> None:
        self.days, self.ads = days, ads
        self.k = len(days.is_ad)
        self.memories = len(TAUS) * len(ads)
        watched = float((days.last - days.first + 1).clip(0).sum())
        # Only a scale for the weights, so margins that are negative in sum do no harm.
        self.rate = float(np.abs(days.order[2]).sum()) / max(watched, 1.0) or 1.0
        self.keep = min(1.0, min(MOST_ROWS, 20 * len(days.order[0]) + 20_000) / max(watched, 1.0))
        self.total = np.zeros(self.memories)
        self.x, self.y, self.weight = self._gather()

    def solve(self, ridge: float) -> tuple[Array, Array]:
        """Give coefficients and their covariance, by two passes of weighted least squares."""
        precision = self.weight.copy()
        for _ in range(3):
            scaled = self.x * precision[:, None]
            gram = scaled.T @ self.x
            unit = 1 / np.sqrt(np.maximum(np.diag(gram), 1e-300))
            bread = np.linalg.pinv(gram * unit[:, None] * unit + ridge * np.eye(len(gram)), hermitian=True)
            bread = bread * unit[:, None] * unit
            beta = bread @ (scaled.T @ self.y)
            fitted = self.x @ beta
            rest = self.y - fitted
            precision = self.weight * self.rate / np.maximum(fitted, self.rate / 5)
        meat = scaled * rest[:, None]
        return beta, bread @ (meat.T @ meat) @ bread

    def _gather(self) -> tuple[Array, Array, Array]:
        days = self.days
        touches, orders = _by_day(days.touch[1], days.n_days), _by_day(days.order[1], days.n_days)
        memory = np.zeros((self.memories, days.n), dtype=np.float32)
        habit = np.zeros((self.k, days.n), dtype=np.float32)
        fade = np.exp(-1 / np.array(TAUS * len(self.ads), dtype=np.float32))[:, None]
        place = {int(c): j * len(TAUS) for j, c in enumerate(self.ads)}
        x, y, weight = [], [], []
        for day in range(days.n_days):
            at, sold = touches[day], orders[day]
            who, channel = days.touch[0][at], days.touch[2][at]
            alive = (days.first <= day) & (day <= days.last)
            worth = np.bincount(days.order[0][sold], days.order[2][sold], days.n)
            pick = np.flatnonzero(alive & ((worth != 0) | (_hash(days.n, day) < self.keep)))
            habits = habit[:, pick].copy()  # before today's touches
            memory *= fade
            for c in np.unique(channel):
                hit = np.bincount(who[channel == c], minlength=days.n).astype(np.float32)
                habit[c] += hit
                if int(c) in place:
                    memory[place[int(c)] : place[int(c)] + len(TAUS)] += hit
            x.append(self._row(memory[:, pick], habits, day - days.first[pick], day))
            y.append(worth[pick])
            weight.append(np.where(worth[pick] != 0, 1.0, 1 / self.keep))
            # An order saved late is one that would hardly have come anyway.
            left = np.exp(-self.rate * (days.n_days - 1 - day)) if days.is_ended else 1.0
            self.total += left * (memory @ alive.astype(np.float32))
        return np.concatenate(x), np.concatenate(y), np.concatenate(weight)

    def _row(self, memory: Singles, habit: Singles, age: Codes, day: int) -> Array:
        pace = (habit.T.astype(np.float64) + 0.5) / (age + 15.0)[:, None]
        grown = pace * np.minimum(age / 30.0, 2.0)[:, None]
        intent = pace[:, ~self.days.is_ad]
        both = [np.prod(1 + intent, axis=1) - 1] if intent.shape[1] else []
        one = np.ones(len(age))
        return np.column_stack([memory.T, one, one * day / self.days.n_days, pace, grown, *both])


def _hash(n: int, day: int) -> Array:
    # A fixed sample without a generator: the fractional part of multiples of the golden ratio.
    return np.asarray((np.arange(n) * 0.6180339887498949 + day * 0.7548776662466927) % 1.0)


def _by_day(day: Codes, n_days: int) -> list[Codes]:
    order = np.argsort(day, kind="stable")
    return np.split(order, np.searchsorted(day[order], np.arange(1, n_days)))
