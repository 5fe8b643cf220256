"""Credit beside cause by channel, action and campaign, over time and by part of the customers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from nba import tables
from nba.attribution import logged
from nba.attribution.logged import WHOLE, Estimates, Level
from nba.attribution.report import against

LEVELS: tuple[Level, ...] = ("channel", "action", "campaign")
NOT_OURS = "unknown"
_NEVER = "not sent by a decision: never randomised"

# `is_spoken`: randomised estimates speak of the touch (`logged.speak`). Months are those of the touches.
_DATED = """
create or replace temp table dated as
select c.method, c.channel, coalesce(o.action_id, '{unknown}') as action,
    coalesce(o.campaign, '{unknown}') as campaign, c.credit, strftime(t.touched_at, '%Y-%m') as month,
    coalesce(t.decision_id in (from spoken), false) as is_spoken {attributes}
from credited c join (select distinct on (touch_id) * from touches) t using (touch_id)
    left join offers o on o.treatment_id = c.treatment_id
    left join customers u on u.customer_id = c.customer_id
"""
_SUMMED = """
select method, {level} as item, {period} as period, {audience} as audience, sum(credit) as credited,
    coalesce(sum(credit) filter (is_spoken), 0) as compared
from dated group by all order by all
"""
_ITEMS = {
    "channel": "select distinct channel from dated order by 1",
    "action": "select distinct action_id from offers join decisions using (treatment_id) order by 1",
    "campaign": "select distinct campaign from offers join decisions using (treatment_id) order by 1",
}


def table(
    connection: duckdb.DuckDBPyConnection, whole: pa.Table, attributes: Sequence[str], level: float
) -> pa.Table:
    """Write the `attribution_parts` table.

    Args:
        connection: As `nba.attribution.report.build` leaves it: with `credited` and `spoken`.
        whole: The `attribution` table: by channel and of all customers these are its numbers, which also
            use holdouts of channels and the timing of touches.
        attributes: Columns of customers whose values part them.
        level: Confidence level.
    """
    named = "".join(f", {_label(name)} as {_quoted(name)}" for name in attributes)
    connection.execute(_DATED.format(unknown=NOT_OURS, attributes=named)).fetchall()
    rows = [_copied(row) for row in whole.to_pylist() if row["channel"] != WHOLE]
    for name in LEVELS:
        items = tuple(row[0] for row in connection.execute(_ITEMS[name]).fetchall())
        found = logged.read(connection, name, items)
        if name != "channel":
            rows += _against(connection, name, items, logged.over_time(found), level)
        for attribute in attributes:
            parts: Estimates = {}
            if found is not None:
                of_each = logged.by_audience(found, _audiences(connection, attribute, found.rows))
                parts = {(part, "margin"): caused for part, caused in of_each.items()}
            rows += _against(connection, name, items, parts, level, attribute)
    return tables.ATTRIBUTION_PARTS.build(rows)


def _against(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    items: tuple[str, ...],
    estimates: Estimates,
    level: float,
    attribute: str = "",
) -> Iterator[dict[str, Any]]:
    # Over time without an attribute; else the whole time of each part of the customers.
    columns = ("'all'", _quoted(attribute)) if attribute else ("month", "'all'")
    whole = [] if attribute else [("'all'", "'all'")]
    summed = [
        connection.sql(_SUMMED.format(level=name, period=period, audience=audience)).to_arrow_table()
        for period, audience in (columns, *whole)
    ]
    for row in pa.concat_tables(summed).to_pylist():
        key = row["audience"] if attribute else row["period"]
        found = against(estimates, (items, row["item"], key), row["compared"], np.nan, level)
        if row["item"] == NOT_OURS or (key, "margin") not in estimates:
            found["reason"] = _NEVER if row["item"] == NOT_OURS else "no decision whose window has closed"
        yield row | {"level": name} | _kept(found, row["compared"])


def _copied(row: Mapping[str, Any]) -> dict[str, Any]:
    own = {"level": "channel", "item": row["channel"], "audience": WHOLE}
    kept = {name: row[name] for name in ("method", "period", "credited", "compared")}
    return own | kept | _kept(row, row["compared"])


def _kept(found: Mapping[str, Any], compared: float | None) -> dict[str, Any]:
    names = ("incremental", "lower", "upper", "ratio", "warning", "source", "reason")
    kept = {name: found.get(name) for name in names}
    shares: dict[str, float | None] = {}
    for end, name in (("", "incremental"), ("_lower", "lower"), ("_upper", "upper")):
        value = kept[name]
        shares[f"incremental_share{end}"] = value / compared if compared and value is not None else None
    return kept | shares


def _audiences(connection: duckdb.DuckDBPyConnection, attribute: str, rows: pa.Table) -> Any:
    found = connection.sql(f"select customer_id, {_label(attribute)} from customers u").fetchall()
    of = dict(found)
    nobody = f"{attribute.removeprefix('a_')}=unknown"
    return np.array([of.get(name, nobody) for name in rows["customer_id"].to_pylist()], dtype=object)


def _label(attribute: str) -> str:
    name = attribute.removeprefix("a_").replace("'", "''")
    return f"'{name}=' || coalesce(u.{_quoted(attribute)}::varchar, 'unknown')"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
