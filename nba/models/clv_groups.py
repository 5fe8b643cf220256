"""Lifetime value seen from above: by segment, channel and cohort, and by frequency and recency."""

from typing import Any

import pyarrow as pa

from nba import tables
from nba.history import Snapshot

MOST_VALUES = 40  # attributes with more values than this are no segments

_GROUPS = """
select {attribute} as attribute, coalesce(({value})::varchar, 'unknown') as item, count(*) as n,
    count(clv) as n_known, avg(p_alive) as p_alive, avg(expected_orders) as expected_orders, avg(clv) as clv,
    sum(clv) as clv_total, sum(clv_at_risk) as clv_at_risk
from forecast f left join customers c using (customer_id) left join born b using (customer_id)
group by 1, 2
"""
_BORN = """
create or replace temp view born as
select customer_id, min(ordered_at) as first_at from orders where not is_return group by 1
"""
_GRID = """
with placed as (
    select list_max(list_filter([0, 1, 2, 3, 5, 10], lambda x: x <= n_repeat)) as repeats_from,
        list_max(list_filter([0, 30, 60, 90, 180, 365], lambda x: x <= age_days - recency_days))
            as quiet_from, *
    from forecast where age_days is not null
)
select case repeats_from when 3 then '3-4' when 5 then '5-9' when 10 then '10+' else repeats_from::varchar end
        as repeats,
    case quiet_from when 0 then '0-29' when 30 then '30-59' when 60 then '60-89' when 90 then '90-179'
        when 180 then '180-364' else '365+' end as quiet,
    repeats_from::bigint as repeats_from, quiet_from::bigint as quiet_from, count(*) as n,
    avg(p_alive) as p_alive, avg(expected_orders) as expected_orders, avg(clv) as clv
from placed group by all order by repeats_from, quiet_from
"""


def groups(snapshot: Snapshot, forecast: pa.Table) -> pa.Table:
    """Summarise a forecast over all customers, by cohort, and by every attribute with few values.

    Args:
        snapshot: Gives customers and their first purchases.
        forecast: The `clv` table.

    Returns:
        The `clv_groups` table.
    """
    snapshot.connection.register("forecast", forecast)
    snapshot.connection.execute(_BORN).fetchall()
    columns = snapshot.sql("from customers limit 0").column_names
    parts: dict[str, str] = {
        "all": "'all'",
        "cohort": "strftime(first_at, '%Y') || ' Q' || quarter(first_at)",
    }
    for name in (c for c in columns if c.startswith("a_")):
        n = snapshot.sql(f'select count(distinct "{name}") as n from customers')["n"][0].as_py()
        if 0 < n <= MOST_VALUES:
            parts[name] = f'c."{name}"'
    rows: list[dict[str, Any]] = []
    for name, value in parts.items():
        rows += snapshot.sql(_GROUPS.format(attribute=f"'{name}'", value=value)).to_pylist()
    return tables.CLV_GROUPS.build(sorted(rows, key=lambda row: (row["attribute"], row["item"])))


def grid(snapshot: Snapshot, forecast: pa.Table) -> pa.Table:
    """Cross frequency with time since the last purchase.

    Args:
        snapshot: Any; only its connection is used.
        forecast: The `clv` table.

    Returns:
        The `clv_grid` table.
    """
    snapshot.connection.register("forecast", forecast)
    return tables.CLV_GRID.conform(snapshot.sql(_GRID))
