"""Ingest: raw sources to one history, in one commit."""

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as changed
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from nba import settings, tables
from nba.errors import SettingsError, listed
from nba.histories import (
    assess,
    former,
    identifiers,
    identity,
    incremental,
    matching,
    naming,
    persons,
    quality,
    staging,
    unify,
    versions,
)
from nba.histories.staging import StagedSource
from nba.history import FOLDER, History, connect, replace_text
from nba.settings import Settings
from nba.spill import Spill
from pipelines.progress import Advance, Progress, silent

CACHE = ".cache"
NEW = ".new-"  # how the folders begin in which the next version is made
REPORT = "quality.html"
FAULT = "FAULT"  # how findings begin of a source that cannot be used
_CHECK_SALT = "only for a look, never stored"


@dataclass(frozen=True)
class IngestReport:
    """What an ingestion found.

    Attributes:
        version: Version of the history after it.
        is_changed: Whether it wrote anything; the same files over again change nothing.
        quality: The quality table.
        seconds: Part of the work to the seconds that it took.
        findings: Checks and their status; where nothing was new, what was written before has grown older.
    """

    version: int
    is_changed: bool
    quality: pa.Table
    seconds: dict[str, float]
    findings: pa.Table | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per source: what came in and what became of it."""
        wanted = ("files", "rows_in", "rows_kept", "quarantined", "duplicates", "days_behind")
        found: dict[str, dict[str, Any]] = {}
        for row in self.quality.to_pylist():
            if row["measure"] in wanted:
                found.setdefault(row["source"], {"source": row["source"]})[row["measure"]] = row["value"]
        return list(found.values())


def ingest(
    workspace: Path,
    *,
    data: Path | None = None,
    at: datetime | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Read all sources of a workspace, and commit what they tell as one version of its history.

    Args:
        workspace: Folder with `nba.toml`.
        data: What `{data}` in a source's path stands for.
        at: The moment of the run, by which freshness and clocks are judged; not judged if None.
        progress: Where to report.

    Raises:
        NbaError: naming all that is wrong with settings and sources; then nothing was written.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    history = History.read(workspace)
    secret = identifiers.salt(workspace)
    known = _known(history)
    _refuse_other_salt(history, known, secret)
    seconds: dict[str, float] = {}
    folder = workspace / FOLDER
    cache = folder / CACHE
    folder.mkdir(parents=True, exist_ok=True)
    passing = Spill(folder, NEW)
    new = passing.path
    try:
        with _ctrl_c(), connect(memory_gb=config.workspace.memory_gb, spill=new / "spill") as connection:
            identifiers.use_salt(connection, secret)
            with _timed(seconds, "read"):
                advance = progress.step("reading sources", total=len(config.sources))
                staged, faults = staging.stage(
                    connection,
                    config,
                    workspace,
                    data=data,
                    cache=cache,
                    suppressed=_suppressed(history),
                    advance=advance,
                )
                staging.refuse(faults)
            ingested = _ingested(staged, config)
            if history.has("ingested") and history.table("ingested").equals(ingested):
                staging.sweep(cache, staged)
                measured = history.table("quality")
                judged = assess.judge(
                    assess.aged(measured, at) if at is not None else measured, config.quality
                )
                _refuse_stops(judged)
                return IngestReport(history.version, False, measured, seconds, judged)
            if matching.is_wanted(config):
                with _timed(seconds, "match"):
                    progress.step("comparing records")
                    found = matching.links(connection, staged, config, workspace, cache, data)
                    known = changed(known, links=found)
            with _timed(seconds, "unify"):
                step = progress.step("unifying customers", total=unify.N_PARTS)
                told = _add(connection, history, staged, config, new, known, ingested, step)
                told = changed(told, quality=pa.concat_tables([told.quality, _gone(history, ingested)]))
            measured, judged = _assess(connection, history, config, told, known, at)
            _refuse_stops(judged)
        with _timed(seconds, "write"):
            progress.step("writing the history")
            replace = {**told.replace, "ingested": ingested, "quality": measured}
            history = history.commit(append=told.append, replace=replace)
            staging.sweep(cache, staged)
            title = f"Quality of {config.workspace.name}"
            replace_text(workspace / REPORT, assess.page(measured, judged, title))
    finally:
        passing.close()
    return IngestReport(history.version, True, measured, seconds, judged)


def _assess(
    connection: duckdb.DuckDBPyConnection,
    history: History,
    config: Settings,
    told: incremental.Added,
    known: unify.Known,
    at: datetime | None,
) -> tuple[pa.Table, pa.Table]:
    scans = {}
    others = ("treatments", "decisions", "assignments")
    for name in ("orders", "events", "touches", "customers", "aliases", *others):
        path = told.append.get(name) or told.replace.get(name)
        if path is not None:
            scans[name] = assess.Scan(f"read_parquet('{path}')", name in told.replace)
        elif name in others and history.has(name):
            scans[name] = assess.Scan(history.scan(name), True)
    rows = assess.measure(connection, scans, known.quality, at)
    names = tables.QUALITY.columns
    more = tables.QUALITY.build(dict(zip(names, row)) for row in rows)
    measured = tables.QUALITY.conform(pa.concat_tables([told.quality, more]))
    return measured, assess.judge(measured, config.quality)


def _gone(history: History, ingested: pa.Table) -> pa.Table:
    # Files that are no longer there take their rows with them; one that only has another name is.
    past = history.table("ingested").to_pylist() if history.has("ingested") else []
    rows = ingested.to_pylist()
    names = {(row["source"], row["file"]) for row in rows}
    contents = {row["content_hash"].rpartition("-")[0] for row in rows}
    gone: dict[str, list[str]] = {}
    for row in past:
        if (row["source"], row["file"]) in names or row["content_hash"].rpartition("-")[0] in contents:
            continue
        gone.setdefault(row["source"], []).append(f"{row['file']} ({row['n_rows']:,} rows)")
    note = "no longer there; what they told has left the history: "
    told = [
        (name, "files_gone", float(len(found)), note + ", ".join(found[:5])) for name, found in gone.items()
    ]
    return tables.QUALITY.build([dict(zip(tables.QUALITY.columns, row)) for row in told])


def _refuse_stops(judged: pa.Table) -> None:
    faults = [
        f"{row['check']} of {row['subject']} is {row['value']:.4g}; {row['stop']:g} stops ({row['note']})"
        for row in judged.to_pylist()
        if row["status"] == assess.STOP
    ]
    if faults:
        hint = "Mend the sources, or the thresholds under [quality] in nba.toml."
        raise listed(faults, "the quality is below the workspace's thresholds, and nothing was written", hint)


def _add(
    connection: duckdb.DuckDBPyConnection,
    history: History,
    staged: Sequence[StagedSource],
    config: Settings,
    folder: Path,
    known: unify.Known,
    ingested: pa.Table,
    step: Advance,
) -> incremental.Added:
    """Add new files to the history where that is enough; else make it anew."""
    fresh = _fresh(history, staged, ingested)
    if fresh is not None:
        # Of what was corrected, rows that are told by aliases do not matter here.
        scans = {name: history.scan(name, as_written=name in tables.EARLIER.values()) for name in unify.NAMES}
        found = incremental.add(
            connection, staged, fresh, config, folder, scans, known, advance=lambda _: step(1)
        )
        if found is not None:
            return found
        connection.execute("drop table if exists seen").fetchall()
    whole = unify.unify(connection, staged, config, folder, known, advance=lambda _: step(1))
    return incremental.Added({}, whole.files, whole.quality)


def _fresh(history: History, staged: Sequence[StagedSource], ingested: pa.Table) -> list[StagedSource] | None:
    if not all(history.has(name) for name in (*unify.NAMES, "ingested")):
        return None
    many = max(len(history.paths(name)) for name in ("orders", "events", "touches", "identities"))
    pending = history.sql("select count(*) as n from aliases where is_pending")["n"][0].as_py()
    if many >= incremental.MOST_FILES or pending > incremental.MOST_PENDING:
        return None
    return incremental.new_files(staged, history.table("ingested"), ingested)


def _suppressed(history: History) -> pa.Table | None:
    return history.table(staging.SUPPRESSED) if history.has(staging.SUPPRESSED) else None


def _known(history: History) -> unify.Known:
    return unify.Known(
        history.scan("identities") if history.has("identities") else None,
        history.table("quality") if history.has("quality") else None,
        history.table("aliases") if history.has("aliases") else None,
        attributes=_attributes(history),
    )


def _attributes(history: History) -> dict[str, str]:
    # What attributes of customers are; one without any value may become either.
    if not history.has("customers"):
        return {}
    found = history.sql("select * from customers limit 0").schema
    names = [field.name for field in found if field.name.startswith("a_")]
    if not names:
        return {}
    counted = ", ".join(f"count({name}) as {name}" for name in names)
    known = history.sql(f"select {counted} from customers").to_pylist()[0]
    kind = {name: "number" if pa.types.is_floating(found.field(name).type) else "text" for name in names}
    return {name: kind[name] for name in names if known[name]}


_RULES = (identity, former, naming, unify, versions, persons, incremental, matching)
_CODE = b"".join(Path(module.__file__ or "").read_bytes() for module in _RULES)


def _ingested(staged: Sequence[StagedSource], config: Settings) -> pa.Table:
    # Which raw files there are, by content; with other settings or other code they count as others.
    told = config.identity.model_dump_json() + config.matching.model_dump_json()
    told += str(sorted(config.workspace.attributes.items()))
    told += str(sorted(one.column for one in config.engagement.purposes))
    rules = hashlib.sha256(told.encode() + _CODE).hexdigest()[:16]
    rows = [
        {
            "source": one.source.name,
            "file": file.name,
            "content_hash": f"{file.key}-{rules}",
            "n_rows": file.n_rows,
            "n_quarantined": file.n_bad,
        }
        for one in staged
        for file in one.files
    ]
    return tables.INGESTED.build(rows)


def check(workspace: Path, *, data: Path | None = None) -> pa.Table:
    """Say what each source would give, without writing anything.

    Returns:
        One row per source: source, table, files, rows, quarantined, and findings in words (faults and
        the most frequent reasons for quarantine).
    """
    config = settings.read(workspace)
    with (
        tempfile.TemporaryDirectory() as folder,
        connect(memory_gb=config.workspace.memory_gb, spill=Path(folder) / "spill") as connection,
    ):
        identifiers.use_salt(connection, _CHECK_SALT)
        staged, faults = staging.stage(connection, config, workspace, data=data, cache=Path(folder))
        for name, fault in matching.read(connection, config, workspace, data)[1].items():
            if name not in faults:
                faults[name] = [fault]
    rows = []
    for one in staged:
        wrong = faults.get(one.source.name, [])
        reasons = staging.reasons(one)
        more = [(reason, n) for reason, n in reasons[:5] if repr(reason) not in " ".join(wrong)]
        why = [f"{n} row{'s' if n > 1 else ''}: {reason}" for reason, n in more]
        if len(reasons) > 5:
            why.append(f"and {len(reasons) - 5} more reasons")
        rows.append(
            {
                "source": one.source.name,
                "table": one.source.table,
                "files": len(one.files),
                "rows": one.n_rows,
                "quarantined": one.n_bad,
                "findings": "; ".join([*(f"{FAULT}: {fault}" for fault in wrong), *why]) or "fine",
            }
        )
    return pa.Table.from_pylist(rows, schema=_CHECKED)


_CHECKED = pa.schema(
    [
        ("source", pa.string()),
        ("table", pa.string()),
        ("files", pa.int64()),
        ("rows", pa.int64()),
        ("quarantined", pa.int64()),
        ("findings", pa.string()),
    ]
)


def _refuse_other_salt(history: History, known: unify.Known, secret: str) -> None:
    if known.quality is None or not history.has("identities") or not history.n_rows("identities"):
        return
    rows = {
        row["measure"]: row["note"] for row in known.quality.to_pylist() if row["source"] == quality.IDENTITY
    }
    if rows.get(quality.SALT, identifiers.fingerprint(secret)) != identifiers.fingerprint(secret):
        raise SettingsError(
            "the salt is another one than that of the workspace's identities, so nobody would be recognised",
            f"Restore {identifiers.SALT_FILE} or {identifiers.SALT_VARIABLE}; to begin anew, remove tables/.",
        )


@contextmanager
def _ctrl_c() -> Iterator[None]:
    # DuckDB tells Ctrl-C within a query as an error of its own.
    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start


def refused(workspace: Path, most: int = 10) -> list[dict[str, Any]]:
    """Count the rows in quarantine by source and reason, most frequent first.

    Args:
        workspace: Folder of the workspace.
        most: Reasons to give at most.
    """
    history = History.read(workspace)
    if not history.has("quarantine"):
        return []
    counted = "select source, reason, count(*) as rows from quarantine group by 1, 2"
    return list(history.sql(f"{counted} order by 3 desc, 1, 2 limit $most", {"most": most}).to_pylist())
