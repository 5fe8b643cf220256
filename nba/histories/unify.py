"""Staged rows to one history: customers, identities, orders, events, touches, quarantine and quality.

Every row finds its customer by its strongest identifier that is not cut. Of rows with the same key the
last counts (files in order of name), so a corrected export takes the place of the earlier one; what had
been known until then is kept beside it (`<table>_earlier`), so that a look back sees it, and so is what was
whose until a customer went into another (`former`). A row that came through an identifier which became the
customer's only later is known since then (`known_at`). Nothing but
small findings comes into memory: DuckDB streams staged rows to the files of the commit, and spills.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from nba import tables
from nba.histories import former, identifiers, identity, mapping, persons, quality, versions
from nba.histories.parquet import copy, write_small
from nba.histories.staging import StagedSource
from nba.settings import Settings

NAMES = (
    "customers", "states", "identities", "orders", "events", "touches", "quarantine", "quality", "aliases",
    *tables.BEFORE.values(),
)  # fmt: skip
N_PARTS = len(mapping.KEYS) + 2
_FILES = pa.schema([("source", pa.int32()), ("file", pa.int32()), ("name", pa.string())])


@dataclass(frozen=True)
class Known:
    """What earlier runs found.

    Attributes:
        identities: What stands after `from` for the identities table; its customers keep their ids.
        quality: The quality table, for what it counts up.
        aliases: Customer ids that went into others so far.
        links: Pairs of identifiers that are alike, as `matching.links` gives them.
        attributes: Attribute of customers to `number` or `text`, as it was stored.
    """

    identities: str | None = None
    quality: pa.Table | None = None
    aliases: pa.Table | None = None
    links: pa.Table | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unified:
    """One history, as files.

    Attributes:
        files: Table of `NAMES` to the Parquet file that holds it.
        quality: The quality table.
        resolution: Who is who.
    """

    files: Mapping[str, Path]
    quality: pa.Table
    resolution: identity.Resolution


def unify(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[StagedSource],
    settings: Settings,
    folder: Path,
    known: Known | None = None,
    *,
    advance: Callable[[str], None] = lambda _: None,
) -> Unified:
    """Make one history of the staged rows of all sources.

    Args:
        connection: DuckDB in UTC, with the salt in use.
        staged: All sources.
        settings: Of the workspace.
        folder: Where the tables are written, one Parquet file each.
        known: What earlier runs found; nothing gives new ids throughout.
        advance: Called with the name of each part that is done.

    Returns:
        Each table as the contract has it; orders, events and touches in order of customer and time. The
        same whatever the order of sources' rows and files' discovery.
    """
    known = known or Known()
    files = {name: folder / f"{name}.parquet" for name in NAMES}
    kinds = kinds_of(staged, settings)
    look(connection, staged, kinds)
    rules = identity.Rules(settings.identity, settings.matching, known.links)
    found = identity.resolve(connection, kinds, names_of(staged), rules, known.identities, known.aliases)
    copy(connection, identity.write(connection), files["identities"], "snappy")
    copy(connection, former.identities(), files["identities_earlier"], "snappy")
    advance("identities")
    counts, late = quality.Counts(), []
    count(connection, staged, counts)
    for table in mapping.KEYS:
        if table == "customers":
            told = {**known.attributes, **settings.workspace.attributes}
            _write_persons(connection, staged, files, counts, told, settings)
        else:
            write_table(connection, table, staged, files[table], counts)
        late.append(orphans(connection, table, staged))
        advance(table)
    aliases = stepped(connection, _aliases(connection, known.aliases, found))
    write_small(files["aliases"], aliases)
    write_quarantine(connection, staged, late, files["quarantine"])
    advance("quarantine")
    measured = quality.measure(
        connection, staged, counts, found, files, n_merged=aliases.num_rows, past=known.quality
    )
    write_small(files["quality"], measured)
    return Unified(files, measured, found)


def kinds_of(staged: Sequence[StagedSource], settings: Settings) -> list[str]:
    """Order the identifier kinds of all sources from the strongest to the weakest."""
    external = settings.identity.external
    return identifiers.ranked([external, *(k for one in staged for k in one.source.identifiers)], external)


def names_of(staged: Sequence[StagedSource]) -> list[str]:
    """Names of the sources, sorted."""
    return sorted(one.source.name for one in staged)


def look(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[StagedSource],
    kinds: Sequence[str],
    *,
    seen: str = "seen",
    names: Sequence[str] = (),
    after: int = 0,
) -> None:
    """Make the views of all that is staged.

    These are the rows (`all_<table>`), the combinations of identifiers (`seen`), the external ids in clear
    (`clear`) and the names of files (`file_name`). Combinations get a number of their own across files.

    Args:
        connection: Where.
        staged: The sources and files.
        kinds: Identifier kinds, the strongest first.
        seen: Name of the view of combinations.
        names: Sources in order of name; those of `staged` where empty.
        after: Highest number that is taken.
    """
    places = [(s, f, file.name) for s, one in enumerate(staged) for f, file in enumerate(one.files)]
    source, file, name = zip(*places) if places else ((), (), ())
    connection.register("file_name", pa.table({"source": source, "file": file, "name": name}, _FILES))
    order = list(names) or names_of(staged)
    offset, combos = after, []
    rows: dict[str, list[str]] = {table: [] for table in mapping.KEYS}
    for s, one in enumerate(staged):
        table = one.source.table
        place = order.index(one.source.name)
        hashes = ", ".join(
            f"i_{kind}" if kind in one.source.identifiers else f"null::uuid as i_{kind}" for kind in kinds
        )
        columns = ", ".join(_columns(one, staged, table))
        for f, staged_file in enumerate(one.files):
            at = f"{s} as source, {f} as file, combo + {offset} as combo"
            combos.append(
                f"select {s} as source_no, {f} as file, combo + {offset} as combo, {hashes}, external,"
                f" seen_at, named_at, n, {place} as source from {staged_file.combos_sql} where n > 0"
            )
            rows[table].append(
                f"select {at}, row_number, key, {columns} from {staged_file.rows_sql} where reason is null"
            )
            offset += staged_file.n_combos
    nulls = ", ".join(f"null::uuid as i_{kind}" for kind in kinds)
    nothing = f"select 0 as source_no, 0 as file, 0::bigint as combo, {nulls}, null::varchar as external,"
    nothing += (
        " null::timestamptz as seen_at, null::timestamptz as named_at, 0::bigint as n, 0 as source limit 0"
    )
    _run(connection, f"create or replace temp view {seen} as {' union all '.join(combos) or nothing}")
    for kept, parts in rows.items():
        union = " union all ".join(parts) or _no_rows(kept, staged)
        _run(connection, f"create or replace temp view all_{kept} as {union}")
    clear = f"select i_{kinds[0]} as hash, min(external) as clear from {seen}"
    clear += " where external is not null group by 1"
    _run(connection, f"create or replace temp view clear as {clear}")


def _columns(one: StagedSource, staged: Sequence[StagedSource], table: str) -> list[str]:
    own = [name for name in _named(one) if name.startswith("a_")]
    has = {f.name for f in mapping.staged_fields(table, own)}
    fields = mapping.staged_fields(table, _attributes(staged))
    return [f.name if f.name in has else f"null::{versions.sql_type(f.type)} as {f.name}" for f in fields]


def _no_rows(table: str, staged: Sequence[StagedSource]) -> str:
    fields = mapping.staged_fields(table, _attributes(staged))
    nulls = ", ".join(f"null::{versions.sql_type(f.type)} as {f.name}" for f in fields)
    return (
        "select 0 as source, 0 as file, 0::bigint as combo, 0::bigint as row_number, '' as key,"
        f" {nulls} limit 0"
    )


def _named(one: StagedSource) -> set[str]:
    return {*one.source.columns, *one.source.constants}


def _attributes(staged: Sequence[StagedSource]) -> list[str]:
    return sorted({name for one in staged for name in _named(one) if name.startswith("a_")})


def write_table(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    staged: Sequence[StagedSource],
    path: Path,
    counts: quality.Counts,
) -> None:
    """Write orders, events or touches: rows with their customer, lines summed, one row per key.

    Beside it stands what was known before of its rows, as `<table>_earlier`; see `earlier`.
    """
    time = mapping.TIMES[table]
    summed = versions.summed(table, staged)
    versions.once(connection, table, mapping.staged_fields(table), summed, counts)
    copy(connection, _with_customer(tables.BY_NAME[table], "once", time), path)
    rows = versions.earlier(connection, table, summed)
    before = _with_customer(tables.BY_NAME[tables.EARLIER[table]], rows, time, "anyone")
    copy(connection, before, earlier(path))


def earlier(path: Path) -> Path:
    """Give the file of what was known before of the rows of a table, which stands beside the table's."""
    return path.with_stem(f"{path.stem}_earlier")


