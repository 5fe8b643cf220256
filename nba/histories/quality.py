"""What ingestion found: rows of each source, identities, consent and freshness, as rows of one table.

For each source, rows_in = rows_kept + quarantined + duplicates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from nba import tables
from nba.histories.identity import Resolution
from nba.histories.staging import StagedSource, reasons

IDENTITY = "identity"
CONSENT = "consent"
MERGED = "merged "
SALT = "salt"
Row = tuple[str, str, float, str]


@dataclass
class Counts:
    """What became of the staged rows, by number of the source.

    Attributes:
        kept: Rows that count.
        records: Rows in the table: fewer than kept where lines were summed.
        duplicates: Rows whose key a later row has.
        conflicts: Those of them that differ from the later row.
        latest: Time of the newest row kept.
    """

    kept: dict[int, int] = field(default_factory=dict)
    records: dict[int, int] = field(default_factory=dict)
    duplicates: dict[int, int] = field(default_factory=dict)
    conflicts: dict[int, int] = field(default_factory=dict)
    latest: dict[int, datetime] = field(default_factory=dict)


def measure(
    staged: Sequence[StagedSource],
    found: Mapping[str, pa.Table],
    counts: Counts,
    resolution: Resolution,
    past: pa.Table | None = None,
) -> pa.Table:
    """Make the quality table.

    Args:
        staged: All sources.
        found: The unified tables.
        counts: What became of the staged rows.
        resolution: Who is who.
        past: The quality table of the run before; merges that it tells are told again, since decisions
            may name the ids that went.
    """
    quarantined = found["quarantine"].group_by("source").aggregate([([], "count_all")])
    n_bad = dict(zip(quarantined["source"].to_pylist(), quarantined["count_all"].to_pylist()))
    newest = max(counts.latest.values(), default=None)
    rows: list[Row] = []
    for number, one in enumerate(staged):
        rows += _source_rows(one, number, counts, n_bad.get(one.source.name, 0), newest)
    rows += _identity_rows(found, resolution)
    rows.append((IDENTITY, SALT, 1.0, resolution.salt))
    n_split = resolution.n_split + value(past, IDENTITY, "splits")
    rows.append((IDENTITY, "splits", n_split, "customers, so far, whose identifiers no longer hang together"))
    into = _merged_rows(found["identities"], resolution, past)
    rows.append((IDENTITY, "merges", len(into), "customers, so far, that turned out to be another one"))
    rows += into
    rows += _consent_rows(found["customers"])
    names = tables.QUALITY.columns
    return tables.QUALITY.build([dict(zip(names, row)) for row in rows])


def merged(quality: pa.Table | None) -> dict[str, str]:
    """Read which customer ids went into which, from a quality table."""
    if quality is None:
        return {}
    rows = zip(quality["measure"].to_pylist(), quality["note"].to_pylist())
    return {measure.removeprefix(MERGED): note for measure, note in rows if measure.startswith(MERGED)}


def value(quality: pa.Table | None, source: str, measure: str) -> float:
    """Read one finding of a quality table; 0 where it is not there."""
    if quality is None:
        return 0.0
    rows = quality.filter((pc.field("source") == source) & (pc.field("measure") == measure))
    return float(rows["value"][0].as_py()) if rows.num_rows else 0.0


def _source_rows(
    one: StagedSource, number: int, counts: Counts, n_bad: int, newest: datetime | None
) -> list[Row]:
    name = one.source.name
    why = "; ".join(f"{reason} ({n})" for reason, n in reasons(one)[:5])
    conflicts = counts.conflicts.get(number, 0)
    rows: list[Row] = [
        (name, "files", len(one.files), ""),
        (name, "rows_in", one.n_rows, ""),
        (name, "rows_kept", counts.kept.get(number, 0), ""),
        (name, "quarantined", n_bad, why),
        (name, "duplicates", counts.duplicates.get(number, 0), "rows whose key a later row has"),
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


def _identity_rows(found: Mapping[str, pa.Table], resolution: Resolution) -> list[Row]:
    customers = found["customers"]
    known = customers.num_rows - customers["external_id"].null_count
    rows: list[Row] = [
        (IDENTITY, "customers", customers.num_rows, ""),
        (IDENTITY, "customers_known", known, "customers with an id by which orchestration knows them"),
        (IDENTITY, "largest", resolution.n_largest, "identifiers of the largest customer"),
    ]
    rows += [(IDENTITY, f"identifiers_{kind}", n, "") for kind, n in resolution.n_found.items()]
    by_kind: dict[str, list[tuple[int, str]]] = {}
    for row in resolution.cut.to_pylist():
        by_kind.setdefault(row["identifier_kind"], []).append((-row["n_customers"], row["identifier_hash"]))
    for kind, shared in sorted(by_kind.items()):
        worst = ", ".join(f"{digest} ({-n})" for n, digest in sorted(shared)[:3])
        note = f"shared by too many customers, so they link nobody; most shared: {worst}"
        rows.append((IDENTITY, f"cut_{kind}", len(shared), note))
    return rows


def _merged_rows(identities: pa.Table, resolution: Resolution, past: pa.Table | None) -> list[Row]:
    alive = set(pc.unique(identities["customer_id"]).to_pylist())
    into = {**merged(past), **resolution.merged}
    rows: list[Row] = []
    for old in sorted(into):
        new = into[old]
        while new not in alive and new in into:
            new = into[new]
        if old not in alive:
            rows.append((IDENTITY, f"{MERGED}{old}", 1.0, new))
    return rows


def _consent_rows(customers: pa.Table) -> list[Row]:
    rows: list[Row] = []
    n = customers.num_rows
    for channel in tables.CHANNELS:
        share = (pc.sum(customers[f"can_{channel}"]).as_py() or 0) / n if n else 0.0
        rows.append((CONSENT, f"can_{channel}", share, "share of customers"))
    return rows
