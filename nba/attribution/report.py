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
    from decisions anti join decided_apart using (decision_id) where arm is not null group by 1)
select f.is_held, coalesce(sum(o.margin), 0)::double as margin, count(o.order_id)::double as orders
from first f left join conversions o
    on o.customer_id = f.customer_id and o.ordered >= epoch_us(f.decided_at)
group by f.customer_id, f.is_held
"""
_HELD = """
select a.experiment_id, a.customer_id, a.arm = 'holdout' as is_held,
    coalesce(sum(o.margin), 0)::double as margin, count(o.order_id)::double as orders
from assignments a left join conversions o
    on o.customer_id = a.customer_id and o.ordered >= epoch_us(a.assigned_at)
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
) -> tuple[Estimates, dict[str, float]]:
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
        all contact together. And the channels whose estimate speaks of logged contacts alone, with the part
        of all their contacts that those are.
    """
    logged.speak(connection)
    randomised = logged.estimate(connection, "channel", channels)
    out = {key: value for key, value in randomised.items() if key[1] == "marginal"}
    held = _held(connection, given, channels)
    own = _scoped(connection, channels, held)
    for measure in ("margin", "orders"):
        whole = _first_known(held.get(measure), randomised.get((WHOLE, measure)), len(channels))
        seen = incremental.observed(_days(connection, given, channels, at, measure))
        seen = _scaled(seen, channels, own)
        out[WHOLE, measure] = incremental.combine(whole, seen)
        out |= {key: value for key, value in randomised.items() if key[0] != WHOLE and key[1] == measure}
        total = _total(connection, measure)
        if total is not None:
            out[TOTAL, measure] = total
    return out, own


def _scoped(
    connection: duckdb.DuckDBPyConnection, channels: tuple[str, ...], held: dict[str, Caused]
) -> dict[str, float]:
    # What a holdout measures speaks of every contact; a holdout that is not known yet measures nothing.
    known = np.isfinite(held["margin"].value) if held else np.zeros(len(channels), dtype=bool)
    measured = {name for name, is_known in zip(channels, known) if is_known}
    rows = connection.execute(_SPOKEN_PART).fetchall()
    return {name: part for name, part in rows if part > 0 and name not in measured}


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
    estimates, own = caused(connection, given, channels, at)
    levels = {
        "channel": (channels, estimates),
        "action": (actions, logged.estimate(connection, "action", actions)),
    }
    spent = _spent(connection, given, own)
    rows: list[dict[str, Any]] = []
    for method, channel, period, conversions, credit, spoken, ours, revenue in connection.execute(
        _CREDITED
    ).fetchall():
        rows.append(
            {"method": method, "channel": channel, "period": period, "conversions": conversions,
             "credited": credit, "revenue": revenue, "is_advertising": channel not in given.intent_channels,
             "compared": spoken if channel in own else credit, "ours": ours if own else credit}
        )  # fmt: skip
    for method in dict.fromkeys(row["method"] for row in list(rows)):
        ads = [r for r in rows if r["method"] == method and r["period"] == WHOLE and r["is_advertising"]]
        sums = {name: sum(r[name] or 0.0 for r in ads) for name in ("credited", "conversions", "revenue")}
        # The holdout speaks of all that was decided, be its window closed or not.
        sums["compared"] = sum(r["ours"] or 0.0 for r in ads)
        rows.append({"method": method, "channel": WHOLE, "period": WHOLE, "is_advertising": True} | sums)
    for row in rows:
        row.pop("ours", None)
        channel, period = row["channel"], row["period"]
        level = "channel" if channel != WHOLE else WHOLE
        cost = spent.get((level, channel, period), Spent(np.nan, np.nan)).cost
        where = (channels, channel, period) if channel != WHOLE else ((WHOLE,), WHOLE, TOTAL)
        row |= against(estimates, where, row["compared"], cost, given.level)
    return Built(
        tables.ATTRIBUTION.build(rows),
        returns.table(levels, spent, given.level),
        _calibrated(connection, given, estimates, channels, rows, own),
    )


# Months are those of the touches. `is_spoken`: randomised estimates speak of the touch (`logged.speak`).
_CREDITED = """
with dated as (
    select c.method, c.channel, c.share, c.credit, c.revenue_credit,
        strftime(t.touched_at, '%Y-%m') as month, t.decision_id is not null as is_ours,
        coalesce(t.decision_id in (from spoken), false) as is_spoken
    from credited c join (select distinct on (touch_id) * from touches) t using (touch_id)
), periods as (from dated union all select * replace ('all' as month) from dated)
select method, channel, month, sum(share), sum(credit), coalesce(sum(credit) filter (is_spoken), 0),
    coalesce(sum(credit) filter (is_ours), 0), sum(revenue_credit)
