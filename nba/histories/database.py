"""Rows of an SQL database, through its URL: any that SQLAlchemy knows; PostgreSQL is tested for real.

Rows are fetched through a server-side cursor in batches, so that a table need not fit into memory. The
query runs in one read-only transaction where the database offers that: what comes is one consistent state.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from nba.histories.rawfile import Fault, Raw
from nba.histories.sources import INPUT, chunked, unknown
from nba.settings import Source

_BATCH = 50_000
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def shown(source: Source) -> str:
    """Name the source in reports: its table, or that it is a query; never its URL, which holds a password."""
    text = (source.query or "").strip()
    return f"table {text}" if _is_name(text) else "query"


def address(source: Source, workspace: Path) -> str:
    """Give the URL with `${NAME}` replaced by environment variables and the driver that is installed.

    Raises:
        Fault: when a variable is not set.
    """
    url = source.url or ""
    absent = sorted({name for name in re.findall(r"\$\{(\w+)\}", url) if name not in os.environ})
    if absent:
        raise Fault(f"needs the environment variable {', '.join(absent)} for its url")
    url = re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], url)
    kind, _, rest = url.partition("://")
    if kind == "sqlite" and rest.startswith("/") and not rest.startswith("//"):
        rest = "/" + str((workspace / rest[1:]).resolve())
    return f"{_DRIVERS.get(kind, kind)}://{rest}"


def open_query(source: Source, workspace: Path, wanted: Sequence[str]) -> tuple[Raw, Any]:
    """Open a table or query for reading its wanted columns.

    Returns:
        The rows, and a hash that has seen all of them once they have been read.

    Raises:
        Fault: when the database cannot be reached, the query fails or a column is absent.
    """
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        engine = sa.create_engine(address(source, workspace), poolclass=sa.NullPool)
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise Fault("has a url that cannot be used; expected such as postgresql://user@host/name") from None
    except ModuleNotFoundError as error:
        raise Fault(
            f"needs the driver {error.name}; pip install it (psycopg comes with nba[postgres])"
        ) from None
    digest = hashlib.sha256()
    link = None
    try:
        link = engine.connect()
        _tolerate_endless(engine, link)
        link = link.execution_options(stream_results=True, max_row_buffer=_BATCH)
        if engine.dialect.name == "postgresql":
            link = link.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        result = link.execute(sa.text(_select(source)))
    except SQLAlchemyError as error:
        _close(engine, link)
        raise Fault(_why(error)) from None
    names = list(result.keys())
    repeated = sorted({name for name in wanted if names.count(name) > 1})
    if told := unknown(wanted, names) or (repeated and f"names {repeated} more than once"):
        _close(engine, link, result)
        raise Fault(told)
    places = [names.index(name) for name in wanted]
    first = _fetch(result)
    types = tuple(_type([row[i] for row in first]) for i in places)
    fields = [pa.field(f"c{n}", kind) for n, kind in enumerate(types)]
    schema = pa.schema([("row_number", pa.int64()), ("is_row", pa.bool_()), *fields])

    def batches() -> Iterator[pa.RecordBatch]:
        rows, n = first, 0
        try:
            while rows:
                data: list[Any] = [
                    pa.array(range(n + 1, n + len(rows) + 1), pa.int64()),
                    pa.repeat(True, len(rows)),
                ]
                data += [_column([row[i] for row in rows], kind) for i, kind in zip(places, types)]
                digest.update(repr([tuple(row[i] for i in places) for row in rows]).encode())
                yield pa.record_batch(data, schema)
                n += len(rows)
                rows = _fetch(result)
            raw.n_rows = n
        finally:
            _close(engine, link, result)

    raw = Raw(INPUT, types)
    raw.chunks = chunked(batches(), schema)
    return raw, digest


def _tolerate_endless(engine: Any, link: Any) -> None:
    """Read PostgreSQL's infinity, and years that Python has not, as the last or first moment it has.

    They are no time that a mapping accepts, so that such a row goes to quarantine and the others are read.
    """
    if engine.dialect.driver != "psycopg":
        return
    from psycopg import DataError
    from psycopg.types import datetime as known

    def tolerant(loader: type, low: Any, high: Any) -> type:
        def load(self: Any, data: Any) -> Any:
            try:
                return loader.load(self, data)  # type: ignore[attr-defined]
            except DataError:
                text = bytes(data)
                return low if text.startswith(b"-") or text.endswith(b"BC") else high

        return type(loader.__name__, (loader,), {"load": load})

    adapters = link.connection.driver_connection.adapters
    first, last = datetime.min, datetime.max
    adapters.register_loader("date", tolerant(known.DateLoader, first.date(), last.date()))
    adapters.register_loader("timestamp", tolerant(known.TimestampLoader, first, last))
    first, last = first.replace(tzinfo=UTC), last.replace(tzinfo=UTC)
    adapters.register_loader("timestamptz", tolerant(known.TimestamptzLoader, first, last))


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[\w.\"]+", text) is not None


def _select(source: Source) -> str:
    text = (source.query or "").strip().rstrip(";")
    return f"select * from {text}" if _is_name(text) else text


def _close(engine: Any, link: Any, result: Any = None) -> None:
    # A connection that is dead cannot be closed in good order.
    for part in (result, link):
        with suppress(Exception):
            if part is not None:
                part.close()
    if link is not None and not link.closed:
        link.invalidate()
    engine.dispose()


def _fetch(result: Any) -> list[Any]:
    from sqlalchemy.exc import DataError, SQLAlchemyError

    try:
        return list(result.fetchmany(_BATCH))
    except DataError as error:
        raise Fault(_why(error)) from None
    except SQLAlchemyError as error:
        raise Fault(f"went away while it was read: {_why(error)}") from None


def _why(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    text = " ".join(str(cause).split())
    return "cannot be read: " + re.sub(r"://[^\s@]*@", "://", text)[:200]


def _type(values: Sequence[Any]) -> pa.DataType:
    # Of the values that came first; a column of nothing but null is text.
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {bool}:
        return pa.bool_()
    if kinds and kinds <= {int}:
        return pa.int64()
    if kinds and kinds <= {int, float, Decimal}:
        return pa.float64()
    if kinds and kinds <= {datetime}:
        zoned = any(value.tzinfo is not None for value in values if value is not None)
        return pa.timestamp("us", tz="UTC") if zoned else pa.timestamp("us")
    if kinds and kinds <= {date}:
        return pa.date32()
    return pa.string()


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        if kind == pa.string():
            return pa.array([_text(value) for value in values], kind)
        if kind == pa.float64():
            return pa.array([None if value is None else float(value) for value in values], kind)
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, ValueError) as error:
        raise Fault(f"has a column whose type changes between rows: {error}") from None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return str(value)
