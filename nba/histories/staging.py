"""Raw files to staged rows: each file is read once, mapped to the contract and judged.

A staged file depends on nothing but its own bytes, its source's settings and the salt, so it may be kept
beside the history and read again instead of the raw file, until one of these changes.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nba.errors import listed
from nba.histories import identity, mapping, sources
from nba.histories.mapping import Plan
from nba.histories.sources import Fault, Raw, literal
from nba.settings import Settings, Source

_CODE = b"".join(Path(module.__file__ or "").read_bytes() for module in (sources, mapping, identity))
_QUARANTINE = pa.schema([("row_number", pa.int64()), ("reason", pa.string()), ("raw", pa.string())])


@dataclass(frozen=True)
class StagedFile:
    """One raw file, read.

    Attributes:
        name: As reports show it.
        rows: Usable rows, or the Parquet file that holds them.
        quarantine: Rows that cannot be used: row_number, reason, raw.
        n_rows: Rows in the file.
        junk: Identifier kind to the number of rows whose identifier is junk.
        unknown: Which mapped keys stand in no row of a JSON lines file, in words.
    """

    name: str
    rows: pa.Table | Path
    quarantine: pa.Table
    n_rows: int
    junk: dict[str, int]
    unknown: str = ""


@dataclass(frozen=True)
class StagedSource:
    """All files of one source, in order of name."""

    source: Source
    files: tuple[StagedFile, ...]

    @property
    def n_rows(self) -> int:
        """Rows in all files."""
        return sum(file.n_rows for file in self.files)

    @property
    def n_bad(self) -> int:
        """Rows that cannot be used."""
        return sum(file.quarantine.num_rows for file in self.files)


def stage(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    workspace: Path,
    *,
    data: Path | None = None,
    cache: Path | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> tuple[list[StagedSource], dict[str, list[str]]]:
    """Read every file of every source.

    Args:
        connection: Its variable `salt` is the secret salt (`identity.use_salt`).
        settings: Of the workspace.
        workspace: Folder that paths are relative to.
        data: What `{data}` in a source's path stands for.
        cache: Folder of staged files; without it they are kept in memory only.
        advance: Called with 1 after each source.

    Returns:
        The sources that could be read, and what is wrong with the others, by name.
    """
    staged, faults = [], {}
    for source in settings.sources:
        zone = source.timezone or settings.workspace.timezone
        found = mapping.faults(source, zone, settings.identity.external)
        files: list[StagedFile] = []
        if not found:
            plan = mapping.plan(source, zone, settings.identity.external)
            try:
                names = sources.find(source, workspace, data)
            except Fault as fault:
                names, found = [], [str(fault)]
            for name, path in names:
                try:
                    files.append(_file(connection, plan, name, path, cache))
                except Fault as fault:
                    found.append(f"{name} {fault}")
        if files and all(file.unknown for file in files):
            found.append(f"{files[-1].name} {files[-1].unknown}")
        one = StagedSource(source, tuple(files))
        found += too_many_bad(one)
        if found:
            faults[source.name] = found
        staged.append(one)
        advance(1)
    repeated = [s.name for s in settings.sources]
    for name in sorted({name for name in repeated if repeated.count(name) > 1}):
        faults.setdefault(name, []).append("several sources have this name")
    return staged, faults


def refuse(faults: dict[str, list[str]]) -> None:
    """Raise all faults of all sources as one error, if there are any.

    Raises:
        DataError: naming each source and what is wrong with it.
    """
    lines = [f"source {name!r}: {fault}" for name, found in faults.items() for fault in found]
    if lines:
        raise listed(lines, "the sources cannot be used, and nothing was written", _HINT)


_HINT = (
    "Mend the files or the [[sources]] of nba.toml; `nba ingest --check` shows what each source would give."
)


def too_many_bad(staged: StagedSource) -> list[str]:
    """Say so if more rows cannot be used than the source's settings allow."""
    limit = staged.source.max_bad_share
    if not staged.n_rows or staged.n_bad <= limit * staged.n_rows:
        return []
    top = "; ".join(f"{reason!r} {n} times" for reason, n in reasons(staged)[:3])
    told = f"{staged.n_bad} of {staged.n_rows} rows cannot be used"
    return [f"{told}, more than max_bad_share = {limit:g} allows: {top}"]


