"""Credited against caused: the `attribution` table, and credit calibrated to what was caused."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.attribution import incremental, logged, returns
from nba.attribution.incremental import Caused, Days
from nba.attribution.logged import WHOLE, Estimates
from nba.attribution.returns import TOTAL, Spent
from nba.settings import Attribution

Array = NDArray[np.float64]
_DAY = 86_400_000_000

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


class Built(NamedTuple):
    """What attribution writes beside the credits.

    Attributes:
        attribution: By method, channel and period: credited against caused.
        incremental: By channel, action and period: what was caused, and its return on cost.
        calibrated: Rows of calibrated credit for the `credits` table.
    """

    attribution: pa.Table
    incremental: pa.Table
    calibrated: pa.Table


def caused(
    connection: duckdb.DuckDBPyConnection, given: Attribution, channels: tuple[str, ...], at: datetime
) -> Estimates:
    """Estimate what channels caused, from every design that the history carries.

    Args:
        connection: Views of the history, `contacts` and `conversions` (`nba.attribution.paths.build`), and
            `offers`, the catalog's treatments.
        given: Holdouts and intent channels.
        channels: Names, k of them.
        at: Moment of looking back.

    Returns:
        (period, measure) to the estimate, measure being margin, orders or marginal (of one more contact);
        the period `all` combines randomised and observed estimates, months are randomised only, `total` is
        all contact together.
    """
    randomised = logged.estimate(connection, "channel", channels)
    out = {key: value for key, value in randomised.items() if key[1] == "marginal"}
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
            out[TOTAL, measure] = total
    return out


def build(
    connection: duckdb.DuckDBPyConnection,
    credits: pa.Table,  # noqa: A002
    given: Attribution,
    at: datetime,
) -> Built:
    """Set credited against caused, and write calibrated credit.

    Args:
        connection: As for `caused`.
        credits: The `credits` table.
        given: Settings.
        at: Moment of looking back.

    Returns:
        The tables. Calibrated credit is that of the method named in the settings: credit of a channel times
        what it caused over what it was credited, both on the touches that the estimate speaks of.
    """
    connection.register("credited", credits)
    channels = tuple(
        row[0] for row in connection.execute("select distinct channel from contacts order by 1").fetchall()
    )
    actions = tuple(row[0] for row in connection.execute(_ACTIONS).fetchall())
    estimates = caused(connection, given, channels, at)
    levels = {
        "channel": (channels, estimates),
        "action": (actions, logged.estimate(connection, "action", actions)),
    }
    is_scoped = any(measure == "marginal" for _, measure in estimates)
    spent = _spent(connection, given, is_scoped)
    rows: list[dict[str, Any]] = []
    for method, channel, period, conversions, credit, ours, revenue in connection.execute(
        _CREDITED
    ).fetchall():
        is_all = not is_scoped or channel in given.holdouts
        rows.append(
            {"method": method, "channel": channel, "period": period, "conversions": conversions,
             "credited": credit, "revenue": revenue, "is_advertising": channel not in given.intent_channels,
             "compared": credit if is_all else ours}
        )  # fmt: skip
    for method in dict.fromkeys(row["method"] for row in list(rows)):
        own = [r for r in rows if r["method"] == method and r["period"] == WHOLE and r["is_advertising"]]
        names = ("credited", "conversions", "compared", "revenue")
        rows.append(
            {"method": method, "channel": WHOLE, "period": WHOLE, "is_advertising": True}
            | {name: sum(r[name] or 0.0 for r in own) for name in names}
        )
    for row in rows:
        channel, period = row["channel"], row["period"]
        level = "channel" if channel != WHOLE else WHOLE
        cost = spent.get((level, channel, period), Spent(np.nan, np.nan)).cost
        where = (channels, channel, period) if channel != WHOLE else ((WHOLE,), WHOLE, TOTAL)
        row |= _against(estimates, where, row["compared"], cost, given.level)
    return Built(
        tables.ATTRIBUTION.build(rows),
        returns.table(levels, spent, given.level),
        _calibrated(connection, given, estimates, channels, rows),
    )


# Months are those of the touches; `compared` is credit of touches of decisions whose window has closed,
# the only ones that randomised estimates speak of.
_CREDITED = """
with dated as (
    select c.method, c.channel, c.share, c.credit, c.revenue_credit,
        strftime(t.touched_at, '%Y-%m') as month,
        coalesce(t.decision_id in (select decision_id from outcomes), false) as is_ours
    from credited c join (select distinct on (touch_id) * from touches) t using (touch_id)
)
select method, channel, 'all' as period, sum(share), sum(credit),
    coalesce(sum(credit) filter (is_ours), 0), sum(revenue_credit) from dated group by all
union all
select method, channel, month, sum(share), sum(credit),
    coalesce(sum(credit) filter (is_ours), 0), sum(revenue_credit) from dated group by all
