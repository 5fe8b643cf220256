"""Raw files to staged rows: each file is read once, mapped to the contract and judged.

A staged file depends on nothing but its own bytes, its source's settings and the salt, so it may be kept
beside the history and read again instead of the raw file, until one of these changes. It is a folder:
`rows-*.parquet` (every row of the file, those in quarantine with their reason), `combos-*.parquet`
(combinations of identifiers, each once a part, and since when it was known) and `file.json`.
"""

import hashlib
import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nba import tables
from nba.errors import listed
from nba.histories import answers, database, identifiers, mapping, rawfile, scrub, sources, values
from nba.histories.answers import Entry
from nba.histories.mapping import Plan
from nba.histories.parquet import copy
from nba.histories.rawfile import Fault, Raw
from nba.histories.sources import literal
from nba.settings import Identity, Settings, Source

_FILES = (module.__file__ or "" for module in (sources, rawfile, mapping, values, scrub, identifiers))
_CODE = b"".join(Path(path).read_bytes() for path in (*_FILES, __file__))
_QUARANTINE = pa.schema([("row_number", pa.int64()), ("reason", pa.string()), ("raw", pa.string())])
_TOLD = "(not kept: identifiers cannot be told apart in it)"
_FILE = "file.json"
SUPPRESSED = "suppressed"
LINKS = "links-"


@dataclass(frozen=True)
class StagedFile:
    """One raw file, read.

    Attributes:
        name: As reports show it.
        folder: Where its staged rows are.
        key: Hash of all that the staged rows depend on.
        n_rows: Rows in the file.
        n_bad: Of these, rows that cannot be used.
        reasons: Why they cannot be used, and how many rows.
        junk: Identifier kind to the number of rows whose identifier is junk.
        n_combos: Highest number of a combination of identifiers.
        n_forgotten: Rows passed over: they carry an identifier of a person who asked to be forgotten.
        latest: Time of its newest usable row, microseconds since 1970; None without one.
        unknown: Which mapped keys stand in no row of a JSON lines file, in words.
    """

    name: str
    folder: Path
    key: str
    n_rows: int
    n_bad: int
    reasons: Mapping[str, int]
    junk: Mapping[str, int]
    n_combos: int = 0
    latest: int | None = None
    n_forgotten: int = 0
    unknown: str = ""

    @property
    def rows_sql(self) -> str:
        """What stands after `from` for all its rows."""
        return f"read_parquet({literal(str(self.folder / 'rows-*.parquet'))})"

    @property
    def combos_sql(self) -> str:
        """What stands after `from` for its combinations of identifiers."""
        return f"read_parquet({literal(str(self.folder / 'combos-*.parquet'))})"

    @property
    def rows(self) -> pa.Table:
        """Usable rows with their identifiers, in memory."""
        return self._query(
            f"select * exclude (reason, raw, combo, seen_at, named_at, n) from {self.rows_sql}"
            f" join {self.combos_sql} using (combo) where reason is null"
        )

    @property
    def quarantine(self) -> pa.Table:
        """Rows that cannot be used, in memory: row_number, reason, raw."""
        return self._query(
            f"select row_number, reason, raw from {self.rows_sql} where reason is not null order by 1"
        )

    def _query(self, query: str) -> pa.Table:
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'").fetchall()
            return connection.sql(query).to_arrow_table()


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
        return sum(file.n_bad for file in self.files)


