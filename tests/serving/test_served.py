"""The policy of a batch as an MLflow model: the batch's own decisions."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nba import tracking
from nba.errors import DataError
from nba.experiments import design
from nba.policy import arbitrate
from nba.policy.eligibility import eligible
from nba.serving import jobs, served, stream
from tests.serving.conftest import with_merged

ROOT = Path(__file__).parents[2]
_BELIEVER = """
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from nba import draws


class Believer:
    model_id = "believer-1"

    def scores(self, features, catalog):
        x = features["f_x"].to_numpy()
        k = len(catalog.treatment_ids)
        uplift = np.column_stack([0.02 * (j + 1) + 0.05 * np.tanh(x * (j - 2)) for j in range(k)])
        uplift[:, 0] = 0
        return SimpleNamespace(p_response=0.1 + uplift, uplift=uplift, uplift_se=np.full_like(uplift, 0.01),
                               margin_per_response=np.full(len(x), 30.0))

    def save(self, folder):
        Path(folder).mkdir(parents=True)

    @classmethod
    def load(cls, folder):
        return cls()
"""


@pytest.fixture
def model(shop, history, tmp_path, monkeypatch):
    """A streamed batch, its policy as an MLflow model, and what it is asked with."""
    package = tmp_path / "modules"
    package.mkdir()
    (package / "believer_of_tests.py").write_text(_BELIEVER)
    monkeypatch.syspath_prepend(str(package))
    from believer_of_tests import Believer

    path = tmp_path / "features.parquet"
    pq.write_table(shop.features, path)
    history, first = with_merged(history, shop)
    with history.as_of(shop.at) as snapshot:
        nuisance = arbitrate.nuisance(snapshot, shop.catalog, shop.config.reward)
        job = jobs.Job(
            "b1", shop.at, shop.catalog, shop.config, {"champion": Believer()}, nuisance, shop.at,
            units=design.units(snapshot),
        )  # fmt: skip
        assert first.items() > job.units.items() > set()
        found = stream.run(job, snapshot, [path], tmp_path / "out")
        ids = shop.features["customer_id"].combine_chunks()
        rules = eligible(snapshot, shop.catalog, shop.config.limits, ids)
    bits = (rules.is_eligible << np.arange(rules.is_eligible.shape[1])).sum(axis=1)
    asked = shop.features.drop_columns(["as_of"]).append_column("eligible", pa.array(bits, pa.int64()))
    served.save(job, found.drawn, tmp_path / "plan", {"champion": "believer_of_tests:Believer"})
    tracking.save_policy(tmp_path / "model", served.LOADER, tmp_path / "plan", asked.slice(0, 5))
    parts = [pq.ParquetFile(part).read() for part in found.staged.glob("*.parquet")]
    return tmp_path / "model", asked, pa.concat_tables(parts), package


# by hand


def test_it_decides_what_the_batch_decided(model):
    import mlflow.pyfunc

    path, asked, decisions, _ = model
    loaded = mlflow.pyfunc.load_model(str(path))
    order = np.random.default_rng(0).permutation(asked.num_rows)
    answer = loaded.predict(asked.take(pa.array(order)).to_pandas())
    own = decisions.take(pa.array(order))
    for name in ("decision_id", "treatment_id", "channel", "arm", "p_action"):
        assert answer[name].tolist() == own[name].to_pylist(), name
    assert [f.name for f in loaded.metadata.get_output_schema().inputs] == list(served._ANSWER)
    assert not list(path.rglob("*.pkl"))
    with pytest.raises(DataError, match=r"\['eligible'\] are missing"):
        served.Served.load(path / "artifacts" / "scorer").wide(asked.drop_columns(["eligible"]))


def environment(package):
    # `mlflow models serve` starts uvicorn by its name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}


def asked_once_up(url, body, server):
    for _ in range(120):
        assert server.poll() is None, "the server has ended"
        try:
            call = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(call, timeout=30) as reply:
                return json.load(reply)["predictions"]
        except urllib.error.HTTPError as error:
            pytest.fail(error.read().decode())
        except OSError:
            time.sleep(1)
    return pytest.fail("the server did not come up")


@pytest.mark.skipif("NBA_SLOW" not in os.environ, reason="starts a server: NBA_SLOW=1 runs it")
def test_mlflow_serves_it(model, tmp_path):
    path, asked, decisions, package = model
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", str(path), "-p", str(port), "--env-manager", "local"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment(package), stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            some = json.loads(asked.slice(0, 50).to_pandas().to_json(orient="split"))
            url = f"http://127.0.0.1:{port}/invocations"
            found = asked_once_up(url, json.dumps({"dataframe_split": some}), server)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
    for name in ("decision_id", "treatment_id", "arm"):
        assert [row[name] for row in found] == decisions[name].to_pylist()[:50]


_UDF = """
import sys
import mlflow.pyfunc
import pyarrow.parquet as pq
from pyspark.sql.functions import struct
from nba.serving import served, spark

session = spark.session("local[2]")
asked = session.read.parquet(sys.argv[2])
kinds = ", ".join(
    f"{name} {'double' if name in ('p_action', 'expected_value') else 'string'}" for name in served._ANSWER
)
decide = mlflow.pyfunc.spark_udf(session, sys.argv[1], result_type=kinds, env_manager="local")
asked.select(decide(struct(*asked.columns)).alias("d")).select("d.*").toPandas().to_parquet(sys.argv[3])
session.stop()
"""


@pytest.mark.skipif("NBA_SLOW" not in os.environ, reason="starts Spark: NBA_SLOW=1 runs it")
def test_spark_asks_it_as_a_function(java, model, tmp_path):
    path, asked, decisions, package = model
    place, answers = tmp_path / "asked.parquet", tmp_path / "answers.parquet"
    pq.write_table(asked, place)
    command = [sys.executable, "-c", _UDF, str(path), str(place), str(answers)]
    found = subprocess.run(command, env=environment(package), capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    answer = pq.read_table(answers).sort_by("decision_id")
    own = decisions.sort_by("decision_id")
    for name in ("decision_id", "treatment_id", "channel", "arm", "p_action"):
        assert answer[name].to_pylist() == own[name].to_pylist(), name
