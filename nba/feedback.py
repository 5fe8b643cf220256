"""Touches and orders to outcomes of decisions, once their window has closed."""

import pyarrow as pa

from nba import tables
from nba.catalog import Catalog
from nba.history import Snapshot
from nba.settings import Reward

# Decisions whose window [decided_at, closed_at) has closed and that have no outcome; then what fell into it.
_OUTCOMES = """
with due as (
    select decision_id, customer_id, treatment_id, decided_at,
        decided_at + to_days($window::integer) as closed_at
    from decisions anti join outcomes_all using (decision_id)
    where decided_at + to_days($window::integer) <= $at
), bought as (
    select decision_id, sum(margin) as margin, bool_or(revenue > 0 and not is_return) as is_response
    from due join orders using (customer_id)
    where ordered_at >= decided_at and ordered_at < closed_at group by 1
), touched as (
    select decision_id, sum(cost) as cost,
        bool_or(kind in ('sent', 'delivered', 'seen', 'clicked'))
            and not bool_or(kind in ('failed', 'refused')) as is_delivered,
        bool_or(kind = 'clicked' and touched_at < closed_at) as is_click
    from due join touches t using (decision_id) group by 1
), opted as (
    select due.decision_id from due join touches t using (customer_id)
    where t.kind = 'unsubscribed' and touched_at >= decided_at and touched_at < closed_at group by 1
)
select decision_id,
    treatment_id = 'none' or coalesce(is_delivered, false) as is_delivered,
    coalesce(is_response, false) as is_response,
    coalesce(is_click, false) as is_click,
    o.decision_id is not null as is_unsubscribe,
    coalesce(margin, 0) - case
        when coalesce(t.cost, 0) > 0 then t.cost
        when coalesce(is_delivered, false) then coalesce(c.cost, 0)
        else 0 end as reward,
    closed_at, $window::bigint as window_days
from due left join bought using (decision_id) left join touched t using (decision_id)
    left join opted o using (decision_id) left join costs c using (treatment_id)
order by decision_id
"""


def outcomes(snapshot: Snapshot, catalog: Catalog, reward: Reward) -> pa.Table:
    """Close the decisions whose reward window has ended by the snapshot's moment.

    A response is a purchase of the customer in [decided_at, decided_at + window), whatever led to it; returns
    of that time subtract from the reward, and so does what the contact cost (the catalog's cost where it
    was delivered and its touches carry none).

    Args:
        snapshot: What was known.
        catalog: Gives the cost of treatments.
        reward: The window.

    Returns:
        The `outcomes` of decisions that have none yet, in order of their id.
    """
    costs = pa.table(
        {"treatment_id": list(catalog.treatment_ids), "cost": pa.array(catalog.cost, pa.float64())}
    )
    snapshot.connection.register("costs", costs)
    try:
        found = snapshot.sql(_OUTCOMES, {"at": snapshot.at, "window": reward.window_days})
    finally:
        snapshot.connection.unregister("costs")
    return tables.OUTCOMES.conform(found)
