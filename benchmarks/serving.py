"""Batch scoring: how fast, in how much memory, and what it survives. See `benchmarks/README.md`."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import Row, row
from benchmarks.serving_worlds import (
    AT,
    FEATURES,
    MILLION,
    NAMES,
    ROOT,
    Joint,
    cache,
    config,
    features_of,
    files_of,
    model,
    shop,
    world,
    world_of,
)
from nba import tables
from nba.history import History
from nba.models import inputs, traverse
from nba.models.inputs import Coding

_CHILD = "nba-bench-child"


# work in a process of its own, so that its memory is its own


def _in_child(name: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.serving", _CHILD, name, *map(str, arguments)]
    found = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(found.stdout.splitlines()[-1]))


def child_score(n: int, threads: int) -> dict[str, Any]:
    """Score n customers from Parquet, and nothing else."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: F401

    from nba.serving import engines

    catalog, joint = shop(), Joint(model(cache()))
    files = files_of(cache() / f"world-{world_of(n)}", n)
    joint.scores(next(engines.read_parts(files)).slice(0, 100), catalog)
    total = 0.0
    cpu, begun = time.process_time(), time.perf_counter()
    with traverse.one_thread():
        work = lambda table: joint.scores(table, catalog).uplift.sum()  # noqa: E731
        for found in engines.ordered(work, engines.read_parts(files), threads):
            total += found
    return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu, "total": float(total)}


def child_batch(n: int, threads: int, out: str) -> dict[str, Any]:
    """Decide n customers from features to a published batch."""
    from nba.policy import arbitrate
    from nba.serving import delivery, engines, jobs, stream

    folder = cache() / f"world-{world_of(n)}"
    catalog, chosen, joint = shop(), config(n), Joint(model(cache()))
    files = files_of(folder, n)
    joint.scores(next(engines.read_parts(files)).slice(0, 100), catalog)
    seconds: dict[str, float] = {}
    last = [time.perf_counter(), ""]

    def advance(name: str, _n: int) -> None:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - last[0]
        last[:] = [time.perf_counter(), name]

    cpu, begun = time.process_time(), time.perf_counter()
    last[0] = begun
    with History.read(folder).as_of(AT) as snapshot:
        nuisance = arbitrate.nuisance(snapshot, catalog, chosen.reward)
        job = jobs.Job("b1", AT, catalog, chosen, {"champion": joint}, nuisance, AT)
        found = stream.run(
            job, snapshot, files, Path(out), engine=engines.Local(threads), log=False, advance=advance
        )
    delivery.publish(found.staged)
    whole = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": whole, "cpu": time.process_time() - cpu, "peak_gb": peak, "passes": seconds}


def child_world(n: int) -> dict[str, Any]:
    world(cache() / f"world-{n}", n)
    model(cache())
    return {}


def prepare(*sizes: int) -> None:
    for n in sizes:
        _in_child("world", n)


# the benchmarks


def score() -> list[Row]:
    """Score 20 treatments: shared traversal against LightGBM on expanded rows, one thread each."""
    prepare(MILLION)
    booster, codes = model(cache()), Coding.of(shop()).codes()[1:]
    forest = traverse.Forest.of(booster)
    assert forest is not None
    path = files_of(cache() / f"world-{MILLION}", 1)[0]
    X = inputs.matrix(pq.ParquetFile(path).read(), NAMES)
    forest.scores(X[:100], codes)
    walked, grown, equal, compared = 0.0, 0.0, True, 25_000
    whole = 0.0
    for path in files_of(cache() / f"world-{MILLION}", MILLION):
        X = inputs.matrix(pq.ParquetFile(path).read(), NAMES)
        begun = time.process_time()
        found = forest.scores(X, codes, threads=1)
        whole += time.process_time() - begun
        some = X[:compared]
        begun = time.process_time()
        forest.scores(some, codes, threads=1)
        walked += time.process_time() - begun
        full = np.empty((compared * len(codes), FEATURES + codes.shape[1]))
        full[:, :FEATURES] = np.repeat(some, len(codes), axis=0)
        full[:, FEATURES:] = np.tile(codes, (compared, 1))
        begun = time.process_time()
        expected = booster.predict(full, raw_score=True, num_threads=1)
        grown += time.process_time() - begun
        equal &= bool(np.array_equal(found[:compared].ravel(), expected))
    n = 4 * compared
    more = {"n": n, "peer": f"lightgbm {lgb.__version__}"}
    said = f"CPU time, one thread; {n:,} customers both ways, all 1M walked in {whole:.1f} s"
    ratio = grown / walked if equal else float("nan")
    return [
        row("score.vs_expanded", ratio, "times", 8, ">=", conditions=said, **more),
        row("score.bit_equal", float(equal), "share", 1, "=", **more),
        row("score.pairs_per_cpu_s", MILLION * len(codes) / whole, "pairs/s", None, ">=", n=MILLION),
    ]


