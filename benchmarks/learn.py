"""The nightly learning step on a million logged decisions: minutes and memory of `nba learn`."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.record import Row, row

CUSTOMERS, BATCHES, FEATURES = 100_000, 10, 56
START = datetime(2026, 1, 5, 6, tzinfo=UTC)
WINDOW = 14


def nightly() -> list[Row]:
    """Make a workspace of ten weekly batches of 100,000 decisions, all but one closed, and learn."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "million"
        at = make(workspace)
        command = [sys.executable, "-c", "from pipelines.cli import main; main()", "learn", str(workspace)]
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        begun = time.perf_counter()
        subprocess.run([*command, "--at", at.isoformat()], check=True, env=environment)
        minutes = (time.perf_counter() - begun) / 60
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    more = {"n": CUSTOMERS * BATCHES, "conditions": f"{FEATURES} features, 10 treatments, 2 cores, one run"}
    return [
        row("learn.minutes_1m", minutes, "min", 5, "<=", **more),
        row("learn.gb_1m", peak, "GB", 8, "<=", **more),
    ]


def make(workspace: Path) -> datetime:
    """Write settings, catalog and history; give the night on which the last window has closed."""
    from nba import tables
    from nba.histories import simulated_truth
    from nba.history import History
    from pipelines import feedback
    from pipelines.progress import silent

    rng = np.random.default_rng(0)
    (workspace / "catalog").mkdir(parents=True)
    (workspace / "nba.toml").write_text(f'[workspace]\nname = "million"\n[reward]\nwindow_days = {WINDOW}\n')
    from pyarrow import csv

    catalog = simulated_truth.CATALOG
    for name, table in zip(("actions", "treatments"), catalog.to_tables()):
        csv.write_csv(table, workspace / "catalog" / f"{name}.csv")
    ids = pa.array([f"c{i:06d}" for i in range(CUSTOMERS)])
    trait = rng.normal(size=(CUSTOMERS, FEATURES)).astype(np.float64)
    history = History.read(workspace)
    joined = pa.array([START - timedelta(days=400)] * CUSTOMERS, tables.TIME)
    consent = {f"can_{channel}": pa.array(np.ones(CUSTOMERS, dtype=bool)) for channel in tables.CHANNELS}
    customers = pa.table({"customer_id": ids, "external_id": ids, "joined_at": joined, **consent})
    history = history.commit(append={"customers": customers})
    for number in range(BATCHES):
        history = _batch(history, number, ids, trait, catalog, rng)
    end = START + timedelta(weeks=BATCHES - 1, days=WINDOW)
    # The data reach the end: windows do not wait for more.
    last = {"event_id": "last", "customer_id": ids[0].as_py(), "occurred_at": end - timedelta(hours=1)}
    history = history.commit(append={"events": tables.EVENTS.build([last | {"kind": "visit"}])})
    feedback.feedback(workspace, end - timedelta(days=1), progress=silent())
    return end


def _batch(history, number: int, ids: pa.Array, trait: np.ndarray, catalog, rng: np.random.Generator):
    from nba import tables

    at = START + timedelta(weeks=number)
    n, k = len(ids), len(catalog.treatment_ids)
    column = np.where(rng.random(n) < 0.25, rng.integers(1, k, n), 0)
    seen = trait + 0.3 * rng.normal(size=trait.shape)
    p = 0.05 + 0.02 * (trait[:, 0] > 0) + 0.03 * (column > 0) * (trait[:, 1] > 0)
    decision = pa.array([f"{number}.{i:06d}" for i in range(n)])
    moment = pa.array([at] * n, tables.TIME)
    names = np.array(catalog.treatment_ids)[column]
    same = {x: pa.array([y] * n) for x, y in (("batch_id", f"b{number}"), ("policy_id", "p"), ("reason", ""),
                                              ("config_hash", ""))}  # fmt: skip
    decisions = pa.table(
        {"decision_id": decision, "customer_id": ids, "treatment_id": names.tolist(), "decided_at": moment,
         "channel": catalog.channel[column].tolist(), "p_action": np.where(column > 0, 0.025, 0.75),
         "valid_until": moment, **same}
    )  # fmt: skip
    buys = np.flatnonzero(rng.random(n) < p)
    bought = [at + timedelta(days=float(x)) for x in rng.uniform(0, 7, len(buys))]
    orders = pa.table(
        {"order_id": [f"o{number}.{i}" for i in buys],
         "customer_id": ids.take(pa.array(buys)),
         "ordered_at": pa.array(bought, tables.TIME),
         "revenue": np.full(len(buys), 60.0), "margin": rng.lognormal(3.2, 0.4, len(buys)),
         "n_items": pa.array(np.ones(len(buys), dtype=np.int64)), "is_return": [False] * len(buys)}
    )  # fmt: skip
    sent = np.flatnonzero(column)
    touches = pa.table(
        {"touch_id": [f"t{number}.{i}" for i in sent], "customer_id": ids.take(pa.array(sent)),
         "touched_at": pa.array([at + timedelta(hours=3)] * len(sent), tables.TIME),
         "channel": catalog.channel[column[sent]].tolist(), "kind": ["delivered"] * len(sent),
         "treatment_id": names[sent].tolist(), "decision_id": decision.take(pa.array(sent)),
         "cost": catalog.cost[column[sent]]}
    )  # fmt: skip
    named = {f"f_{j}": seen[:, j] for j in range(FEATURES - 2)}
    features = pa.table({"customer_id": ids, "as_of": moment, **named,
                         "f_margin_per_order": np.full(n, 25.0), "f_orders_total": np.ones(n)})  # fmt: skip
    return history.commit(
        append={"decisions": decisions, "orders": orders, "touches": touches, "features": features}
    )


BENCHMARKS = {"learn": nightly}
