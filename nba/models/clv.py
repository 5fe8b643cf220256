"""Customer lifetime value: expected discounted margin of each customer over a horizon.

Counts come from a buy-till-you-die model, by stratum where a covariate is given, with a correction that
trees learn at earlier cut-offs; margins from Gamma-Gamma. Which of them forecast is a `Choice`
(`nba.models.clv_choice` makes it by backtest). Purchases on one day (UTC) are one purchase; returns lower
its margin. Where the data do not carry a number it is unknown, with a reason.
"""

import hashlib
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.errors import SettingsError
from nba.history import Snapshot
from nba.models import clv_counts, clv_spend
from nba.models.clv_counts import CountModel
from nba.models.clv_intervals import MOST as MOST_DRAWS
from nba.models.clv_intervals import intervals
from nba.models.clv_ml import Correction, Log, Seen, TwoPart, features, follow, look
from nba.models.clv_spend import SpendModel

Array = NDArray[np.float64]
MOST = 30_000  # customers that models are fitted on; all are forecast
MOST_CUT = 8_000  # customers whose history is cut at earlier origins
TREES = 80
COHORT = "cohort"
_STRATA = 30  # the rest of a covariate's values are one stratum
_STEPS = 12

# Days since 1970; a day with returns only is no purchase, but its margin counts.
_DAYS = """
with days as (
    select customer_id, cast(ordered_at as date) as day, sum(margin) as margin,
        bool_or(not is_return) as is_purchase
    from orders group by 1, 2
), numbered as (select customer_id, row_number() over (order by customer_id) - 1 as customer from customers)
select customer, epoch(day) / 86400 as day, margin, is_purchase
from days join numbered using (customer_id) order by customer, day
"""


class Choice(NamedTuple):
    """Which candidates forecast.

    Attributes:
        kind: Model of counts.
        trees: Boosting rounds of the correction where labels are as long as the horizon; 0 is none.
        power: Weight of the correction in a geometric blend with the model of counts alone.
        is_stratified: Whether counts are fitted by stratum, drawn to all customers.
        spend: `all` fits margins on every purchase, `repeat` leaves the first one out, `blend` is the mean.
        value: `product` of counts and margin, `two_part`, or `blend`, the mean of the two.
    """

    kind: clv_counts.Kind = "pareto_nbd"
    trees: int = TREES
    power: float = 1.0
    is_stratified: bool = False
    spend: str = "all"
    value: str = "product"


class Forecaster(NamedTuple):
    """Fitted models: counts, their correction, margins, and the two-part model where it was chosen.

    Attributes:
        label_days: Length of the labels that the two-part model learned from.
        reason: What limits the fit, where something does; else empty.
        strata: Models of counts by stratum; empty where all share `counts`.
        second: Margins without the first purchase, where they are blended.
    """

    counts: CountModel
    correction: Correction
    spend: SpendModel
    two_part: TwoPart | None
    label_days: float
    choice: Choice
    model_id: str
    reason: str
    strata: tuple[CountModel, ...] = ()
    second: SpendModel | None = None

    @property
    def is_known(self) -> bool:
        """Whether the data carried a forecast at all."""
        return bool(np.isfinite(self.counts.params).all() and np.isfinite(self.spend.mean))

    def orders(self, seen: Seen, horizon: float) -> Array:
        """Expect purchases over the horizon, shape (u,)."""
        base = np.empty(len(seen.customer))
        for rows, counts in self.by_stratum(seen):
            part = seen.at(rows)
            base[rows] = counts.expected(part.n_repeat, part.recency, part.age, horizon)
        return np.asarray(base * self.correction.factor(features(seen)))

    def by_stratum(self, seen: Seen) -> list[tuple[NDArray[Any], CountModel]]:
        """Pair the rows of each stratum with their model of counts."""
        if not self.strata:
            return [(np.arange(len(seen.customer)), self.counts)]
        codes = np.unique(seen.stratum)
        return [(np.flatnonzero(seen.stratum == code), self.strata[code]) for code in codes]

    def margin(self, seen: Seen) -> Array:
        """Expect the margin of one purchase, money, shape (u,)."""
        if self.second is not None:
            return (margin_of(self.spend, seen, "all") + margin_of(self.second, seen, "repeat")) / 2
        return margin_of(self.spend, seen, self.choice.spend)

    def value(self, seen: Seen, horizon: float) -> Array:
        """Expect undiscounted margin over the horizon, money, shape (u,)."""
        orders = self.orders(seen, horizon)
        product = np.asarray(orders * self.margin(seen))
        if self.two_part is None:
            return product
        label = self.orders(seen, self.label_days)
        grown = np.divide(orders, label, out=np.ones_like(orders), where=label > 0)
        direct = np.asarray(self.two_part.expected(features(seen)) * grown)
        return (direct + product) / 2 if self.choice.value == "blend" else direct


