"""What logged decisions caused, by channel, action or campaign: estimated from their probabilities.

A connection must show `conversions` (`nba.attribution.paths.build`), whose money is net of returns, and
`offers` (treatment_id, action_id, channel, campaign), the catalog's treatments; that may be without rows:
channels are then known from the decisions, actions and campaigns are not.
"""

from typing import Literal, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba.attribution import incremental
from nba.attribution.incremental import Caused

WHOLE = "all"
Level = Literal["channel", "action", "campaign"]
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
select c.decision_id, c.customer_id, dense_rank() over (order by c.customer_id) - 1 as customer,
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
    "campaign": """create or replace temp view named as select treatment_id, campaign as item from offers""",
}


def speak(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the temporary table `spoken`: ids of the contacts that estimates from decisions speak of."""
    connection.execute(_SPOKEN, {"least": incremental.MIN_P}).fetchall()


class Logged(NamedTuple):
    """Decisions whose window has closed, with what followed them.

    Attributes:
        rows: Columns customer_id, period, margin and orders, n rows.
        chosen: Item given, -1 for none, -2 for what is neither, shape (n,).
        p: Chance of each item and, last, of none, shape (n, k + 1).
        customer: Number of the customer, shape (n,).
        x: What was known before, shape (n, d).
    """

    rows: pa.Table
    chosen: NDArray[np.int64]
    p: NDArray[np.float64]
    customer: NDArray[np.int64]
    x: NDArray[np.float64]

    def caused(self, measure: str, use: NDArray[np.bool_], *, marginal: bool = False) -> Caused:
        """Estimate what the contacts among some of the decisions caused."""
        given = (self.chosen[use], self.p[use, :-1], self.p[use, -1], self.customer[use], self.x[use])
        return incremental.decided(self.rows[measure].to_numpy()[use], *given, marginal=marginal)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which have logged probabilities, shape (n,)."""
        return np.asarray(self.p.sum(axis=1) > 0)


def read(connection: duckdb.DuckDBPyConnection, level: Level, items: tuple[str, ...]) -> Logged | None:
    """Read the decisions whose window has closed; None where there are none.

    Args:
        connection: Views of the history, `conversions` and `offers`.
        level: Whether items are channels, actions or campaigns.
        items: Their names, k of them.
    """
    connection.execute(_NAMED[level]).fetchall()
    rows = connection.sql(_DECIDED).to_arrow_table()
    if not rows.num_rows or not items:
        return None
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
    x = np.column_stack([rows[n].to_numpy() for n in ("past_margin", "past_orders", "quiet")])
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
    return Logged(rows, chosen, p, rows["customer"].to_numpy().astype(np.int64), x)


def over_time(found: Logged | None) -> Estimates:
    """Estimate what the contacts of each item caused, in the whole time and in each month.

    Returns:
        (period, measure) to the estimate: the period is `all` or a month of the decisions; the measure
        margin and orders (totals), or marginal (margin of one more contact). Empty without decisions.
    """
    out: Estimates = {}
    if found is None:
        return out
    period = found.rows["period"].to_numpy(zero_copy_only=False)
    for name in (WHOLE, *sorted(set(period))):
        use = found.known if name == WHOLE else found.known & (period == name)
        if not use.any():
            continue
        for measure in ("margin", "orders"):
            out[name, measure] = found.caused(measure, use)
        out[name, "marginal"] = found.caused("margin", use, marginal=True)
    return out


def by_audience(found: Logged | None, audience: NDArray[np.object_]) -> dict[str, Caused]:
    """Estimate the margin that the contacts of each item caused in each part of the customers.

    Args:
        found: The decisions.
        audience: Name of the part of the customers of each, shape (n,).
    """
    if found is None:
        return {}
    names = [name for name in sorted(set(audience)) if (found.known & (audience == name)).any()]
    return {name: found.caused("margin", found.known & (audience == name)) for name in names}


def estimate(connection: duckdb.DuckDBPyConnection, level: Level, items: tuple[str, ...]) -> Estimates:
    """Read decisions and estimate what the contacts of each item caused: `read`, then `over_time`."""
    return over_time(read(connection, level, items))
