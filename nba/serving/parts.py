"""What was known of some customers only: the history sorted once, then looked up range by range."""

import copy
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from nba import tables
from nba.history import Snapshot

# Tables that the rules look up for everybody; others are filtered as they are read.
_SORTED = ("customers", "touches", "decisions")
_FEW = 200_000
_MEMORY_GB = 0.25


class Parts:
    """Views of what was known, restricted to ranges of customers.

    Args:
        snapshot: What was known.
        work: Folder for what is sorted, and for what DuckDB spills.
        files: What was sorted already, by table; sorted here if absent.
    """

    def __init__(self, snapshot: Snapshot, work: Path, files: Mapping[str, Path] | None = None) -> None:
        self._snapshot = snapshot
        self.files = dict(files or {})
        self._views = {name for name in tables.BY_NAME if _is_view(snapshot.connection, name)}
        for setting in (f"memory_limit = '{_MEMORY_GB}GB'", f"temp_directory = '{_quoted(work / 'duckdb')}'"):
            snapshot.connection.execute(f"set {setting}").fetchall()
        for name in _SORTED if files is None else ():
            n = snapshot.connection.execute(f"select count(*) from {name}").fetchall()[0][0]
            if n > _FEW:
                path = work / f"{name}.sorted.parquet"
                snapshot.connection.execute(
                    f"copy (from {name} order by customer_id) to '{_quoted(path)}'"
                    " (format parquet, compression lz4_raw, row_group_size 32768)"
                ).fetchall()
                self.files[name] = path

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Open a connection for `of`; one per thread."""
        connection = self._snapshot.connection.cursor()
        connection.execute("set TimeZone = 'UTC'").fetchall()
        for name in self._views:
            # Empty tables are known to the connection that registered them only.
            if not self._snapshot.history.has(name):
                connection.register(f"{name}_all", tables.BY_NAME[name].empty())
        return connection

    def of(self, connection: duckdb.DuckDBPyConnection, ids: pa.ChunkedArray) -> Snapshot:
        """Give what was known of the customers from the first to the last of these ids.

        Views of the connection hide those of the whole until the next call.
        """
        ends = [str(end.as_py()).replace("'", "''") for end in pc.min_max(ids).values()]
        for name in self._views:
            if "customer_id" not in tables.BY_NAME[name].columns:
                continue
            file = self.files.get(name)
            rows = f"read_parquet('{_quoted(file)}')" if file else f"memory.main.{name}"
            connection.execute(
                f"create or replace temp view {name} as from {rows}"
                f" where customer_id between '{ends[0]}' and '{ends[1]}'"
            ).fetchall()
        part = copy.copy(self._snapshot)
        part.connection = connection
        return part

    def clear(self) -> None:
        """Remove what was sorted."""
        for path in self.files.values():
            path.unlink(missing_ok=True)


def _is_view(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    found = connection.execute(
        "select count(*) from duckdb_views() where view_name = $1 and not temporary", [name]
    )
    return bool(found.fetchall()[0][0])


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
