"""The Spark engine gives the local engine's rows, however the customers are divided.

In a process of its own, without the tests' warnings filter: what Spark starts outlives a test.
"""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nba import tables
from nba.errors import DataError
from nba.features import table
from nba.history import History
from nba.serving import spark

ROOT = Path(__file__).parents[2]
# For data this small, compiling costs more than it saves.
_QUICK = (
    '--driver-java-options "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"'
    " --conf spark.sql.codegen.wholeStage=false --conf spark.sql.codegen.factoryMode=NO_CODEGEN"
    " --conf spark.sql.adaptive.enabled=false pyspark-shell"
)
_CODE = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from tests.serving.conftest import Mortal, make_shop, with_merged
from nba.experiments import design
from nba.history import History
from nba.policy import arbitrate
from nba.serving import delivery, engines, jobs, spark, stream

folder, master = Path(sys.argv[1]), sys.argv[2]
shop = make_shop()
history = History.read(folder / "shop").commit(append={"customers": shop.customers})
history, first = with_merged(history, shop)
files = []
for i in range(3):
    files.append(folder / f"{i}.parquet")
    pq.write_table(shop.features.slice(i * 150, 150), files[-1])
stream.SAMPLE = 200


def rows(name, engine, model=shop.model):
    with history.as_of(shop.at) as snapshot:
        nuisance = arbitrate.nuisance(snapshot, shop.catalog, shop.config.reward)
        job = jobs.Job(
            "b1", shop.at, shop.catalog, shop.config, {"champion": model}, nuisance, shop.at,
            units=design.units(snapshot),
        )
        found = stream.run(job, snapshot, files, folder / name, engine=engine)
    parts = [pq.ParquetFile(path).read() for path in sorted(found.staged.glob("*.parquet"))]
    said = {k: v for k, v in found.manifest.items() if k != "files"}
    return pa.concat_tables(parts).sort_by("customer_id"), said


local = rows("local", engines.Local(2))
session = spark.session(master)
session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "61")
model = Mortal(folder) if "mortal" in sys.argv else shop.model
there = rows("spark", spark.Spark(session), model)
session.stop()
assert local[0].equals(there[0]), "rows differ"
assert local[1] == there[1], "manifests differ"
of = dict(zip(there[0]["customer_id"].to_pylist(), there[0]["arm"].to_pylist()))
drawn = design.assign(shop.config.experiment, list(first.values())).arm.tolist()
assert [of[name] for name in first] == drawn, "arms on record are lost"
print("identical", local[0].num_rows)
"""


def run(folder, master, code=_CODE, *more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
    environment["PYSPARK_SUBMIT_ARGS"] = _QUICK
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder), master, *more],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def test_rows_on_spark_are_those_of_this_machine(java, tmp_path):
    assert "identical 400" in run(tmp_path, "local[2]")


@pytest.mark.skipif("NBA_SLOW" not in os.environ, reason="takes half a minute: NBA_SLOW=1 runs it")
def test_rows_on_a_cluster_of_processes_too(java, tmp_path):
    assert "identical 400" in run(tmp_path, "local-cluster[2,1,1024]")


@pytest.mark.skipif("NBA_SLOW" not in os.environ, reason="takes half a minute: NBA_SLOW=1 runs it")
def test_a_worker_and_an_executor_that_are_lost_change_nothing(java, tmp_path):
    assert "identical 400" in run(tmp_path, "local-cluster[2,1,1024]", _CODE, "mortal")
    assert (tmp_path / "worker").exists()
    assert (tmp_path / "executor").exists()


_FEATURES = """
import sys
from pathlib import Path
from datetime import timedelta
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from nba import tables
from nba.features import table
from nba.histories.simulated import World
from nba.history import History
from nba.serving import delivery, engines, jobs, spark
from pipelines import decide, ingest, simulate

folder = Path(sys.argv[1]) / "shop"
simulate.simulate(folder, 300, 5, 2)
ingest.ingest(folder)
at = World.load(folder / simulate.FOLDER).start
history = History.read(folder)
with history.as_of(at) as snapshot:
    plain = table.build(snapshot)
