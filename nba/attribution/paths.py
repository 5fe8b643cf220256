"""Touches to journeys: which touch stands where on the way to which order, in DuckDB throughout.

`build` makes the temporary table `steps` in a connection that shows `touches` and `orders`. A journey
ends with an order, or without one: touches that no order follows within the lookback make journeys that
lead nowhere, cut where the customer was quiet for longer than the lookback; they are told apart from
journeys that may still end with an order (`open`). Touches after an order never count for it. Money is net:
a return lowers the latest order of its customer before it.
"""

from datetime import datetime

import duckdb
import pyarrow as pa

from nba.settings import Attribution

_DAY = 86_400_000_000

# One row per contact: touches of one decision count once, and so do repeats on a channel in a session.
_CONTACTS = """
create temp table contacts as
with counted as (
    select distinct on (touch_id) touch_id, customer_id, channel, treatment_id, decision_id, cost,
        epoch_us(touched_at) as moment
    from touches where kind in ({kinds})
        and (decision_id is null or decision_id not in (select decision_id from touches
            where kind = 'failed' and decision_id is not null))
), ours as (
    select * from counted where decision_id is not null
    qualify row_number() over (partition by decision_id order by moment, touch_id) = 1
), theirs as (
    select * from counted where decision_id is null
    qualify coalesce(moment - lag(moment) over (partition by customer_id, channel order by moment, touch_id)
        > {session}, true)
)
from ours union all from theirs
"""
# What came back lowers the customer's latest order before it; what has no order before it is left out.
_CONVERSIONS = """
create temp table conversions as
with once as (
    select distinct on (order_id) order_id, customer_id, epoch_us(ordered_at) as ordered, revenue, margin,
        is_return
    from orders
), back as (from once where is_return), latest as (
    select customer_id, ordered, max(order_id) as order_id from once
    where not is_return and customer_id in (select customer_id from back) group by all
), returned as (
    select l.order_id, sum(b.revenue) as revenue, sum(b.margin) as margin
    from back b asof join latest l on b.customer_id = l.customer_id and b.ordered >= l.ordered group by all
)
select o.order_id, customer_id, ordered, o.revenue + coalesce(r.revenue, 0) as revenue,
    o.margin + coalesce(r.margin, 0) as margin
from once o left join returned r using (order_id) where not is_return
"""
_NEXT = """
create temp table placed as
select t.*, o.order_id, o.ordered, o.margin, o.revenue
from contacts t asof left join conversions o on t.customer_id = o.customer_id and t.moment <= o.ordered
"""
_EACH = """
create temp table placed as
with hit as (
    select t.*, o.order_id, o.ordered, o.margin, o.revenue
    from contacts t join conversions o
    on t.customer_id = o.customer_id and t.moment <= o.ordered and t.moment > o.ordered - {lookback}
)
from hit union all by name
from contacts anti join hit using (touch_id)
"""
# The last position of an order is its last touch; ties in time are broken by the touch's id.
_STEPS = """
create temp table steps as
with marked as (
    select *, ordered is not null and moment > ordered - {lookback} as is_conversion from placed
), cut as (
    select *, sum(is_new::int) over (partition by customer_id order by moment, touch_id) as part from (
        select *, coalesce(moment - lag(moment) over w > {lookback}
            or order_id is distinct from lag(order_id) over w, true) as is_new
        from marked where not is_conversion window w as (partition by customer_id order by moment, touch_id))
), joined as (
    select order_id as journey_id, * from marked where is_conversion
    union all by name
    select customer_id || '#' || part as journey_id,
        * exclude (is_new, part, order_id, ordered, margin, revenue) from cut
)
select journey_id, order_id, customer_id, touch_id, channel, treatment_id, cost, is_conversion, margin,
    revenue, moment, (ordered - moment) / {day}::double as age_days, channel not in ({intent}) as is_ad,
    row_number() over (partition by journey_id order by moment, touch_id) as position,
    count(*) over (partition by journey_id) as n,
    not is_conversion and max(moment) over (partition by journey_id) > {open} as is_open
from joined
"""


def build(connection: duckdb.DuckDBPyConnection, given: Attribution, at: datetime) -> None:
    """Make the table `steps` (and `contacts`, `conversions`) in a connection.

    Args:
        connection: Shows `touches` and `orders` of the contract.
        given: Lookback, kinds, sessions, repeat, intent channels.
        at: Moment of looking back; younger journeys without an order are still open.
    """
    lookback = int(given.lookback_days * _DAY)
    parts = {
        "kinds": _quoted(given.kinds),
        "session": int(given.session_minutes * 60_000_000),
        "lookback": lookback,
        "intent": _quoted(given.intent_channels),
        "day": _DAY,
        "open": int(at.timestamp() * 1_000_000) - lookback,
    }
    placed = _NEXT if given.repeat == "next" else _EACH
    for query in (_CONTACTS, _CONVERSIONS, placed, _STEPS):
        connection.execute(query.format(**parts)).fetchall()
    connection.execute("drop table placed").fetchall()


def sequences(connection: duckdb.DuckDBPyConnection, *, only_ads: bool = False) -> pa.Table:
    """Gather journeys that took the same way.

    Returns:
        path (list of channels, in order), conversions, margin, nulls (journeys that led nowhere); open
        journeys are left out.
    """
    where = "and is_ad" if only_ads else ""
    return connection.sql(
        f"""
        with each as (
            select list(channel order by position) as path, any_value(is_conversion) as is_conversion,
                any_value(margin) as margin
            from steps where not is_open {where} group by journey_id)
        select path, count(*) filter (is_conversion)::double as conversions,
            coalesce(sum(margin) filter (is_conversion), 0)::double as margin,
            count(*) filter (not is_conversion)::double as nulls
        from each group by path order by path
        """
    ).to_arrow_table()


def statistics(connection: duckdb.DuckDBPyConnection, top: int = 50) -> pa.Table:
    """Describe journeys: their number, length, lag to the order, and the most frequent paths.

    Returns:
        The `path_statistics` table.
    """
    return connection.sql(
        f"""
        with journeys as (
            select journey_id, any_value(is_conversion) as is_conversion, any_value(is_open) as is_open,
                any_value(margin) as margin, any_value(n) as n, max(age_days) as lag,
                string_agg(channel, ' > ' order by position) as path
            from steps group by journey_id
        ), counted as (
            select 'journeys' as measure, case when is_conversion then 'with an order'
                when is_open then 'still open' else 'without an order' end as item,
                count(*) filter (is_conversion) as conversions, count(*) filter (not is_conversion) as nulls,
                sum(margin) as margin from journeys group by all
            union all
            select 'journeys', 'orders without a touch', count(*), 0, sum(margin) from conversions
            anti join (select order_id from steps where is_conversion) using (order_id)
            union all
            select 'length', least(n, 20)::varchar || if(n >= 20, ' or more', ''),
                count(*) filter (is_conversion), count(*) filter (not is_conversion), sum(margin)
            from journeys where not is_open group by all
            union all
            select 'lag_days', floor(lag)::int::varchar, count(*), 0, sum(margin)
            from journeys where is_conversion group by all
            union all
            (select 'path', path, count(*) filter (is_conversion) as c, count(*) filter (not is_conversion),
                sum(margin) from journeys where not is_open group by all order by c desc, path limit {top})
        )
        select measure, item, conversions::double as conversions, nulls::double as nulls, margin
        from counted order by measure, item
        """
    ).to_arrow_table()


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names) or "''"
