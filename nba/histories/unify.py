"""Staged rows to one history: customers, identities, orders, events, touches, quarantine and quality.

Every row finds its customer by its strongest identifier that is not cut. Of rows with the same key the
last counts (files in order of name), so a corrected export takes the place of the earlier one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from nba import tables
from nba.histories import identity, mapping, quality
from nba.histories.sources import literal
from nba.histories.staging import StagedSource
from nba.settings import Settings

NAMES = ("customers", "identities", "orders", "events", "touches", "quarantine", "quality")
_SORT = {
    "orders": "customer_id, ordered_at, order_id",
    "events": "customer_id, occurred_at, event_id",
    "touches": "customer_id, touched_at, touch_id",
}
_SUMMED = ("number", "count")
_NUMBERED = pa.schema([("number", pa.int32()), ("name", pa.string())])
_FILES = pa.schema([("source", pa.int32()), ("file", pa.int32()), ("name", pa.string())])


@dataclass(frozen=True)
class Known:
    """What earlier runs found.

    Attributes:
        identities: The identities table; its customers keep their ids.
        quality: The quality table, for the merges that it remembers.
    """

    identities: pa.Table | None = None
    quality: pa.Table | None = None


def unify(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[StagedSource],
    settings: Settings,
    known: Known | None = None,
    *,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, pa.Table]:
    """Make one history of the staged rows of all sources.

    Args:
        connection: The one that the rows were staged with.
        staged: All sources.
        settings: Of the workspace.
        known: What earlier runs found; nothing gives new ids throughout.
        advance: Called with the name of each part that is done.

    Returns:
        The tables of `NAMES`, each as the contract has it; orders, events and touches in order of
        customer and time. The same whatever the order of sources' rows and files' discovery.
    """
    known = known or Known()
    kinds = identity.ranked(
        [settings.identity.external, *(k for one in staged for k in one.source.identifiers)],
        settings.identity.external,
    )
    for table in mapping.KEYS:
        _view(connection, table, staged, kinds)
    _seen(connection, staged, kinds)
    found = identity.resolve(connection, kinds, settings.identity, known.identities)
    connection.register("identity", found.identities)
    advance("identities")
    counts, late = quality.Counts(), []
    out = {"identities": found.identities}
    for table in mapping.KEYS:
        names = [f.name for f in mapping.staged_fields(table, _attributes(staged))]
        _own(connection, table, names, kinds, found.cut)
        late.append(_shared_only(connection, names, settings.identity.max_customers))
        _once(connection, table, staged, counts)
        if table == "customers":
            out[table] = _customers(connection, staged)
        else:
            columns = ", ".join(tables.BY_NAME[table].columns)
            rows = connection.sql(f"select {columns} from once order by {_SORT[table]}").to_arrow_table()
            out[table] = tables.BY_NAME[table].conform(rows)
        advance(table)
    out["quarantine"] = _quarantine(staged, late)
    out["quality"] = quality.measure(staged, out, counts, found, known.quality)
    return {name: out[name] for name in NAMES}


def _view(
    connection: duckdb.DuckDBPyConnection, table: str, staged: Sequence[StagedSource], kinds: Sequence[str]
) -> None:
    # All staged rows of a table: `source` and `file` by number, absent columns null.
    attributes = _attributes(staged)
    wanted = [
        *(f.name for f in mapping.staged_fields(table, attributes)),
        *(f"i_{k}" for k in kinds),
        "external",
    ]
    types = {f.name: f.type for f in mapping.staged_fields(table, attributes)}
    parts = []
    for s, one in enumerate(staged):
        if one.source.table != table:
            continue
        has = _columns(one, table)
        columns = ", ".join(
            name if name in has else f"null::{_sql(types.get(name, pa.string()))} as {name}"
            for name in wanted
        )
        for f, file in enumerate(one.files):
            if isinstance(file.rows, Path):
                rows = f"read_parquet({literal(str(file.rows))})"
            else:
                rows = f"file_{s}_{f}"
                connection.register(rows, file.rows)
            parts.append(f"select {s} as source, {f} as file, row_number, key, {columns} from {rows}")
    if not parts:
        empty = ", ".join(f"null::{_sql(types.get(name, pa.string()))} as {name}" for name in wanted)
        parts = [f"select 0 as source, 0 as file, 0::bigint as row_number, '' as key, {empty} limit 0"]
    _run(connection, f"create or replace temp view all_{table} as {' union all '.join(parts)}")


def _columns(one: StagedSource, table: str) -> set[str]:
    attributes = [name for name in _named(one) if name.startswith("a_")]
    fields = {f.name for f in mapping.staged_fields(table, attributes)}
    return fields | {f"i_{kind}" for kind in one.source.identifiers} | {"external"}


def _named(one: StagedSource) -> set[str]:
    return {*one.source.columns, *one.source.constants}


def _attributes(staged: Sequence[StagedSource]) -> list[str]:
    return sorted({name for one in staged for name in _named(one) if name.startswith("a_")})


def _sql(kind: pa.DataType) -> str:
    names = {pa.float64(): "double", pa.int64(): "bigint", pa.bool_(): "boolean", tables.TIME: "timestamptz"}
    return names.get(kind, "varchar")


def _seen(
    connection: duckdb.DuckDBPyConnection, staged: Sequence[StagedSource], kinds: Sequence[str]
) -> None:
    # Combinations of identifiers, each once for each source; and the CRM ids in clear.
    columns = ", ".join(f"i_{kind}" for kind in kinds)
    parts = " union all ".join(
        f"select {columns}, external, min({time}) as seen_at, source from all_{table} group by all"
        for table, time in mapping.TIMES.items()
    )
    names = pa.table({"number": range(len(staged)), "name": [one.source.name for one in staged]}, _NUMBERED)
    connection.register("source_name", names)
    _run(
        connection,
        f"""create or replace temp table seen as select s.* exclude (source), n.name as source
        from ({parts}) s join source_name n on s.source = n.number""",
    )
    _run(
        connection,
        f"""create or replace temp table clear as
        select i_{kinds[0]} as identifier_hash, min(external) as clear
        from seen where external is not null group by 1""",
    )


def _own(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    names: Sequence[str],
    kinds: Sequence[str],
    cut: pa.Table,
) -> None:
    # The customer of each row, by its strongest identifier that is not cut.
    connection.register("cut_now", cut)
    is_cut = set(cut["identifier_kind"].to_pylist())
    usable = ", ".join(
        f"case when i_{kind} not in (select identifier_hash from cut_now) then i_{kind} end"
        if kind in is_cut
        else f"i_{kind}"
        for kind in kinds
    )
    columns = ", ".join(["source", "file", "row_number", "key", *names])
    _run(
        connection,
        f"""create or replace temp table owned as
        select r.* exclude (own), customer_id
        from (select {columns}, coalesce({usable}) as own from all_{table}) r
        left join identity on identifier_hash = own""",
    )


def _shared_only(connection: duckdb.DuckDBPyConnection, names: Sequence[str], most: int) -> pa.Table:
    # Rows that nobody owns; their raw text is gone by now, so the contract's fields are kept.
    shown = ", ".join(["key", *names])
    rows = connection.sql(
        f"""select source, file, row_number, to_json(struct_pack({shown}))::varchar as raw
        from owned where customer_id is null order by all"""
    ).to_arrow_table()
    reason = f"no identifier of its own: each is shared by more than {most} customers"
    return rows.append_column("reason", pa.repeat(reason, rows.num_rows))


def _once(
    connection: duckdb.DuckDBPyConnection, table: str, staged: Sequence[StagedSource], counts: quality.Counts
) -> None:
    """Make the view `once`: lines summed where the source says so, one row per key."""
    fields = mapping.staged_fields(table, _attributes(staged))
    summed = [s for s, one in enumerate(staged) if one.source.aggregate and one.source.table == table]
    _run(connection, f"create or replace temp view single as {_single(table, fields, summed)}")
    same = ", ".join(f"coalesce({f.name}::varchar, chr(1))" for f in fields)
    _run(
        connection,
        f"""create or replace temp table beaten as
        select source, file, row_number, key, customer_id, n_rows, content <> best as differs from (
            select *, first_value(content) over w as best, row_number() over w as place from (
                select *, md5(concat_ws('|', customer_id, {same})) as content from single
                semi join (select key from single group by key having count(*) > 1) using (key))
            window w as (partition by key order by source desc, file desc, row_number desc))
        where place > 1""",
    )
    lost = connection.execute(
        "select source, sum(n_rows)::bigint, (sum(n_rows) filter (differs))::bigint from beaten group by 1"
    ).fetchall()
    for source, n, differing in lost:
        counts.duplicates[source] = n
        counts.conflicts[source] = differing or 0
    but = "anti join beaten using (source, file, row_number, key, customer_id)" if lost else ""
    _run(
        connection,
        f"create or replace temp view once as select key as {mapping.KEYS[table]}, * from single {but}",
    )
    kept = connection.execute(
        f"select source, sum(n_rows)::bigint, count(*), max({mapping.TIMES[table]}) from once group by 1"
    ).fetchall()
    for source, n, records, latest in kept:
        counts.kept[source], counts.records[source], counts.latest[source] = n, records, latest


def _single(table: str, fields: Sequence[tables.Field], summed: Sequence[int]) -> str:
    plain = "select *, 1 as n_rows from owned where customer_id is not null"
    if not summed:
        return plain
    places = ", ".join(map(str, summed))
    lines = ", ".join(_line(f, table) for f in fields)
    return f"""{plain} and source not in ({places}) union all by name
        select source, max(file) as file, max(row_number) as row_number, key, customer_id, {lines},
            count(*) as n_rows
        from owned where customer_id is not null and source in ({places})
        group by source, key, customer_id"""


def _line(spec: tables.Field, table: str) -> str:
    name = spec.name
    if name == "is_return":
        return "sum(revenue) < 0 as is_return"
    if spec.kind in _SUMMED:
        return f"sum({name})::{_sql(spec.type)} as {name}"
    if name == mapping.TIMES[table]:
        return f"min({name}) as {name}"
    return f"arg_max({name}, (file, row_number)) as {name}"


def _customers(connection: duckdb.DuckDBPyConnection, staged: Sequence[StagedSource]) -> pa.Table:
    places = [(s, f, file.name) for s, one in enumerate(staged) for f, file in enumerate(one.files)]
    source, file, name = zip(*places) if places else ((), (), ())
    connection.register("file_name", pa.table({"source": source, "file": file, "name": name}, _FILES))
    attributes = _attributes(staged)
    consent = [f"can_{channel}" for channel in tables.CHANNELS]
    picked = ", ".join(
        f"arg_max({column}, turn) as {column}" for column in [*consent, "timezone", *attributes]
    )
    shown = ", ".join(
        [
            *(f"coalesce({c}, false) as {c}" for c in consent),
            "timezone",
            *(_typed(connection, a) for a in attributes),
        ]
    )
    rows = connection.sql(
        f"""with crm as (
            select *, row_number() over (
                order by updated_at nulls first, name, joined_at, source, row_number) as turn
            from once left join file_name using (source, file)),
        latest as (select customer_id, {picked} from crm group by customer_id),
        first as (
            select customer_id, min(first_seen_at) as joined_at,
                arg_min(clear, (first_seen_at, identifier_hash)) as external_id
            from identity semi join identifiers using (identifier_hash)
            left join clear using (identifier_hash) group by customer_id)
        select customer_id, external_id, joined_at, {shown}
        from first left join latest using (customer_id) order by customer_id"""
    ).to_arrow_table()
    return tables.CUSTOMERS.conform(rows)


def _typed(connection: duckdb.DuckDBPyConnection, attribute: str) -> str:
    # A number where every value is one; 08001 is a code.
    number = "-?(0|[1-9]\\d{0,14})(\\.\\d+)?"
    told = connection.execute(
        f"select bool_and(regexp_full_match({attribute}, '{number}')) from once where {attribute} is not null"
    ).fetchall()
    return f"{attribute}::double as {attribute}" if told[0][0] else attribute


def _quarantine(staged: Sequence[StagedSource], late: Sequence[pa.Table]) -> pa.Table:
    parts = [tables.QUARANTINE.build([])]
    for one in staged:
        for file in one.files:
            n = file.quarantine.num_rows
            told = {"source": pa.repeat(one.source.name, n), "file": pa.repeat(file.name, n)}
            told |= {name: file.quarantine[name] for name in ("row_number", "reason", "raw")}
            parts.append(tables.QUARANTINE.conform(pa.table(told)))
    for rows in late:
        if rows.num_rows:
            numbers = list(zip(rows["source"].to_pylist(), rows["file"].to_pylist()))
            told = {
                "source": [staged[s].source.name for s, _ in numbers],
                "file": [staged[s].files[f].name for s, f in numbers],
                **{name: rows[name] for name in ("row_number", "reason", "raw")},
            }
            parts.append(tables.QUARANTINE.conform(pa.table(told)))
    order = [(name, "ascending") for name in ("source", "file", "row_number")]
    return tables.QUARANTINE.conform(pa.concat_tables(parts).sort_by(order).combine_chunks())


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    connection.execute(query).fetchall()
