"""Gather for pages: for whom the policy decided what, how its candidates ranked, and what removed others."""

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from nba import settings, tables
from nba.catalog import Catalog
from nba.history import History
from nba.policy import arbitrate, limits
from pipelines import replay

# An attribute of more values is no list that a person reads.
MAX_VALUES = 12
EXAMPLES = 300
SAMPLE = 3_000

_SEGMENTS = """
    select {label} as attribute, coalesce(c.{column}::varchar, 'unknown') as segment, d.arm,
        d.treatment_id, coalesce(t.action_id, d.treatment_id) as action_id, d.channel, count(*) as n,
        count(*) filter (is_delivered) as n_delivered, sum(d.cost) as cost,
        sum(expected_value) as expected_value
    from decided d join customers c using (customer_id) left join treatments t using (treatment_id)
    group by all order by all
"""
_LAST = """
    create temp view last_batch as
    select decision_id, batch_id, coalesce(arm, 'policy') as arm, treatment_id as chosen
    from decisions where batch_id = (select batch_id from decisions order by decided_at desc limit 1)
"""
_ARBITRATION = """
    select l.batch_id, l.arm, c.treatment_id, count(*) as n,
        count(*) filter (c.is_eligible) as n_eligible,
        count(*) filter (c.treatment_id = l.chosen) as n_chosen,
        avg(c.mean) filter (c.is_eligible and not isnan(c.mean)) as value,
        avg(c.price) as price,
        avg(c.mean - c.price) filter (c.is_eligible and not isnan(c.mean)) as priority,
        avg(c.p_action) filter (c.is_eligible) as p_action
    from last_batch l join choices c using (decision_id) group by all order by all
"""
_REMOVED = """
    select l.batch_id, l.arm, c.treatment_id, c.reason, count(*) as n
    from last_batch l join choices c using (decision_id)
    where c.treatment_id <> 'none' group by all order by all
"""
# As a scenario of the whole batch reads them; every n-th customer by hash.
_MODELLED = """
    select d.batch_id from decisions d join choices c using (decision_id)
    where c.treatment_id <> 'none' and c.mean is not null and not isnan(c.mean)
    group by 1 order by max(decided_at) desc limit 1
"""
_CANDIDATES = """
    with whole as (from decisions where batch_id = $batch),
    picked as (
        select decision_id, customer_id, batch_id, decided_at from whole
        where coalesce(arm, '') <> 'holdout' and policy_id <> 'outside'
        order by hash(customer_id) limit {n}
    )
    select customer_id, treatment_id, p.batch_id, p.decided_at, c.is_eligible, c.reason, c.mean, c.se,
        c.weight,
        (select count(*) from picked) / (select count(*) from whole) as sampled,
        (select count(*) from whole where coalesce(arm, '') <> 'holdout' and policy_id <> 'outside')
            / (select count(*) from picked) as stands_for
    from picked p join choices c using (decision_id) order by customer_id, treatment_id
"""
# Half of those contacted and half of the others, by hash, so that a person finds both.
_EXAMPLES = """
    select decision_id, customer_id, decided_at, coalesce(arm, 'policy') as arm, treatment_id, channel,
        p_action, expected_value, reason
    from decisions_all where batch_id = (select any_value(batch_id) from last_batch)
    qualify row_number() over (partition by treatment_id = 'none' order by hash(decision_id)) <= {n}
    order by decision_id
"""