def _with_customer(contract: tables.Table, rows: str, time: str, people: str = "customer") -> str:
    key = contract.key[0]
    names = ", ".join(f.name for f in contract.fields if f.name not in ("customer_id", key, "known_at"))
    return f"""select {", ".join(contract.columns)} from (
            select key as {key}, customer_id, customer_no, {names}, {versions.known_at(time)} as known_at
            from {rows} join {people} using (customer_no))
        order by customer_no, {time}, {", ".join(contract.key)}"""


def _write_persons(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[StagedSource],
    files: Mapping[str, Path],
    counts: quality.Counts,
    told: Mapping[str, str],
    settings: Settings,
) -> None:
    attributes = _attributes(staged)
    fields = mapping.staged_fields("customers", attributes)
    versions.once(connection, "customers", fields, versions.summed("customers", staged), counts)
    _run(connection, f"create or replace temp view once_former as {persons.TOLD_FORMER}")
    persons.records(connection, settings.identity.external)
    purposes = [one.column for one in settings.engagement.purposes]
    kinds = persons.kinds(connection, attributes, told, purposes)
    counts.unfit.update({name: (kind.n_unfit, kind.n) for name, kind in kinds.items() if kind.is_number})
    copy(connection, persons.customers(kinds), files["customers"])
    copy(connection, persons.customers_earlier(kinds), files["customers_earlier"])
    if any("updated_at" in _named(one) for one in staged):
        copy(connection, persons.states(kinds), files["states"])
    else:
        write_small(files["states"], tables.STATES.empty())


