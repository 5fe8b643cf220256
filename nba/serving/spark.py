"""The same decisions on a Spark cluster: the functions of `nba.serving.stream`, run by `mapInArrow`.

Workers need this package, and a file system shared with the driver for the history and the batch's work
folder; models travel to each worker once, as LightGBM's text. Only sums, the sample for the prices and
finished rows come back to the driver, which writes the batch, part by part. Extra: `nba[spark]`.
"""

import os
import pickle
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nba import tables
from nba.errors import DataError, MissingError
from nba.features import table
from nba.history import Snapshot
from nba.models import traverse
from nba.serving.engines import ROWS, Source, keep, kept, ordered, read_parts, score_part
from nba.serving.jobs import Job, Scored
from nba.serving.parts import Parts

T = TypeVar("T")

_TASK = "32m"  # features of some 70,000 customers, so that no core waits long for another's last task
_SMALL = 1 << 20  # bytes of a result that workers send instead of leaving it in the work folder
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
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", str(ROWS))
        .config("spark.executorEnv.OMP_NUM_THREADS", "1")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.sql.files.maxPartitionBytes", _TASK)
    )
    if master is not None:
        builder = builder.master(master)
        if master.startswith("local"):
            # A worker that is lost is replaced here too, as clusters do.
            builder = builder.master(re.sub(r"^local\[(\d+|\*)\]$", r"local[\1,4]", master))
            builder = builder.config("spark.driver.bindAddress", "127.0.0.1")
            builder = builder.config("spark.driver.host", "127.0.0.1")
    return builder.getOrCreate()


class Spark:
    """The engine of `nba.serving.stream.run` on a cluster.

    Workers keep scored parts in the batch's work folder, and send back what is small; what is not, such as
    finished rows, they leave there for the driver, which takes up one part at a time.

    Args:
        spark: A session.
    """

    def __init__(self, spark: Any) -> None:
        self._spark = spark
        self._work = Path()
        self._parts: list[str] = []

    def score(self, source: Source, then: Callable[[Scored], T]) -> Iterator[T]:
        """Score all customers, keep the parts, and give what `then` makes of each."""
        job, snapshot, features, work = source
        work = work.absolute()
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
                    scored = score_part(own, part, some)
                    first = str(scored.ids[0])
                    name = blake2b(first.encode(), digest_size=8).hexdigest()
                    keep(work, name, scored)
                    made = _left(work, then(scored))
                    yield pa.RecordBatch.from_pydict({"first": [first], "part": [name], "made": [made]})

        # Times stay behind: models read numbers only.
        frame = self._spark.read.parquet(*map(str, features))
        frame = frame.select("customer_id", *(name for name in frame.columns if name.startswith("f_")))
        rows = frame.mapInArrow(run, "first string, part string, made binary").collect()
        # In the order of customers, however Spark divided them.
        rows.sort(key=lambda row: str(row["first"]))
        self._work, self._parts = work, [row["part"] for row in rows]
        for row in rows:
            yield _taken(bytes(row["made"]))

    def each(self, then: Callable[[Scored], T]) -> Iterator[T]:
        """Give what `then` makes of each part that was kept."""
        # A job takes a fifth of a second to plan, a task a tenth to begin: few of both, yet the driver does
        # not wait for all.
        work, cores = self._work, self._spark.sparkContext.defaultParallelism
        size = 8 * cores

        def collected(names: list[str]) -> list[bytes]:
            def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
                for batch in batches:
                    for number in batch["id"].to_pylist():
                        made = _left(work, then(kept(work, names[number])))
                        yield pa.RecordBatch.from_pydict({"made": pa.array([made], pa.binary())})

            # By the same workers, which have all imported: RDDs would have others.
            numbers = self._spark.range(0, len(names), 1, min(len(names), 2 * cores))
            return [bytes(row["made"]) for row in numbers.mapInArrow(run, "made binary").collect()]

        groups = (self._parts[i : i + size] for i in range(0, len(self._parts), size))
        # The next group is worked on while the driver takes up this one.
        for group in ordered(collected, groups, 2):
            yield from map(_taken, group)

    def features(self, snapshot: Snapshot, ids: pa.Array, folder: Path, rows: int) -> Iterator[Path]:
        """Compute the features of customers on the cluster, and give files of them in order of customer.

        Args:
            snapshot: What was known.
            ids: The customers.
            folder: Folder of the files, which driver and workers share.
            rows: Rows of a file.
        """
        wanted = self._spark.createDataFrame(pa.table({"customer_id": ids}))
        found = features(self._spark, snapshot).join(wanted, "customer_id", "left_semi")
        made = folder.absolute() / "spark"
        found.orderBy("customer_id").write.mode("overwrite").parquet(str(made))
        for number, some in enumerate(read_parts(sorted(made.glob("part-*.parquet")), rows)):
            path = folder / f"{number:05d}.parquet"
            pq.write_table(_as_built(some), path, compression="zstd", row_group_size=ROWS)
            yield path
        shutil.rmtree(made)