def read(snapshot: Snapshot, strata: str | None = None) -> tuple[pa.Array, Log, float]:
    """Gather the purchase days of everybody known at a snapshot.

    Args:
        snapshot: What was known.
        strata: Covariate: a column of customers, such as an acquisition channel, or `cohort`, the quarter
            of the first purchase.

    Returns:
        The customers' ids in order, their purchase days, and the moment of the snapshot in days since
        1970, a fraction within a day, so that what was bought earlier that day counts.

    Raises:
        SettingsError: when customers have no such column.
    """
    ids = snapshot.sql("select customer_id from customers order by customer_id")["customer_id"]
    days = snapshot.sql(_DAYS)
    is_purchase = np.asarray(days["is_purchase"].to_numpy(zero_copy_only=False), dtype=bool)
    customer = days["customer"].to_numpy().astype(np.int64)
    margin = days["margin"].to_numpy().astype(float)
    # A day of returns counts toward the purchase before it (or is dropped if there is none).
    purchase = np.cumsum(is_purchase) - 1
    known = purchase >= 0
    owner = customer[is_purchase]
    known[known] = owner[purchase[known]] == customer[known]
    total = np.bincount(purchase[known], margin[known], int(is_purchase.sum())).astype(np.float64)
    day = days["day"].to_numpy().astype(float)[is_purchase]
    log = Log(owner, day, total, len(ids), _strata(snapshot, strata))
    return ids, log, snapshot.at.timestamp() / 86400


def fit(log: Log, at: float, horizon: float, choice: Choice) -> Forecaster:
    """Fit the chosen candidates on everything before a day."""
    past = sample(log.before(at), MOST)
    seen = look(past, at)
    counts = _counts(seen, choice.kind)
    strata = _by_stratum(seen, counts, int(log.stratum.max()) + 1) if choice.is_stratified else ()
    spend = spend_of(past, at, "repeat" if choice.spend == "repeat" else "all")
    second = spend_of(past, at, "repeat") if choice.spend == "blend" else None
    known = bool(np.isfinite(counts.params).all())
    correction, two_part, label_days = Correction(""), None, horizon
    if known and (choice.trees or choice.value != "product"):
        x, y, value, base, label_days = _labels(sample(past, MOST_CUT), at, horizon, choice.kind)
        if choice.trees and len(y):
            # Trees learned on labels shorter than the horizon are trusted in proportion.
            trees = round(choice.trees * min(label_days / horizon, 1.0))
            correction = Correction(Correction.fit(x, y, base, max(trees, 1)).text, choice.power)
        if choice.value != "product" and len(y):
            two_part = TwoPart.fit(x, value)
    limit = "so nobody counts as lost: p_alive is 1" if counts.kind == "nbd" and known else ""
    reason = "; ".join(filter(None, [counts.reason, limit, spend.reason]))
    digest = hashlib.sha256(repr((counts, strata, spend, second, correction, two_part)).encode()).hexdigest()[
        :8
    ]
    parts = "+strata" * bool(strata) + "+trees" * bool(correction.text)
    name = f"clv-{counts.kind}{parts}-{spend.kind}-{digest}"
    return Forecaster(counts, correction, spend, two_part, label_days, choice, name, reason, strata, second)