def reasons(staged: StagedSource) -> list[tuple[str, int]]:
    """Count the reasons for which rows cannot be used, the most frequent first."""
    counts: dict[str, int] = {}
    for file in staged.files:
        for reason in file.quarantine["reason"].to_pylist():
            counts[reason] = counts.get(reason, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def sweep(cache: Path, staged: list[StagedSource]) -> None:
    """Remove staged files that no raw file of now gives."""
    used = {file.rows.parent for one in staged for file in one.files if isinstance(file.rows, Path)}
    for folder in cache.glob("*"):
        if folder not in used:
            shutil.rmtree(folder, ignore_errors=True)


def _file(
    connection: duckdb.DuckDBPyConnection, plan: Plan, name: str, path: Path, cache: Path | None
) -> StagedFile:
    if cache is None:
        return _read(connection, plan, name, path, None)
    folder = cache / _cache_key(connection, plan, path)
    if not (folder / "file.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        new = cache / f".{uuid.uuid4().hex}"
        new.mkdir()
        try:
            _read(connection, plan, name, path, new)
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    told = json.loads((folder / "file.json").read_text(encoding="utf-8"))
    quarantine = pq.ParquetFile(folder / "quarantine.parquet").read()
    return StagedFile(
        name, folder / "rows.parquet", quarantine, told["n_rows"], told["junk"], told["unknown"]
    )


def _cache_key(connection: duckdb.DuckDBPyConnection, plan: Plan, path: Path) -> str:
    secret = connection.execute("select getvariable('salt')").fetchall()[0][0]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    told = [
        plan.source.model_dump_json(exclude={"max_bad_share", "optional", "path"}),
        plan.zone,
        plan.external,
    ]
    digest.update("|".join([*told, identity.fingerprint(secret)]).encode())
    digest.update(_CODE)
    return digest.hexdigest()[:32]


def _read(
    connection: duckdb.DuckDBPyConnection, plan: Plan, name: str, path: Path, folder: Path | None
) -> StagedFile:
    raw = sources.open_file(connection, plan.source, path, plan.wanted)
    try:
        rows = raw.sql
        if "phone" in plan.source.identifiers:
            rows = _with_phones(connection, plan, raw)
        query = mapping.query(plan, raw.types, rows)
        connection.execute(f"create or replace temp table staged as {query}").fetchall()
    except duckdb.Error as error:
        cause, raw.error = raw.error, None  # or the traceback would hold itself, and the connection with it
        if cause is not None and not isinstance(cause, Exception):
            raise cause.with_traceback(None) from None
        raise Fault(sources.explain(cause or error, plan.source)) from None
    finally:
        connection.unregister("raw_input")
    if raw.endless is not None:
        raise Fault(f"holds a row {raw.endless} of many lines: a quote is probably never closed")
    broken = connection.execute("select row_number from staged where reason = 'not a JSON object'").fetchall()
    if sources.is_truncated(raw, plan.source, path, {*raw.malformed, *(n for (n,) in broken)}):
        raise Fault(f"is truncated: it ends in the middle of row {raw.n_rows}")
    return _kept(connection, plan, name, raw, folder)


def _with_phones(connection: duckdb.DuckDBPyConnection, plan: Plan, raw: Raw) -> str:
    connection.execute(f"create or replace temp table raw_rows as select * from {raw.sql}").fetchall()
    text = mapping.identifier_texts(plan, raw.types, "phone")
    found = connection.execute(f"select distinct {text} from raw_rows where {text} is not null").fetchall()
    texts = [row[0] for row in found]
    numbers = identity.phones(texts, plan.source.country)
    columns = {"raw": pa.array(texts, pa.string()), "e164": pa.array(numbers, pa.string())}
    connection.register("phone_number", pa.table(columns))
    return "raw_rows"


def _kept(
    connection: duckdb.DuckDBPyConnection, plan: Plan, name: str, raw: Raw, folder: Path | None
) -> StagedFile:
    junk = [f"junk_{kind}" for kind in plan.source.identifiers]
    counts = connection.execute(
        f"select count(*), {', '.join(f'count(*) filter ({j})' for j in junk)} from staged"
    ).fetchall()[0]
    quarantine = connection.sql(
        "select row_number, reason, raw from staged where reason <> '' order by row_number"
    ).to_arrow_table()
    malformed = {
        "row_number": [*raw.malformed],
        "reason": ["; ".join(["not a row", reason]) for reason in raw.malformed.values()],
        "raw": ["(not kept: identifiers cannot be told apart in it)" for _ in raw.malformed],
    }
    quarantine = pa.concat_tables([quarantine.cast(_QUARANTINE), pa.table(malformed, _QUARANTINE)])
    good = f"select * exclude (reason, raw, {', '.join(junk)}) from staged where reason = ''"
    n_rows = counts[0] + len(raw.malformed)
    junked = dict(zip(plan.source.identifiers, counts[1:]))
    if folder is None:
        rows: pa.Table | Path = connection.sql(good).to_arrow_table()
    else:
        rows = folder / "rows.parquet"
        where = literal(str(rows))
        connection.execute(f"copy ({good}) to {where} (format parquet, compression snappy)").fetchall()
        pq.write_table(quarantine, folder / "quarantine.parquet")
        told = json.dumps({"n_rows": n_rows, "junk": junked, "unknown": raw.unknown})
        (folder / "file.json").write_text(told, encoding="utf-8")
    connection.execute("drop table staged").fetchall()
    connection.execute("drop table if exists raw_rows").fetchall()
    return StagedFile(name, rows, quarantine, n_rows, junked, raw.unknown)
