"""Touches and orders to outcomes of decisions, once their window has closed.

How a touch finds its decision:

1. It carries a `decision_id`: that decision, if it is known, is the same customer's, was made no later than
   the touch, and its window had not closed. Otherwise the touch counts for no decision and is noted with
   the reason.
2. It carries none: the last decision of the same customer on the same channel in whose window it falls.
   Where the touch names another treatment than that decision's, or that decision has touches of its own id
   (its feed works), this is another message: it counts for no decision, an older one included.

Orders and opt-outs count for every decision of the customer in whose window they fall: an opt-out is lost to
all of them, whatever its channel and whatever decision it names, wrongly or rightly. Any other touch that
repeats another's decision, kind and moment counts once. A window is closed once the data reach its end
(within `wait_days`): where no orders, events or touches have come since, silence says nothing. What arrives
after an outcome was closed though it happened within the window corrects it: a later row in `corrections`,
never a change of what was known.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from nba import tables
from nba.catalog import Catalog
from nba.history import Snapshot
from nba.settings import Reward

# Each touch with the decision that it belongs to, or why it belongs to none; organic ones are left out.
_JOINED = """
create or replace temp view joined_touches as
with windows as (
    select decision_id, customer_id, treatment_id, channel, decided_at,
        decided_at + to_days({window}) as ends_at
    from decisions
), by_id as (
    select t.*, d.decided_at, d.ends_at, case
        when d.decision_id is null then 'its decision is not known'
        when d.customer_id <> t.customer_id then 'its decision is another customer''s'
        when t.touched_at < d.decided_at then 'it lies before its decision'
        when t.touched_at >= d.ends_at then 'it lies after the window of its decision'
        else '' end as wrong
    from touches t left join windows d using (decision_id) where t.decision_id is not null
), fed as (
    select distinct decision_id from by_id where wrong = ''
), without as (
    select t.* exclude (decision_id), d.decision_id, d.decided_at, d.ends_at,
        coalesce(t.treatment_id, d.treatment_id) = d.treatment_id as is_its_own, row_number() over (
        partition by t.touch_id order by d.decided_at desc) as nth
    from touches t join windows d on t.decision_id is null and t.customer_id = d.customer_id
        and t.channel = d.channel and t.touched_at >= d.decided_at and t.touched_at < d.ends_at
    where d.treatment_id <> 'none'
), found as (
    select touch_id, customer_id, touched_at, kind, cost, decision_id, wrong from by_id
    union all by name
    select touch_id, customer_id, touched_at, kind, cost, decision_id, '' as wrong
    from without where nth = 1 and is_its_own and decision_id not in (from fed)
)
select * exclude (wrong), case when wrong = '' and row_number() over (
    partition by decision_id, kind, touched_at, wrong order by touch_id) > 1 then 'it is a duplicate'
    else wrong end as fault
from found
"""

# Decisions whose window [decided_at, closed_at) has closed, and what fell into it.
_OUTCOMES = """
with due as (
    select decision_id, customer_id, treatment_id, decided_at,
        decided_at + to_days($window::integer) as closed_at
    from decisions d where decided_at + to_days($window::integer) <= $until and {which}
), bought as (
    select decision_id, sum(margin) as margin, bool_or(revenue > 0 and not is_return) as is_response
    from due join orders using (customer_id)
    where ordered_at >= decided_at and ordered_at < closed_at group by 1
), touched as (
    select decision_id, sum(cost) as cost,
        bool_or(kind in ('sent', 'delivered', 'seen', 'clicked'))
            and not bool_or(kind in ('failed', 'refused')) as is_delivered,
        bool_or(kind = 'clicked') as is_click
    from due join joined_touches t using (decision_id) where t.fault = '' group by 1
), opted as (
    select due.decision_id from due join touches t using (customer_id)
    where t.kind = 'unsubscribed' and touched_at >= decided_at and touched_at < closed_at group by 1
), found as (
    select decision_id,
        treatment_id = 'none' or coalesce(is_delivered, false) as is_delivered,
        coalesce(is_response, false) as is_response,
        coalesce(is_click, false) as is_click,
        o.decision_id is not null as is_unsubscribe,
        coalesce(margin, 0) as margin,
        case
            when coalesce(t.cost, 0) > 0 then t.cost
            when coalesce(is_delivered, false) then coalesce(c.cost, 0)
            else 0 end as cost,
        closed_at, $window::bigint as window_days
    from due left join bought using (decision_id) left join touched t using (decision_id)
        left join opted o using (decision_id) left join costs c using (treatment_id)
)
select *, $margin * margin + $response * is_response::int + $click * is_click::int
    - $unsubscribe * is_unsubscribe::int - cost as reward
from found
"""
_OPEN = "not exists (from outcomes_all o where o.decision_id = d.decision_id)"
_CLOSED = """decided_at + to_days($window::integer + $correct::integer) > $at
    and exists (from outcomes_all o where o.decision_id = d.decision_id)"""
_COMPARED = ("is_delivered", "is_response", "is_click", "is_unsubscribe", "reward")

# Outcomes as corrected by a moment: what learning and evaluation read. `$at` is the moment.
SETTLED = """
select o.* replace ({columns}) from outcomes o left join (
    select decision_id, {latest}
    from corrections where corrected_at <= $at group by 1
) k using (decision_id) where o.closed_at <= $at
"""


# Latest moment that raw data tell of.
_REACHED = """
select max(moment) as reached from (
    select max(ordered_at) as moment from orders union all select max(occurred_at) from events
    union all select max(touched_at) from touches)