def gather(
    connection: duckdb.DuckDBPyConnection, history: History, catalog: Catalog, models: pa.Table
) -> dict[str, pa.Table]:
    """Gather segments, arbitration, removed candidates and examples.

    Args:
        connection: Holds the history's views, `decided` and `treatments`.
        history: Says which tables there are.
        catalog: Gives lever and cost.
        models: Columns arm, treatment_id, p_response, uplift: means of those eligible; may be empty.
    """
    out = {"summary_segments": _segments(connection, history)}
    connection.execute(_LAST).fetchall()
    out["summary_examples"] = tables.SUMMARY_EXAMPLES.conform(
        connection.sql(_EXAMPLES.format(n=EXAMPLES // 2)).to_arrow_table()
    )
    if history.has("choices"):
        rows = connection.sql(_ARBITRATION).to_arrow_table().to_pylist()
        out["summary_arbitration"] = _arbitration(rows, catalog, models.to_pylist())
        out["summary_removed"] = tables.SUMMARY_REMOVED.conform(connection.sql(_REMOVED).to_arrow_table())
    return out


def candidates(
    connection: duckdb.DuckDBPyConnection, history: History, config: settings.Settings, catalog: Catalog
) -> dict[str, pa.Table]:
    """Gather the candidates of a sample of the last batch that a model decided.

    Args:
        connection: Holds the history's views.
        history: With decisions.
        config: Prices fatigue; its days are those of limits per day.
        catalog: Fixes the treatments.
    """
    if not history.has("choices"):
        return {}
    batch = connection.sql(_MODELLED).to_arrow_table()["batch_id"].to_pylist()
    if not batch:
        return {}
    query = _CANDIDATES.format(n=SAMPLE)
    if "weight" not in connection.sql("from choices limit 0").columns:  # logged before there were any
        query = query.replace("c.weight,", "")
    found = connection.sql(query, params={"batch": batch[0]}).to_arrow_table()
    ids = sorted(set(found["customer_id"].to_pylist()))
    with history.as_of(found["decided_at"][0].as_py()) as snapshot:
        by_recent = arbitrate.nuisance(snapshot, catalog, config.reward)
        spent = limits.spent_today(snapshot, catalog, config.workspace.timezone)
    price = replay.fatigue_of(by_recent, history, batch[0], ids)
    row = {name: i for i, name in enumerate(ids)}
    column = catalog.columns(found["treatment_id"].to_pylist())
    rows = np.array([row[name] for name in found["customer_id"].to_pylist()])
    nuisance = np.where(column >= 0, price[rows, column], 0.0)
    found = found.append_column("nuisance", pa.array(nuisance, pa.float64()))
    today = np.where(column >= 0, spent[column], 0.0)
    found = found.append_column("spent_today", pa.array(today.astype(np.int64)))
    return {"summary_candidates": tables.SUMMARY_CANDIDATES.conform(found)}


def attributes(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Name the attributes of customers that have few enough values to be read as segments."""
    found = connection.sql("from customers limit 0").to_arrow_table().schema
    names = [f.name for f in found if f.name.startswith("a_") and not pa.types.is_floating(f.type)]
    if not names:
        return []
    counted = ", ".join(f"approx_count_distinct({_quoted(name)})" for name in names)
    counts = connection.execute(f"select {counted} from customers").fetchall()[0]
    return [name for name, n in zip(names, counts) if 1 < n <= MAX_VALUES]


def _segments(connection: duckdb.DuckDBPyConnection, history: History) -> pa.Table:
    if not history.has("customers"):
        return tables.SUMMARY_SEGMENTS.empty()
    parts = [
        connection.sql(
            _SEGMENTS.format(label=_text(name.removeprefix("a_")), column=_quoted(name))
        ).to_arrow_table()
        for name in attributes(connection)
    ]
    if not parts:
        return tables.SUMMARY_SEGMENTS.empty()
    return tables.SUMMARY_SEGMENTS.conform(pa.concat_tables(parts, promote_options="permissive"))


def _arbitration(rows: list[dict[str, Any]], catalog: Catalog, models: Sequence[dict[str, Any]]) -> pa.Table:
    levers = {name: float(lever) for name, lever in zip(catalog.treatment_ids, catalog.lever)}
    costs = {name: float(cost) for name, cost in zip(catalog.treatment_ids, catalog.cost)}
    action = dict(zip(catalog.treatment_ids, catalog.action))
    channel = dict(zip(catalog.treatment_ids, catalog.channel))
    scored = {(row["arm"], row["treatment_id"]): row for row in models}
    for row in rows:
        name = row["treatment_id"]
        found = scored.get((row["arm"], name), {})
        row |= {
            "action_id": str(action.get(name, name)),
            "channel": str(channel.get(name, "unknown")),
            "lever": levers.get(name),
            "cost": costs.get(name, 0.0),
            "p_response": found.get("p_response"),
            "uplift": found.get("uplift"),
        }
    return tables.SUMMARY_ARBITRATION.build(rows)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
