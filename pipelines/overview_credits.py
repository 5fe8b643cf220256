"""Gather for pages: credit by method, month, part of the customers, channel, action and campaign."""

import pyarrow as pa

from nba import tables
from nba.catalog import Catalog
from nba.history import History
from pipelines.overview_policy import attributes

_PARTS = """
    with placed as (
        select c.method, strftime(o.ordered_at, '%Y-%m') as month, {audience} as audience, c.channel,
            coalesce(c.treatment_id, 'unknown') as treatment_id, c.order_id, c.credit, c.share
        from credits c join orders o using (order_id) {join}
    ),
    summed as (
        select method, coalesce(month, 'all') as period, audience, channel, treatment_id,
            count(distinct order_id) as n_orders, sum(credit) as credit, sum(share) as orders
        from placed
        group by grouping sets (
            (method, month, audience, channel, treatment_id), (method, audience, channel, treatment_id)
        )
    )
    select s.method, period, audience, channel, s.treatment_id,
        coalesce(t.action_id, s.treatment_id) as action_id,
        coalesce(t.campaign, 'unknown') as campaign, n_orders, credit,
        orders / nullif(sum(orders) over (partition by s.method, period, audience), 0) as share
    from summed s left join treatments t using (treatment_id)
    order by all
"""


def gather(history: History, catalog: Catalog) -> pa.Table:
    """Sum the credits; without the orders or customers they belong to there is only what is left.

    Args:
        history: With credits.
        catalog: Gives the action and campaign of each treatment.
    """
    if not history.has("orders"):
        return tables.SUMMARY_CREDIT_PARTS.empty()
    actions = {action.action_id: f"{action.issue} / {action.group}" for action in catalog.actions}
    known = pa.table(
        {
            "treatment_id": [t.treatment_id for t in catalog.treatments],
            "action_id": [t.action_id for t in catalog.treatments],
            "campaign": [actions[t.action_id] for t in catalog.treatments],
        }
    )
    with history.connection() as connection:
        connection.execute("drop view if exists treatments").fetchall()
        connection.register("treatments", known)
        parts = [connection.sql(_PARTS.format(audience="'all'", join="")).to_arrow_table()]
        for name in attributes(connection) if history.has("customers") else []:
            label = name.removeprefix("a_").replace("'", "''")
            column = '"' + name.replace('"', '""') + '"'
            audience = f"'{label}=' || coalesce(u.{column}::varchar, 'unknown')"
            join = "join customers u on u.customer_id = o.customer_id"
            parts.append(connection.sql(_PARTS.format(audience=audience, join=join)).to_arrow_table())
    return tables.SUMMARY_CREDIT_PARTS.conform(pa.concat_tables(parts, promote_options="permissive"))