def batch() -> list[Row]:
    """Decide whole batches of 500 thousand, 1 and 5 million customers, each in a process of its own."""
    big = int(os.environ.get("NBA_BENCH_BIG", 5 * MILLION))
    prepare(MILLION // 2, MILLION, big)
    with tempfile.TemporaryDirectory(dir=cache()) as out:
        half = _in_child("batch", MILLION // 2, 2, f"{out}/half")
        scoring = _in_child("score", MILLION, 2)
        one = _in_child("batch", MILLION, 2, f"{out}/one")
        begun = time.perf_counter()
        _in_child("verify", f"{out}/one/batch_id=b1")
        verified = _in_child("verify", f"{out}/one/batch_id=b1")["seconds"]
        print(f"verify {time.perf_counter() - begun:.1f} s with start-up", flush=True)
        most = _in_child("batch", big, 2, f"{out}/most")
    said = "2 threads; " + ", ".join(f"{k} {v:.1f} s" for k, v in one["passes"].items())
    said = f"{one['seconds']:.1f} s against {scoring['seconds']:.1f} s; {said}"
    per = (most["seconds"] / big) / (half["seconds"] / (MILLION // 2))
    sizes = f"{big:,} customers: {most['seconds']:.0f} s, {most['peak_gb']:.2f} GB"
    sizes += f"; 500,000: {half['seconds']:.1f} s"
    ratio, peak = one["seconds"] / scoring["seconds"], most["peak_gb"] / one["peak_gb"]
    return [
        row("batch.vs_scoring", ratio, "times", 2, "<=", n=MILLION, peer="its scoring", conditions=said),
        row("batch.peak_gb_1m", one["peak_gb"], "GB", 1, "<=", n=MILLION, conditions="ru_maxrss"),
        row("batch.peak_5m_vs_1m", peak, "times", 1.1, "<=", n=big, conditions=sizes),
        row("batch.time_5m_vs_500k", per, "times", [0.9, 1.1], "in", n=big, conditions=sizes),
        row("verify.seconds_1m", verified, "s", 5, "<=", n=MILLION),
    ]


def child_verify(folder: str) -> dict[str, Any]:
    from nba.serving import delivery

    begun = time.perf_counter()
    delivery.verify(Path(folder))
    return {"seconds": time.perf_counter() - begun}


# the same decisions, written straightforwardly

NAIVE = 20_000


def child_naive(n: int, out: str) -> dict[str, Any]:
    """Decide n customers as a script would: rows expanded, pandas, scikit-learn in an mlflow.pyfunc."""
    import mlflow.pyfunc
    import pandas as pd
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    folder = cache() / f"world-{world_of(n)}"
    catalog, chosen = shop(), config(n)
    codes = Coding.of(catalog).codes()
    booster = model(cache())

    class Trees:
        def predict(self, frame: pd.DataFrame) -> np.ndarray:
            return np.asarray(booster.predict(frame.to_numpy()))

    class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def __init__(self) -> None:
            self.pipeline = make_pipeline(FunctionTransformer())

        def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:  # noqa: ARG002
            return Trees().predict(self.pipeline.fit_transform(model_input))

    path = Path(out) / "model"
    mlflow.pyfunc.save_model(str(path), python_model=Model())
    served = mlflow.pyfunc.load_model(str(path))
    begun, cpu = time.perf_counter(), time.process_time()
    frame = pd.read_parquet(files_of(folder, 1)[0]).head(n)
    tables_of = History.read(folder)
    customers = tables_of.table("customers").slice(0, n).to_pandas()
    touches = tables_of.table("touches").to_pandas()
    touches = touches[touches.customer_id.isin(frame.customer_id)]
    recent = touches[
        (touches.kind == "sent") & (touches.touched_at > pd.Timestamp(AT) - pd.Timedelta(days=28))
    ]
    contacts = recent.groupby("customer_id").size()
    left = set(zip(*touches[touches.kind == "unsubscribed"][["customer_id", "channel"]].to_numpy().T))
    cooled = recent[recent.touched_at > pd.Timestamp(AT) - pd.Timedelta(days=14)]
    action = {t.treatment_id: t.action_id for t in catalog.treatments}
    cooling = set(zip(cooled.customer_id, cooled.treatment_id.map(action)))
    names = [f"c{i}" for i in range(codes.shape[1])]
    parts = []
    for j, code in enumerate(codes):
        part = frame[["customer_id", *NAMES]].assign(**dict(zip(names, code)), column=j)
        parts.append(part)
    rows = pd.concat(parts, ignore_index=True)
    rows["p"] = served.predict(rows[[*NAMES, *names]])
    none = rows[rows.column == 0].set_index("customer_id").p
    rows["value"] = (rows.p - rows.customer_id.map(none)) * 30 - catalog.cost[rows.column]
    rows["treatment"] = np.array(catalog.treatment_ids)[rows.column]
    rows["channel"], rows["action"] = catalog.channel[rows.column], catalog.action[rows.column]
    consent = customers.set_index("customer_id")
    tired = rows.customer_id.map(contacts).fillna(0) >= 3
    allowed = rows.apply(
        lambda r: r.column == 0 or bool(consent.at[r.customer_id, f"can_{r.channel}"]), axis=1
    )
    out_of = pd.Series(list(zip(rows.customer_id, rows.channel))).isin(left)
    cool = pd.Series(list(zip(rows.customer_id, rows.action))).isin(cooling)
    rows["ok"] = (rows.column == 0) | (allowed & ~tired & ~out_of & ~cool)
    rows = rows[rows.ok]
    prices = {"sms": 0.0, "call": 0.0, "budget": 0.0}
    limits = {**chosen.limits.capacity, "budget": chosen.limits.budget}
    for _ in range(20):
        charge = rows.channel.map(prices).fillna(0) + prices["budget"] * catalog.cost[rows.column]
        weight = np.exp((rows.value - charge) / 0.1)
        p = 0.98 * weight / weight.groupby(rows.customer_id).transform("sum")
        p += 0.02 / rows.groupby("customer_id").customer_id.transform("size")
        for name, limit in limits.items():
            used = (p * (catalog.cost[rows.column] if name == "budget" else rows.channel == name)).sum()
            prices[name] = max(0.0, prices[name] + 0.5 * (used / limit - 1) * 0.1)
    rows["p_action"] = p
    rng = np.random.default_rng(0)
    picked = rows.groupby("customer_id").apply(
        lambda g: g.sample(1, weights=g.p_action, random_state=rng), include_groups=False
    )
    picked.reset_index()[["customer_id", "treatment", "channel", "p_action", "value"]].to_parquet(
        Path(out) / "decisions.parquet"
    )
    return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}


def naive() -> list[Row]:
    """Decide the same customers straightforwardly, and as a batch; the same size both ways."""
    prepare(NAIVE)
    with tempfile.TemporaryDirectory(dir=cache()) as out:
        own = _in_child("batch", NAIVE, 2, f"{out}/own")
        plain = _in_child("naive", NAIVE, out)
    said = f"{plain['seconds']:.1f} s against {own['seconds']:.2f} s, 2 cores; prices included both ways"
    ratio = plain["seconds"] / own["seconds"]
    peer = "pandas, scikit-learn, mlflow.pyfunc"
    return [row("batch.vs_naive", ratio, "times", 10, ">=", n=NAIVE, peer=peer, conditions=said)]


def reason_codes() -> list[Row]:
    """Explain the chosen treatment of 100,000 customers, against pred_contrib on 1,000 of them."""
    from nba.models import reasons

    n, few = 100_000, 1_000
    rng = np.random.default_rng(3)
    codes = Coding.of(shop()).codes()
    full = np.hstack([features_of(rng, n), codes[rng.integers(0, len(codes), n)]])
    booster = model(cache())
    reasons.contributions(booster, full[:500])
    begun = time.process_time()
    fast = reasons.contributions(booster, full)
    quick = time.process_time() - begun
    begun = time.process_time()
    exact = reasons._exact(booster, full[:few])
    slow = (time.process_time() - begun) * n / few
    gap = float(np.abs(fast[:few] - exact).max())
    more = {"n": n, "peer": f"lightgbm {lgb.__version__} pred_contrib"}
    said = f"CPU time; woodelf-explainer {reasons.PINNED}: {reasons.is_fast()}; largest difference {gap:.1e}"
    return [
        row("reasons.vs_contrib", slow / quick, "times", 10, ">=", conditions=said, **more),
        row("reasons.gap", gap, "log-odds", 1e-4, "<=", **more),
    ]


def sink() -> list[Row]:
    """Deliver 200,000 decisions to a PostgreSQL of its own, from a verified batch."""
    import importlib.util

    from nba.serving import delivery, sinks, writing

    n = 200_000
    spec = importlib.util.spec_from_file_location("postgres_server", ROOT / "tests" / "postgres.py")
    assert spec is not None
    assert spec.loader is not None
    postgres = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(postgres)
    if postgres.binaries() is None:
        return [row("sink.postgres_rows_per_s", float("nan"), "rows/s", 50_000, ">=", conditions="no server")]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        writer = delivery.Writer(Path(place) / "batches", "b1")
        for _ in range(2):
            writer.write(tables.DECISIONS.sample(2, rng).slice(0, 0))
        keys = writing.decision_ids("b1", pa.array([f"c{i:09d}" for i in range(n)]))
        decisions = tables.DECISIONS.sample(n, rng)
        decisions = decisions.set_column(0, "decision_id", [keys]).set_column(1, "batch_id", [["b1"] * n])
        writer.write(decisions)
        head = delivery.Head("b1", AT, AT, AT, "hash", {}, {}, [], {})
        folder = delivery.publish(writer.close(head))
        manifest = delivery.read_manifest(folder)
        with postgres.server(Path(place) / "server") as url:
            begun = time.perf_counter()
            there = sinks.to_sql(folder, manifest, url, "nba_decisions")
            seconds = time.perf_counter() - begun
    said = f"{there:,} rows, one transaction, table and primary key made in it; fsync off"
    return [row("sink.postgres_rows_per_s", there / seconds, "rows/s", 50_000, ">=", n=n, conditions=said)]


KILLS = 20


def kill() -> list[Row]:
    """Kill a streamed batch at 20 random moments; each re-run must give the undisturbed run's bytes."""
    import hashlib
    import shutil

    n, times = 20_000, KILLS
    prepare(n)
    rng = np.random.default_rng(11)

    def bytes_of(folder: Path) -> dict[str, str]:
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}

    with tempfile.TemporaryDirectory(dir=cache()) as place:
        whole = _in_child("batch", n, 2, f"{place}/whole")["seconds"]
        expected, same, stages = bytes_of(Path(place) / "whole" / "batch_id=b1"), 0, []
        out = Path(place) / "out"
        command = [sys.executable, "-m", "benchmarks.serving", _CHILD, "batch", str(n), "2", str(out)]
        for _ in range(times):
            shutil.rmtree(out, ignore_errors=True)
            run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
            while run.poll() is None and not out.is_dir():
                time.sleep(0.002)
            try:
                run.wait(whole * rng.uniform(0.0, 1.0))
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
            half = [p.name for p in out.glob("*")] if out.is_dir() else []
            stages.append("nothing" if not half else sorted(half)[0].split(".batch_id")[0])
            sound = all((p / "manifest.json").is_file() for p in out.glob("batch_id=*"))
            _in_child("batch", n, 2, str(out))
            same += sound and bytes_of(out / "batch_id=b1") == expected
    said = "killed while there was: " + ", ".join(f"{s} {stages.count(s)}" for s in sorted(set(stages)))
    return [row("kill.identical", same, f"of {times}", times, "=", n=n, conditions=said)]


def child_spark(n: int, out: str) -> dict[str, Any]:
    """Decide n customers on local[2], twice, and once here on one thread; each pass is timed."""
    from nba.policy import arbitrate
    from nba.serving import delivery, engines, jobs, spark, stream

    folder = cache() / f"world-{world_of(n)}"
    catalog, chosen, joint = shop(), config(n), Joint(model(cache()))
    files = files_of(folder, n)
    joint.scores(next(engines.read_parts(files)).slice(0, 100), catalog)
    found: dict[str, Any] = {}
    session = spark.session("local[2]")
    engines = {"cold": spark.Spark(session), "warm": spark.Spark(session), "local": engines.Local(1)}
    batches = {}
    for name, engine in engines.items():
        passes: dict[str, float] = {}
        begun = last = time.perf_counter()

        def advance(kind: str, _n: int, passes: dict[str, float] = passes) -> None:
            nonlocal last
            passes[kind] = passes.get(kind, 0.0) + time.perf_counter() - last
            last = time.perf_counter()

        with History.read(folder).as_of(AT) as snapshot:
            nuisance = arbitrate.nuisance(snapshot, catalog, chosen.reward)
            job = jobs.Job("b1", AT, catalog, chosen, {"champion": joint}, nuisance, AT)
            made = stream.run(
                job, snapshot, files, Path(out) / name, engine=engine, log=False, advance=advance
            )
        delivery.publish(made.staged)
        found[name] = time.perf_counter() - begun
        found[f"{name}_passes"] = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in passes.items())
        if name != "cold":
            parts = sorted((Path(out) / name / "batch_id=b1").glob("*.parquet"))
            table = pa.concat_tables([pq.ParquetFile(path).read() for path in parts])
            batches[name] = table.sort_by("customer_id")
    session.stop()
    found["same"] = batches["warm"].equals(batches["local"])
    return found


SPARKED = MILLION


def on_spark() -> list[Row]:
    """Decide a million customers on Spark, local[2], warm, against one thread here."""
    import importlib.util

    n = SPARKED
    if importlib.util.find_spec("pyspark") is None:
        nan = float("nan")
        return [row("spark.vs_local", nan, "times", 1, "<="), row("spark.identical", nan, "share", 1, "=")]
    prepare(n)
    with tempfile.TemporaryDirectory(dir=cache()) as out:
        found = _in_child("spark", n, out)
    said = (
        f"whole batch: first {found['cold']:.1f} s, warm {found['warm']:.1f} s ({found['warm_passes']}),"
        f" local {found['local']:.1f} s ({found['local_passes']})"
    )
    ratio = found["warm"] / found["local"]
    return [
        row("spark.vs_local", ratio, "times", 1, "<=", n=n, peer="local engine, one thread", conditions=said),
        row(
            "spark.identical",
            float(found["same"]),
            "share",
            1,
            "=",
            n=n,
            conditions="all columns of all rows",
        ),
    ]


def child_pyfunc(n: int, place: str) -> dict[str, Any]:
    """Ask the batch's policy as it is, and through MLflow; each the best of five."""
    import mlflow.pyfunc

    from nba import tracking
    from nba.policy import streamed
    from nba.serving import jobs, served

    catalog, joint = shop(), Joint(model(cache()))
    job = jobs.Job("b1", AT, catalog, config(n), {"champion": joint}, np.zeros(21), AT)
    m, k = len(job.limited.names), len(catalog.treatment_ids)
    arms = len(job.rules)
    cuts = tuple(streamed.Cut.none(k, m) for _ in range(arms))
    drawn = jobs.Drawn(cuts, np.zeros((arms, m), np.int64), np.zeros(arms, np.int64), np.zeros((arms, m)))
    served.save(job, drawn, Path(place) / "plan", {"champion": "benchmarks.serving:Joint"})
    X = features_of(np.random.default_rng(5), n)
    ids = pa.array([f"c{i:09d}" for i in range(n)])
    eligible = pa.array(np.full(n, 2**21 - 1, np.int64))
    asked = pa.table({"customer_id": ids, **{f: X[:, j] for j, f in enumerate(NAMES)}, "eligible": eligible})
    tracking.save_policy(Path(place) / "model", served.LOADER, Path(place) / "plan", asked.slice(0, 5))
    direct = served.Served.load(Path(place) / "plan")
    wrapped = mlflow.pyfunc.load_model(str(Path(place) / "model"))
    frame = asked.to_pandas()
    best = {"direct": float("inf"), "pyfunc": float("inf")}
    for _ in range(5):
        begun = time.process_time()
        plain = direct.wide(pa.Table.from_pandas(frame, preserve_index=False)).to_pandas()
        best["direct"] = min(best["direct"], time.process_time() - begun)
        begun = time.process_time()
        answer = wrapped.predict(frame)
        best["pyfunc"] = min(best["pyfunc"], time.process_time() - begun)
    best["same"] = float(answer.equals(plain))
    return best


def pyfunc() -> list[Row]:
    """Decide 50,000 customers through mlflow.pyfunc against the same object called directly."""
    n = 50_000
    prepare(100_000)
    with tempfile.TemporaryDirectory(dir=cache()) as place:
        found = _in_child("pyfunc", n, place)
    over = found["pyfunc"] / found["direct"] - 1 if found["same"] else float("nan")
    said = (
        f"CPU time, best of 5; {found['pyfunc']:.2f} s against {found['direct']:.2f} s; data frames both ways"
    )
    return [row("pyfunc.overhead", over, "share", 0.1, "<=", n=n, peer="called directly", conditions=said)]


BENCHMARKS = {
    "serving.score": score,
    "serving.batch": batch,
    "serving.naive": naive,
    "serving.reasons": reason_codes,
    "serving.sink": sink,
    "serving.kill": kill,
    "serving.pyfunc": pyfunc,
    "serving.spark": on_spark,
}

if __name__ == "__main__":
    assert sys.argv[1] == _CHILD
    given: list[Any] = [int(word) if word.isdigit() else word for word in sys.argv[3:]]
    # By the module's own name, so that other processes can find its classes.
    from benchmarks import serving

    print(json.dumps(getattr(serving, f"child_{sys.argv[2]}")(*given)))