def forecast(
    ids: pa.Array | pa.ChunkedArray,
    log: Log,
    at: datetime,
    model: Forecaster,
    *,
    horizon_days: int,
    annual_discount: float,
    seed: int = 0,
) -> pa.Table:
    """Forecast every customer.

    Args:
        ids: Customers, in the order of the log's numbers.
        log: Purchase days.
        at: The moment.
        model: From `fit`.
        horizon_days: Length of the forecast.
        annual_discount: Yearly rate at which future margin is discounted.
        seed: Of the draws behind prediction intervals.

    Returns:
        The `clv` table; customers who have not bought, or whom the data do not carry, are unknown with a
        reason.
    """
    seen = look(log, at.timestamp() / 86400)
    n = len(ids)
    data: dict[str, Array] = {}
    if model.is_known and len(seen.customer):
        rate = np.log1p(annual_discount) / 365.25
        for rows, counts in model.by_stratum(seen):
            own = model._replace(counts=counts, strata=())
            part = _by_customer(own, seen.at(rows), float(horizon_days), rate, seed)
            for name, values in part.items():
                data.setdefault(name, np.full(len(seen.customer), np.nan))[rows] = values
    has = np.zeros(n, dtype=bool)
    has[seen.customer] = True

    def column(values: Array | None) -> pa.Array:
        out = np.full(n, np.nan)
        if values is not None:
            out[seen.customer] = values
        return pa.array(out, from_pandas=True)

    names = ("p_alive", "expected_orders", "orders_lower", "orders_upper", "expected_margin", "clv",
             "clv_lower", "clv_upper", "clv_at_risk")  # fmt: skip
    repeats = np.zeros(n, dtype=np.int64)
    repeats[seen.customer] = seen.n_repeat.astype(np.int64)
    return tables.CLV.conform(
        pa.table(
            {
                "customer_id": ids,
                "as_of": pa.array([at] * n, tables.TIME),
                "n_repeat": repeats,
                "recency_days": column(seen.recency),
                "age_days": column(seen.age),
                **{name: column(data.get(name)) for name in names},
                "next_order_at": _moments(at, column(data.get("next_days"))),
                "horizon_days": np.full(n, horizon_days, dtype=np.int64),
                "model_id": pa.array([model.model_id] * n),
                "reason": np.where(has, model.reason, "has not bought yet").tolist(),
            }
        )
    )


def _by_customer(model: Forecaster, seen: Seen, horizon: float, rate: float, seed: int) -> dict[str, Array]:
    rows = clv_counts.compress(seen.n_repeat, seen.recency, seen.age)
    like = rows.n_repeat, rows.recency, rows.age
    factor = model.correction.factor(features(seen))
    whole = model.counts.expected(*like, horizon)
    steps = np.linspace(0, horizon, _STEPS + 1)
    kept = np.divide(
        model.counts.discounted(*like, steps, rate), whole, out=np.ones_like(whole), where=whole > 0
    )
    # Trees move the level of the forecast, not the chance of being alive; the next purchase follows counts.
    grid = horizon * np.linspace(0, 1, 13)[1:] ** 2
    within = np.stack(
        [np.zeros(len(whole)), *(model.counts.next_within(*like, float(d)) for d in grid)], axis=1
    )
    margin = model.margin(seen)
    orders = whole[rows.inverse] * factor
    p_alive = model.counts.p_alive(*like)[rows.inverse]
    value = model.value(seen, horizon) * kept[rows.inverse]
    # Certainly alive, a customer would be worth value / p_alive; the rest of that is at risk.
    odds = np.divide(1 - p_alive, p_alive, out=np.zeros_like(p_alive), where=p_alive > 0)
    return {
        "p_alive": p_alive,
        "expected_orders": orders,
        **span(model, seen, horizon, value, seed),
        "expected_margin": margin,
        "clv": value,
        "clv_at_risk": np.maximum(value, 0.0) * odds,
        "next_days": _median_days(within, np.concatenate([[0.0], grid]))[rows.inverse],
    }


def _median_days(within: Array, grid: Array) -> Array:
    # The day by which half of the chance of a purchase within the horizon has passed.
    half = within[:, -1] / 2
    step = np.clip((within < half[:, None]).sum(axis=1), 1, len(grid) - 1)
    row = np.arange(len(half))
    low, high = within[row, step - 1], within[row, step]
    part = np.divide(half - low, high - low, out=np.zeros_like(half), where=high > low)
    return np.where(half > 0, grid[step - 1] + part * (grid[step] - grid[step - 1]), np.nan)


def _moments(at: datetime, days: pa.Array) -> pa.Array:
    values = np.asarray(days.to_numpy(zero_copy_only=False), dtype=float)
    known = np.isfinite(values)
    base = np.datetime64(round(at.timestamp() * 1e6), "us")
    moved = base + (np.where(known, values, 0) * 86_400e6).astype("timedelta64[us]")
    return pa.array(moved, pa.timestamp("us"), mask=~known).cast(tables.TIME)


def sample(log: Log, most: int) -> Log:
    """Keep about so many customers, always the same."""
    buyers = int(np.count_nonzero(np.bincount(log.customer, minlength=1)))
    if buyers <= most:
        return log
    keep = log.customer * 2654435761 % 2**32 < 2**32 * most / buyers
    return log.only(keep)


