"""The features table: every feature of every customer, from what was known at a moment.

The only inputs are the views of a `Snapshot`, which hold nothing that happened or closed after as_of;
a feature is therefore point in time by construction. Each source is read once and aggregated by
customer; what comes out is laid beside the customers by their place, which costs less than a join of so
many columns and their sorting.

Attributes of customers (`a_*`, as the company names them) become features without looking at any
outcome: numbers and flags as they are; texts of up to `MAX_VALUES` values as one 0/1 feature per value
(`f_a_<attribute>_<value>`), which linear models and trees both read well; texts of more values as the
share of customers with a value who have the same one (`f_a_<attribute>_share`). Models match features by
name, so that a value seen later is ignored and one that is gone is unknown.

A company declares features of its own under `[[features]]` in the workspace's nba.toml, in the same words;
they are computed with the others, in training as in scoring. Where the catalog's treatments are known, so
are the time since the last decision for each action (`f_days_since_action_<action>`) and how the customer
answered each action and channel (`f_response_rate_action_<action>`, `f_response_rate_channel_<channel>`).
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from nba import settings, tables
from nba.errors import SettingsError
from nba.features import behaviour, contact, money, recency
from nba.features.feature import Feature, response_rate
from nba.history import Snapshot

FEATURES: tuple[Feature, ...] = (
    *recency.FEATURES,
    *money.FEATURES,
    *behaviour.FEATURES,
    *contact.FEATURES,
)
MAX_VALUES = 10
MAX_ACTIONS = 20
PART = 500_000  # customers whose features are computed at once
_WHO = "customers_of_part"
# Rates of responses are smoothed towards a usual one, with the weight of so many decisions.
_WEIGHT, _USUAL = 2, 0.1

# Rows of each source, with `age`: days from the row's time to as_of.
SOURCES: dict[str, str] = {
    "orders": "select *, {age:ordered_at} as age from orders",
    "events": "select *, {age:occurred_at} as age from events",
    "touches": "select *, {age:touched_at} as age from touches",
    "decisions": "select d.*, o.is_response, {age:decided_at} as age"
    " from decisions d left join outcomes o using (decision_id)",
    "customers": "select *, {age:joined_at} as age from customers left join ("
    "select customer_id, "
    + ", ".join(f"bool_or(channel = '{c}') as opted_out_{c}" for c in tables.CHANNELS)
    + " from touches where kind = 'unsubscribed' group by 1) using (customer_id)",
}


def build(snapshot: Snapshot, customer_ids: pa.Array | None = None) -> pa.Table:
    """Compute the features of all customers known at a moment.

    Args:
        snapshot: What was known; its moment becomes `as_of`.
        customer_ids: Only these customers; all if None.

    Returns:
        The `features` table: one row per customer, sorted by customer_id; features are float64, NaN
        where unknown.

    Raises:
        DataError: when the result breaks the contract.
        SettingsError: when a feature of the workspace's own cannot be computed.
    """
    features = _all(snapshot)
    wanted = "true"
    if customer_ids is not None:
        ids = customer_ids.combine_chunks() if isinstance(customer_ids, pa.ChunkedArray) else customer_ids
        snapshot.connection.register("wanted_customers", pa.table({"customer_id": ids}))
        wanted = "customer_id in (from wanted_customers)"
    try:
        parts = [_part(snapshot, features, part) for part in _parts(snapshot, wanted)]
    finally:
        if customer_ids is not None:
            snapshot.connection.unregister("wanted_customers")
    return tables.FEATURES.conform(pa.concat_tables(parts))


def query(snapshot: Snapshot) -> str:
    """Give one query of what `build` computes for all customers, in the SQL of DuckDB."""
    return _query(_all(snapshot), snapshot.at, "true")


def _all(snapshot: Snapshot) -> tuple[Feature, ...]:
    return (*FEATURES, *_own(snapshot), *_offers(snapshot), *_attributes(snapshot))


def _own(snapshot: Snapshot) -> tuple[Feature, ...]:
    # Declared in the workspace, so that training and scoring cannot differ.
    if not (snapshot.history.root / settings.FILE).is_file():
        return ()
    found = []
    taken = {f.name for f in FEATURES}
    for spec in settings.read(snapshot.history.root).features:
        absent = math.nan if spec.absent is None else spec.absent
        feature = Feature(spec.name, spec.unit, spec.doc, spec.source, spec.sql, absent)
        if spec.name in taken:
            raise SettingsError(f"feature {spec.name!r} is declared twice", "Give it a name of its own.")
        taken.add(spec.name)
        if told := _reaches_further(snapshot.connection, spec.sql):
            raise SettingsError(
                f"feature {spec.name!r} {told}; expected one expression over the rows of {spec.source}",
                "What else there is may not have been known at the moment; mend its sql or its source in"
                " nba.toml: `age` is the days from a row to that moment, `$at` the moment itself.",
            )
        try:
            snapshot.connection.execute(_query((feature,), snapshot.at, "false")).fetchall()
        except duckdb.Error as error:
            told = str(error).splitlines()[0]
            raise SettingsError(
                f"feature {spec.name!r} cannot be computed from {spec.source}: {told}",
                "Mend its sql in nba.toml; docs/own-data.md shows examples.",
            ) from None
        found.append(feature)
    return tuple(found)


def _reaches_further(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    # A query of its own could read tables as they are now, not as they were known.
    row = connection.execute("select json_serialize_sql($q)", {"q": f"select ({sql})"}).fetchall()[0]
    parsed = json.loads(row[0])
    if parsed["error"]:
        return f"is no expression: {parsed['error_message']}"
    nodes = [statement["node"] for statement in parsed["statements"]]
    if len(nodes) != 1 or len(nodes[0].get("select_list", ())) != 1:
        return "is more than one expression"
    if any(node.get("class") == "SUBQUERY" for node in _nodes(nodes[0]["select_list"])):
        return "holds a query of its own"
    changing = _changing(connection)
    found = sorted({name for node in _nodes(nodes[0]["select_list"]) if (name := _clock(node, changing))})
    return f"reads the clock, chance or the session: {', '.join(found)}" if found else ""


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(part)


# SQL's own words, which stand without brackets and read like columns.
_WORDS = {
    "current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "current_user",
    "current_role", "session_user", "user", "current_catalog", "current_schema",
}  # fmt: skip


def _changing(connection: duckdb.DuckDBPyConnection) -> set[str]:
    # Functions that may give another value for the same row, and macros that call one.
    rows = connection.execute(
        "select function_name, stability, macro_definition from duckdb_functions()"
        " where function_type in ('scalar', 'aggregate', 'macro')"
    ).fetchall()
    names = {name for name, stability, _ in rows if stability not in (None, "CONSISTENT")}
    words = names | _WORDS
    return names | {name for name, _, told in rows if told and words & set(re.findall(r"\w+", told.lower()))}


def _clock(node: Mapping[str, Any], changing: Set[str]) -> str:
    if node.get("class") == "COLUMN_REF":
        name = node["column_names"][-1].lower()
        return name if len(node["column_names"]) == 1 and name in _WORDS else ""
    name = str(node.get("function_name", "")).lower()
    # age() of one moment counts from today; what it is called on reads like its schema.
    if name == "age" and len(node["arguments"]) + (node["schema"] not in ("", "main")) < 2:
        return "age() of one moment"
    return f"{name}()" if name in changing else ""


def _offers(snapshot: Snapshot) -> list[Feature]:
    # Of each action and channel of the catalog: how long ago it was proposed, and what came of it.
    if not snapshot.history.has("treatments"):
        return []
    known = snapshot.history.table("treatments").select(["treatment_id", "action_id", "channel"]).to_pylist()
    out = []
    for level, column in (("action", "action_id"), ("channel", "channel")):
        members: dict[str, list[str]] = {}
        for row in sorted(known, key=lambda row: (row[column], row["treatment_id"])):
            members.setdefault(row[column], []).append(row["treatment_id"])
        taken: set[str] = set()
        for name in list(members)[:MAX_ACTIONS]:
            slug = re.sub(r"\W+", "_", name.lower()).strip("_")
            slug = slug if slug not in taken else f"{slug}_{len(taken)}"
            taken.add(slug)
            quoted = ", ".join(map(_literal, members[name]))
            given = f"treatment_id in ({quoted})"
            if level == "action":
                doc, sql = f"since the last decision for {name}", f"min(age) filter ({given})"
                out.append(Feature(f"f_days_since_action_{slug}", "days", doc, "decisions", sql))
            doc = f"responses per closed decision for {name}, smoothed towards {_USUAL}"
            sql = response_rate(given, _USUAL, _WEIGHT)
            out.append(Feature(f"f_response_rate_{level}_{slug}", "fraction", doc, "decisions", sql, _USUAL))
    return out


def describe(features: Iterable[Feature] = FEATURES) -> str:
    """Print the list of features, in Markdown (`docs/features.md` is this text).

    Example:
        >>> describe().splitlines()[0]
        '# Features'
    """
    head = (
        "# Features\n\nPrinted from `nba/features`; do not edit. Every feature is computed from what was"
        ' known at `as_of` and nothing later; "unknown" is NaN.\n\n'
        "| feature | unit | from | without rows | meaning |\n|---|---|---|---|---|\n"
    )
    rows = [
        f"| `{f.name}` | {f.unit} | {f.source} | {'unknown' if f.absent != f.absent else f'{f.absent:g}'}"
        f" | {f.doc} |"
        for f in features
    ]
    attributes = (
        "\n\nAttributes of customers (`a_*`): numbers and flags as they are (`f_a_<attribute>`); texts of up"
        f" to {MAX_VALUES} values as one 0/1 feature per value (`f_a_<attribute>_<value>`); texts of more"
        " values as the share of customers with the same value among those with any"
        " (`f_a_<attribute>_share`).\n\n"
        "Of the catalog's actions and channels: time since the last decision for an action,"
        " `f_days_since_action_<action>`, and responses per closed decision,"
        " `f_response_rate_action_<action>` and `f_response_rate_channel_<channel>`,"
        f" smoothed towards {_USUAL} with the weight of {_WEIGHT} decisions.\n\n"
        "Features of your own: `[[features]]` in nba.toml (see own-data.md).\n"
    )
    return head + "\n".join(rows) + attributes


def _parts(snapshot: Snapshot, wanted: str) -> list[str]:
    # Conditions on customers, PART at a time and in order: what is aggregated and joined then fits into
    # memory. Histories lie in order of customer, so that a part reads little but its own rows.
    n = snapshot.sql(f"select count(*) as n from customers where {wanted}")["n"][0].as_py()
    if n <= PART:
        return [wanted]
    # Ends of the parts from a sample that is always the same; they need not be equally large.
    some = snapshot.sql(
        f"select customer_id from customers where {wanted} and hash(customer_id) % {max(1, PART // 500)} = 0"
        " order by 1"
    )["customer_id"].to_pylist()
    n_parts = math.ceil(n / PART)
    first = sorted({some[len(some) * k // n_parts] for k in range(1, n_parts)}) if some else []
    ends = [_literal(name) for name in first]
    above = ["", *(f" and customer_id >= {end}" for end in ends)]
    below = [*(f" and customer_id < {end}" for end in ends), ""]
    return [wanted + low + high for low, high in zip(above, below)]


def _part(snapshot: Snapshot, features: Sequence[Feature], wanted: str) -> pa.Table:
    """Compute the features of some customers, source by source."""
    by_source = {source: [f for f in features if f.source == source] for source in SOURCES}
    own = by_source.pop("customers")
    listed = ", ".join(["customer_id", *map(_filled, own)])
    people = _by_customer("customers", own, wanted)
    found = snapshot.sql(
        _at(f"select {listed} from ({people}) where {wanted} order by customer_id", snapshot.at)
    )
    n = found.num_rows
    columns: dict[str, Any] = {f.name: found[f.name] for f in own}
    who = pa.table({"customer_id": found["customer_id"], "place": np.arange(n)})
    snapshot.connection.register(_WHO, who)
    try:
        for source, some in by_source.items():
            listed = ", ".join(["place", *map(_filled, some)])
            rows = _by_customer(source, some, wanted)
            told = snapshot.sql(
                _at(f"select {listed} from ({rows}) join {_WHO} using (customer_id)", snapshot.at)
            )
            place = told["place"].to_numpy()
            for f in some:
                values = np.full(n, f.absent)
                values[place] = told[f.name].to_numpy()
                columns[f.name] = values
    finally:
        snapshot.connection.unregister(_WHO)
    moment = pa.repeat(pa.scalar(snapshot.at, tables.TIME), n)
    ordered = {f.name: columns[f.name] for f in features}
    return pa.table({"customer_id": found["customer_id"], "as_of": moment, **ordered})


def _query(features: Iterable[Feature], at: datetime, wanted: str) -> str:
    features = tuple(features)
    parts, joins = [], []
    for source in SOURCES:
        own = [f for f in features if f.source == source]
        parts.append(f"by_{source} as ({_by_customer(source, own, wanted)})")
        if source != "customers":
            joins.append(f"left join by_{source} using (customer_id)")
    query = (
        f"with {', '.join(parts)} select customer_id, $at as as_of, {', '.join(map(_filled, features))}"
        f" from by_customers {' '.join(joins)} where {wanted} order by customer_id"
    )
    return _at(query, at)


def _by_customer(source: str, features: Sequence[Feature], wanted: str) -> str:
    # A window looks at all customers, whoever is wanted.
    over_all = source == "customers" and any(re.search(r"\bover\b", f.sql, re.I) for f in features)
    kept = "" if over_all else f" where {wanted}"
    grouped = "" if source == "customers" else " group by customer_id"
    listed = ", ".join(["customer_id", *(f'{_settled(f)} as "{f.name}"' for f in features)])
    return f"select {listed} from ({_with_age(SOURCES[source])}){kept}{grouped}"


def _filled(feature: Feature) -> str:
    return f'coalesce("{feature.name}", \'{feature.absent}\'::double) as "{feature.name}"'


def _at(query: str, at: datetime) -> str:
    return query.replace("$at", f"timestamptz '{at:%Y-%m-%d %H:%M:%S.%f}+00'")


# What stands before a bracket where the order of rows does not matter: functions and SQL's own words.
_EXACT = {
    "count", "min", "max", "arg_min", "arg_max", "bool_or", "bool_and", "coalesce", "nullif", "greatest",
    "least", "filter", "over", "where", "and", "or", "not", "in", "case", "when", "then", "else",
}  # fmt: skip


def _settled(feature: Feature) -> str:
    # Sums are rounded, so that the order in which threads add does not show.
    called = {name.lower() for name in re.findall(r"(\w+)\s*\(", feature.sql)}
    value = f"({feature.sql})::double"
    return value if called <= _EXACT else f"round({value}, 6)"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _with_age(rows: str) -> str:
    return re.sub(r"\{age:(\w+)\}", r"(epoch_us($at) - epoch_us(\1)) / 86400e6", rows)


def _attributes(snapshot: Snapshot) -> list[Feature]:
    schema = snapshot.sql("from customers limit 0").schema
    out = []
    for field in schema:
        if not field.name.startswith("a_"):
            continue
        column = f'"{field.name}"'
        if (
            pa.types.is_floating(field.type)
            or pa.types.is_integer(field.type)
            or pa.types.is_boolean(field.type)
        ):
            out.append(Feature(f"f_{field.name}", "as given", "attribute", "customers", column))
        else:
            out += _text_attribute(snapshot, field.name, column)
    return out


def _text_attribute(snapshot: Snapshot, name: str, column: str) -> list[Feature]:
    values = snapshot.sql(
        f"select {column}::varchar as value from customers where {column} is not null group by 1"
        f" order by 1 limit {MAX_VALUES + 1}"
    )["value"].to_pylist()
    if len(values) > MAX_VALUES:
        # Of those whose value is known: a visitor who turns out to be another customer counts for nobody.
        share = (
            f"case when {column} is not null"
            f" then count(*) over (partition by {column}) / count({column}) over () end"
        )
        return [Feature(f"f_{name}_share", "fraction", "customers alike", "customers", share)]
    out: list[Feature] = []
    taken: set[str] = set()
    for value in values:
        slug = re.sub(r"\W+", "_", value.lower()).strip("_") or "blank"
        slug = slug if slug not in taken else f"{slug}_{len(taken)}"
        taken.add(slug)
        flag = f"coalesce({column}::varchar = {_literal(value)}, false)"
        out.append(Feature(f"f_{name}_{slug}", "flag", f"is {value}", "customers", flag))
    return out
