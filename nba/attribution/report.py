"""Credited against caused: the `attribution` table, and credit calibrated to what was caused."""

from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.attribution import incremental
from nba.attribution.incremental import Caused, Days
from nba.settings import Attribution

Array = NDArray[np.float64]
WHOLE = "all"
_DAY = 86_400_000_000

# One row per decision whose window has closed: what followed it, and its logged probabilities.
_DECIDED = """
with closed as (
    select d.decision_id, d.customer_id, d.channel, d.treatment_id, d.decided_at, d.arm, o.window_days
    from decisions d join outcomes o using (decision_id) where coalesce(d.arm, '') <> 'holdout'
), sold as (
    select c.decision_id, sum(o.margin) as margin, count(*) filter (not o.is_return) as orders
    from closed c join orders o on o.customer_id = c.customer_id and o.ordered_at >= c.decided_at
        and o.ordered_at < c.decided_at + to_days(c.window_days::integer)
    group by 1
), past as (
    select c.decision_id, coalesce(sum(o.margin), 0) as margin, count(o.order_id) as orders,
        coalesce(min(epoch(c.decided_at) - epoch(o.ordered_at)) / 86400, 999) as quiet
    from closed c left join orders o on o.customer_id = c.customer_id and o.ordered_at < c.decided_at
        and o.ordered_at >= c.decided_at - interval 365 days
    group by 1
)
select c.decision_id, dense_rank() over (order by c.customer_id) - 1 as customer, c.channel,
    strftime(c.decided_at, '%Y-%m') as period,
    coalesce(s.margin, 0)::double as margin, coalesce(s.orders, 0)::double as orders,
    p.margin::double as past_margin, p.orders::double as past_orders, p.quiet::double as quiet
from closed c left join sold s using (decision_id) join past p using (decision_id)
order by c.decision_id
"""
_CHANCES = """
with named as (select distinct treatment_id, channel from decisions)
select h.decision_id, n.channel, sum(h.p_action)::double as p
from choices h join named n using (treatment_id) group by all having p > 0
"""
_ARMS = """
with first as (select customer_id, min(decided_at) as decided_at, bool_or(arm = 'holdout') as is_held
    from decisions where arm is not null group by 1)
select f.is_held, coalesce(sum(o.margin), 0)::double as margin,
    count(o.order_id) filter (not o.is_return)::double as orders
from first f left join orders o on o.customer_id = f.customer_id and o.ordered_at >= f.decided_at
group by f.customer_id, f.is_held
"""
_HELD = """
select a.experiment_id, a.customer_id, a.arm = 'holdout' as is_held,
    coalesce(sum(o.margin), 0)::double as margin,
    count(o.order_id) filter (not o.is_return)::double as orders
from assignments a left join orders o on o.customer_id = a.customer_id and o.ordered_at >= a.assigned_at
where a.experiment_id in (select unnest($ids)) group by all order by a.customer_id, a.experiment_id
"""


def caused(
    connection: duckdb.DuckDBPyConnection, given: Attribution, channels: tuple[str, ...], at: datetime
) -> dict[tuple[str, str], Caused]:
    """Estimate what channels caused, from every design that the history carries.

    Args:
        connection: Views of the history, and `contacts` and `conversions` (`nba.attribution.paths.build`).
        given: Holdouts and intent channels.
        channels: Names, k of them.
        at: Moment of looking back.

    Returns:
        (period, measure) to the estimate, measure being margin or orders; the period `all` combines
        randomised and observed estimates, months are randomised only.
    """
    out: dict[tuple[str, str], Caused] = {}
    randomised = _decided(connection, channels)
    held = _held(connection, given, channels)
    for measure in ("margin", "orders"):
        whole = _first_known(held.get(measure), randomised.get((WHOLE, measure)), len(channels))
        seen = incremental.observed(_days(connection, given, channels, at, measure))
        if not held and randomised:
            seen = _scaled(seen, connection, channels)
        out[WHOLE, measure] = incremental.combine(whole, seen) if np.isfinite(whole.value).any() else seen
        out |= {key: value for key, value in randomised.items() if key[0] != WHOLE and key[1] == measure}
        total = _total(connection, measure)
        if total is not None:
            out["total", measure] = total
    return out