def _as_built(found: pa.Table) -> pa.Table:
    # As `table.build` gives it: numbers, NaN where unknown.
    for number, name in enumerate(found.column_names):
        if name.startswith("f_"):
            values = pc.fill_null(found[name].cast(pa.float64()), float("nan"))
            found = found.set_column(number, name, values)
    return tables.FEATURES.conform(found)


def _left(work: Path, result: object) -> bytes:
    # Pickled; where it is large, the path of the file that it was left in.
    data = pickle.dumps(result, protocol=5)
    if len(data) <= _SMALL:
        return b"d" + data
    path = work / f"{uuid.uuid4().hex}.made"
    path.write_bytes(data)
    return b"p" + str(path).encode()


def _taken(left: bytes) -> Any:
    # From our own workers, just written.
    if left[:1] == b"d":
        return pickle.loads(left[1:])  # noqa: S301
    path = Path(left[1:].decode())
    with path.open("rb") as file:
        found = pickle.load(file)  # noqa: S301
    path.unlink()
    return found


def features(spark: Any, snapshot: Snapshot) -> Any:
    """Compute the features table on Spark from the definitions that DuckDB runs, carried over by sqlglot.

    Args:
        spark: A session whose time zone is UTC.
        snapshot: What was known; its tables' files are read by Spark.

    Returns:
        A Spark data frame: customer_id, as_of, f_*; values equal to DuckDB's to 1e-9.

    Raises:
        DataError: while rows of merged customers wait to be rewritten: ingest once more; or where consent and
            attributes are dated, since what held at the moment is looked up by DuckDB only.
    """
    history = snapshot.history
    if history.has_pending_aliases:
        raise DataError("rows of merged customers wait to be rewritten", "Run `nba ingest`, then this again.")
    if history.has("states") and history.n_rows("states"):
        raise DataError(
            "consent and attributes of customers are dated (table states), which Spark does not look up",
            "Compute the features locally (`nba.features.table.build`), or leave `updated_at` unmapped.",
        )
    for name in _READ:
        if history.has(name):
            frame = spark.read.option("mergeSchema", "true").parquet(*history.paths(name))
            if name == "decisions" and history.has("aliases"):
                frame = _of_now(frame, spark.createDataFrame(snapshot.table("aliases_then")))
        else:
            frame = spark.createDataFrame([], _ddl(tables.BY_NAME[name]))
        frame.createOrReplaceTempView(f"{name}_all")
        before = tables.BEFORE.get(name, "")
        if history.has(before):
            rows = spark.read.option("mergeSchema", "true").parquet(*history.paths(before))
            rows.createOrReplaceTempView(f"{name}_earlier_all")
        visible = carried_over(_view(snapshot, name))
        spark.sql(visible).createOrReplaceTempView(name)
    return spark.sql(carried_over(table.query(snapshot)))


def _of_now(decided: Any, aliases: Any) -> Any:
    # As `nba.merged` does it: decisions of an id that went into another count for the other.
    from pyspark.sql import functions as f

    moved = aliases.select(f.col("alias_id").alias("customer_id"), f.col("customer_id").alias("now_id"))
    owner = f.coalesce(f.col("now_id"), f.col("customer_id"))
    return decided.join(moved, "customer_id", "left").withColumn("customer_id", owner).drop("now_id")


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
