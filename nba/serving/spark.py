"""The same decisions on a Spark cluster: the functions of `nba.serving.stream`, run by `mapInArrow`.

Workers need this package and the history's files (a shared file system); models travel to each worker
once, as LightGBM's text. Only sums, the sample for the prices and finished rows come back to the driver,
which writes the batch, part by part. Extra: `pip install 'nba[spark]'`.
"""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from nba import tables
from nba.errors import DataError, MissingError
from nba.features import table
from nba.history import Snapshot
from nba.models import traverse
from nba.serving.engines import Source, score_part
from nba.serving.jobs import Job, Scored
from nba.serving.parts import Parts

T = TypeVar("T")

_ARRAYS = Scored._fields[2:]
_SCHEMA = "ids string, external string, n long, " + ", ".join(f"{name} binary" for name in _ARRAYS)
_RECORDS = 32_768
_READ = ("customers", "orders", "events", "touches", "decisions", "outcomes")
_opened: dict[int, tuple[Job, Parts, Any]] = {}


def session(master: str | None = None) -> Any:
    """Start a Spark session, or join the one that `spark-submit` made.

    Args:
        master: Spark master, such as `local[2]`; what spark-submit says if absent.

    Raises:
        MissingError: when PySpark or Java is not installed.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise MissingError("PySpark is not installed", "pip install 'nba[spark]'") from None
    if not os.environ.get("JAVA_HOME") and shutil.which("java") is None:
        raise MissingError("Java is not installed; Spark needs it", "Install a Java 17 runtime.")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = (
        SparkSession.builder.appName("nba")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", str(_RECORDS))
        .config("spark.executorEnv.OMP_NUM_THREADS", "1")
        .config("spark.sql.shuffle.partitions", "4")
    )
    if master is not None:
        builder = builder.master(master)
        if master.startswith("local"):
            builder = builder.config("spark.driver.bindAddress", "127.0.0.1")
            builder = builder.config("spark.driver.host", "127.0.0.1")
    return builder.getOrCreate()


class Spark:
    """The engine of `nba.serving.stream.run` on a cluster.

    Args:
        spark: A session.
    """

    def __init__(self, spark: Any) -> None:
        self._spark = spark
        self._scored = ""

    def score(self, source: Source, then: Callable[[Scored], T]) -> Iterator[T]:
        """Score all customers, keep the parts, and give what `then` makes of each."""
        job, snapshot, features, work = source
        sorted_files = Parts(snapshot, work).files
        shared = self._spark.sparkContext.broadcast(
            pickle.dumps((job, snapshot.history, snapshot.at, sorted_files, str(work)))
        )

        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            with traverse.one_thread():
                for batch in batches:
                    if not batch.num_rows:
                        continue
                    some = pa.Table.from_batches([batch])
                    own, part = _worker(shared.value, some["customer_id"])
                    yield encoded(score_part(own, part, some))

        # Times stay behind: models read numbers only.
        frame = self._spark.read.parquet(*map(str, features))
        frame = frame.select("customer_id", *(name for name in frame.columns if name.startswith("f_")))
        self._scored = str(work / "scored")
        frame.mapInArrow(run, _SCHEMA).write.mode("overwrite").parquet(self._scored)
        yield from self.each(then)

    def each(self, then: Callable[[Scored], T]) -> Iterator[T]:
        """Give what `then` makes of each part that was kept."""

        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for row in batch.to_pylist():
                    made = pickle.dumps(then(decoded(row)))
                    yield pa.RecordBatch.from_pydict({"made": pa.array([made], pa.binary())})

        frame = self._spark.read.parquet(self._scored).mapInArrow(run, "made binary")
        for row in frame.toLocalIterator(prefetchPartitions=True):
            yield pickle.loads(bytes(row["made"]))  # noqa: S301  what our own workers just wrote


def features(spark: Any, snapshot: Snapshot) -> Any:
    """Compute the features table on Spark from the definitions that DuckDB runs, carried over by sqlglot.

    Args:
        spark: A session whose time zone is UTC.
        snapshot: What was known; its tables' files are read by Spark.

    Returns:
        A Spark data frame: customer_id, as_of, f_*; values equal to DuckDB's to 1e-9.

    Raises:
        DataError: while rows of merged customers wait to be rewritten: ingest once more.
    """
    history = snapshot.history
    if history.has_pending_aliases:
        raise DataError("rows of merged customers wait to be rewritten", "Run `nba ingest`, then this again.")
    for name in _READ:
        if history.has(name):
            frame = spark.read.option("mergeSchema", "true").parquet(*history.paths(name))
        else:
            frame = spark.createDataFrame([], _ddl(tables.BY_NAME[name]))
        frame.createOrReplaceTempView(f"{name}_all")
        visible = carried_over(_view(snapshot, name))
        spark.sql(visible).createOrReplaceTempView(name)
    return spark.sql(carried_over(table.query(snapshot)))


def carried_over(query: str) -> str:
    """Carry a query over from DuckDB's SQL to Spark's.

    sqlglot does it, but for four things: microseconds since 1970, days of the week (its own are a day off),
    rounding, which Spark does on decimals, and numbers with a point, which Spark reads as decimals.

    Example:
        >>> carried_over("select epoch_us(t) from x")
        'SELECT UNIX_MICROS(t) FROM x'
    """
    try:
        import sqlglot
        from sqlglot import exp
    except ImportError:
        raise MissingError("sqlglot is not installed", "pip install 'nba[spark]'") from None

    def spark(text: str) -> Any:
        return sqlglot.parse_one(text, read="spark")

    def change(node: Any) -> Any:
        if isinstance(node, exp.Anonymous) and node.name.lower() == "epoch_us":
            return exp.Anonymous(this="UNIX_MICROS", expressions=node.expressions)
        if isinstance(node, exp.DayOfWeekIso):
            return spark(f"(WEEKDAY({node.this.transform(change).sql('spark')}) + 1)")
        if isinstance(node, exp.Round) and node.args.get("decimals") is not None:
            x = f"({node.this.transform(change).sql('spark')})"
            scale = f"{10 ** int(node.args['decimals'].name)}D"
            away = f"SIGN({x}) * FLOOR(ABS({x}) * {scale} + 0.5D) / {scale}"
            return spark(f"CASE WHEN ISNAN({x}) THEN {x} ELSE {away} END")
        if isinstance(node, exp.Literal) and not node.is_string and "." in node.name:
            return spark(f"CAST('{node.name}' AS DOUBLE)")
        return node

    return str(sqlglot.parse_one(query, read="duckdb").transform(change).sql("spark"))


def _view(snapshot: Snapshot, name: str) -> str:
    found = snapshot.connection.execute(
        "select sql from duckdb_views() where view_name = $1 and not temporary", [name]
    ).fetchall()
    # CREATE VIEW name AS <query>;
    return str(found[0][0]).split(" AS ", 1)[1].rstrip().rstrip(";")


def _ddl(contract: tables.Table) -> str:
    kinds = {"number": "double", "count": "long", "flag": "boolean", "time": "timestamp"}
    return ", ".join(f"{field.name} {kinds.get(field.kind, 'string')}" for field in contract.fields)


def encoded(part: Scored) -> pa.RecordBatch:
    """Put a part into one row: its arrays as bytes, its names as Arrow."""
    row: dict[str, Any] = {"ids": _words(part.ids), "external": _words(part.external), "n": [len(part.ids)]}
    row |= {name: pa.array([_bytes(getattr(part, name))], pa.binary()) for name in _ARRAYS}
    return pa.RecordBatch.from_pydict(row)


def decoded(row: dict[str, Any]) -> Scored:
    """Read what `encoded` wrote."""
    arrays = [np.load(pa.BufferReader(row[name]), allow_pickle=False) for name in _ARRAYS]
    return Scored(_unwords(row["ids"]), _unwords(row["external"]), *arrays)


def _words(names: pa.Array) -> pa.Array:
    return pa.array([json.dumps(names.to_pylist(), ensure_ascii=False)], pa.string())


def _unwords(text: str) -> pa.Array:
    return pa.array(json.loads(text), pa.string())


def _bytes(array: np.ndarray) -> bytes:
    sink = pa.BufferOutputStream()
    np.save(sink, array, allow_pickle=False)
    return bytes(sink.getvalue())


def _worker(shared: bytes, ids: pa.ChunkedArray) -> tuple[Job, Snapshot]:
    # What a worker process opens once: the job with its models, and the history.
    key = hash(shared)
    if key not in _opened:
        job, history, at, files, work = pickle.loads(shared)  # noqa: S301  from our own driver
        snapshot = history.as_of(at)
        parts = Parts(snapshot, Path(work), files)
        _opened.clear()
        _opened[key] = job, parts, parts.connect()
    job, parts, connection = _opened[key]
    return job, parts.of(connection, ids)
