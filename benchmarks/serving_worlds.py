"""A catalog, a joint model and customers of any number, made once for the benchmarks of batch scoring."""

import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

from nba import settings, tables
from nba.catalog import Action, Catalog, Treatment
from nba.history import History
from nba.models import inputs, traverse
from nba.models.inputs import Coding
from nba.models.scorer import Scores

ROOT = Path(__file__).parents[1]
AT = datetime(2026, 3, 2, 6, tzinfo=UTC)
FEATURES, TREES, LEAVES = 60, 200, 63
NAMES = tuple(f"f_{i:02d}" for i in range(FEATURES))
MILLION = 1_000_000
FILE_ROWS = 250_000


# the shop: 20 treatments of 5 actions on 4 channels


def shop() -> Catalog:
    channels = ("email", "sms", "push", "call")
    cost = {"email": 0.02, "sms": 0.08, "push": 0.01, "call": 1.5}
    actions = tuple(Action(f"a{i}", "i", "g", f"Action {i}", 20.0 + 5 * i) for i in range(5))
    return Catalog(
        actions,
        tuple(
            Treatment(f"{a.action_id}_{c}", a.action_id, c, cost[c], 14) for a in actions for c in channels
        ),
    )


def config(n: int) -> settings.Settings:
    """Two capacities and a budget that bind, contact caps, three arms."""
    arm = settings.Arm
    return settings.Settings(
        workspace=settings.Workspace(name="bench"),
        limits=settings.Limits(
            capacity={"sms": n // 20, "call": n // 200}, budget=0.02 * n, contact_days=28, max_contacts=3
        ),
        policy=settings.PolicySettings(temperature=0.1, floor=0.02),
        experiment=settings.Experiment(
            arms=(
                arm(name="holdout", share=0.1, policy="none"),
                arm(name="random", share=0.1, policy="random"),
                arm(name="policy", share=0.8, policy="champion"),
            )
        ),
        delivery=settings.Delivery(log_choices=0.0),
    )


class Joint:
    """One booster over features, action and channel; the uplift is the difference to `none`."""

    model_id = "joint-1"

    def __init__(self, booster: lgb.Booster, names: tuple[str, ...] = NAMES) -> None:
        self.booster, self.names = booster, names
        self.forest = traverse.Forest.of(booster)

    def save(self, folder: Path) -> None:
        """Write the trees as LightGBM text."""
        folder.mkdir(parents=True)
        self.booster.save_model(str(folder / "trees.txt"))

    @classmethod
    def load(cls, folder: Path) -> "Joint":
        """Read what `save` wrote."""
        return cls(lgb.Booster(model_file=str(folder / "trees.txt")))

    def scores(self, features: pa.Table, catalog: Catalog) -> Scores:
        """Score by the shared traversal."""
        missing = [name for name in self.names if name not in features.column_names]
        if missing:
            raise ValueError(missing)
        X = inputs.matrix(features, self.names)
        raw = traverse.raw(self.booster, self.forest, X, Coding.of(catalog).codes())
        p = expit(raw)
        uplift = p - p[:, :1]
        se = np.full_like(uplift, 0.01)
        se[:, 0] = 0
        return Scores(p, uplift, se, np.full(len(p), 30.0))


def features_of(rng: np.random.Generator, n: int) -> np.ndarray:
    X = rng.normal(size=(n, FEATURES))
    X[:, :20] = np.exp(X[:, :20]).round(2)
    X[:, 50:] = X[:, 50:] > 0.5
    X[rng.random((n, FEATURES)) < 0.05] = np.nan
    return X


def model(cache: Path) -> lgb.Booster:
    """Train 200 trees of 63 leaves on 150,000 decisions, once."""
    path = cache / "joint.txt"
    if path.is_file():
        return lgb.Booster(model_file=str(path))
    rng = np.random.default_rng(1)
    n, codes = 150_000, Coding.of(shop()).codes()
    X, column = features_of(rng, n), rng.integers(0, len(codes), n)
    own = codes[column]
    known = np.nan_to_num(X)
    weights = rng.normal(size=own.shape[1]) * 0.3
    z = -3 + known[:, 20:30].sum(axis=1) * 0.2 + own @ weights
    z += (
        own[:, 0] * known[:, 30] * 0.4 + (own[:, 1:] * known[:, 31 : 31 + own.shape[1] - 1]).sum(axis=1) * 0.6
    )
    y = (rng.random(n) < expit(z)).astype(float)
    params = {
        "objective": "binary", "num_leaves": LEAVES, "learning_rate": 0.1, "min_data_in_leaf": 50,
        "feature_fraction": 0.5, "verbose": -1, "num_threads": 2, "seed": 1, "deterministic": True,
    }  # fmt: skip
    booster = lgb.train(params, lgb.Dataset(np.hstack([X, own]), y), TREES)
    booster.save_model(str(path))
    return lgb.Booster(model_file=str(path))


def world(folder: Path, n: int) -> None:
    """Write n customers with features (Parquet, sorted by id) and contacts; again does nothing."""
    if (folder / "done").is_file():
        return
    (folder / "features").mkdir(parents=True, exist_ok=True)
    history = History.read(folder)
    customers, touches = [], []
    for number, begin in enumerate(range(0, n, FILE_ROWS)):
        size = min(FILE_ROWS, n - begin)
        rng = np.random.default_rng((7, number))
        ids = pa.array([f"c{i:09d}" for i in range(begin, begin + size)])
        X = features_of(rng, size)
        as_of = pa.array([AT] * size, tables.TIME)
        table = pa.table({"customer_id": ids, "as_of": as_of, **{m: X[:, j] for j, m in enumerate(NAMES)}})
        path = folder / "features" / f"{number:05d}.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=32_768)
        consent = {f"can_{c}": rng.random(size) < 0.8 for c in tables.CHANNELS}
        external = pa.array([f"x{i:09d}" for i in range(begin, begin + size)])
        joined = pa.array([AT - timedelta(days=400)] * size, tables.TIME)
        customers.append(
            pa.table({"customer_id": ids, "external_id": external, "joined_at": joined, **consent})
        )
        m = size * 2
        who = rng.integers(0, size, m)
        age = rng.integers(3600, 60 * 86400, m)
        when = np.datetime64(AT.replace(tzinfo=None), "us") - age.astype("timedelta64[s]")
        column = rng.integers(1, 21, m)
        catalog = shop()
        touches.append(
            pa.table(
                {
                    "touch_id": pa.array([f"t{number}_{i}" for i in range(m)]),
                    "customer_id": ids.take(pa.array(who)),
                    "touched_at": pa.array(when).cast(tables.TIME),
                    "channel": pa.array(catalog.channel[column].tolist()),
                    "kind": pa.array(np.where(rng.random(m) < 0.003, "unsubscribed", "sent").tolist()),
                    "treatment_id": pa.array([catalog.treatment_ids[c] for c in column]),
                    "decision_id": pa.nulls(m, pa.string()),
                    "cost": np.zeros(m),
                }
            )
        )
        if len(customers) * FILE_ROWS >= MILLION or begin + size >= n:
            history = history.commit(
                append={"customers": pa.concat_tables(customers), "touches": pa.concat_tables(touches)}
            )
            customers, touches = [], []
    (folder / "done").touch()


def cache() -> Path:
    """Give the folder of what benchmarks make once; remove it to have it made anew."""
    path = Path(os.environ.get("NBA_BENCH_CACHE", Path(tempfile.gettempdir()) / "nba-bench"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def files_of(folder: Path, n: int) -> list[Path]:
    return sorted((folder / "features").glob("*.parquet"))[: -(-n // FILE_ROWS)]


def world_of(n: int) -> int:
    made = sorted(int(path.name.removeprefix("world-")) for path in cache().glob("world-*"))
    return next((size for size in made if size >= n), n)
