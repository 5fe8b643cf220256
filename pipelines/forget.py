"""Forget a person: out of every table and staged file, in one commit."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nba import settings, tables
from nba.errors import MissingError
from nba.histories import forget as histories
from nba.histories import identifiers, matching
from nba.histories.staging import SUPPRESSED
from nba.history import FOLDER, History, connect
from nba.spill import Spill
from pipelines.ingest import CACHE, NEW


@dataclass(frozen=True)
class ForgetReport:
    """What was removed.

    Attributes:
        rows: Table to the number of rows that went.
        n_identifiers: Identifiers by which the person was known.
        n_staged: Staged files that will be read again without the person.
        delivered: Delivered batches that still name the person; they are orchestration's to delete.
    """

    rows: dict[str, int]
    n_identifiers: int
    n_staged: int
    delivered: tuple[str, ...]


def forget(workspace: Path, identifier: str, kind: str | None = None) -> ForgetReport:
    """Remove a person from every table of a workspace, and keep it from coming back with the raw files.

    Args:
        workspace: Folder of the workspace.
        identifier: Any identifier of the person, as anyone would write it.
        kind: Its kind; all kinds of the workspace if None.

    Raises:
        MissingError: when nobody is known by it; then nothing was changed.
        DataError: when several customers are, under several kinds; then nothing was changed either.
    """
    config = settings.read(workspace)
    history = History.read(workspace)
    history.paths("identities")
    kinds = sorted({k for source in config.sources for k in source.identifiers})
    countries = sorted({source.country for source in config.sources if "phone" in source.identifiers})
    passing = Spill(workspace / FOLDER, NEW)
    new = passing.path
    try:
        with connect(memory_gb=config.workspace.memory_gb, spill=new / "spill") as connection:
            identifiers.use_salt(connection, identifiers.salt(workspace))
            wanted = [kind] if kind else kinds
            digests = histories.named(connection, identifier, wanted, config.identity, countries)
            person = histories.find(history, digests)
            if person is None:
                person = histories.find_in_quarantine(history, digests, workspace / FOLDER / CACHE)
            if person is None:
                raise MissingError(
                    f"nobody in {workspace} is known by that identifier"
                    + (f" of kind {kind}" if kind else ""),
                    f"Kinds are {kinds}; write it as it stands in a source, and run `nba ingest` first.",
                )
            stones = histories.tombstones(connection, person.hashes)
            replaced, gone = histories.remaining(connection, history, person, new)
        staged = _commit(workspace, history, person, stones, replaced)
    finally:
        passing.close()
    delivered = _delivered(workspace / config.delivery.path, person)
    return ForgetReport(gone, len(person.hashes), len(staged), delivered)


def _commit(
    workspace: Path,
    history: History,
    person: histories.Person,
    tombstones: list[str],
    replaced: Mapping[str, Path],
) -> list[Path]:
    more: dict[str, pa.Table | Path] = dict(replaced)
    if history.has("quality"):
        more["quality"] = histories.recorded(history.table("quality"), person)
    held = history.table(SUPPRESSED)["tombstone"].to_pylist() if history.has(SUPPRESSED) else []
    stones = sorted({*held, *tombstones})
    more[SUPPRESSED] = tables.SUPPRESSED.build([{"tombstone": stone} for stone in stones])
    cache = workspace / FOLDER / CACHE
    staged = histories.staged_with(cache, person)
    more |= _quarantine(history, staged)
    # The staged files go first: should this be interrupted, they are read again with nothing lost.
    for folder in staged:
        shutil.rmtree(folder)
    matching.forget(cache)
    history.commit(replace=more).purge()
    return staged


def _quarantine(history: History, staged: list[Path]) -> dict[str, pa.Table]:
    # Raw rows in quarantine cannot be told by person once they are there, so those of the person's files go;
    # the next ingestion brings back the others.
    if not history.has("quarantine") or not staged or not history.has("ingested"):
        return {}
    keys = {folder.name for folder in staged}
    rows = history.table("ingested").to_pylist()
    files = {(r["source"], r["file"]) for r in rows if r["content_hash"].split("-")[0] in keys}
    kept = [r for r in history.table("quarantine").to_pylist() if (r["source"], r["file"]) not in files]
    # Without their entry these files count as new, and everything is unified again.
    left = [r for r in rows if (r["source"], r["file"]) not in files]
    return {"quarantine": tables.QUARANTINE.build(kept), "ingested": tables.INGESTED.build(left)}


def _delivered(folder: Path, person: histories.Person) -> tuple[str, ...]:
    found = set()
    for path in folder.glob("*/*.parquet"):
        names = pq.read_schema(path).names
        if "customer_id" in names:
            ids = set(pq.ParquetFile(path).read(["customer_id"])["customer_id"].to_pylist())
            if ids & set(person.customer_ids):
                found.add(path.parent.name)
    return tuple(sorted(found))