def _strata(snapshot: Snapshot, name: str | None) -> NDArray[np.int64]:
    if name is None:
        return np.empty(0, dtype=np.int64)
    columns = snapshot.sql("from customers limit 0").column_names
    if name != COHORT and name not in columns:
        able = [COHORT, *(c for c in columns if c.startswith("a_"))]
        raise SettingsError(f"models.clv_strata is {name!r}; expected one of {able}", "Name one of them.")
    value = (
        "strftime(min(ordered_at), '%Y') || quarter(min(ordered_at))"
        if name == COHORT
        else f'any_value("{name}")'
    )
    codes = snapshot.sql(
        f"""with valued as (
                select c.customer_id, coalesce(({value})::varchar, '') as value
                from customers c left join orders o on o.customer_id = c.customer_id and not o.is_return
                group by 1
            ), ranked as (select value, row_number() over (order by count(*) desc, value) - 1 as code
                from valued group by 1)
            select least(code, {_STRATA})::bigint as code from valued join ranked using (value)
            order by customer_id"""
    )
    return codes["code"].to_numpy().astype(np.int64)


def _by_stratum(seen: Seen, pooled: CountModel, k: int) -> tuple[CountModel, ...]:
    groups = []
    for code in range(k):
        part = seen.at(seen.stratum == code)
        groups.append(clv_counts.compress(part.n_repeat, part.recency, part.age))
    return clv_counts.fit_strata(groups, pooled)


def _counts(seen: Seen, kind: clv_counts.Kind) -> CountModel:
    return clv_counts.fit(clv_counts.compress(seen.n_repeat, seen.recency, seen.age), kind)


def spend_of(past: Log, at: float, how: str) -> SpendModel:
    """Fit margins on `all` purchases, or on those after the first (`repeat`)."""
    seen = look(past, at)
    if how == "repeat":
        return clv_spend.fit(seen.n_repeat, np.nan_to_num(seen.repeat_mean))
    return clv_spend.fit(seen.n_repeat + 1, seen.mean, seen.square)


def margin_of(spend: SpendModel, seen: Seen, how: str) -> Array:
    """Expect the margin of one purchase from `all` purchases, or from those after the first."""
    return spend.expected(*_margins(seen, how))


def span(
    model: Forecaster, seen: Seen, horizon: float, value: Array, seed: int, most: int = MOST_DRAWS
) -> dict[str, Array]:
    """Give the ends of 90% prediction intervals of orders and of value (`nba.models.clv_intervals`)."""
    out: dict[str, Array] = {}
    for rows, counts in model.by_stratum(seen):
        part = seen.at(rows)
        alike = clv_counts.compress(part.n_repeat, part.recency, part.age)
        factor, margins = model.correction.factor(features(part)), _margins(part, model.choice.spend)
        ends = intervals(counts, model.spend, alike, factor, margins, value[rows], horizon, seed, most)
        for name, values in ends.items():
            out.setdefault(name, np.empty(len(value)))[rows] = values
    return out


def _margins(seen: Seen, how: str) -> tuple[Array, Array]:
    if how == "repeat":
        return seen.n_repeat, np.nan_to_num(seen.repeat_mean)
    return seen.n_repeat + 1, seen.mean


def _labels(
    past: Log, at: float, horizon: float, kind: clv_counts.Kind
) -> tuple[Array, Array, Array, Array, float]:
    # Cut-offs whose labels are as long as the horizon where history allows it, else as long as it does.
    span = at - past.day.min()
    is_short = horizon <= 0.45 * span
    backs = horizon * np.array([1.0, 1.25, 1.5]) if is_short else span * np.array([0.3, 0.45, 0.6])
    x, y, value, base, lengths = [], [], [], [], []
    for back in backs:
        cut = float(np.floor(at - back))
        until = min(cut + horizon, at)
        seen = look(past, cut)
        if len(seen.customer) < 4 * clv_counts.MIN_REPEATERS:
            continue
        model = _counts(seen, kind)
        if not np.isfinite(model.params).all():
            continue
        count, margin = follow(past, seen, cut, until)
        x.append(features(seen))
        y.append(count)
        value.append(margin)
        base.append(model.expected(seen.n_repeat, seen.recency, seen.age, until - cut))
        lengths.append(until - cut)
    if not x:
        none = np.empty(0)
        return none, none, none, none, horizon
    return (
        np.vstack(x),
        np.concatenate(y),
        np.concatenate(value),
        np.concatenate(base),
        float(np.mean(lengths)),
    )