def orphans(connection: duckdb.DuckDBPyConnection, table: str, staged: Sequence[StagedSource]) -> pa.Table:
    """Give the rows that nobody owns, as `write_quarantine` wants them."""
    # Their raw text is gone by now, so the contract's fields are kept.
    shown = ", ".join(["key", *(f.name for f in mapping.staged_fields(table, _attributes(staged)))])
    rows = connection.sql(
        f"""select source, file, row_number, to_json(struct_pack({shown}))::varchar as raw
        from all_{table} semi join (select combo from owner where customer_no is null) using (combo)
        order by all"""
    ).to_arrow_table()
    reason = "no identifier of its own: each is shared by too many customers"
    return rows.append_column("reason", pa.repeat(reason, rows.num_rows))


def _aliases(
    connection: duckdb.DuckDBPyConnection, past: pa.Table | None, found: identity.Resolution
) -> pa.Table:
    # A chain of merges ends at the customer of now.
    if not found.merged and not (past and past.num_rows):
        return tables.ALIASES.empty()
    alive = connection.sql("select customer_id from customer").to_arrow_table()["customer_id"].to_pylist()
    return follow(_dated(connection, past), found.merged, found.merged_at, set(alive))


def stepped(connection: duckdb.DuckDBPyConnection, aliases: pa.Table) -> pa.Table:
    """Say of aliases what each went into first, and when: as it is known now, else as it was."""
    now, rows = former.went(connection), aliases.to_pylist()
    for row in rows:
        told = now.get(row["alias_id"])
        if told is not None:
            row["next_id"], row["next_at"] = told
        elif row["next_id"] is None:
            row["next_id"], row["next_at"] = row["customer_id"], row["joined_at"]
    return tables.ALIASES.build(rows)


