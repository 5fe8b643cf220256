"""Rows of one key: lines summed, the last of several counts, and what had been known until it was.

All of it stands in the connection: `single` (rows with their customer, lines summed), `contested` (those
whose key may stand twice), `once` (one row per key) and `grown` (sums before their last line).
"""

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.histories import mapping, quality
from nba.histories.staging import StagedSource

UInts = NDArray[np.uint64]
_SUMMED = ("number", "count")
_PART = 16_000_000


def summed(table: str, staged: Sequence[StagedSource]) -> list[int]:
    """Give the sources of a table of which lines are summed."""
    return [s for s, one in enumerate(staged) if one.source.aggregate and one.source.table == table]


def once(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    fields: Sequence[tables.Field],
    summed: Sequence[int],
    counts: quality.Counts,
) -> None:
    """Make the view `once`: lines summed where the source says so, one row per key.

    Args:
        connection: Holds the views of `unify.look`, `owner` and `customer`.
        table: Of the contract.
        fields: Of its staged rows, besides the key.
        summed: Sources of which lines are summed.
        counts: To which duplicates are added.
    """
    _run(connection, f"create or replace temp view single as {_single(table, fields, summed)}")
    if summed:
        # Sums are wanted several times.
        _run(connection, "create or replace temp table summed_once as from single")
        _run(connection, "create or replace temp view single as from summed_once")
    if table in tables.EARLIER:
        _run(connection, f"create or replace temp table grown as {_grown(table, fields, summed)}")
    # Keys that may stand twice, by a short hash, so that all others need not be compared.
    repeated = _repeated(connection, "single" if summed else f"all_{table}")
    connection.register("repeated", pa.table({"h": repeated}))
    some = "where hash(key) in (from repeated)" if len(repeated) else "limit 0"
    _run(connection, f"create or replace temp table contested as select * from single {some}")
    connection.unregister("repeated")
    same = ", ".join(f"coalesce({f.name}::varchar, chr(1))" for f in fields)
    _run(
        connection,
        f"""create or replace temp table beaten as
        select source, file, row_number, key, customer_no, n_rows, content <> best as differs,
            source <> best_source and customer_no <> best_customer as clashes from (
            select *, first_value(content) over w as best, row_number() over w as place,
                first_value(source) over w as best_source,
                first_value(customer_no) over w as best_customer from (
                select *, md5(concat_ws('|', customer_id, {same})) as content
                from contested join customer using (customer_no))
            window w as (partition by key order by source desc, file desc, row_number desc))
        where place > 1""",
    )
    lost = connection.execute(
        "select source, sum(n_rows)::bigint, coalesce(sum(n_rows) filter (differs), 0)::bigint, count(*),"
        " coalesce(sum(n_rows) filter (clashes), 0)::bigint from beaten group by 1"
    ).fetchall()
    for source, n, differing, records, clashing in lost:
        counts.duplicates[source] = n
        counts.clashes[source] = clashing
        counts.conflicts[source] = differing
        counts.kept[source] = counts.kept.get(source, 0) - n
        counts.records[source] = counts.records.get(source, 0) - records
    for source in summed:
        n = connection.execute("select count(*) from single where source = $s", {"s": source}).fetchall()
        counts.records[source] = n[0][0] - sum(row[3] for row in lost if row[0] == source)
    but = "anti join beaten using (source, file, row_number, key, customer_no)" if lost else ""
    _run(connection, f"create or replace temp view once as select * from single {but}")


def _repeated(connection: duckdb.DuckDBPyConnection, rows: str) -> UInts:
    # Hashes of keys that stand more than once. In numpy: to sort them is several times faster than to group
    # by them. Part by part: keys are as many as rows.
    n = connection.execute(f"select count(*) from {rows}").fetchall()[0][0]
    parts = n // _PART + 1
    found = [np.zeros(0, np.uint64)]
    for part in range(parts):
        some = f" where h % {parts} = {part}" if parts > 1 else ""
        query = f"select h from (select hash(key) as h from {rows}){some}"
        h = np.sort(np.asarray(connection.execute(query).fetchnumpy()["h"], np.uint64))
        found.append(np.unique(h[1:][h[1:] == h[:-1]]))
    return np.concatenate(found)


def _single(table: str, fields: Sequence[tables.Field], summed: Sequence[int]) -> str:
    owned = (
        f"(select r.* exclude (combo), customer_no, reached_at from all_{table} r join owner using (combo)"
    )
    owned += " where customer_no is not null)"
    plain = f"select *, 1 as n_rows from {owned}"
    if not summed:
        return plain
    places = ", ".join(map(str, summed))
    lines = ", ".join(_line(f, table) for f in fields)
    known = f"coalesce(known_at, {mapping.TIMES[table]})"
    grows = f", min({known}) < max({known}) as is_grown" if table in tables.EARLIER else ""
    return f"""{plain} where source not in ({places}) union all by name
        select source, max(file) as file, max(row_number) as row_number, key, customer_no, {lines},
            null::timestamptz as reached_at, count(*) as n_rows{grows}
        from {_lines(owned, table)} where source in ({places})
        group by source, key, customer_no"""


