"""New files added to a history without touching the rest of it.

Only customers whose identifiers stand in the new rows are resolved again, with all the combinations of
identifiers that reach them; rows of the new files are appended, and customers that turned out to be one
become aliases, which readers follow. What cannot be done that way is left to a full rebuild: corrected
rows, files that went or changed, new CRM files, an identifier newly shared by too many, customers who
fall apart, identifiers that turn out to have been a customer's for longer. The result is that of a full
rebuild from the same state, which a test holds it to.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nba import tables
from nba.histories import former, identity, parquet, quality, unify
from nba.histories.sources import literal
from nba.histories.staging import StagedFile, StagedSource
from nba.settings import Identity, Settings

MOST_FILES = 40
MOST_PENDING = 100_000
_MOST_ROUNDS = 6
_MOST_SHARE = 0.2


@dataclass(frozen=True)
class Added:
    """What new files add.

    Attributes:
        append: Table to the Parquet file with its new rows.
        replace: Table to the file that takes its place.
        quality: The quality table.
    """

    append: Mapping[str, Path]
    replace: Mapping[str, Path]
    quality: pa.Table


def new_files(staged: Sequence[StagedSource], before: pa.Table, now: pa.Table) -> list[StagedSource] | None:
    """Give the sources with their new files only; None where more has changed than new files.

    Args:
        staged: All sources of now.
        before: The `ingested` table of the history.
        now: The same of the files of now.
    """
    names = ("source", "file", "content_hash")
    old, all_now = ({tuple(row[n] for n in names) for row in t.to_pylist()} for t in (before, now))
    if not old or not old <= all_now:
        return None
    fresh = {(source, file) for source, file, _ in all_now - old}
    known = {(source, file) for source, file, _ in old}
    if fresh & known:
        return None
    out = []
    for one in staged:
        files = tuple(file for file in one.files if (one.source.name, file.name) in fresh)
        if files and (one.source.table == "customers" or one.source.aggregate):
            return None
        out.append(StagedSource(one.source, files))
    return out


def add(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[StagedSource],
    fresh: Sequence[StagedSource],
    settings: Settings,
    folder: Path,
    scans: Mapping[str, str],
    known: unify.Known,
    *,
    advance: Callable[[str], None] = lambda _: None,
) -> Added | None:
    """Make the files that add new raw files to a history.

    Args:
        connection: DuckDB in UTC, with the salt in use.
        staged: All sources.
        fresh: As `new_files` gives them.
        settings: Of the workspace.
        folder: Where files are written.
        scans: Table to what stands after `from` for it in the history.
        known: What the history knows.
        advance: Called with the name of each part that is done.

    Returns:
        None where a full rebuild is needed.
    """
    kinds = unify.kinds_of(staged, settings)
    if not _gather(connection, staged, fresh, kinds, scans, settings.identity):
        return None
    names = unify.names_of(staged)
    unify.look(connection, fresh, kinds, seen="seen_fresh", names=names)
    rules = identity.Rules(settings.identity, settings.matching, known.links)
    found = identity.resolve(connection, kinds, names, rules, "known_affected", known.aliases)
    if found.n_split or _cuts_changed(connection) or _dates_changed(connection):
        return None
    if _was_otherwise(connection, known.aliases, found, scans["identities_earlier"]):
        return None
    if found.merged and (_joins_told(connection, fresh, kinds) or _joins_corrected(connection, scans)):
        return None
    advance("identities")
    counts, append = quality.Counts(), {}
    unify.count(connection, fresh, counts, "seen_fresh")
    late = []
    for table in ("orders", "events", "touches"):
        if any(one.files and one.source.table == table for one in fresh):
            if _corrects(connection, table, scans[table]):
                return None
            append[table] = folder / f"{table}.parquet"
            unify.write_table(connection, table, fresh, append[table], counts)
            before = unify.earlier(append[table])
            if pq.read_metadata(before).num_rows:
                append[tables.EARLIER[table]] = before
            late.append(unify.orphans(connection, table, fresh))
        advance(table)
    replace = {name: folder / f"{name}.parquet" for name in ("customers", "aliases", "quality")}
    identities = folder / "identities.parquet"
    _write_identities(connection, identities)
    append["customers_earlier"] = folder / "customers_earlier.parquet"
    append["identities_earlier"] = folder / "identities_earlier.parquet"
    _write_former(connection, append, scans["customers"])
    if _seen_before(connection):
        replace["identities"] = folder / "identities_redated.parquet"
        _redate(connection, scans["identities"], identities, replace["identities"])
        # Whose they were is read off the rows that are written anew here.
        replace["identities_earlier"] = folder / "identities_earlier_redated.parquet"
        both = f"from {scans['identities_earlier']} union all by name from read_parquet("
        both += literal(str(append.pop("identities_earlier"))) + ")"
        parquet.copy(connection, both, replace["identities_earlier"], "snappy")
    else:
        append["identities"] = identities
    append["quarantine"] = folder / "quarantine.parquet"
    unify.write_quarantine(connection, fresh, late, append["quarantine"])
    aliases = unify.stepped(connection, _aliases(known.aliases, found))
    parquet.write_small(replace["aliases"], aliases)
    _write_customers(connection, replace["customers"], scans["customers"], kinds[0])
    advance("customers")
    counts.latest.update(unify.newest(staged))
    files = {"customers": replace["customers"], "identities": identities}
    measured = quality.grown(connection, staged, counts, files, known.quality, aliases.num_rows)
    parquet.write_small(replace["quality"], measured)
    return Added(append, replace, measured)


def _gather(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[StagedSource],
    fresh: Sequence[StagedSource],
    kinds: Sequence[str],
    scans: Mapping[str, str],
    settings: Identity,
) -> bool:
    """Make `seen`: new combinations, and the earlier ones that reach the same customers."""
    is_new = {(one.source.name, file.name) for one in fresh for file in one.files}
    old = [
        StagedSource(one.source, tuple(f for f in one.files if (one.source.name, f.name) not in is_new))
        for one in staged
    ]
    unify.look(connection, fresh, kinds, seen="seen_fresh", names=unify.names_of(staged))
    taken = sum(_n_combos(one.files) for one in fresh)
    unify.look(connection, old, kinds, seen="seen_old", names=unify.names_of(staged), after=taken)
    hashes = " union ".join(
        f"select '{kind}' as identifier_kind, replace(i_{kind}::varchar, '-', '') as identifier_hash,"
        f" i_{kind} as hash from {{seen}} where i_{kind} is not null"
        for kind in kinds
    )
    _run(connection, f"create or replace temp table wanted as {hashes.format(seen='seen_fresh')}")
    # The identities are millions, and each pass over them counts: one here, one for each round.
    _run(
        connection,
        f"""create or replace temp table wanted_known as
        select identifier_kind, identifier_hash, customer_id from {scans["identities"]}
        semi join wanted using (identifier_kind, identifier_hash)""",
    )
    _run(connection, "create or replace temp table affected as select distinct customer_id from wanted_known")
    total = connection.execute(f"select count(*) from {scans['customers']}").fetchall()[0][0]
    for _ in range(_MOST_ROUNDS):
        n = connection.execute("select count(*) from affected").fetchall()[0][0]
        if n > max(_MOST_SHARE * total, 1000):
            return False
        _reach(connection, kinds, scans, hashes)
        if not _grow(connection, scans):
            _with_shared(connection, kinds, settings)
            return True
    return False


def _n_combos(files: Sequence[StagedFile]) -> int:
    return sum(file.n_combos for file in files)


def _reach(
    connection: duckdb.DuckDBPyConnection, kinds: Sequence[str], scans: Mapping[str, str], hashes: str
) -> None:
    # All identifiers of the affected customers, all combinations that hold one, and all that stands there.
    _run(
        connection,
        f"""create or replace temp table known_affected as
        select k.* from {scans["identities"]} k semi join affected using (customer_id)""",
    )
    _run(
        connection,
        """create or replace temp table inside as
        select identifier_kind, identifier_hash, identifier_hash::uuid as hash from known_affected
        union select identifier_kind, identifier_hash, hash from wanted""",
    )
    held = " or ".join(
        f"i_{kind} in (select hash from inside where identifier_kind = '{kind}')" for kind in kinds
    )
    _run(connection, f"create or replace temp table seen_near as select * from seen_old where {held}")
    _run(connection, f"create or replace temp table near as {hashes.format(seen='seen_near')}")
    _run(
        connection,
        """create or replace temp table reached as
        select * from near anti join inside using (identifier_kind, identifier_hash)""",
    )


def _grow(connection: duckdb.DuckDBPyConnection, scans: Mapping[str, str]) -> int:
    # Other customers beside these, as links that were refused leave them.
    if not connection.execute("select count(*) from reached").fetchall()[0][0]:
        _run(connection, "create or replace temp table reached_known as from wanted_known limit 0")
        return 0
    _run(
        connection,
        f"""create or replace temp table reached_known as
        select identifier_kind, identifier_hash, customer_id from {scans["identities"]}
        semi join reached using (identifier_kind, identifier_hash)""",
    )
    grown = connection.execute(
        "insert into affected select distinct customer_id from reached_known"
        " anti join affected using (customer_id)"
    ).fetchall()
    return int(grown[0][0])


def _with_shared(connection: duckdb.DuckDBPyConnection, kinds: Sequence[str], settings: Identity) -> None:
    # Identifiers that are cut belong to nobody. That they are so shows only with all who share them: of
    # their other combinations, what stands beside the identifier is kept, and with what; nothing else.
    _run(
        connection,
        """create or replace temp table shared as
        select distinct identifier_kind, hash from reached
        anti join reached_known using (identifier_kind, identifier_hash)
        union
        select identifier_kind, hash from wanted
        anti join wanted_known using (identifier_kind, identifier_hash)
        semi join near using (identifier_kind, hash)""",
    )
    n = connection.execute("select count(*) from shared").fetchall()[0][0]
    _run(connection, "drop view if exists seen")
    parts = ["select * from seen_fresh", "select * from seen_near"]
    if n:
        held = " or ".join(
            f"i_{kind} in (select hash from shared where identifier_kind = '{kind}')" for kind in kinds
        )
        sharing = f"select * from seen_old where ({held}) and combo not in (select combo from seen_near)"
        _run(connection, f"create or replace temp table seen_sharing as {sharing}")
        parts += ["select * from seen_sharing", *_beside_shared(connection, kinds, settings)]
    _run(connection, f"create or replace temp table seen as {' union all by name '.join(parts)}")


def _beside_shared(
    connection: duckdb.DuckDBPyConnection, kinds: Sequence[str], settings: Identity
) -> list[str]:
    # Who shares a weak identifier counts by CRM id, which may stand in other rows of an e-mail.
    weak = [f"i_{kind} is not null" for kind in kinds if kind in settings.weak]
    personal = [kind for kind in kinds if kind in settings.personal]
    if not weak or not personal:
        return []
    unknown = f"i_{kinds[0]} is null and ({' or '.join(weak)})"
    named = (
        f"select i_{k} as hash from seen_sharing where {unknown} and i_{k} is not null" for k in personal
    )
    _run(connection, f"create or replace temp table sharing as {' union '.join(named)}")
    if not connection.execute("select count(*) from sharing anti join inside using (hash)").fetchall()[0][0]:
        return []
    held = " or ".join(f"i_{kind} in (from sharing)" for kind in personal)
    return [
        f"select * from seen_old where ({held}) and i_{kinds[0]} is not null"
        " and combo not in (select combo from seen_near union all select combo from seen_sharing)"
    ]


def _cuts_changed(connection: duckdb.DuckDBPyConnection) -> bool:
    # What was cut stays so, and nothing that names a customer is cut now.
    return bool(
        connection.execute(
            """with cut_now as (
                select identifier_kind, hash from cut join identifiers using (node)
                join kind_strength using (strength))
            select (select count(*) from shared anti join cut_now using (identifier_kind, hash))
                + (select count(*) from cut_now anti join shared using (identifier_kind, hash)
                    semi join inside using (identifier_kind, hash))"""
        ).fetchall()[0][0]
    )


def _joins_told(
    connection: duckdb.DuckDBPyConnection, staged: Sequence[StagedSource], kinds: Sequence[str]
) -> bool:
    # What files of customers say of the one that goes (consent, attributes, a CRM id) must be weighed against
    # what they say of the other.
    names = unify.names_of(staged)
    told = [str(names.index(one.source.name)) for one in staged if one.source.table == "customers"]
    if not told:
        return False
    held = " or ".join(
        f"i_{kind} in (select identifier_hash::uuid from known_affected"
        f" where identifier_kind = '{kind}' and customer_id in (select old from merged))"
        for kind in kinds
    )
    query = f"select count(*) from seen where source in ({', '.join(told)}) and ({held})"
    return bool(connection.execute(query).fetchall()[0][0])


def _joins_corrected(connection: duckdb.DuckDBPyConnection, scans: Mapping[str, str]) -> bool:
    # What was known of the one that goes, and corrected only later, was the other's in between.
    return any(
        connection.execute(
            f"select count(*) from {scans[before]} join merged on old = customer_id"
            " where superseded_at > since"
        ).fetchall()[0][0]
        for before in tables.EARLIER.values()
    )


def _was_otherwise(
    connection: duckdb.DuckDBPyConnection, past: pa.Table | None, found: identity.Resolution, scan: str
) -> bool:
    # What was whose before is read off rows that stand: those who go now had what was known of them. A CRM
    # id that turns out to have been theirs would be a fact of their own.
    gone = {row["customer_id"] for row in (past.to_pylist() if past is not None else [])}
    n_former = connection.execute("select count(*) from former").fetchall()[0][0]
    if not (found.merged or n_former or gone):
        return False
    columns = "identifier_kind, identifier_hash, customer_id, source, first_seen_at, joined_at, superseded_at"
    stood = f"""select {columns} from {scan}
            semi join known_affected using (identifier_kind, identifier_hash) union all
        select identifier_kind, identifier_hash, customer_id, source, first_seen_at, joined_at, since
        from known_affected join merged on old = customer_id where joined_at < since"""
    stands = f"select {columns} from ({former.identities()})"
    changed = connection.execute(
        f"""with stood as ({stood}), stands as ({stands}),
            again as (from stands semi join known_affected using (identifier_kind, identifier_hash))
        select (select count(*) from (from stood except from again))
            + (select count(*) from (from again except from stood))
            + (select count(*) from former_identity anti join inside using (hash) where strength = 0)"""
    ).fetchall()
    return bool(changed[0][0])


# Identifiers of the affected customers as they were known (k) and as they are now (i).
_THEN_AND_NOW = """known_affected k join kind_strength s using (identifier_kind)
        join identity i on i.strength = s.strength and i.hash = k.identifier_hash::uuid
        join source_place on place = i.sight & 1023"""
_IS_ROOT = "i.node in (select root from component_customer)"


def _dates_changed(connection: duckdb.DuckDBPyConnection) -> bool:
    # Rows on disk say since when they are known of their customer, and readers add since when that one is
    # another. An older root changes no row.
    changed = connection.execute(
        f"""select count(*) from {_THEN_AND_NOW} left join merged on old = k.customer_id
        where epoch_us(greatest(k.joined_at, since)) is distinct from i.joined and not {_IS_ROOT}"""
    ).fetchall()
    return bool(changed[0][0])


def _seen_before(connection: duckdb.DuckDBPyConnection) -> bool:
    # Rows that came late may tell of an earlier first sight.
    _run(
        connection,
        f"""create or replace temp table redated as
        select k.identifier_kind, k.identifier_hash, source_place.source as source_now,
            make_timestamptz(i.sight >> 10) as first_now,
            case when {_IS_ROOT} then make_timestamptz(i.joined) end as joined_now
        from {_THEN_AND_NOW} where epoch_us(k.first_seen_at) <> i.sight >> 10
            or k.source <> source_place.source""",
    )
    return bool(connection.execute("select count(*) from redated").fetchall()[0][0])


def _redate(connection: duckdb.DuckDBPyConnection, scan: str, added: Path, path: Path) -> None:
    parquet.copy(
        connection,
        f"""select * exclude (source_now, first_now, joined_now) replace (
            coalesce(source_now, source) as source, coalesce(first_now, first_seen_at) as first_seen_at,
            coalesce(joined_now, joined_at) as joined_at)
        from {scan} left join redated using (identifier_kind, identifier_hash)
        union all by name select * from read_parquet({literal(str(added))})""",
        path,
        "snappy",
    )


def _corrects(connection: duckdb.DuckDBPyConnection, table: str, scan: str) -> bool:
    key = tables.BY_NAME[table].key[0]
    found = connection.execute(
        f"select count(*) from (select {key} from {scan} semi join all_{table} a on a.key = {key} limit 1)"
    ).fetchall()
    return bool(found[0][0])


def _write_identities(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    rows = f"select f.* from ({identity.write(connection)}) f"
    parquet.copy(
        connection,
        f"{rows} anti join wanted_known using (identifier_kind, identifier_hash)"
        " semi join wanted using (identifier_kind, identifier_hash) order by all",
        path,
        "snappy",
    )


def _write_former(connection: duckdb.DuckDBPyConnection, paths: Mapping[str, Path], scan: str) -> None:
    # Those who go now, as they stood; and identifiers that are new, of whoever had them until then.
    parquet.copy(
        connection,
        f"""select c.*, until as superseded_at from {scan} c join former using (customer_id)
        semi join merged on old = customer_id order by customer_id""",
        paths["customers_earlier"],
    )
    parquet.copy(
        connection,
        f"""select f.* from ({former.identities()}) f
        anti join known_affected using (identifier_kind, identifier_hash)""",
        paths["identities_earlier"],
        "snappy",
    )


def _aliases(past: pa.Table | None, found: identity.Resolution) -> pa.Table:
    rows = {row["alias_id"]: row for row in (past.to_pylist() if past is not None else [])}
    for row in rows.values():
        if row["customer_id"] in found.merged:
            row["joined_at"] = unify.later(row["joined_at"], found.merged_at[row["customer_id"]])
            row["customer_id"] = found.merged[row["customer_id"]]
    for old, new in found.merged.items():
        told = {"customer_id": new, "joined_at": found.merged_at[old], "is_pending": True}
        rows[old] = {"alias_id": old, **told}
    return tables.ALIASES.build([rows[old] for old in sorted(rows)])


def _write_customers(connection: duckdb.DuckDBPyConnection, path: Path, scan: str, external: str) -> None:
    consent = ", ".join(f"coalesce(can_{channel}, false) as can_{channel}" for channel in tables.CHANNELS)
    _run(
        connection,
        f"""create or replace temp table person as
        with clear_now as (
            select i_{external} as hash, min(external) as clear from seen
            where external is not null group by 1),
        oldest as (
            select customer_no, arg_min(hash, (sight, node)) as hash from identity
            semi join inside using (hash) where strength = 0 group by 1)
        select customer_id, make_timestamptz(min(joined)) as joined_now,
            any_value(clear) as external_now
        from identity i semi join inside using (hash) join customer using (customer_no)
        left join (select customer_no, clear from oldest join clear_now using (hash)) using (customer_no)
        group by 1""",
    )
    parquet.copy(
        connection,
        f"""select customer_id, coalesce(external_now, external_id) as external_id,
            least(joined_at, joined_now) as joined_at, {consent},
            * exclude (customer_id, external_id, external_now, joined_at, joined_now,
                {", ".join(f"can_{channel}" for channel in tables.CHANNELS)})
        from (select * from {scan} where customer_id not in (select old from merged))
        full join person using (customer_id) order by customer_id""",
        path,
        "snappy",
    )


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    connection.execute(query).fetchall()
