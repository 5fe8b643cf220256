"""Fixtures shared by areas: a tracking store of the tests' own, and a small world that was played."""

import fcntl
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from nba.policy import replayed

# The same examples in every run, however slow the machine: a failure is then of the change, not of luck.
settings.register_profile("unhurried", deadline=None, derandomize=True)
settings.load_profile("unhurried")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # workers of one machine would spin against each other
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("postgres_server", ROOT / "tests" / "postgres.py")
assert _spec is not None
assert _spec.loader is not None
postgres_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(postgres_server)
CUSTOMERS, BATCHES, SEED = 1_500, 4, 3


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session", autouse=True)
def tracking_store(shared: Path) -> Iterator[str]:
    """No test writes to the checkout's MLflow store."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    uri = f"sqlite:///{shared / 'mlruns' / 'mlflow.db'}"
    (shared / "mlruns").mkdir(exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    yield uri
    if before is None:
        del os.environ["MLFLOW_TRACKING_URI"]
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session", autouse=True)
def few_replays() -> Iterator[None]:
    """Chances of being kept are rougher in tests, and quick; who asks how exact they are sets them back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replayed, "STEPS", replayed.STEPS // 50)
        patch.setattr(replayed, "LEAST", 50)
        yield


def quickly(workspace: Path) -> None:
    """Let a simulated workspace's models be of few trees: what they are worth is not what is tested."""
    toml = workspace / "nba.toml"
    before = toml.read_text(encoding="utf-8")
    after = before.replace("[models]\nfolds = 3\n", "[models]\nfolds = 2\ntrees = 15\n")
    assert after != before
    toml.write_text(after, encoding="utf-8")


@pytest.fixture(scope="session")
def small_demo(shared: Path, tracking_store: str) -> Path:
    """A small world, played once per run, its result in `result.json`; read it, do not change it."""
    from pipelines import demo, simulate

    workspace = shared / "small-demo"
    with (shared / "small-demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (workspace / "result.json").is_file():
            simulate.simulate(workspace, CUSTOMERS, SEED, BATCHES)
            quickly(workspace)
            result = demo.demo(workspace, CUSTOMERS, BATCHES, SEED)
            (workspace / "result.json").write_text(json.dumps(result.rows), encoding="utf-8")
    return workspace


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the public data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("NBA_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the public data sets are not in {folder}; set NBA_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server of this run; tests that need it are skipped where none is installed."""
    if postgres_server.binaries() is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    # Not in pytest's own folder: another run of pytest closes that to the user who runs the server.
    with (
        tempfile.TemporaryDirectory(prefix="nba-postgres-") as folder,
        postgres_server.server(Path(folder) / "server") as url,
    ):
        yield url


@pytest.fixture(scope="session")
def java() -> None:
    """Spark runs on Java; tests that need it are skipped where none is installed."""
    if shutil.which("java") is None:
        pytest.skip(
            "Spark runs on Java, and none is installed (Debian: apt-get install default-jre-headless)"
        )
