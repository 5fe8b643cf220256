"""Gather for pages: how full and fresh the data is, whom channels reach, what was refused, who was merged."""

from datetime import datetime

import duckdb
import pyarrow as pa

from nba import tables
from nba.history import History

TIMES = {
    "customers": "joined_at",
    "identities": "first_seen_at",
    "orders": "ordered_at",
    "events": "occurred_at",
    "touches": "touched_at",
    "decisions": "decided_at",
    "outcomes": "closed_at",
    "features": "as_of",
}
CLUSTERS = 20

_TABLE = """
    select '{name}' as "table", count(*) as n_rows, max({time}) as newest_at,
        (epoch($at::timestamptz) - epoch(max({time}))) / 86400 as days_behind from {name}
"""
_CONSENT = """
    with gone as (
        select distinct customer_id from touches where kind = 'unsubscribed' and channel = '{channel}'
    )
    select '{channel}' as channel, count(*) as n, count(*) filter (can_{channel}) as n_consent,
        count(*) filter (can_{channel} and gone.customer_id is not null) as n_opted_out,
        count(*) filter (can_{channel} and gone.customer_id is null) as n_reachable,
        n_reachable / nullif(count(*), 0) as share,
        (select count(*) from customers where external_id is null) as n_unknown
    from customers left join gone using (customer_id) where external_id is not null
"""
_QUARANTINE = """
    select source, reason, count(*) as n, arg_min(file, row_number) as file,
        min(row_number) as row_number
    from quarantine group by all order by n desc, source, reason
"""
_SOURCES = """
    select source, {columns}
    from quality where source not in ('identity', 'consent') and measure in ({measures})
    group by source order by source
"""
_CLUSTERS = """
    with counted as (
        select customer_id, identifier_kind, count(*) as n, min(first_seen_at) as first_seen_at
        from identities group by all
    )
    select customer_id, sum(n)::bigint as n_identifiers, count(*) as n_kinds,
        string_agg(n || ' ' || identifier_kind, ', ' order by n desc, identifier_kind) as kinds,
        min(first_seen_at) as first_seen_at
    from counted group by 1 order by n_identifiers desc, customer_id limit {n}
"""


_IDENTITIES = """
    with told as (
        select regexp_extract(measure, '^(identifiers|linked|cut|junk)_(.+)$', 2) as identifier_kind,
            regexp_extract(measure, '^(identifiers|linked|cut|junk)_(.+)$', 1) as what, value, note
        from quality where source = 'identity' or measure like 'junk\\_%' escape '\\'
    )
    select identifier_kind, max(value) filter (what = 'identifiers')::bigint as n,
        coalesce(max(value) filter (what = 'linked'), 0) as share,
        coalesce(sum(value) filter (what = 'junk'), 0)::bigint as n_junk,
        coalesce(max(value) filter (what = 'cut'), 0)::bigint as n_cut,
        coalesce(max(regexp_extract(note, 'most shared: (.+)$', 1)) filter (what = 'cut'), '') as note
    from told where what <> '' group by 1 having n is not null
"""
# Who has several identifiers had them joined; one that stands alone joined nothing.
_JOINED = """
    with sized as (select customer_id, count(*) as size from identities group by 1)
    select identifier_kind, avg((size > 1)::int) as joined,
        count(*)::double / count(distinct customer_id) as per_customer
    from identities join sized using (customer_id) group by 1
"""
_KINDS = f"""
    from ({_IDENTITIES}) left join ({_JOINED}) using (identifier_kind) order by n desc, identifier_kind
"""


def gather(connection: duckdb.DuckDBPyConnection, history: History, at: datetime) -> dict[str, pa.Table]:
    """Gather freshness, consent, quarantine, identifiers by kind and the largest customers.

    Args:
        connection: Holds the history's views; tables that are not there must be registered empty.
        history: Says which tables there are.
        at: The moment of the summary.
    """
    out = {}
    sizes = [
        connection.sql(_TABLE.format(name=name, time=time), params={"at": at}).to_arrow_table()
        for name, time in TIMES.items()
        if history.has(name)
    ]
    if sizes:
        out["summary_tables"] = tables.SUMMARY_TABLES.conform(pa.concat_tables(sizes))
    if history.has("customers"):
        reach = [
            connection.sql(_CONSENT.format(channel=channel)).to_arrow_table() for channel in tables.CHANNELS
        ]
        out["summary_consent"] = tables.SUMMARY_CONSENT.conform(pa.concat_tables(reach))
    if history.has("quarantine"):
        found = connection.sql(_QUARANTINE).to_arrow_table()
        out["summary_quarantine"] = tables.SUMMARY_QUARANTINE.conform(found)
    if history.has("quality"):
        names = tables.SUMMARY_SOURCES.columns[1:]
        columns = ", ".join(f"max(value) filter (measure = '{name}') as {name}" for name in names)
        measures = ", ".join(f"'{name}'" for name in names)
        found = connection.sql(_SOURCES.format(columns=columns, measures=measures)).to_arrow_table()
        out["summary_sources"] = tables.SUMMARY_SOURCES.conform(found)
        found = connection.sql(_KINDS if history.has("identities") else _IDENTITIES).to_arrow_table()
        out["summary_identities"] = tables.SUMMARY_IDENTITIES.conform(found)
    if history.has("identities"):
        found = connection.sql(_CLUSTERS.format(n=CLUSTERS)).to_arrow_table()
        out["summary_clusters"] = tables.SUMMARY_CLUSTERS.conform(found)
    return out