def build(
    connection: duckdb.DuckDBPyConnection,
    credits: pa.Table,  # noqa: A002
    given: Attribution,
    at: datetime,
) -> tuple[pa.Table, pa.Table]:
    """Set credited against caused, and write calibrated credit.

    Args:
        connection: As for `caused`.
        credits: The `credits` table.
        given: Settings.
        at: Moment of looking back.

    Returns:
        The `attribution` table, and rows of calibrated credit for the `credits` table: shares of the
        method named in the settings, credit of a channel times what it caused over what it was credited,
        both on the touches that the estimate speaks of.
    """
    connection.register("credited", credits)
    channels = tuple(
        row[0] for row in connection.execute("select distinct channel from contacts order by 1").fetchall()
    )
    estimates = caused(connection, given, channels, at)
    sums = connection.execute(_CREDITED).fetchall()
    costs = {(c, p): (v, ours) for c, p, v, ours in connection.execute(_COSTS).fetchall()}
    is_scoped = bool(connection.execute("select count(*) from decisions").fetchall()[0][0])
    rows: list[dict[str, Any]] = []
    for method, channel, period, conversions, credit, ours in sums:
        is_all = not is_scoped or channel in given.holdouts
        cost = costs.get((channel, period), (None, None))
        compared = credit if is_all else ours
        rows.append(
            {"method": method, "channel": channel, "period": period, "conversions": conversions,
             "credited": credit, "is_advertising": channel not in given.intent_channels, "cost": cost[0],
             "compared": compared, "_spent": cost[0 if is_all else 1]}
            | _against(estimates, channels, channel, period, compared, given.level)
        )  # fmt: skip
    for method in dict.fromkeys(credits["method"].to_pylist()):
        own = [r for r in rows if r["method"] == method and r["period"] == WHOLE and r["is_advertising"]]
        sums_of = {name: sum(r[name] or 0.0 for r in own) for name in ("credited", "conversions", "cost")}
        compared, spent = (sum(r[name] or 0.0 for r in own) for name in ("compared", "_spent"))
        rows.append(
            {"method": method, "channel": WHOLE, "period": WHOLE, "is_advertising": True,
             "compared": compared, "_spent": spent}
            | sums_of | _against(estimates, (WHOLE,), WHOLE, "total", compared, given.level)
        )  # fmt: skip
    for row in rows:
        row |= _worth(row)
        del row["_spent"]
    return tables.ATTRIBUTION.build(rows), _calibrated(connection, given, estimates, channels, rows)


# Months are those of the touches; `compared` is credit of touches that decisions caused, the only ones
# that randomised estimates speak of.
_CREDITED = """
with dated as (
    select c.method, c.channel, c.share, c.credit, strftime(t.touched_at, '%Y-%m') as month,
        t.decision_id is not null as is_ours
    from credited c join (select distinct on (touch_id) * from touches) t using (touch_id)
)
select method, channel, 'all' as period, sum(share), sum(credit),
    coalesce(sum(credit) filter (is_ours), 0) from dated group by all
union all
select method, channel, month, sum(share), sum(credit),
    coalesce(sum(credit) filter (is_ours), 0) from dated group by all
order by 1, 2, 3
"""
_COSTS = """
select channel, 'all' as period, sum(cost) as cost, coalesce(sum(cost) filter (decision_id is not null), 0)
from touches group by all
union all select channel, strftime(touched_at, '%Y-%m'), sum(cost),
    coalesce(sum(cost) filter (decision_id is not null), 0) from touches group by all
"""
_OURS = """
select channel, avg((decision_id is not null)::int)::double from contacts group by 1
"""