def _dated(connection: duckdb.DuckDBPyConnection, past: pa.Table | None) -> pa.Table | None:
    # Aliases of earlier versions tell no date: they get that of the identifier that they are named after.
    rows = past.to_pylist() if past is not None else []
    undated = [row["alias_id"] for row in rows if row.get("joined_at") is None]
    if not undated:
        return past
    connection.register("undated", pa.table({"name": pa.array(undated, pa.string())}))
    found = connection.execute(
        """select name, make_timestamptz(min(joined)) from (
            select 'c' || left(replace(hash::varchar, '-', ''), 20) as name, joined from identity)
        semi join undated using (name) group by 1"""
    ).fetchall()
    connection.unregister("undated")
    since = dict(found)
    for row in rows:
        if row.get("joined_at") is None:
            row["joined_at"] = since.get(row["alias_id"])
    return tables.ALIASES.build(rows)


def follow(
    past: pa.Table | None, merged: Mapping[str, str], merged_at: Mapping[str, datetime], alive: set[str]
) -> pa.Table:
    """Give the aliases of now: earlier ones and new ones, each to the customer at the end of its chain.

    It is that customer since the last link of the chain was made.

    Args:
        past: The aliases before.
        merged: Customer to the one that it went into now.
        merged_at: The same to since when.
        alive: Customers of now.
    """
    rows = past.to_pylist() if past else []
    known = {row["alias_id"]: row for row in rows}
    into = {row["alias_id"]: row["customer_id"] for row in rows} | dict(merged)
    since = {row["alias_id"]: row.get("joined_at") for row in rows} | dict(merged_at)
    found = []
    for old in sorted(into):
        new, at = into[old], since[old]
        while new not in alive and new in into:
            new, at = into[new], later(at, since[new])
        if old not in alive:
            told = {"customer_id": new, "joined_at": at, "is_pending": False}
            found.append({**known.get(old, {}), "alias_id": old, **told})
    return tables.ALIASES.build(found)


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    """Give the later of two moments; None is always."""
    return max((at for at in (one, other) if at is not None), default=None)


def write_quarantine(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[StagedSource],
    late: Sequence[pa.Table],
    path: Path,
) -> None:
    """Write the rows in quarantine: those that could not be read, and those that nobody owns."""
    parts = [f"select {s} as source, {f} as file, row_number, reason, raw from {file.rows_sql}"
             " where reason is not null"
             for s, one in enumerate(staged) for f, file in enumerate(one.files) if file.n_bad]  # fmt: skip
    if late:
        connection.register("orphan", pa.concat_tables(late))
        parts.append("select source, file, row_number, reason, raw from orphan")
    nothing = "select 0 as source, 0 as file, 0::bigint as row_number, '' as reason, '' as raw limit 0"
    names = pa.table({"source": range(len(staged)), "source_name": [one.source.name for one in staged]})
    connection.register("source_name", names)
    copy(
        connection,
        f"""select source_name as source, name as file, row_number, reason, raw
        from ({" union all ".join(parts) or nothing}) q
        join source_name using (source) join file_name using (source, file)
        order by 1, 2, 3, 4""",
        path,
    )


def count(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[StagedSource],
    counts: quality.Counts,
    seen: str = "seen",
) -> None:
    """Count what each source gives before duplicates are known, and its newest row."""
    rows = connection.execute(
        f"""select source_no, coalesce(sum(n) filter (customer_no is not null), 0)::bigint,
            coalesce(sum(n) filter (customer_no is null), 0)::bigint
        from {seen} join owner using (combo) group by 1"""
    ).fetchall()
    for source, n, orphaned in rows:
        counts.kept[source] = counts.records[source] = n
        counts.orphaned[source] = orphaned
    counts.latest.update(newest(staged))


def newest(staged: Sequence[StagedSource]) -> dict[int, datetime]:
    """Give the time of the newest usable row of each source, by its number."""
    out = {}
    for s, one in enumerate(staged):
        found = [file.latest for file in one.files if file.latest is not None]
        if found:
            out[s] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=max(found))
    return out


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    connection.execute(query).fetchall()
