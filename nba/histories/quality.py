"""What ingestion found: rows of each source, identities, consent and freshness, as rows of one table.

For each source, rows_in = rows_kept + quarantined + duplicates + passed_over (persons forgotten).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from nba import tables
from nba.histories.identity import Resolution
from nba.histories.sources import literal
from nba.histories.staging import StagedSource, reasons

IDENTITY = "identity"
CONSENT = "consent"
ATTRIBUTES = "attributes"
FORGOTTEN = "forgotten"
SALT = "salt"
EXTERNAL_CUT = "external_cut"
Row = tuple[str, str, float, str]


@dataclass
class Counts:
    """What became of the staged rows, by number of the source.

    Attributes:
        kept: Rows that count.
        orphaned: Rows without an identifier of their own.
        records: Rows in the table: fewer than kept where lines were summed.
        duplicates: Rows whose key a later row has.
        clashes: Those of them whose later row is another customer's, of another source: no correction.
        conflicts: Those of them that differ from the later row.
        latest: Time of the newest row kept.
        unfit: Attribute that is a number to its values that are none, and to all its values.
    """

    kept: dict[int, int] = field(default_factory=dict)
    orphaned: dict[int, int] = field(default_factory=dict)
    records: dict[int, int] = field(default_factory=dict)
    duplicates: dict[int, int] = field(default_factory=dict)
    clashes: dict[int, int] = field(default_factory=dict)
    conflicts: dict[int, int] = field(default_factory=dict)
    latest: dict[int, datetime] = field(default_factory=dict)
    unfit: dict[str, tuple[int, int]] = field(default_factory=dict)


def measure(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[StagedSource],
    counts: Counts,
    resolution: Resolution,
    files: Mapping[str, Path],
    *,
    n_merged: int,
    past: pa.Table | None = None,
) -> pa.Table:
    """Make the quality table.

    Args:
        connection: Any.
        staged: All sources.
        counts: What became of the staged rows.
        resolution: Who is who.
        files: The unified tables.
        n_merged: Customer ids that went into others, so far.
        past: The quality table of the run before, for what is counted up.
    """
    newest = max(counts.latest.values(), default=None)
    rows: list[Row] = []
    for number, one in enumerate(staged):
        rows += _source_rows(one, number, counts, newest)
    people = _people(connection, files["customers"])
    rows += _identity_rows(people, resolution, _named_in_clear(connection, resolution))
    rows.append((IDENTITY, SALT, 1.0, resolution.salt))
    n_split = resolution.n_split + value(past, IDENTITY, "splits")
    rows.append((IDENTITY, "splits", n_split, "customers, so far, whose identifiers no longer hang together"))
    rows.append((IDENTITY, "merges", n_merged, "customers, so far, that turned out to be another one"))
    rows += [_merged_now(n_merged, past), (IDENTITY, "split_now", resolution.n_split, "in this run")]
    for name, (n, of) in counts.unfit.items():
        note = f"{n} values that are no number, left blank; `attributes` under [workspace] tells what it is"
        rows.append((ATTRIBUTES, name, n / max(of, 1), note if n else ""))
    return _built([*rows, *_consent_rows(people), *_rows_of(past, FORGOTTEN)])


def grown(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[StagedSource],
    added: Counts,
    files: Mapping[str, Path],
    past: pa.Table,
    n_merged: int,
) -> pa.Table:
    """Make the quality table after new files were added to a history.

    What needs all customers at once (the largest, the share of identifiers that lead to an external id)
    stays as the last full run found it.

    Args:
        connection: Any.
        staged: All sources.
        added: What became of the new rows; `latest` of all rows.
        files: The new rows of `identities`, and the `customers` of now.
        past: The quality table before.
        n_merged: Customer ids that went into others, so far.
    """
    rows: list[Row] = []
    last = max(added.latest.values(), default=None)
    totals = Counts(latest=added.latest)
    for s, one in enumerate(staged):
        name = one.source.name
        for measure, was, now in (
            ("rows_kept", totals.kept, added.kept),
            ("records", totals.records, added.records),
            ("duplicates", totals.duplicates, added.duplicates),
            ("clashes", totals.clashes, added.clashes),
            ("conflicts", totals.conflicts, added.conflicts),
        ):
            was[s] = int(value(past, name, measure)) + now.get(s, 0)
        totals.orphaned[s] = one.n_rows - totals.kept[s] - totals.duplicates[s] - one.n_bad
        rows += _source_rows(one, s, totals, last)
    people = _people(connection, files["customers"])
    told = connection.execute(
        """select identifier_kind, count(*), count(external_id) from read_parquet($identities)
        left join read_parquet($customers) using (customer_id) group by 1 order by 1""",
        {"identities": str(files["identities"]), "customers": str(files["customers"])},
    ).fetchall()
    fresh = {kind: n for kind, n, _ in told}
    new: dict[str, float] = {
        "customers": people["customers"],
        "customers_known": people["known"],
        "merges": n_merged,
    }
    new |= {"merged_now": _merged_now(n_merged, past)[2], "split_now": 0.0}
    for row in past.to_pylist():
        if row["source"] == IDENTITY:
            measure = row["measure"]
            found = row["value"] + fresh.get(measure.removeprefix("identifiers_"), 0)
            rows.append((IDENTITY, measure, new.get(measure, found), row["note"]))
    known = {measure for source, measure, *_ in rows if source == IDENTITY}
    for kind, n, n_known in told:
        if f"identifiers_{kind}" not in known:  # the first of their kind
            rows += _kind_rows(kind, n, n_known)
    rows += _rows_of(past, ATTRIBUTES)  # files of customers are never new ones here
    return _built([*rows, *_consent_rows(people), *_rows_of(past, FORGOTTEN)])


def _merged_now(n_merged: int, past: pa.Table | None) -> Row:
    # Ids of persons who were forgotten have left.
    return IDENTITY, "merged_now", max(0.0, n_merged - value(past, IDENTITY, "merges")), "in this run"


def _rows_of(past: pa.Table | None, source: str) -> list[Row]:
    rows = past.to_pylist() if past is not None else []
    return [(r["source"], r["measure"], r["value"], r["note"]) for r in rows if r["source"] == source]


def _built(rows: Sequence[Row]) -> pa.Table:
    names = tables.QUALITY.columns
    return tables.QUALITY.build([dict(zip(names, row)) for row in rows])


def _consent_rows(people: Mapping[str, int]) -> list[Row]:
    n = people["customers"] or 1
    return [(CONSENT, f"can_{c}", people[f"can_{c}"] / n, "share of customers") for c in tables.CHANNELS]


def _people(connection: duckdb.DuckDBPyConnection, customers: Path) -> dict[str, int]:
    counted = ", ".join(
        ["count(*)", "count(external_id)", *(f"count(*) filter (can_{c})" for c in tables.CHANNELS)]
    )
    row = connection.execute(f"select {counted} from read_parquet({literal(str(customers))})").fetchall()[0]
    return dict(zip(["customers", "known", *(f"can_{c}" for c in tables.CHANNELS)], row))


def value(quality: pa.Table | None, source: str, measure: str) -> float:
    """Read one finding of a quality table; 0 where it is not there."""
    if quality is None:
        return 0.0
    rows = quality.filter((pc.field("source") == source) & (pc.field("measure") == measure))
    return float(rows["value"][0].as_py()) if rows.num_rows else 0.0


def _source_rows(one: StagedSource, number: int, counts: Counts, newest: datetime | None) -> list[Row]:
    name = one.source.name
    n_forgotten = sum(file.n_forgotten for file in one.files)
    n_bad = one.n_bad + counts.orphaned.get(number, 0)
    why = "; ".join(f"{reason} ({n})" for reason, n in reasons(one)[:5])
    conflicts = counts.conflicts.get(number, 0)
    clashes = counts.clashes.get(number, 0)
    clash = "rows lost, whose key another source gives another customer" if clashes else ""
    rows: list[Row] = [
        (name, "files", len(one.files), ""),
        (name, "rows_in", one.n_rows + n_forgotten, ""),
        (name, "passed_over", n_forgotten, "rows of persons who asked to be forgotten"),
        (name, "rows_kept", counts.kept.get(number, 0), ""),
        (name, "quarantined", n_bad, why),
        (name, "duplicates", counts.duplicates.get(number, 0), "rows whose key a later row has"),
        (name, "clashes", clashes, clash),
        (name, "conflicts", conflicts, "duplicates that differ from the later row" if conflicts else ""),
        (name, "records", counts.records.get(number, 0), f"rows of {one.source.table}"),
    ]
    for kind in one.source.identifiers:
        junk = sum(file.junk[kind] for file in one.files)
        rows.append((name, f"junk_{kind}", junk, "identifiers that name nobody" if junk else ""))
    latest = counts.latest.get(number)
    if latest is not None and newest is not None:
        behind = (newest - latest).total_seconds() / 86400
        rows.append((name, "days_behind", behind, f"newest row is of {latest:%Y-%m-%d %H:%M} UTC"))
    return rows


def _named_in_clear(connection: duckdb.DuckDBPyConnection, resolution: Resolution) -> dict[str, str]:
    # External ids that are cut: nobody could find them by their hash.
    digests = resolution.cut["identifier_hash"].to_pylist()
    query = """select replace(hash::varchar, '-', '') as digest, clear from clear
        where digest in (select unnest($digests))"""
    return dict(connection.execute(query, {"digests": digests}).fetchall()) if digests else {}


def _identity_rows(people: Mapping[str, int], resolution: Resolution, clear: Mapping[str, str]) -> list[Row]:
    sizes = ", ".join(map(str, resolution.largest))
    rows: list[Row] = [
        (IDENTITY, "customers", people["customers"], ""),
        (IDENTITY, "customers_known", people["known"], "with an id by which orchestration knows them"),
        (IDENTITY, "largest", max(resolution.largest, default=0), f"identifiers of the largest: {sizes}"),
        (IDENTITY, "links_refused", resolution.n_refused, "they would have joined two people"),
    ]
    if resolution.matched is not None:
        joined, against, p = resolution.matched
        told = f"customers joined by likeness alone, with a probability of {p:g} or more (Splink)"
        rows.append((IDENTITY, "matched", joined, told))
        rows.append((IDENTITY, "matches_refused", against, "they would have joined two people"))
    for kind, n in resolution.n_found.items():
        rows += _kind_rows(kind, n, resolution.n_known[kind])
    by_kind: dict[str, list[tuple[int, str]]] = {}
    for row in resolution.cut.to_pylist():
        by_kind.setdefault(row["identifier_kind"], []).append((-row["n_customers"], row["identifier_hash"]))
    for kind, shared in sorted(by_kind.items()):
        worst = ", ".join(f"{clear.get(digest, digest)} ({-n})" for n, digest in sorted(shared)[:3])
        note = f"shared by too many customers, so they link nobody; most shared: {worst}"
        rows.append((IDENTITY, f"cut_{kind}", len(shared), note))
    named = [
        f"{clear[row['identifier_hash']]} ({row['n_customers']})"
        for row in sorted(resolution.cut.to_pylist(), key=lambda row: -row["n_customers"])
        if row["identifier_hash"] in clear
    ]
    told = f"external ids that name several people, so they name nobody: {', '.join(named[:5])}"
    rows.append((IDENTITY, EXTERNAL_CUT, len(named), told if named else ""))
    return rows


def _kind_rows(kind: str, n: int, n_known: int) -> list[Row]:
    share = n_known / n if n else 0.0
    return [
        (IDENTITY, f"identifiers_{kind}", n, ""),
        (IDENTITY, f"linked_{kind}", share, "share that leads to an external id"),
    ]