order by 1, 2, 3
"""
_ACTIONS = """
select distinct action_id from offers join decisions using (treatment_id) order by 1
"""
_COSTS = """
with dated as (
    select t.channel, o.action_id, strftime(t.touched_at, '%Y-%m') as month, t.cost,
        if(t.decision_id in (select decision_id from outcomes), t.decision_id, null) as ours
    from touches t left join offers o using (treatment_id)
), items as (
    select 'channel' as level, channel as item, month, cost, ours from dated
    union all select 'action', action_id, month, cost, ours from dated where action_id is not null
    union all select 'all', 'all', month, cost, ours from dated where channel not in (select unnest($intent))
), periods as (from items union all select * replace ('all' as month) from items)
select level, item, month, sum(cost), coalesce(sum(cost) filter (ours is not null), 0), count(distinct ours)
from periods group by all
"""
_OURS = """
select channel, avg(coalesce(decision_id in (select decision_id from outcomes), false)::int)::double
from contacts group by 1
"""


def _spent(
    connection: duckdb.DuckDBPyConnection, given: Attribution, is_scoped: bool
) -> dict[tuple[str, str, str], Spent]:
    # Estimates from decisions speak of their contacts alone, all others of every touch.
    out = {}
    intent = {"intent": list(given.intent_channels)}
    for level, item, period, whole, ours, n in connection.execute(_COSTS, intent).fetchall():
        is_ours = is_scoped and not (level == "channel" and period == WHOLE and item in given.holdouts)
        cost = ours if is_ours else whole
        out[level, item, period] = Spent(cost, ours / n if n else np.nan)
    return out


def _against(
    estimates: Estimates, where: tuple[tuple[str, ...], str, str], credit: float, cost: float, level: float
) -> dict[str, object]:
    channels, channel, period = where
    money, orders = estimates.get((period, "margin")), estimates.get((period, "orders"))
    spent = {"cost": cost if np.isfinite(cost) else None}
    if money is None or channel not in channels:
        return spent | {"source": "none", "warning": "", "reason": "no estimate for this period"}
    c = channels.index(channel)
    se, reason = float(money.se[c]), money.reason[c]
    caused, sold = returns.known(money, c, level), returns.known(orders or money, c, level)
    value, lower, upper = caused
    if not np.isfinite(value):
        return spent | {"source": "none", "warning": "", "reason": reason or "unknown"}
    ratio = credit / value if value > 0 else np.nan
    out = {
        "incremental": value, "se": se, "lower": lower, "upper": upper,
        "incremental_conversions": sold.value, "conversions_lower": sold.lower,
        "conversions_upper": sold.upper, "ratio": ratio,
        "ratio_lower": credit / upper if value > 0 and lower > 0 else np.nan,
        "ratio_upper": credit / lower if value > 0 and lower > 0 else np.nan,
    }  # fmt: skip
    for name, found in (
        ("roas", returns.per_cost(caused, cost)),
        ("cost_per_conversion", returns.cost_per(sold, cost)),
    ):
        out |= dict(zip((name, f"{name}_lower", f"{name}_upper"), found))
    warning = ""
    if np.isfinite(se) and (credit > upper or credit < lower):
        warning = (
            f"credited {credit:,.0f}, caused {value:,.0f} ({lower:,.0f} to {upper:,.0f}): "
            f"{'too much' if credit > upper else 'too little'} credit"
        )
    if not np.isfinite(ratio) and not reason:
        reason = "caused is not above 0, so a ratio means nothing"
    known = {name: number if np.isfinite(number) else None for name, number in out.items()}
    return spent | known | {"source": money.source, "reason": reason, "warning": warning}


def _calibrated(
    connection: duckdb.DuckDBPyConnection, given: Attribution,
    estimates: Estimates, channels: tuple[str, ...], rows: list[dict[str, Any]],
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
            share, credit * coalesce(factor, 0) as credit,
            revenue_credit * coalesce(factor, 0) as revenue_credit
        from credited left join scales using (channel) where method = '{given.calibrate}'
        """
    ).to_arrow_table()


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
    connection.register("places", pa.table({"channel": channels, "code": np.arange(len(channels))}))
    touch = connection.sql(
        f"""select who, (moment - {begin}) // {_DAY} as day, code
            from contacts join people using (customer_id) join places using (channel)
            order by moment, touch_id"""
    ).to_arrow_table()
    order = connection.sql(
        f"""select who, (ordered - {begin}) // {_DAY} as day,
            {"margin" if measure == "margin" else "1.0"} as worth
            from conversions join people using (customer_id) where ordered >= {begin}
            order by ordered, order_id"""
    ).to_arrow_table()
    n = len(first)
    return Days(
        n, n_days,
        tuple(touch[name].to_numpy().astype(np.int64) for name in ("who", "day", "code")),
        (order["who"].to_numpy().astype(np.int64), order["day"].to_numpy().astype(np.int64),
         order["worth"].to_numpy().astype(float)),
        first, np.full(n, n_days - 1, dtype=np.int64),
        np.array([name not in given.intent_channels for name in channels], dtype=bool),
    )  # fmt: skip