from periods group by all order by 1, 2, 3
"""
_ACTIONS = """
select distinct action_id from offers join decisions using (treatment_id) order by 1
"""
_COSTS = """
with dated as (
    select t.channel, o.action_id, strftime(t.touched_at, '%Y-%m') as month, t.cost, t.decision_id,
        if(t.decision_id in (from spoken), t.decision_id, null) as spoken
    from touches t left join offers o using (treatment_id)
), items as (
    select 'channel' as level, channel as item, month, cost, spoken from dated
    union all select 'action', action_id, month, cost, spoken from dated where action_id is not null
    union all select 'all', 'all', month, cost, decision_id from dated
        where channel not in (select unnest($intent))
), periods as (from items union all select * replace ('all' as month) from items)
select level, item, month, sum(cost), coalesce(sum(cost) filter (spoken is not null), 0),
    count(distinct spoken)
from periods group by all
"""
_SPOKEN_PART = """
select channel, avg(coalesce(decision_id in (from spoken), false)::int)::double from contacts group by 1
"""


def _spent(
    connection: duckdb.DuckDBPyConnection, given: Attribution, own: dict[str, float]
) -> dict[tuple[str, str, str], Spent]:
    # Estimates from decisions speak of their contacts alone, all others of every touch; months are always
    # from decisions where there are any.
    out = {}
    intent = {"intent": list(given.intent_channels)}
    for level, item, period, whole, spoken, n in connection.execute(_COSTS, intent).fetchall():
        is_part = bool(own) and (level != "channel" or item in own)
        out[level, item, period] = Spent(spoken if is_part else whole, spoken / n if n else np.nan, whole)
    return out


def against(
    estimates: Estimates, where: tuple[tuple[str, ...], str, str], credit: float, cost: float, level: float
) -> dict[str, object]:
    """Set one credit against what was caused.

    Args:
        estimates: (period, measure) to what the items caused.
        where: All items, the one credited, and the period.
        credit: Money, of the contacts that the estimate speaks of.
        cost: Money spent on them; NaN where unknown.
        level: Confidence level.

    Returns:
        What it says of the `attribution` table's columns.
    """
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
    estimates: Estimates, channels: tuple[str, ...], rows: list[dict[str, Any]], own: dict[str, float],
) -> pa.Table:  # fmt: skip
    # Touches that the estimate does not speak of get nothing, so that channel totals are what was caused.
    whole = estimates[WHOLE, "margin"]
    if given.calibrate is None or whole.source == "observed" or not np.isfinite(whole.value).any():
        return tables.CREDITS.empty()
    mine = {r["channel"]: r for r in rows if r["method"] == given.calibrate and r["period"] == WHOLE}
    factor = [
        float(whole.value[i]) / mine[c]["compared"]
        if c in mine and mine[c]["compared"] and np.isfinite(whole.value[i])
        else 0.0
        for i, c in enumerate(channels)
    ]
    is_own = [name in own for name in channels]
    connection.register("scales", pa.table({"channel": channels, "factor": factor, "is_own": is_own}))
    return connection.sql(
        f"""
        with scaled as (
            select c.*, case when is_own and coalesce(t.decision_id not in (from spoken), true) then 0
                else coalesce(factor, 0) end as scale
            from credited c left join scales using (channel)
            left join (select distinct on (touch_id) touch_id, decision_id from touches) t using (touch_id)
            where method = '{given.calibrate}')
        select method || '_calibrated' as method, order_id, touch_id, customer_id, channel, treatment_id,
            share, credit * scale as credit, revenue_credit * scale as revenue_credit from scaled
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


def _scaled(seen: Caused, channels: tuple[str, ...], own: dict[str, float]) -> Caused:
    # Observed totals speak of all touches; of a channel with randomised estimates only those compare that
    # they speak of.
    share = np.array([own.get(name, 1.0) for name in channels])
    return Caused(seen.value * share, seen.se * share, seen.n, seen.source, seen.reason)


def _first_known(first: Caused | None, second: Caused | None, k: int) -> Caused:
    nan = np.full(k, np.nan)
    nothing = Caused(nan, nan, np.zeros(k, dtype=np.int64), "randomised", ("never randomised",) * k)
    is_first = first is not None
    first, second = first or nothing, second or nothing
    has = np.isfinite(first.value)
    told = has | (is_first & ~np.isfinite(second.value))
    reason = tuple(a if h else b for a, b, h in zip(first.reason, second.reason, told))
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