def _against(
    estimates: dict[tuple[str, str], Caused], channels: tuple[str, ...], channel: str, period: str,
    credit: float, level: float,
) -> dict[str, object]:  # fmt: skip
    money, orders = estimates.get((period, "margin")), estimates.get((period, "orders"))
    if money is None or channel not in channels:
        return {"source": "none", "warning": "", "reason": "no estimate for this period"}
    c = channels.index(channel)
    value, se, reason = float(money.value[c]), float(money.se[c]), money.reason[c]
    if not np.isfinite(value):
        return {"source": "none", "warning": "", "reason": reason or "unknown"}
    lower, upper = (float(x[c]) for x in money.interval(level))
    ratio = credit / value if value > 0 else None
    out: dict[str, object] = {
        "incremental": value, "se": se if np.isfinite(se) else None,
        "lower": lower if np.isfinite(lower) else None, "upper": upper if np.isfinite(upper) else None,
        "incremental_conversions": float(orders.value[c]) if orders is not None else None,
        "ratio": ratio, "source": money.source, "reason": reason, "warning": "",
        "ratio_lower": credit / upper if ratio is not None and upper > 0 and lower > 0 else None,
        "ratio_upper": credit / lower if ratio is not None and lower > 0 else None,
    }  # fmt: skip
    if np.isfinite(se) and (credit > upper or credit < lower):
        out["warning"] = (
            f"credited {credit:,.0f}, caused {value:,.0f} ({lower:,.0f} to {upper:,.0f}): "
            f"{'too much' if credit > upper else 'too little'} credit"
        )
    if ratio is None and not reason:
        out["reason"] = "caused is not above 0, so a ratio means nothing"
    return out


def _worth(row: dict[str, object]) -> dict[str, object]:
    cost, money, orders = row.get("_spent"), row.get("incremental"), row.get("incremental_conversions")
    known = isinstance(cost, float) and cost > 0
    return {
        "roas": money / cost if known and isinstance(money, float) else None,  # type: ignore[operator]
        "cost_per_conversion": cost / orders if known and isinstance(orders, float) and orders > 0 else None,  # type: ignore[operator]
    }


def _calibrated(
    connection: duckdb.DuckDBPyConnection, given: Attribution,
    estimates: dict[tuple[str, str], Caused], channels: tuple[str, ...], rows: list[dict[str, Any]],
) -> pa.Table:  # fmt: skip
    whole = estimates[WHOLE, "margin"]
    if given.calibrate is None or whole.source == "observed" or not np.isfinite(whole.value).any():
        return tables.CREDITS.empty()
    own = {r["channel"]: r for r in rows if r["method"] == given.calibrate and r["period"] == WHOLE}
    factor = [
        float(whole.value[i]) / own[c]["compared"]
        if c in own and own[c]["compared"] and np.isfinite(whole.value[i])
        else 0.0
        for i, c in enumerate(channels)
    ]
    connection.register("scales", pa.table({"channel": channels, "factor": factor}))
    return connection.sql(
        f"""
        select method || '_calibrated' as method, order_id, touch_id, customer_id, channel, treatment_id,
            share, credit * coalesce(factor, 0) as credit
        from credited left join scales using (channel) where method = '{given.calibrate}'
        """
    ).to_arrow_table()


def _decided(
    connection: duckdb.DuckDBPyConnection, channels: tuple[str, ...]
) -> dict[tuple[str, str], Caused]:
    rows = connection.sql(_DECIDED).to_arrow_table()
    if not rows.num_rows:
        return {}
    chances = connection.sql(_CHANCES).to_arrow_table()
    ids = rows["decision_id"].to_numpy(zero_copy_only=False)
    at = np.searchsorted(ids, chances["decision_id"].to_numpy(zero_copy_only=False))
    at = np.minimum(at, len(ids) - 1)
    place = {name: i for i, name in enumerate((*channels, "none"))}
    column = np.array([place.get(name, -1) for name in chances["channel"].to_pylist()])
    hit = (ids[at] == chances["decision_id"].to_numpy(zero_copy_only=False)) & (column >= 0)
    p = np.zeros((len(ids), len(channels) + 1))
    p[at[hit], column[hit]] = chances["p"].to_numpy()[hit]
    chosen = np.array([place.get(name, -1) for name in rows["channel"].to_pylist()])
    chosen[chosen == len(channels)] = -1
    known = p.sum(axis=1) > 0
    period = rows["period"].to_numpy(zero_copy_only=False)
    x = np.column_stack([rows[n].to_numpy() for n in ("past_margin", "past_orders", "quiet")])
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
    customer = rows["customer"].to_numpy().astype(np.int64)
    out = {}
    for name in (WHOLE, *sorted(set(period))):
        use = known if name == WHOLE else known & (period == name)
        if not use.any():
            continue
        for measure in ("margin", "orders"):
            out[name, measure] = incremental.decided(
                rows[measure].to_numpy()[use], chosen[use].astype(np.int64), p[use, :-1], p[use, -1],
                customer[use], x[use],
            )  # fmt: skip
    return out


