"""Gather for pages: whose lifetime value is at risk, and what the last batch did for them."""

import pyarrow as pa

from nba import tables
from nba.history import History

MOST = 500
BANDS = 5

# A customer who went into another since is the other; of two forecasts, or decisions, one counts.
_LATEST = """
    latest as (
        select coalesce(now_id, customer_id) as customer_id, clv_at_risk, clv, {ends}, p_alive, n_repeat,
            age_days - recency_days as quiet_days
        from clv left join ({gone}) on gone_id = customer_id
        where as_of = (select max(as_of) from clv) and clv_at_risk is not null
        qualify row_number() over (
            partition by coalesce(now_id, customer_id) order by now_id is not null, clv_at_risk desc) = 1
    ),
    given as ({given})
"""
_GIVEN = """
    select customer_id, treatment_id, channel, reason from decisions_all
    where batch_id = (select batch_id from decisions order by decided_at desc limit 1)
    qualify row_number() over (partition by customer_id order by treatment_id = 'none', decision_id) = 1
"""
_GONE = "select alias_id as gone_id, customer_id as now_id from aliases"
_NONE_GONE = "select ''::varchar as gone_id, ''::varchar as now_id where false"
_NOTHING = """
    select ''::varchar as customer_id, null::varchar as treatment_id, ''::varchar as channel,
        null::varchar as reason where false
"""
_AT_RISK = """
    with {latest}
    select customer_id, clv_at_risk, clv, clv_lower, clv_upper, p_alive, n_repeat, quiet_days,
        treatment_id, reason
    from latest left join given using (customer_id) order by clv_at_risk desc, clv desc, customer_id limit {n}
"""
_RETAINED = """
    with {latest},
    banded as (
        select ntile({bands}) over (order by clv_at_risk desc, clv desc, customer_id) as band, channel,
            clv_at_risk
        from latest join given using (customer_id)
    ),
    counted as (
        select band, channel, count(*) as n, sum(clv_at_risk) as clv_at_risk from banded group by all
    )
    select band, channel, n, n / sum(n) over (partition by band) as share, clv_at_risk
    from counted order by band, channel
"""


def gather(history: History) -> dict[str, pa.Table]:
    """Gather the customers at risk, and contacts by how much is at risk.

    Args:
        history: With clv.
    """
    columns = history.table("clv").column_names
    if "clv_at_risk" not in columns:
        return {}
    # A forecast of an earlier version has no interval of value.
    ends = ", ".join(n if n in columns else f"null::double as {n}" for n in ("clv_lower", "clv_upper"))
    given = _GIVEN if history.has("decisions") else _NOTHING
    gone = _GONE if history.has("aliases") else _NONE_GONE
    latest = _LATEST.format(given=given, gone=gone, ends=ends)
    with history.connection(follows=True) as connection:
        at_risk = connection.sql(_AT_RISK.format(latest=latest, n=MOST)).to_arrow_table()
        retained = connection.sql(_RETAINED.format(latest=latest, bands=BANDS)).to_arrow_table()
    return {
        "summary_at_risk": tables.SUMMARY_AT_RISK.conform(at_risk),
        "summary_retained": tables.SUMMARY_RETAINED.conform(retained),
    }
