"""Lifetime value beyond recency and frequency: boosted corrections and a two-part model, by cut-offs.

The history is cut at earlier moments; what followed each cut is the label. `Correction` multiplies a
buy-till-you-die forecast by what trees learn from those cuts, so that it carries over to other horizons;
`TwoPart` is the zero-inflated lognormal of Wang, Liu and Miao (2019) with trees in place of a network.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
FEATURES = ("n_repeat", "recency_share", "quiet_share", "quiet_gaps", "log_age", "log_margin", "log_first",
            "log_last", "recent_share", "log_quiet", "log_recent")  # fmt: skip


class Log(NamedTuple):
    """Purchase days of all customers, sorted by customer and day.

    Attributes:
        customer: Number of the customer, shape (m,).
        day: Days since any origin, shape (m,).
        margin: Money of the day, returns deducted, shape (m,).
        n: Customers, with or without purchases.
        stratum: Covariate of each customer as a code from 0, shape (n,); empty where there is none.
    """

    customer: Codes
    day: Array
    margin: Array
    n: int
    stratum: Codes = np.empty(0, dtype=np.int64)

    def before(self, cut: float) -> "Log":
        """Keep what happened before a day."""
        return self.only(self.day < cut)

    def only(self, keep: NDArray[np.bool_]) -> "Log":
        """Keep some purchases, shape (m,); customers keep their numbers."""
        return self._replace(customer=self.customer[keep], day=self.day[keep], margin=self.margin[keep])


class Seen(NamedTuple):
    """What was known of the customers who had bought before a cut.

    Attributes:
        customer: Their numbers, shape (u,).
        n_repeat, recency, age: Purchase days after the first; days from first to last and to the cut.
        mean, square: Mean and mean square of margin per purchase day, money.
        first, last: Margin of the first and of the last purchase day, money.
        repeat_mean: Mean margin of the purchases after the first; NaN where there is none.
        recent: Purchases in the last half of the customer's age.
        stratum: Code of the covariate; 0 where there is none.
    """

    customer: Codes
    n_repeat: Array
    recency: Array
    age: Array
    mean: Array
    square: Array
    first: Array
    last: Array
    repeat_mean: Array
    recent: Array
    stratum: Codes

    def at(self, rows: NDArray[Any]) -> "Seen":
        """Keep some customers."""
        return Seen(*(column[rows] for column in self))


def look(log: Log, cut: float) -> Seen:
    """Gather what was known before a cut.

    Example:
        >>> log = Log(np.array([0, 0, 1]), np.array([0.0, 4, 9]), np.array([5.0, 7, 1]), 2)
        >>> look(log, 8.0).n_repeat.tolist()
        [1.0]
    """
    seen = log.before(cut)
    count = np.bincount(seen.customer, minlength=log.n)
    who = np.flatnonzero(count)
    m = count[who].astype(float)
    begin = np.cumsum(count[who]) - count[who]
    end = begin + count[who] - 1
    total = _sum(seen.customer, seen.margin, log.n)[who]
    squares = _sum(seen.customer, seen.margin**2, log.n)[who]
    first_day, last_day = seen.day[begin], seen.day[end]
    age = cut - first_day
    middle = np.zeros(log.n)
    middle[who] = first_day + age / 2
    recent = _sum(seen.customer, seen.day > middle[seen.customer], log.n)[who]
    first = seen.margin[begin]
    repeat = np.divide(total - first, m - 1, out=np.full(len(who), np.nan), where=m > 1)
    return Seen(
        who, m - 1, last_day - first_day, age, total / m, squares / m, first, seen.margin[end], repeat,
        recent, log.stratum[who] if len(log.stratum) else np.zeros(len(who), dtype=np.int64),
    )  # fmt: skip


def follow(log: Log, seen: Seen, cut: float, until: float) -> tuple[Array, Array]:
    """Count purchases and their margin in [cut, until), shapes of `seen`."""
    keep = (log.day >= cut) & (log.day < until)
    count = np.bincount(log.customer[keep], minlength=log.n)[seen.customer].astype(float)
    margin = _sum(log.customer[keep], log.margin[keep], log.n)[seen.customer]
    return count, margin


def features(seen: Seen) -> Array:
    """Describe customers in numbers that mean the same at any cut, shape (u, len(FEATURES))."""
    age = np.maximum(seen.age, 1.0)
    gap = np.maximum(seen.recency / np.maximum(seen.n_repeat, 1), 1.0)
    return np.column_stack(
        [
            seen.n_repeat,
            seen.recency / age,
            (seen.age - seen.recency) / age,
            np.where(seen.n_repeat > 0, (seen.age - seen.recency) / gap, np.nan),
            np.log(age),
            _log(seen.mean),
            _log(seen.first),
            _log(seen.last),
            seen.recent / (seen.n_repeat + 1),
            np.log1p(seen.age - seen.recency),
            np.log1p(seen.recent),
        ]
    )


@dataclass(frozen=True)
class Correction:
    """Trees that multiply a forecast of counts.

    Attributes:
        text: LightGBM's model; empty leaves the forecast as it is.
        power: Weight in a (geometric) blend with the forecast itself; 1 trusts the trees in full.
    """

    text: str
    power: float = 1.0

    @classmethod
    def fit(cls, x: Array, y: Array, forecast: Array, trees: int = 20) -> "Correction":
        """Learn how purchases depart from a forecast (Poisson likelihood, forecast as offset).

        Args:
            x: Features, shape (n, d).
            y: Purchases that followed, shape (n,).
            forecast: Purchases forecast for the same time, shape (n,).
            trees: Boosting rounds.
        """
        if len(y) < 400 or not y.sum() > 50:
            return cls("")
        data = lgb.Dataset(x, y, init_score=np.log(np.maximum(forecast, 1e-9)))
        leaf = max(len(y) // 25, 50)
        given = _GIVEN | {"objective": "poisson", "num_leaves": 4, "min_data_in_leaf": leaf}
        return cls(lgb.train(given, data, trees).model_to_string())

    def factor(self, x: Array) -> Array:
        """Give the factor on the forecast, shape (n,)."""
        if not self.text:
            return np.ones(len(x))
        raw = lgb.Booster(model_str=self.text).predict(x, raw_score=True, num_threads=1)
        return np.asarray(np.exp(self.power * np.clip(np.asarray(raw), -3, 3)))


_GIVEN: dict[str, Any] = {
    "learning_rate": 0.05,
    "lambda_l2": 10.0,
    "verbose": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 0,
}


@dataclass(frozen=True)
class TwoPart:
    """Zero-inflated lognormal: chance of any purchase, and lognormal margin where there is one.

    Attributes:
        buys, amount: LightGBM's models.
        variance: Of the logarithm of the margin around its forecast.
    """

    buys: str
    amount: str
    variance: float

    @classmethod
    def fit(cls, x: Array, margin: Array, trees: int = 80) -> "TwoPart | None":
        """Learn from the margin that followed a cut; None where there is too little to learn from."""
        positive = margin > 0
        if positive.sum() < 200 or (~positive).sum() < 200:
            return None
        given = _GIVEN | {"num_leaves": 7, "min_data_in_leaf": max(len(margin) // 50, 30)}
        buys = lgb.train(given | {"objective": "binary"}, lgb.Dataset(x, positive), trees)
        given["min_data_in_leaf"] = max(int(positive.sum()) // 25, 30)
        log = np.log(margin[positive])
        amount = lgb.train(given | {"objective": "regression"}, lgb.Dataset(x[positive], log), trees)
        rest = log - np.asarray(amount.predict(x[positive], num_threads=1))
        return cls(buys.model_to_string(), amount.model_to_string(), float(np.mean(rest**2)))

    def expected(self, x: Array) -> Array:
        """Expect the margin over the labels' length of time, money, shape (n,)."""
        p = np.asarray(lgb.Booster(model_str=self.buys).predict(x, num_threads=1))
        log = np.asarray(lgb.Booster(model_str=self.amount).predict(x, num_threads=1))
        return np.asarray(p * np.exp(log + self.variance / 2))


def _sum(code: Codes, values: NDArray[Any], n: int) -> Array:
    return np.bincount(code, values.astype(np.float64), n).astype(np.float64)


def _log(margin: Array) -> Array:
    return np.asarray(np.log(np.maximum(margin, 1e-2)))