# Half of the orders are corrected the day after: until then they were worth twice as much.
orders = history.table("orders")
corrected, n = at + timedelta(days=1), orders.num_rows
when = pa.array([corrected if i % 2 else None for i in range(n)], tables.TIME)
now = orders.set_column(orders.column_names.index("known_at"), "known_at", when)
before = orders.filter(pc.is_valid(when))
place = before.column_names.index("revenue")
before = before.set_column(place, "revenue", pc.multiply(before["revenue"], 2.0))
before = before.append_column("superseded_at", pa.repeat(pa.scalar(corrected, tables.TIME), before.num_rows))
# Some customers are others from then on; until then they are there.
people = history.table("customers")
gone = people.slice(0, 9).append_column("superseded_at", pa.repeat(pa.scalar(corrected, tables.TIME), 9))
history = history.commit(
    replace={"orders": now, "orders_earlier": before, "customers": people.slice(9), "customers_earlier": gone}
)
with history.as_of(at) as snapshot:
    own = table.build(snapshot)
    assert own["customer_id"].to_pylist() == plain["customer_id"].to_pylist()
    assert own["f_revenue_365"].to_pylist() != plain["f_revenue_365"].to_pylist()
    assert own["f_orders_365"].equals(plain["f_orders_365"])
    session = spark.session(sys.argv[2])
    there = spark.features(session, snapshot).toArrow().sort_by("customer_id")
assert there.column_names == own.column_names
assert there["customer_id"].to_pylist() == own["customer_id"].to_pylist()
for name in own.column_names[2:]:
    a, b = (t[name].to_numpy(zero_copy_only=False).astype(float) for t in (own, there))
    np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9, err_msg=name)

# A batch whose features Spark computed too.
found = decide.decide(folder, at, engine=sys.argv[2], spark_features=True)
logged = History.read(folder).table("features").sort_by("customer_id")
own = own.filter(pc.is_in(own["customer_id"], value_set=logged["customer_id"].combine_chunks()))
assert logged.schema.names == own.schema.names and logged.num_rows > 100
assert logged["as_of"].equals(own["as_of"])
assert logged["customer_id"].to_pylist() == own["customer_id"].to_pylist()
for name in own.column_names[2:]:
    np.testing.assert_allclose(
        logged[name].to_numpy(), own[name].to_numpy(), rtol=1e-9, atol=1e-9, err_msg=name
    )
print("decided", delivery.verify(found.folder)["n_decisions"] == logged.num_rows)
print("features", own.num_columns - 2)
"""


@pytest.mark.skipif("NBA_SLOW" not in os.environ, reason="takes half a minute: NBA_SLOW=1 runs it")
def test_features_on_spark_are_those_of_duckdb(java, tmp_path):
    said = run(tmp_path, "local[2]", _FEATURES)
    # More than the defaults: those by treatment depend on the catalog.
    assert int(said.split("features ")[1].split()[0]) > len(table.FEATURES)
    assert "decided True" in said


def test_queries_carried_over_say_what_spark_understands():
    from nba.serving.spark import carried_over

    assert carried_over("select isodow(t) as d from x") == "SELECT (WEEKDAY(t) + 1) AS d FROM x"
    rounded = carried_over("select round(epoch_us(t), 6) from x")
    assert "FLOOR(ABS((UNIX_MICROS(t))) *" in rounded


def test_dated_consent_is_refused_not_ignored(tmp_path):
    told = {"customer_id": "c", "since_at": datetime(2026, 1, 1, tzinfo=UTC)}
    told |= {f"can_{channel}": True for channel in tables.CHANNELS}
    history = History.read(tmp_path).commit(append={"states": tables.STATES.build([told])})
    with (
        history.as_of(datetime(2026, 2, 1, tzinfo=UTC)) as snapshot,
        pytest.raises(DataError, match="table states"),
    ):
        spark.features(None, snapshot)