"""
_WAITING = f"""
select count(*) as n from decisions d
where decided_at + to_days($window::integer) <= $at and decided_at + to_days($window::integer) > $until
    and {_OPEN}
"""


def outcomes(snapshot: Snapshot, catalog: Catalog, reward: Reward) -> pa.Table:
    """Close the decisions whose reward window has ended by the snapshot's moment.

    A window that ended more than `wait_days` after the last thing that raw data tell of waits for more.
    A response is a purchase of the customer in [decided_at, decided_at + window), whatever led to it; returns
    of that time subtract from the margin. The reward adds margin, responses and clicks, each times its worth,
    less opt-outs times theirs, less what the contact cost (the catalog's cost where it was delivered and
    its touches carry none).

    Args:
        snapshot: What was known.
        catalog: Gives the cost of treatments.
        reward: The window, and what counts how much.

    Returns:
        The `outcomes` of decisions that have none yet, in order of their id.
    """
    found = _ask(snapshot, catalog, reward, _OUTCOMES.format(which=_OPEN) + " order by decision_id")
    return tables.OUTCOMES.conform(found)


def data_until(snapshot: Snapshot) -> datetime:
    """Give the last moment that raw data tell of; the snapshot's own where nothing raw is known at all."""
    last = snapshot.sql(_REACHED)["reached"][0].as_py()
    return snapshot.at if last is None else min(snapshot.at, last.astimezone(UTC))


def reached(snapshot: Snapshot, reward: Reward) -> datetime:
    """Give the moment up to which windows may be closed: as far as the data reach, and `wait_days` more."""
    return min(snapshot.at, data_until(snapshot) + timedelta(days=reward.wait_days))


def waiting(snapshot: Snapshot, reward: Reward) -> int:
    """Count the decisions whose window has ended but waits for data."""
    asked = {"at": snapshot.at, "window": reward.window_days, "until": reached(snapshot, reward)}
    return int(snapshot.sql(_WAITING, asked)["n"][0].as_py())


def corrections(snapshot: Snapshot, catalog: Catalog, reward: Reward) -> pa.Table:
    """Find closed outcomes that what arrived late within their window has changed since.

    Args:
        snapshot: What was known; decisions whose window closed more than `correction_days` before are final.
        catalog: Gives the cost of treatments.
        reward: The window, and what counts how much.

    Returns:
        The `corrections` to add, in order of decision.
    """
    if not snapshot.history.has("outcomes"):
        return tables.CORRECTIONS.empty()
    have = "corrections" if snapshot.history.has("corrections") else None
    _register(snapshot, have)
    differs = " or ".join(f"f.{name} is distinct from s.{name}" for name in _COMPARED)
    query = (
        f"select f.*, $at as corrected_at from ({_OUTCOMES.format(which=_CLOSED)}) f"
        f" join ({settled()}) s using (decision_id) where {differs} order by decision_id"
    )
    return tables.CORRECTIONS.conform(_ask(snapshot, catalog, reward, query, late=True))


def refused(snapshot: Snapshot, reward: Reward) -> pa.Table:
    """Name the touches with a decision id that do not count for it, with the reason.

    Opt-outs among them count as all opt-outs do, and their reason says so.

    Args:
        snapshot: What was known.
        reward: The window.

    Returns:
        The `feedback_faults`, in order of touch.
    """
    snapshot.connection.execute(_JOINED.format(window=reward.window_days)).fetchall()
    found = snapshot.sql(
        "select touch_id, decision_id, customer_id, touched_at, kind,"
        " fault || if(kind = 'unsubscribed', '; as an opt-out it counts for every decision in whose window it"
        " falls', '') as reason"
        " from joined_touches where fault <> '' order by touch_id"
    )
    return tables.FEEDBACK_FAULTS.conform(found)


def settled(*, is_corrected: bool = True) -> str:
    """Give the SQL of outcomes that had closed by `$at`, as corrected by then.

    Args:
        is_corrected: Whether there is a table of corrections; without one, outcomes are as closed.
    """
    if not is_corrected:
        return "select o.* from outcomes o where o.closed_at <= $at"
    names = (*_COMPARED, "margin", "cost")
    latest = ", ".join(f"arg_max({name}, corrected_at) as {name}" for name in names)
    columns = ", ".join(f"coalesce(k.{name}, o.{name}) as {name}" for name in names)
    return SETTLED.format(columns=columns, latest=latest)


def _register(snapshot: Snapshot, have: str | None) -> None:
    if have is None:
        snapshot.connection.register("corrections", tables.CORRECTIONS.empty())
        return
    files = ", ".join("'" + path.replace("'", "''") + "'" for path in snapshot.history.paths(have))
    snapshot.connection.execute(
        f"create or replace temp view corrections as from read_parquet([{files}])"
    ).fetchall()


def _ask(snapshot: Snapshot, catalog: Catalog, reward: Reward, query: str, *, late: bool = False) -> pa.Table:
    costs = pa.table(
        {"treatment_id": list(catalog.treatment_ids), "cost": pa.array(catalog.cost, pa.float64())}
    )
    parameters: Mapping[str, Any] = {
        "until": snapshot.at if late else reached(snapshot, reward),
        "window": reward.window_days,
        "margin": reward.margin_share,
        "response": reward.response_value,
        "click": reward.click_value,
        "unsubscribe": reward.unsubscribe_cost,
        **({"at": snapshot.at, "correct": reward.correction_days} if late else {}),
    }
    snapshot.connection.execute(_JOINED.format(window=reward.window_days)).fetchall()
    snapshot.connection.register("costs", costs)
    try:
        return snapshot.sql(query, parameters)
    finally:
        snapshot.connection.unregister("costs")
