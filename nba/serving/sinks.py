"""Where delivered batches go: folders and object stores, SQL tables, and whatever a hook reaches.

Every sink is idempotent: sending a batch twice leaves what sending it once leaves. A consumer counts a batch
only once its manifest (a folder's last file, a row of `nba_batches` in a database) stands.
"""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nba.errors import DataError, MissingError, NbaError, SettingsError
from nba.serving import delivery
from nba.serving.engines import ordered
from nba.settings import Sink

_ROWS = 50_000
_ODD = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_TYPES = {
    pa.string(): "text",
    pa.float64(): "double precision",
    pa.int64(): "bigint",
    pa.bool_(): "boolean",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}


class Hook(Protocol):
    """What a hook of one's own must be: a function of a verified batch's folder and its manifest."""

    def __call__(self, folder: Path, manifest: dict[str, Any]) -> int:
        """Send the batch; return the number of decisions that are now there."""


def send(folder: Path, sink: Sink) -> int:
    """Send a delivered batch to a sink, after checking it as a consumer would.

    Args:
        folder: Folder of the batch.
        sink: Where to.

    Returns:
        Decisions that are now there.

    Raises:
        DataError: when the batch is unsound, or the sink holds another batch of that name.
        MissingError: when a library that the sink needs is not installed.
        SettingsError: when the sink's target cannot be used.
    """
    manifest = delivery.verify(folder)
    match sink.kind:
        case "folder":
            return to_folder(folder, manifest, sink.target)
        case "sql":
            return to_sql(folder, manifest, sink.target, sink.table)
        case "hook":
            return int(_hook(sink.target)(folder, manifest))


def to_folder(folder: Path, manifest: dict[str, Any], target: str) -> int:
    """Copy a batch to a folder or object store named by a URL that fsspec knows, its manifest last."""
    try:
        import fsspec
    except ImportError:
        raise _missing("fsspec", "objects") from None
    system, root = fsspec.core.url_to_fs(target)
    there = f"{root.rstrip('/')}/{folder.name}"
    last = f"{there}/{delivery.MANIFEST}"
    if system.exists(last):
        if json.loads(system.cat_file(last)) != manifest:
            raise DataError(
                f"{target} holds another batch {manifest['batch_id']!r}",
                "A delivered batch never changes: decide under another batch name.",
            )
        return int(manifest["n_decisions"])
    system.makedirs(there, exist_ok=True)
    for name in manifest["files"]:
        system.put_file(str(folder / name), f"{there}/{name}")
    system.put_file(str(folder / delivery.MANIFEST), last)
    return int(manifest["n_decisions"])


def to_sql(folder: Path, manifest: dict[str, Any], url: str, table: str) -> int:
    """Put a batch into a PostgreSQL table by one transaction: all rows and its manifest, or nothing.

    `<table>_batches` holds one row per batch with the manifest; where it stands, nothing is done. Rows go
    through COPY into `table`; where some are there already, by way of a temporary table, and a decision id
    that is there is left as it is.

    Args:
        folder: Folder of the batch.
        manifest: Its manifest.
        url: postgresql://user@host:port/database
        table: Name of the table; it is made where it is not there.
    """
    try:
        import psycopg
        from psycopg import sql
    except ImportError:
        raise _missing("psycopg", "postgres") from None
    if not urlparse(url).scheme.startswith("postgres"):
        raise SettingsError(f"sink target is {url!r}; expected postgresql://user@host:port/database")
    schema = pq.ParquetFile(_parts(folder, manifest)[0]).schema_arrow
    names = [sql.Identifier(name) for name in schema.names]
    where = {"table": sql.Identifier(table), "batches": sql.Identifier(f"{table}_batches")}
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(name, sql.SQL(_TYPES[field.type])) for name, field in zip(names, schema)
    )
    listed = sql.SQL(", ").join(names)

    try:
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute(
                sql.SQL("create table if not exists {table} ({columns}, primary key (decision_id))").format(
                    columns=columns, **where
                )
            )
            cursor.execute(
                sql.SQL(
                    "create table if not exists {batches} (batch_id text primary key, corrects text,"
                    " manifest jsonb not null)"
                ).format(**where)
            )
            cursor.execute(
                sql.SQL("select manifest from {batches} where batch_id = %s").format(**where),
                (manifest["batch_id"],),
            )
            stands = cursor.fetchone()
            if stands is None:
                n = _arrive(cursor, columns, listed, where, folder, manifest)
                cursor.execute(
                    sql.SQL("insert into {batches} values (%s, %s, %s)").format(**where),
                    (manifest["batch_id"], manifest.get("corrects"), json.dumps(manifest)),
                )
            else:
                n = int(stands[0].get("n_decisions", -1))
            if n != manifest["n_decisions"] or (stands is not None and stands[0] != manifest):
                raise DataError(
                    f"{table} holds another batch {manifest['batch_id']!r}: {n} rows;"
                    f" the manifest says {manifest['n_decisions']}",
                    "A delivered batch never changes: decide under another batch name.",
                )
            return n
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        raise NbaError(
            f"the database did not take batch {manifest['batch_id']!r}: {said}",
            "Nothing of it was kept there; run the same command again once the database is back.",
        ) from None