def _held(
    connection: duckdb.DuckDBPyConnection, given: Attribution, channels: tuple[str, ...]
) -> dict[str, Caused]:
    wanted = {c: e for c, e in given.holdouts.items() if c in channels}
    if not wanted:
        return {}
    rows = connection.sql(_HELD, params={"ids": list(wanted.values())}).to_arrow_table()
    customers, who = np.unique(rows["customer_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    served = np.ones((len(customers), len(channels)), dtype=bool)
    experiment = np.array(rows["experiment_id"].to_pylist())
    is_held = rows["is_held"].to_numpy(zero_copy_only=False).astype(bool)
    for c, name in wanted.items():
        mine = (experiment == name) & is_held
        served[who[mine], channels.index(c)] = False
    out = {}
    for measure in ("margin", "orders"):
        outcome = np.zeros(len(customers))
        outcome[who] = rows[measure].to_numpy()
        out[measure] = incremental.held_out(outcome, served)
    return out


def _total(connection: duckdb.DuckDBPyConnection, measure: str) -> Caused | None:
    rows = connection.sql(_ARMS).to_arrow_table()
    if not rows.num_rows:
        return None
    held = rows["is_held"].to_numpy(zero_copy_only=False).astype(bool)
    return incremental.held_out(rows[measure].to_numpy().astype(float), ~held[:, None])


def _scaled(seen: Caused, connection: duckdb.DuckDBPyConnection, channels: tuple[str, ...]) -> Caused:
    # Observed totals speak of all touches; only those of decisions compare with randomised ones.
    part = dict(connection.execute(_OURS).fetchall())
    share = np.array([part.get(name, 0.0) for name in channels])
    return Caused(seen.value * share, seen.se * share, seen.n, seen.source, seen.reason)


def _first_known(first: Caused | None, second: Caused | None, k: int) -> Caused:
    nan = np.full(k, np.nan)
    nothing = Caused(nan, nan, np.zeros(k, dtype=np.int64), "randomised", ("never randomised",) * k)
    first, second = first or nothing, second or nothing
    has = np.isfinite(first.value)
    reason = tuple(a if h else b for a, b, h in zip(first.reason, second.reason, has))
    return Caused(
        np.where(has, first.value, second.value), np.where(has, first.se, second.se),
        np.where(has, first.n, second.n), "randomised", reason,
    )  # fmt: skip


def _days(
    connection: duckdb.DuckDBPyConnection, given: Attribution, channels: tuple[str, ...], at: datetime,
    measure: str,
) -> Days:  # fmt: skip
    end = int(at.astimezone(UTC).timestamp() * 1_000_000)
    begin = connection.execute("select min(moment) from contacts").fetchall()[0][0] or end
    n_days = int((end - begin) // _DAY) + 1
    people = connection.sql(
        f"""create or replace temp table people as select customer_id,
            row_number() over (order by customer_id) - 1 as who,
            greatest((epoch_us(joined_at) - {begin}) // {_DAY}, 0) as first_day from customers;
        select first_day from people order by who"""
    )
    first = people.to_arrow_table()["first_day"].to_numpy().astype(np.int64)
    touch = connection.sql(
        f"""select who, (moment - {begin}) // {_DAY} as day, channel
            from contacts join people using (customer_id) order by moment, touch_id"""
    ).to_arrow_table()
    order = connection.sql(
        f"""select who, (ordered - {begin}) // {_DAY} as day,
            {"margin" if measure == "margin" else "1.0"} as worth
            from conversions join people using (customer_id) where ordered >= {begin}
            order by ordered, order_id"""
    ).to_arrow_table()
    n = len(first)
    place = {name: i for i, name in enumerate(channels)}
    codes = np.array([place[name] for name in touch["channel"].to_pylist()], dtype=np.int64)
    return Days(
        n, n_days,
        (touch["who"].to_numpy().astype(np.int64), touch["day"].to_numpy().astype(np.int64), codes),
        (order["who"].to_numpy().astype(np.int64), order["day"].to_numpy().astype(np.int64),
         order["worth"].to_numpy().astype(float)),
        first, np.full(n, n_days - 1, dtype=np.int64),
        np.array([name not in given.intent_channels for name in channels], dtype=bool),
    )  # fmt: skip
