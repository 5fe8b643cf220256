"""Deletion requests: a person leaves every table and every staged file, and does not come back.

The raw files are the company's own and stay; so that the next ingestion does not bring the person back,
one-way hashes of the forgotten identifiers are kept (a hash of the salted hash: it recognises an identifier
that comes again, and tells nothing by itself), and rows that carry one are passed over and only counted.

Aggregates stay honest because the person leaves numerators and denominators alike: assignments, decisions,
outcomes, orders and touches go together, so that every rate computed afterwards is of those who remain, in
each arm. How many persons were forgotten, and in which arms they were, stays in the quality table: arms that
lose unequal shares can be seen. Results that were computed before keep their numbers until they are
computed again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nba import tables
from nba.errors import DataError
from nba.histories import identifiers
from nba.histories.parquet import copy
from nba.histories.quality import FORGOTTEN
from nba.histories.sources import literal, quoted
from nba.history import FOLLOWING, History
from nba.settings import Identity


@dataclass(frozen=True)
class Person:
    """All by which a person is known.

    Attributes:
        customer_ids: The customer, and ids that went into it.
        hashes: Salted hashes of all identifiers.
        external_ids: Ids by which orchestration knows the customer.
        decision_ids: Decisions made for it.
        arms: Experiment and arm of each assignment.
    """

    customer_ids: tuple[str, ...]
    hashes: tuple[str, ...]
    external_ids: tuple[str, ...]
    decision_ids: tuple[str, ...]
    arms: tuple[tuple[str, str], ...]


def named(
    connection: duckdb.DuckDBPyConnection,
    text: str,
    kinds: Sequence[str],
    settings: Identity,
    countries: Sequence[str],
) -> dict[str, str]:
    """Hash an identifier under each kind that it may be of; gives hash to kind.

    Args:
        connection: DuckDB with the salt in use.
        text: The identifier, as anyone would write it.
        kinds: Kinds that it may be of.
        settings: How identifiers are normalised.
        countries: Of phone numbers without prefix; each is tried.
    """
    tried = [(kind, c) for kind in kinds for c in (countries if kind == "phone" else [""])]
    hashes = [(_hash(connection, kind, text, settings, c), kind) for kind, c in tried]
    return {digest: kind for digest, kind in hashes if digest is not None}


def find(history: History, digests: Mapping[str, str]) -> Person | None:
    """Find the person whom an identifier names; None where nobody is known by it.

    Args:
        history: Where to look.
        digests: As `named` gives them.

    Raises:
        DataError: when several customers are known by it, under several kinds.
    """
    found = history.sql(
        "select distinct identifier_kind as kind, customer_id from identities"
        " where identifier_hash in (select unnest($h)) order by all",
        {"h": list(digests)},
    )
    ids = set(found["customer_id"].to_pylist())
    if not ids:
        return None
    if len(ids) > 1:
        raise _several(f"{len(ids)} customers are known by that identifier", found["kind"].to_pylist())
    if history.has("aliases"):
        rows = history.table("aliases").to_pylist()
        ids |= {row["alias_id"] for row in rows if row["customer_id"] in ids}
    names = sorted(ids)

    def column(query: str) -> tuple[str, ...]:
        rows = history.sql(query, {"ids": names}).to_pylist()
        return tuple(str(row["x"]) for row in rows if row["x"] is not None)

    mine = "where customer_id in (select unnest($ids))"
    arms: tuple[tuple[str, str], ...] = ()
    if history.has("assignments"):
        rows = history.sql(
            f"select distinct experiment_id, arm from assignments {mine} order by all", {"ids": names}
        )
        arms = tuple((row["experiment_id"], row["arm"]) for row in rows.to_pylist())
    people = [name for name in ("customers", tables.BEFORE["customers"]) if history.has(name)]
    return Person(
        tuple(names),
        column(f"select identifier_hash as x from identities {mine} order by 1"),
        tuple(name for part in people for name in column(f"select external_id as x from {part} {mine}")),
        column(f"select decision_id as x from decisions {mine}") if history.has("decisions") else (),
        arms,
    )


def remaining(
    connection: duckdb.DuckDBPyConnection, history: History, person: Person, folder: Path
) -> tuple[dict[str, Path], dict[str, int]]:
    """Write the tables that hold the person, without it, and count the rows of each that go.

    Rows are found by any column that names a customer, an alias, an external id or a decision. Rows under ids
    that went into others are written as readers see them: what was whose is told by rows that would go.
    """
    told = {
        "customer_id": person.customer_ids,
        "alias_id": person.customer_ids,
        "external_id": person.external_ids,
        "decision_id": person.decision_ids,
    }
    for column, values in told.items():
        connection.register(f"gone_{column}", pa.table({"x": pa.array(values, pa.string())}))
    out, gone, follows = {}, {}, history.has_pending_aliases
    for name in history.files:
        rows = history.scan(name)
        columns = connection.sql(f"select * from {rows} limit 0").columns
        held = " or ".join(f"coalesce({quoted(c)} in (from gone_{c}), false)" for c in told if c in columns)
        n = connection.execute(f"select count(*) from {rows} where {held or 'false'}").fetchall()[0][0]
        if n:
            gone[name] = n
        if n or (follows and name in FOLLOWING):
            settled = " replace (false as is_pending)" if name == "aliases" else ""
            out[name] = folder / f"{name}.parquet"
            copy(connection, f"select *{settled} from {rows} where not ({held or 'false'})", out[name])
    return out, gone


def find_in_quarantine(history: History, digests: Mapping[str, str], cache: Path) -> Person | None:
    """Find a person who stands in rows in quarantine only, so that no customer is known by the identifier.

    Other identifiers of these rows are the person's too, unless they stand in rows that can be used. An
    identifier of such rows that names no customer is shared by too many, and nobody's.

    Args:
        history: Where nobody is known by it.
        digests: As `named` gives them.
        cache: Folder of staged files.

    Raises:
        DataError: when it is found under several kinds.
    """
    rows = [row for part in _parts(cache) for row in _held(part, digests)]
    mine = {digest for digest, _ in rows}
    if not rows or any(is_used for digest, is_used in rows if digest in digests):
        return None
    kinds = {digests[digest] for digest in mine & set(digests)}
    if len(kinds) > 1:
        raise _several("rows in quarantine hold that identifier under several kinds", kinds)
    others = mine - set(digests)
    used = {digest for part in _parts(cache) for digest, is_used in _held(part, others) if is_used}
    known = history.sql(
        "select identifier_hash from identities where identifier_hash in (select unnest($h))",
        {"h": sorted(others)},
    )
    return Person((), tuple(sorted(mine - used - set(known["identifier_hash"].to_pylist()))), (), (), ())


def staged_with(cache: Path, person: Person) -> list[Path]:
    """Give the staged files that hold the person; they must be read again without it."""
    return sorted({part.parent for part in _parts(cache) if _held(part, person.hashes)})


def _parts(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/combos-*.parquet"))


def _held(part: Path, hashes: Collection[str]) -> list[tuple[str, bool]]:
    # Of combinations that hold one of the hashes: all their hashes, and whether rows of theirs are used.
    kinds = [name for name in pq.read_schema(part).names if name.startswith("i_")]
    plain = ", ".join(f"replace({kind}::varchar, '-', '')" for kind in kinds)
    held = " or ".join(f"{kind} in (select unnest($h)::uuid)" for kind in kinds)
    with duckdb.connect() as connection:
        return connection.execute(
            f"""with held as (from read_parquet({literal(str(part))}) where {held}),
                told as (select unnest([{plain}]) as digest, n > 0 as is_used from held)
            from told where digest is not null""",
            {"h": sorted(hashes)},
        ).fetchall()


def tombstones(connection: duckdb.DuckDBPyConnection, hashes: Sequence[str]) -> list[str]:
    """Hash salted hashes once more, with the salt, so that they tell nothing of the person by themselves."""
    rows = connection.execute(
        f"select {identifiers.tombstone('h')} from (select unnest($h) as h) order by 1", {"h": list(hashes)}
    ).fetchall()
    return [digest for (digest,) in rows]


def recorded(past: pa.Table, person: Person) -> pa.Table:
    """Add a forgotten person to the quality table: how many, and in which arms."""
    rows = past.to_pylist()
    for measure in ("persons", *(f"arm {experiment}/{arm}" for experiment, arm in person.arms)):
        same = [row for row in rows if row["source"] == FORGOTTEN and row["measure"] == measure]
        if same:
            same[0]["value"] += 1
        else:
            note = "persons who asked to be forgotten, so far"
            rows.append({"source": FORGOTTEN, "measure": measure, "value": 1.0, "note": note})
    return tables.QUALITY.build(rows)


def _several(told: str, kinds: Collection[str]) -> DataError:
    return DataError(
        f"{told} ({', '.join(sorted(set(kinds)))}); nobody was forgotten",
        "Name its kind with --kind, and write a phone number with its prefix (+34...).",
    )


def _hash(
    connection: duckdb.DuckDBPyConnection, kind: str, text: str, settings: Identity, country: str
) -> str | None:
    if kind == "phone":
        number = identifiers.phones([text.strip()], country, settings.junk)[0]
        value, given = "t", number
    else:
        value, given = identifiers.normalised(kind, "t", settings), text.strip()
    rows = connection.execute(
        f"select replace({identifiers.hashed(kind, 'n')}::varchar, '-', '') from"
        f" (select {value} as n from (select $t::varchar as t))",
        {"t": given},
    ).fetchall()
    digest = rows[0][0]
    return None if digest is None else str(digest)