def stage(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    workspace: Path,
    *,
    cache: Path,
    data: Path | None = None,
    suppressed: pa.Table | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> tuple[list[StagedSource], dict[str, list[str]]]:
    """Read all files of all sources.

    Args:
        connection: DuckDB in UTC, with the salt in use.
        settings: Of the workspace.
        workspace: Folder that paths are relative to.
        cache: Folder of staged files.
        data: What `{data}` in a source's path stands for.
        suppressed: Identifiers whose rows are passed over.
        advance: Called with 1 after each source.

    Returns:
        The sources that could be read, and what is wrong with the others, by name.
    """
    staged, faults = [], {}
    none = pa.table({"tombstone": pa.array([], pa.string())})
    connection.register(SUPPRESSED, suppressed if suppressed is not None else none)
    for source in settings.sources:
        zone = source.timezone or settings.workspace.timezone
        found = mapping.faults(source, zone, settings.identity.external)
        files: list[StagedFile] = []
        if not found:
            plan = mapping.plan(source, zone, settings.identity)
            files, found = _files(connection, plan, workspace, data, cache)
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


def _files(
    connection: duckdb.DuckDBPyConnection, plan: Plan, workspace: Path, data: Path | None, cache: Path
) -> tuple[list[StagedFile], list[str]]:
    files, found = [], []
    if plan.source.format == "sql":
        try:
            files.append(_rows_of_database(connection, plan, workspace, cache))
        except Fault as fault:
            found.append(f"{database.shown(plan.source)} {fault}")
        return files, found
    try:
        names = sources.find(plan.source, workspace, data)
        told = answers.listed(plan.source, workspace, data)
    except Fault as fault:
        return [], [str(fault)]
    for name, path in names:
        try:
            files.append(_file(connection, plan, name, path, cache, told.get(path)))
        except Fault as fault:
            found.append(f"{name} {fault}")
    return files, found


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
        for reason, n in file.reasons.items():
            counts[reason] = counts.get(reason, 0) + n
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def sweep(cache: Path, staged: list[StagedSource]) -> None:
    """Remove staged files that no raw file of now gives."""
    used = {file.folder for one in staged for file in one.files}
    for folder in cache.glob("*"):
        if folder not in used and not folder.name.startswith(LINKS):
            shutil.rmtree(folder, ignore_errors=True)


def _file(
    connection: duckdb.DuckDBPyConnection, plan: Plan, name: str, path: Path, cache: Path, told: Entry | None
) -> StagedFile:
    before = _look(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    content = digest.hexdigest()
    digest.update(_circumstances(connection, plan))
    key = digest.hexdigest()[:32]
    folder = cache / key
    if not (folder / _FILE).is_file():
        with _made(cache, folder) as new:
            raw = sources.open_file(connection, plan.source, path, plan.wanted)
            read = _read(connection, plan, raw, new)
            if _look(path) != before:
                raise Fault("changed while it was read; run again when it is whole")
            broken = {*raw.malformed, *_not_rows(connection, new)}
            if sources.is_truncated(raw, plan.source, path, broken):
                raise Fault(f"is truncated: it ends in the middle of row {raw.n_rows}")
            (new / _FILE).write_text(json.dumps(read), encoding="utf-8")
    staged = _staged(name, folder, key)
    if told is not None:
        told.check(staged.n_rows + staged.n_forgotten, content)
    return staged


def _rows_of_database(
    connection: duckdb.DuckDBPyConnection, plan: Plan, workspace: Path, cache: Path
) -> StagedFile:
    # A database tells no hash of its content beforehand, so it is read every time; the name of the staged
    # rows is the hash of what was read.
    name = database.shown(plan.source)
    new = cache / f".{uuid.uuid4().hex}"
    new.mkdir(parents=True)
    try:
        raw, digest = database.open_query(plan.source, workspace, plan.wanted)
        told = _read(connection, plan, raw, new)
        (new / _FILE).write_text(json.dumps(told), encoding="utf-8")
        digest.update(_circumstances(connection, plan))
        key = digest.hexdigest()[:32]
        if not (cache / key / _FILE).is_file():
            shutil.rmtree(cache / key, ignore_errors=True)
            new.rename(cache / key)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return _staged(name, cache / key, key)


class _made:  # noqa: N801 (a context manager)
    """Make a folder wholly or not at all."""

    def __init__(self, cache: Path, folder: Path) -> None:
        self.folder, self.new = folder, cache / f".{uuid.uuid4().hex}"

    def __enter__(self) -> Path:
        self.new.mkdir(parents=True)
        return self.new

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.new.rename(self.folder)
        shutil.rmtree(self.new, ignore_errors=True)


def _staged(name: str, folder: Path, key: str) -> StagedFile:
    told = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    return StagedFile(name, folder, key, **told)


def _look(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


_SPELLING = ("external", "junk", "email_ignore_case", "email_ignore_dots", "email_ignore_tags")


def _circumstances(connection: duckdb.DuckDBPyConnection, plan: Plan) -> bytes:
    secret = connection.execute("select getvariable('salt')").fetchall()[0][0]
    spelling: Identity = plan.identity
    told = [
        plan.source.model_dump_json(exclude={"max_bad_share", "optional", "path", "url", "checks"}),
        str("decimal" in plan.source.model_fields_set),
        plan.zone,
        spelling.model_dump_json(include=set(_SPELLING)),
        identifiers.fingerprint(secret),
    ]
    return "|".join(told).encode() + _CODE


def _not_rows(connection: duckdb.DuckDBPyConnection, folder: Path) -> set[int]:
    rows = literal(str(folder / "rows-*.parquet"))
    found = connection.execute(
        f"select row_number from read_parquet({rows}) where reason = 'not a JSON object'"
    ).fetchall()
    return {n for (n,) in found}


def _read(connection: duckdb.DuckDBPyConnection, plan: Plan, raw: Raw, folder: Path) -> dict[str, Any]:
    n_combos, part, n_raw = 0, 0, 0
    junk = Counter(dict.fromkeys(plan.source.identifiers, 0))
    try:
        if raw.chunks is None:
            n_combos, found = _part(connection, plan, raw, folder, part, n_combos)
            junk.update(found)
            n_raw = connection.execute(f"select count(*) from {raw.sql}").fetchall()[0][0]
        else:
            for chunk in raw.chunks:
                connection.register(sources.INPUT, chunk)
                n_combos, found = _part(connection, plan, raw, folder, part, n_combos)
                junk.update(found)
                connection.unregister(sources.INPUT)
                part, n_raw = part + 1, n_raw + chunk.num_rows
    except sources.UNREADABLE as error:
        raise Fault(sources.explain(error, plan.source)) from None
    finally:
        connection.unregister(sources.INPUT)
        connection.execute("drop table if exists combo_now").fetchall()
    if raw.endless is not None:
        raise Fault(f"holds a row {raw.endless} of many lines: a quote is probably never closed")
    _write_malformed(connection, plan, raw, folder)
    told = _told(connection, plan, raw, folder)
    n_forgotten = n_raw + len(raw.malformed) + len(raw.garbled) - told["n_rows"]
    return {**told, "junk": dict(junk), "n_combos": n_combos, "n_forgotten": n_forgotten}


def each_part(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    raw: Raw,
    use: Callable[[Sequence[pa.DataType], str], None],
) -> None:
    """Read a file once more, part by part; rows of persons who were forgotten have no combination.

    Args:
        connection: One on which `stage` has run.
        plan: How the source is read.
        raw: The opened file.
        use: Called for each part with the types of the wanted columns and what stands after `from` for its
            rows; `combo_now` then holds their combinations of identifiers.

    Raises:
        Fault: when the file cannot be read.
    """
    try:
        for chunk in [None] if raw.chunks is None else raw.chunks:
            if chunk is not None:
                connection.register(sources.INPUT, chunk)
            _combine(connection, plan, raw, 0)
            use(raw.types, raw.sql)
    except sources.UNREADABLE as error:
        raise Fault(sources.explain(error, plan.source)) from None
    finally:
        connection.unregister(sources.INPUT)
        connection.execute("drop table if exists combo_now").fetchall()


def _combine(connection: duckdb.DuckDBPyConnection, plan: Plan, raw: Raw, after: int) -> None:
    # Identifiers are normalised and hashed once for each combination, not once for each row.
    given = mapping.given(plan, raw.sql)
    connection.execute(f"create or replace temp table combo_given as {given}").fetchall()
    if "phone" in plan.source.identifiers:
        _register_phones(connection, plan, raw)
    made = mapping.combos(plan, raw.types, "combo_given", after)
    connection.execute(f"create or replace temp table combo_now as {made}").fetchall()
    connection.execute("drop table combo_given").fetchall()
    if connection.execute(f"select count(*) from {SUPPRESSED}").fetchall()[0][0]:
        _pass_over(connection, plan)


def _part(
    connection: duckdb.DuckDBPyConnection, plan: Plan, raw: Raw, folder: Path, part: int, after: int
) -> tuple[int, Mapping[str, int]]:
    # Gives the highest number of a combination, and the rows with junk of each kind.
    _combine(connection, plan, raw, after)
    rows = folder / f"rows-{part:05d}.parquet"
    doubtful = mapping.doubtful(connection, plan, raw.types, raw.sql)
    copy(connection, mapping.query(plan, raw.types, raw.sql, doubtful), rows, "snappy")
    written = f"read_parquet({literal(str(rows))})"
    time = mapping.TIMES[plan.source.table]
    # What a row of customers tells, a link too, is known since it was changed; the customer is older.
    known = f"greatest({time}, {'known_at' if plan.source.table in tables.EARLIER else 'updated_at'})"
    named = known if plan.source.table in tables.EARLIER else time
    kinds = list(plan.source.identifiers)
    hashes = ", ".join(f"i_{kind}" for kind in kinds)
    counted = (
        f"select combo, count(*) filter (reason is null) as n,"
        f" min({known}) filter (reason is null) as seen_at, min({named}) filter (reason is null) as named_at"
        f" from {written} group by combo"
    )
    copy(
        connection,
        f"select combo, {hashes}, external, seen_at, named_at, n"
        f" from combo_now join ({counted}) using (combo)",
        folder / f"combos-{part:05d}.parquet",
        "snappy",
    )
    is_junk = " or ".join(f"junk_{kind}" for kind in kinds)
    sums = ", ".join(f"count(*) filter (junk_{kind})" for kind in kinds)
    junk = f"select {sums} from {written} join (from combo_now where {is_junk}) using (combo)"
    found = connection.execute(junk).fetchall()[0]
    n = connection.execute("select coalesce(max(combo), $after) from combo_now", {"after": after}).fetchall()
    return int(n[0][0]), dict(zip(kinds, found))


def _pass_over(connection: duckdb.DuckDBPyConnection, plan: Plan) -> None:
    # Rows join their combination: without it they are not there.
    held = " or ".join(
        f"{identifiers.tombstone(f'i_{kind}')} in (from {SUPPRESSED})" for kind in plan.source.identifiers
    )
    connection.execute(f"delete from combo_now where {held}").fetchall()


def _register_phones(connection: duckdb.DuckDBPyConnection, plan: Plan, raw: Raw) -> None:
    text = mapping.identifier_texts(plan, raw.types, "phone", "g_phone")
    found = connection.sql(f"select distinct {text} as t from combo_given where {text} is not null")
    texts = found.to_arrow_table()["t"].to_pylist()
    numbers = identifiers.phones(texts, plan.source.country, plan.identity.junk)
    columns = {"raw": pa.array(texts, pa.string()), "e164": pa.array(numbers, pa.string())}
    connection.register("phone_number", pa.table(columns))


def _write_malformed(connection: duckdb.DuckDBPyConnection, plan: Plan, raw: Raw, folder: Path) -> None:
    if not raw.malformed and not raw.garbled:
        return
    why = {number: f"not a row; {reason}" for number, reason in raw.malformed.items()}
    why |= dict.fromkeys(sorted(raw.garbled), f"text in utf-8, not in {plan.source.encoding}")
    told = {"row_number": [*why], "reason": [*why.values()], "raw": [_TOLD for _ in why]}
    connection.register("malformed", pa.table(told, _QUARANTINE))
    first = literal(str(folder / "rows-00000.parquet"))
    query = f"from malformed union all by name (from read_parquet({first}) limit 0)"
    copy(connection, query, folder / "rows-malformed.parquet", "snappy")
    connection.unregister("malformed")


def _told(connection: duckdb.DuckDBPyConnection, plan: Plan, raw: Raw, folder: Path) -> dict[str, Any]:
    rows = f"read_parquet({literal(str(folder / 'rows-*.parquet'))})"
    why = connection.execute(
        f"select reason, count(*) from {rows} where reason is not null group by 1"
    ).fetchall()
    n_rows = sum(pq.ParquetFile(path).metadata.num_rows for path in folder.glob("rows-*.parquet"))
    time = mapping.TIMES[plan.source.table]
    newest = connection.execute(f"select epoch_us(max({time})) from {rows} where reason is null").fetchall()
    return {
        "n_rows": n_rows,
        "n_bad": sum(n for _, n in why),
        "reasons": dict(sorted(why)),
        "latest": newest[0][0],
        "unknown": raw.unknown,
    }