def _lines(owned: str, table: str) -> str:
    # Each line was known when it was known of the customer.
    if table not in tables.EARLIER:
        return owned
    return f"(select * replace ({known_at(mapping.TIMES[table])} as known_at) from {owned})"


def _grown(table: str, fields: Sequence[tables.Field], summed: Sequence[int]) -> str:
    """Write the query of what was known of lines before the last of them: a row for each moment."""
    time = mapping.TIMES[table]
    if not summed:
        return f"select *, {time} as known from single limit 0"
    lines = ", ".join(_line(f, table, " over w") for f in fields)
    places = ", ".join(map(str, summed))
    owned = f"""(select r.* exclude (combo), customer_no, customer_no as now_no, reached_at,
            'infinity'::timestamptz as until
        from all_{table} r join owner using (combo) where source in ({places}) union all by name
        select r.* exclude (combo), customer_no, now_no, reached_at, until
        from all_{table} r join former_owner using (combo) where source in ({places}))"""
    # Each stands in the order of rows where the sum of now does; that of now is no earlier one.
    return f"""select source, last_file as file, last_row as row_number, key, customer_no,
            null::timestamptz as reached_at, known, {lines}
        from (select *, coalesce(known_at, {time}) as known from {_lines(owned, table)})
        join (
            select source, key, customer_no as now_no, file as last_file, row_number as last_row, is_grown
            from single where source in ({places})) using (source, key, now_no)
        where known < until and (is_grown or customer_no <> now_no)
        window w as (partition by source, key, customer_no order by known),
            whole as (partition by source, key, customer_no)
        qualify (known < max(known) over whole or customer_no <> now_no)
            and row_number() over (partition by source, key, customer_no, known) = 1"""


def _line(spec: tables.Field, table: str, over: str = "") -> str:
    name, time = spec.name, mapping.TIMES[table]
    if name == "is_return":
        return f"sum(revenue){over} < 0 as is_return"
    if spec.kind in _SUMMED:
        return f"(sum({name}){over})::{sql_type(spec.type)} as {name}"
    if name == time:
        return f"min({name}){over} as {name}"
    if name == "known_at":
        # A sum is known with the last of its lines.
        last = f"max(coalesce(known_at, {time})){over}"
        return (
            f"case when count(known_at){over} > 0 or {last} > min({time}){over} then {last} end as known_at"
        )
    return f"arg_max({name}, (file, row_number)){over} as {name}"


def earlier(connection: duckdb.DuckDBPyConnection, table: str, summed: Sequence[int]) -> str:
    """Give what stands after `from` for the versions of rows that were known until another took their place.

    Of the rows of one key that were known at a moment the last counts; so each holds from when it was known
    until the first moment at which one that stands after it is known. A row of a customer who went into
    another holds for that one until it is the other's.
    """
    time = mapping.TIMES[table]
    known = f"coalesce({known_at(time)}, {time}) as known"
    names = "source, file, row_number, key, customer_no, reached_at, known"
    fields = ", ".join(f.name for f in mapping.staged_fields(table))
    parts = []
    if connection.execute("select count(*) from former_owner").fetchall()[0][0]:
        single = f"and source not in ({', '.join(map(str, summed))})" if summed else ""
        _run(
            connection,
            f"""create or replace temp table changed_hands as select * from (
                select r.* exclude (combo), customer_no, reached_at, until, {known}
                from all_{table} r join former_owner using (combo))
            where known < until {single}""",
        )
        parts.append("changed_hands")
    if connection.execute("select count(*) from grown").fetchall()[0][0]:
        parts.append("grown")
    versions = f"select {names}, {fields} from (select *, {known} from contested)"
    if parts:
        held = " or ".join(f"key in (select key from {part})" for part in ("contested", *parts))
        versions = f"select {names}, {fields} from (select *, {known} from single where {held})"
        versions += "".join(f" union all by name select {names}, {fields} from {part}" for part in parts)
    return f"""(
            select * from (
                select *, min(known) over (
                    partition by key order by source desc, file desc, row_number desc, known desc
                    rows between unbounded preceding and 1 preceding) as superseded_at
                from ({versions}))
            where known < superseded_at)"""


def known_at(time: str) -> str:
    """Write since when a row is known: not before the identifier that it came through was the customer's."""
    return f"case when reached_at > greatest({time}, known_at) then reached_at else known_at end"


def sql_type(kind: pa.DataType) -> str:
    """Name a type of the contract in SQL."""
    names = {pa.float64(): "double", pa.int64(): "bigint", pa.bool_(): "boolean", tables.TIME: "timestamptz"}
    return names.get(kind, "varchar")


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    connection.execute(query).fetchall()
