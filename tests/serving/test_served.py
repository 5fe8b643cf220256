"""The policy of a batch as an MLflow model: the batch's own decisions."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nba import tracking
from nba.errors import DataError
from nba.policy import arbitrate
from nba.policy.eligibility import eligible
from nba.serving import jobs, served, stream

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
    with history.as_of(shop.at) as snapshot:
        nuisance = arbitrate.nuisance(snapshot, shop.catalog, shop.config.reward)
        job = jobs.Job("b1", shop.at, shop.catalog, shop.config, {"champion": Believer()}, nuisance, shop.at)
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


@pytest.mark.skipif("NBA_SLOW" not in os.environ, reason="starts a server: NBA_SLOW=1 runs it")
def test_mlflow_serves_it(model):
    path, asked, decisions, package = model
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}
    command = ["-m", "mlflow", "models", "serve", "-m", str(path), "-p", "8597", "--env-manager", "local"]
    server = subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        body = json.dumps(
            {"dataframe_split": json.loads(asked.slice(0, 50).to_pandas().to_json(orient="split"))}
        )
        for _ in range(120):
            try:
                call = urllib.request.Request(
                    "http://127.0.0.1:8597/invocations", body.encode(), {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(call, timeout=10) as reply:
                    found = json.load(reply)["predictions"]
                break
            except OSError:
                time.sleep(1)
        assert [row["treatment_id"] for row in found] == decisions["treatment_id"].to_pylist()[:50]
    finally:
        server.terminate()
        server.wait()