def _arrive(
    cursor: Any, columns: Any, listed: Any, where: dict[str, Any], folder: Path, manifest: dict[str, Any]
) -> int:
    # Rows of a batch whose manifest does not stand; gives how many of it are there then.
    from psycopg import errors, sql

    try:
        # As a rule nothing of the batch is there: its rows go straight into the table.
        direct = sql.SQL("copy {table} ({listed}) from stdin").format(listed=listed, **where)
        with cursor.connection.transaction():
            _copy(cursor, direct, _copied(folder, manifest))
            return int(cursor.rowcount)
    except errors.UniqueViolation:
        cursor.execute(sql.SQL("create temp table arriving ({}) on commit drop").format(columns))
        _copy(cursor, sql.SQL("copy arriving ({}) from stdin").format(listed), _copied(folder, manifest))
        cursor.execute(
            sql.SQL(
                "insert into {table} ({listed}) select {listed} from arriving"
                " on conflict (decision_id) do nothing"
            ).format(listed=listed, **where)
        )
        cursor.execute(
            sql.SQL("select count(*) from {table} where batch_id = %s").format(**where),
            (manifest["batch_id"],),
        )
        return int(cursor.fetchone()[0])


def _copy(cursor: Any, statement: Any, texts: Iterator[bytes]) -> None:
    with cursor.copy(statement) as stream:
        for text in texts:
            stream.write(text)


def _copied(folder: Path, manifest: dict[str, Any]) -> Iterator[bytes]:
    # While the database takes up some rows, the next are written out.
    batches = (
        batch
        for path in _parts(folder, manifest)
        for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(_ROWS)
    )
    yield from ordered(_lines, batches, 2)


def _lines(batch: pa.RecordBatch) -> bytes:
    # COPY's text format: tabs between, \N for unknown, what would be misread escaped. In the order of the
    # key, whose index then grows at few places.
    batch = batch.sort_by("decision_id")
    columns = [_text(column) for column in batch.columns]
    columns[-1] = pc.binary_join_element_wise(columns[-1], "\n", "")
    lines = pc.binary_join_element_wise(*columns, "\t")
    _, offsets, data = lines.buffers()
    ends = np.frombuffer(offsets, np.int32)[[lines.offset, lines.offset + len(lines)]]
    # The lines lie behind each other in Arrow's buffer: that is the text.
    return bytes(data.slice(int(ends[0]), int(ends[1] - ends[0])))


def _text(column: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(column.type):
        # Written without a zone, which is looked up for every value, and told to be UTC.
        clock = column.cast(pa.timestamp("us")).cast(pa.string())
        return pc.fill_null(pc.binary_join_element_wise(clock, "Z", ""), "\\N")
    if not pa.types.is_string(column.type):
        return pc.fill_null(column.cast(pa.string()), "\\N")
    letters = column.buffers()[2]
    held = b"" if letters is None else bytes(letters)
    text = column
    for found, written in _ODD.items():
        if found.encode() in held:
            text = pc.replace_substring(text, found, written)
    return pc.fill_null(text, "\\N")


def _parts(folder: Path, manifest: dict[str, Any]) -> list[Path]:
    return [folder / name for name in sorted(manifest["files"]) if name.endswith(".parquet")]


def _hook(target: str) -> Hook:
    module, _, name = target.partition(":")
    try:
        found: Hook = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"the sink's hook {target!r} cannot be found: {error}",
            "Write module:function, and have the module on PYTHONPATH.",
        ) from None
    return found


def _missing(library: str, extra: str) -> MissingError:
    return MissingError(f"this sink needs {library}, which is not installed", f"pip install 'nba[{extra}]'")
