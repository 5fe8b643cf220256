"""Customer lifetime value: expected discounted margin of each customer over a horizon.

`summary` looks back from a moment, `forecast` turns what it finds into the `clv` table. Purchases on one
day (UTC) are one purchase; returns lower its margin. Where the data do not carry a number it is unknown,
with a reason.
"""

import hashlib
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.history import Snapshot
from nba.models import clv_counts, clv_spend
from nba.models.clv_counts import CountModel, Rows
from nba.models.clv_spend import SpendModel

Array = NDArray[np.float64]
DRAWS = 200
_STEPS = 24

SUMMARY = """
with days as (
    select customer_id, cast(ordered_at as date) as day,
        sum(margin) as margin, bool_or(not is_return) as is_purchase
    from orders group by 1, 2
), bought as (
    select customer_id, count(*) - 1 as n_repeat, min(day) as first_day, max(day) as last_day,
        sum(margin * margin) as squares
    from days where is_purchase group by 1
), margins as (select customer_id, sum(margin) as margin from days group by 1)
select c.customer_id,
    n_repeat::double as n_repeat,
    (last_day - first_day)::double as recency_days,
    (cast($at as date) - first_day)::double as age_days,
    margin / (n_repeat + 1) as mean_margin,
    squares / (n_repeat + 1) as mean_square
from customers c left join bought using (customer_id) left join margins using (customer_id)
order by customer_id
"""


class Forecaster(NamedTuple):
    """What forecasts: a model of purchases, a model of their margin, and a name for both."""

    counts: CountModel
    spend: SpendModel
    model_id: str
    reason: str


def summary(snapshot: Snapshot) -> pa.Table:
    """Gather what each customer did: repeats, recency, age and margin per purchase.

    Returns:
        One row per customer known at the snapshot, sorted by customer_id: n_repeat, recency_days,
        age_days, mean_margin and mean_square (money per purchase); null before the first purchase.
    """
    return snapshot.sql(SUMMARY, {"at": snapshot.at})


def fit(seen: pa.Table, kind: clv_counts.Kind = "pareto_nbd") -> tuple[Forecaster, Rows]:
    """Fit both models to a summary."""
    n, recency, age = (_column(seen, name) for name in ("n_repeat", "recency_days", "age_days"))
    has = np.isfinite(n)
    rows = clv_counts.compress(n[has], recency[has], age[has])
    counts = clv_counts.fit(rows, kind)
    spend = clv_spend.fit(n[has] + 1, _column(seen, "mean_margin")[has], _column(seen, "mean_square")[has])
    reason = "; ".join(filter(None, [counts.reason, spend.reason]))
    digest = hashlib.sha256(repr((counts, spend)).encode()).hexdigest()[:8]
    return Forecaster(counts, spend, f"clv-{counts.kind}-{spend.kind}-{digest}", reason), rows


def forecast(
    seen: pa.Table, at: datetime, *, horizon_days: int, annual_discount: float, seed: int = 0
) -> pa.Table:
    """Forecast every customer of a summary.

    Args:
        seen: From `summary`.
        at: Its moment.
        horizon_days: Length of the forecast.
        annual_discount: Yearly rate at which future margin is discounted.
        seed: Of the draws behind prediction intervals.

    Returns:
        The `clv` table.
    """
    model, rows = fit(seen)
    n = _column(seen, "n_repeat")
    has = np.isfinite(n)
    data: dict[str, Array] = {}
    known = bool(np.isfinite(model.counts.params).all() and np.isfinite(model.spend.mean))
    if known and has.any():
        data = _by_row(model.counts, rows, float(horizon_days), np.log1p(annual_discount) / 365.25, seed)
        data = {name: _spread(values[rows.inverse], has) for name, values in data.items()}
        margin = model.spend.expected(n + 1, _column(seen, "mean_margin"))
        data |= {"expected_margin": margin, "clv": data.pop("discounted") * margin}
    unknown = np.full(len(n), np.nan)
    names = ("p_alive", "expected_orders", "orders_lower", "orders_upper", "expected_margin", "clv")
    columns = {name: _null(data.get(name, unknown)) for name in names}
    days = data.get("next_days", unknown)
    columns["next_order_at"] = pa.array(
        [at + timedelta(days=d) if d == d else None for d in days.tolist()], tables.TIME
    )
    reason = np.where(has, model.reason if not known else "", "has not bought yet")
    return tables.CLV.conform(
        pa.table(
            {
                "customer_id": seen["customer_id"],
                "as_of": pa.array([at] * len(n), tables.TIME),
                "n_repeat": pa.array(np.nan_to_num(n).astype(np.int64)),
                "recency_days": _null(_column(seen, "recency_days")),
                "age_days": _null(_column(seen, "age_days")),
                **columns,
                "horizon_days": pa.array(np.full(len(n), horizon_days, dtype=np.int64)),
                "model_id": pa.array([model.model_id] * len(n)),
                "reason": pa.array(reason.tolist()),
            }
        )
    )


def _by_row(model: CountModel, rows: Rows, horizon: float, rate: float, seed: int) -> dict[str, Array]:
    like = rows.n_repeat, rows.recency, rows.age
    rng = np.random.default_rng(seed)
    draws = np.sort(np.stack([model.draw(rng, *like, horizon) for _ in range(DRAWS)], axis=1), axis=1)
    grid = np.linspace(0, horizon, 33)[1:]
    within = np.stack([model.next_within(*like, float(day)) for day in grid], axis=1)
    return {
        "p_alive": model.p_alive(*like),
        "expected_orders": model.expected(*like, horizon),
        "discounted": model.discounted(*like, np.linspace(0, horizon, _STEPS + 1), rate),
        "orders_lower": draws[:, int(0.05 * DRAWS)].astype(float),
        "orders_upper": draws[:, int(0.95 * DRAWS) - 1].astype(float),
        "next_days": np.array([_median_day(row, grid) for row in within]),
    }


def _median_day(within: Array, grid: Array) -> float:
    # The day by which half of the chance of a purchase within the horizon has passed.
    if not within[-1] > 0:
        return np.nan
    return float(np.interp(within[-1] / 2, np.concatenate([[0], within]), np.concatenate([[0], grid])))


def _spread(values: Array, has: NDArray[np.bool_]) -> Array:
    out = np.full(len(has), np.nan)
    out[has] = values
    return out


def _column(table: pa.Table, name: str) -> Array:
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=float)


def _null(values: Array) -> pa.Array:
    return pa.array(values, from_pandas=True)
