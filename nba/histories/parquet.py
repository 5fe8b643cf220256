"""Parquet files as ingestion writes them."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nba.histories.sources import literal

# Keys are all different, so a dictionary of them is given up half way: the sooner the cheaper. Higher levels
# of zstd take longer, for files that are hardly smaller.
_OPTIONS = "format parquet, dictionary_size_limit 10000, compression"
_CODECS = {"zstd": "zstd, compression_level 1", "snappy": "snappy"}


def copy(connection: duckdb.DuckDBPyConnection, query: str, path: Path, codec: str = "zstd") -> None:
    """Write what a query gives as a Parquet file, streaming.

    Args:
        connection: Where the query runs.
        query: Of the rows, in the order in which they are written.
        path: Of the file; its folder is made.
        codec: zstd for tables that are kept, snappy for what is read again soon.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    where = literal(str(path))
    connection.execute(f"copy ({query}) to {where} ({_OPTIONS} {_CODECS[codec]})").fetchall()


def write_small(path: Path, table: pa.Table) -> None:
    """Write a table that is in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
