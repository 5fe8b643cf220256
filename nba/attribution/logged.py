"""What logged decisions caused, by channel or by action: read from the history, estimated from probabilities.

A connection must show `conversions` (`nba.attribution.paths.build`), whose money is net of returns, and
`offers` (treatment_id, action_id, channel), the catalog's treatments; that may be without rows, then channels
are known from the decisions and actions are not.
"""

from typing import Literal

import duckdb
import numpy as np

from nba.attribution import incremental
from nba.attribution.incremental import Caused

WHOLE = "all"
Level = Literal["channel", "action"]
Estimates = dict[tuple[str, str], Caused]

# One row per decision whose window has closed: what followed it, and its logged probabilities.
_DECIDED = """
with closed as (
    select d.decision_id, d.customer_id, n.item, d.treatment_id, d.decided_at, d.arm, o.window_days
    from decisions d join outcomes o using (decision_id) left join named n using (treatment_id)
    where coalesce(d.arm, '') <> 'holdout'
), sold as (
    select c.decision_id, sum(o.margin) as margin, count(*) as orders
    from closed c join conversions o on o.customer_id = c.customer_id and o.ordered >= epoch_us(c.decided_at)
        and o.ordered < epoch_us(c.decided_at + to_days(c.window_days::integer))
    group by 1
), past as (
    select c.decision_id, coalesce(sum(o.margin), 0) as margin, count(o.order_id) as orders,
        coalesce(min(epoch(c.decided_at) - epoch(o.ordered_at)) / 86400, 999) as quiet
    from closed c left join orders o on o.customer_id = c.customer_id and o.ordered_at < c.decided_at
        and o.ordered_at >= c.decided_at - interval 365 days
    group by 1
)
select c.decision_id, dense_rank() over (order by c.customer_id) - 1 as customer,
    if(c.treatment_id = 'none', 'none', c.item) as item, strftime(c.decided_at, '%Y-%m') as period,
    coalesce(s.margin, 0)::double as margin, coalesce(s.orders, 0)::double as orders,
    p.margin::double as past_margin, p.orders::double as past_orders, p.quiet::double as quiet
from closed c left join sold s using (decision_id) join past p using (decision_id)
order by c.decision_id
"""
_CHANCES = """
select h.decision_id, if(h.treatment_id = 'none', 'none', n.item) as item, sum(h.p_action)::double as p
from choices h left join named n using (treatment_id) group by all having p > 0
"""
# Contacts that the estimates speak of: their window has closed, and no contact was likely enough (0.02 as in
# `incremental.decided`). The others are neither caused nor, where the two are compared, credited or paid for.
_SPOKEN = """
create or replace temp table spoken as
select d.decision_id from decisions d join outcomes using (decision_id)
join choices h on h.decision_id = d.decision_id and h.treatment_id = 'none'
where d.treatment_id <> 'none' and coalesce(d.arm, '') <> 'holdout' and h.p_action >= $least
"""
_NAMED = {
    "channel": """create or replace temp view named as select treatment_id, channel as item from offers
        union select distinct treatment_id, channel from decisions where treatment_id <> 'none'
            and treatment_id not in (select treatment_id from offers)""",
    "action": """create or replace temp view named as select treatment_id, action_id as item from offers""",
}


def speak(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the temporary table `spoken`: ids of the contacts that estimates from decisions speak of."""
    connection.execute(_SPOKEN, {"least": incremental.MIN_P}).fetchall()


def estimate(connection: duckdb.DuckDBPyConnection, level: Level, items: tuple[str, ...]) -> Estimates:
    """Estimate what the contacts of each item caused, from decisions whose window has closed.

    Args:
        connection: Views of the history, `conversions` and `offers`.
        level: Whether items are channels or actions.
        items: Their names, k of them.

    Returns:
        (period, measure) to the estimate: the period is `all` or a month of the decisions; the measure
        margin and orders (totals), or marginal (margin of one more contact). Empty without decisions.
    """
    connection.execute(_NAMED[level]).fetchall()
    rows = connection.sql(_DECIDED).to_arrow_table()
    if not rows.num_rows or not items:
        return {}
    chances = connection.sql(_CHANCES).to_arrow_table()
    ids = rows["decision_id"].to_numpy(zero_copy_only=False)
    wanted = chances["decision_id"].to_numpy(zero_copy_only=False)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    place = {name: i for i, name in enumerate((*items, "none"))}
    column = np.array([place.get(name, -1) for name in chances["item"].to_pylist()], dtype=np.int64)
    hit = (ids[at] == wanted) & (column >= 0)
    p = np.zeros((len(ids), len(items) + 1))
    p[at[hit], column[hit]] = chances["p"].to_numpy()[hit]
    # What is neither an item nor none is neither contact nor its absence.
    chosen = np.array([place.get(name, -2) for name in rows["item"].to_pylist()], dtype=np.int64)
    chosen[chosen == len(items)] = -1
    known = p.sum(axis=1) > 0
    period = rows["period"].to_numpy(zero_copy_only=False)
    x = np.column_stack([rows[n].to_numpy() for n in ("past_margin", "past_orders", "quiet")])
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
    customer = rows["customer"].to_numpy().astype(np.int64)
    out: Estimates = {}
    for name in (WHOLE, *sorted(set(period))):
        use = known if name == WHOLE else known & (period == name)
        if not use.any():
            continue
        given = (chosen[use], p[use, :-1], p[use, -1], customer[use], x[use])
        for measure in ("margin", "orders"):
            out[name, measure] = incremental.decided(rows[measure].to_numpy()[use], *given)
        out[name, "marginal"] = incremental.decided(rows["margin"].to_numpy()[use], *given, marginal=True)
    return out
