# ruff: noqa: E501
"""Identity, histories, ingestion and features: speed against peers, limits of memory, accuracy."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import events
from benchmarks.record import Row, peer_python, row

HERE = Path(__file__).parent
ROOT = HERE.parent
SALT = "a salt of the benchmarks, long enough"
NAN = float("nan")
N = int(float(os.environ.get("NBA_BENCH_EVENTS", "1e7")))
LARGE = int(float(os.environ.get("NBA_BENCH_LARGE", "5e7")))
SMALL = int(float(os.environ.get("NBA_BENCH_SMALL", "1e6")))
REPEATS = 3


@contextmanager
def _company(n: int, memory_gb: float = 4.0) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="nba-bench-"))
    try:
        (folder / ".salt").write_text(SALT)
        events.write(folder, n, memory_gb=memory_gb)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fresh(code: str, *arguments: Any) -> dict[str, Any]:
    """Run code in a process of its own; it prints one JSON object last. Adds peak_gb."""
    # Of that process alone: ru_maxrss would begin with what its parent held.
    peak = "int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1e6"
    text = f"{code}\nimport json\nprint(json.dumps({{**out, 'peak_gb': {peak}}}))"
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return _last(done.stdout)


def _last(told: str) -> dict[str, Any]:
    # DuckDB may leave a progress bar on the line.
    line = told.strip().splitlines()[-1]
    return dict(json.loads(line[line.index("{") :]))


def _peer(name: str, script: str, *arguments: Any) -> dict[str, Any]:
    python = peer_python(name)
    if python is None:
        return {}
    done = subprocess.run([python, str(HERE / "peers" / script), *map(str, arguments)], capture_output=True,
                          text=True, check=False)  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return _last(done.stdout)


_EDGES = """
import sys, time
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from nba import settings
from nba.history import connect
from nba.histories import identifiers, identity, staging, unify
workspace, target = Path(sys.argv[1]), sys.argv[2]
config = settings.read(workspace)
with connect(memory_gb=4, spill=workspace / "spill") as connection:
    identifiers.use_salt(connection, "x" * 32)
    staged, faults = staging.stage(connection, config, workspace, cache=workspace / "cache")
    kinds = unify.kinds_of(staged, config)
    unify.look(connection, staged, kinds)
    identity._identifiers(connection, kinds, unify.names_of(staged))
    edges = connection.execute("with c as (select combo, min(node) as a from pairs group by combo)"
        " select distinct a, node as b from pairs join c using (combo) where node <> a").fetchnumpy()
    n = connection.execute("select count(*) from identifiers").fetchall()[0][0]
pq.write_table(pa.table({"a": edges["a"], "b": edges["b"]}), target)
out = {"n": n, "edges": len(edges["a"])}
"""
_COMPONENTS = """
import sys, time, numpy as np, pyarrow.parquet as pq
from nba.histories import linking
t = pq.read_table(sys.argv[1]); a, b = (np.asarray(t[c], np.int64) for c in "ab"); n = int(sys.argv[2])
begun = time.perf_counter()
label = linking.components(n, a, b)
plain = time.perf_counter() - begun
since = np.arange(len(a))
weak, alone = np.zeros(n, bool), np.full(n, -1)
begun = time.perf_counter()
linking.settle((a, b, since), weak, alone, 0)
out = {"seconds": plain, "settled": time.perf_counter() - begun, "components": int(label.max()) + 1}
"""


def identity_components(n: int = N) -> list[Row]:
    """Connected components of the identifiers of 10M events against splink 5 and networkx."""
    with _company(n) as folder:
        edges = folder / "edges.parquet"
        graph = _fresh(_EDGES, folder, edges)
        ours = [_fresh(_COMPONENTS, edges, graph["n"]) for _ in range(REPEATS)]
        seconds, settled = (float(np.median([one[k] for one in ours])) for k in ("seconds", "settled"))
        rows = []
        for name, target, repeats in (("splink", 3, 2), ("networkx", 20, 1)):
            found = [_peer("splink", "components.py", name, edges, graph["n"]) for _ in range(repeats)]
            best = min((one["seconds"] for one in found if one), default=NAN)
            if found[0] and found[0]["components"] != ours[0]["components"]:
                raise RuntimeError(
                    f"{name} finds {found[0]['components']} components, we {ours[0]['components']}"
                )
            told = (
                f"{graph['edges']:,} edges; {seconds:.2f} s against {best:.1f} s; same components; with the"
                f" guards of ingestion, as `nba ingest` runs it, {settled:.2f} s"
            )
            rows.append(
                row(f"identity.components_vs_{name}", best / seconds, "times faster", target, ">=",
                    peer=f"{name} {found[0].get('version', '')}", n=n, conditions=told)
            )  # fmt: skip
        return rows


_ACCURACY = """
import os, sys, tempfile, time
from pathlib import Path
from nba.histories.simulated import World
from nba.histories.simulated_people import judge
from nba.history import History
from pipelines import ingest
folder, n, seed, noise = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
os.environ["NBA_SALT"] = sys.argv[5]
world = World.create(n, seed, n_batches=2, noise=noise)
world.write_workspace(folder / "world")
ingest.ingest(folder / "world")
found = judge(History.read(folder / "world").table("identities"), world.people(), sys.argv[5],
    folder / "world" / "tables" / ".cache")
out = {"precision": found.precision, "recall": found.recall, "recall_all": found.recall_all,
    "alone": found.n_alone, "identifiers": found.n_identifiers}
"""


def identity_accuracy() -> list[Row]:
    """Pairwise precision and recall on simulated worlds of 20,000 people, at one and three times the noise."""
    found: dict[float, list[dict[str, Any]]] = {}
    seeds = (11, 12, 13)
    for noise in (1.0, 3.0):
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                found.setdefault(noise, []).append(_fresh(_ACCURACY, folder, 20_000, seed, noise, SALT))

    def worst(noise: float, name: str) -> float:
        return float(min(one[name] for one in found[noise]))

    n = int(sum(one["identifiers"] for one in found[1.0]))
    alone = sum(one["alone"] for one in found[1.0]) / n
    more = {"n": n, "seeds": len(seeds), "conditions": "the worst of the seeds"}
    linked = "the worst of the seeds; among identifiers that stood beside another at least once"
    told = f"the worst of the seeds; {alone:.1%} of identifiers never stand beside another (cookies without login)"
    return [
        row("identity.precision", worst(1.0, "precision"), "fraction", 0.999, ">=", **more),
        row(
            "identity.recall", worst(1.0, "recall"), "fraction", 0.98, ">=", **{**more, "conditions": linked}
        ),
        row(
            "identity.recall_all",
            worst(1.0, "recall_all"),
            "fraction",
            None,
            ">=",
            **{**more, "conditions": told},
        ),
        row("identity.precision_noise3", worst(3.0, "precision"), "fraction", 0.995, ">=", **more),
        row(
            "identity.recall_noise3",
            worst(3.0, "recall"),
            "fraction",
            None,
            ">=",
            **{**more, "conditions": linked},
        ),
    ]


_HISTORY = """
import sys, time
from pathlib import Path
from nba import settings
from nba.history import connect
from nba.histories import former, identifiers, quality, staging, unify
workspace, memory = Path(sys.argv[1]), float(sys.argv[2])
config = settings.read(workspace)
with connect(memory_gb=memory, spill=workspace / "spill") as connection:
    identifiers.use_salt(connection, sys.argv[3])
    staged, faults = staging.stage(connection, config, workspace, cache=workspace / "tables" / ".cache")
    unify.look(connection, staged, unify.kinds_of(staged, config))
    connection.execute("create temp table customer as select row_number() over (order by customer_id)"
        f" as customer_no, customer_id from (select distinct customer_id from '{workspace}/ready/people.parquet')").fetchall()
    former.begin(connection)
    begun = time.perf_counter()
    # From ready identities: combination of identifiers to customer.
    connection.execute("create temp table owner as select combo, customer_no, reached_at from"
        f" '{workspace}/ready/owners.parquet' join customer using (customer_id)").fetchall()
    for table in ("orders", "events", "touches"):
        unify.write_table(connection, table, staged, workspace / "written" / f"{table}.parquet", quality.Counts())
    out = {"seconds": time.perf_counter() - begun}
"""
_READY = """
import sys
from pathlib import Path
from nba import settings
from nba.history import connect
from nba.histories import identifiers, identity, parquet, staging, unify
workspace, plain = Path(sys.argv[1]), sys.argv[3] == "plain"
config = settings.read(workspace)
with connect(memory_gb=config.workspace.memory_gb, spill=workspace / "spill") as connection:
    identifiers.use_salt(connection, sys.argv[2])
    staged, faults = staging.stage(connection, config, workspace, cache=workspace / "tables" / ".cache")
    kinds = unify.kinds_of(staged, config)
    unify.look(connection, staged, kinds)
    identity.resolve(connection, kinds, unify.names_of(staged), identity.Rules(config.identity))
    (workspace / "ready").mkdir(exist_ok=True)
    for name, more in (("people", ""), ("owners", ", reached_at")):
        parquet.copy(connection, f"select combo, customer_id{more} from owner join customer using (customer_no)",
            workspace / "ready" / f"{name}.parquet", "snappy")
    for table in ("orders", "events", "touches") if plain else ():
        parquet.copy(connection, f"select * exclude (source, file, row_number) from all_{table}",
            workspace / "ready" / f"{table}.parquet", "snappy")
out = {}
"""


def history_speed(n: int = N) -> list[Row]:
    """Map, sort and write the history of 10M events from ready identities, against pandas and Polars."""
    with _company(n) as folder:
        _fresh(_READY, folder, SALT, "plain")
        # In turn, and the best of each: what else runs on the machine then hits all alike.
        ours: list[dict[str, Any]] = []
        peers: dict[str, list[dict[str, Any]]] = {"pandas": [], "polars": []}
        for _ in range(REPEATS):
            ours.append(_fresh(_HISTORY, folder, 4, SALT))
            for name, found in peers.items():
                found.append(_peer("frames", "history.py", name, folder / "ready", folder / "peer"))
        seconds = min(one["seconds"] for one in ours)
        rows = []
        for (name, found), target in zip(peers.items(), (4, 1.2), strict=True):
            best = min((one["seconds"] for one in found if one), default=NAN)
            told = f"{seconds:.1f} s, {ours[0]['peak_gb']:.1f} GB against {best:.1f} s, {found[0].get('peak_gb', NAN):.1f} GB; same columns, zstd level 1"
            rows.append(
                row(f"history.vs_{name}", best / seconds, "times faster", target, ">=",
                    peer=f"{name} {found[0].get('version', '')}", n=n, conditions=told)
            )  # fmt: skip
        return rows


_INGEST = """
import os, sys, time
from pathlib import Path
os.environ["NBA_SALT"] = sys.argv[2]
from pipelines import ingest
begun = time.perf_counter()
report = ingest.ingest(Path(sys.argv[1]))
out = {"seconds": time.perf_counter() - begun, "version": report.version, **report.seconds}
"""


def _linked(source: str, target: str) -> None:
    # What is large is never written in place; the rest is.
    (os.link if Path(source).stat().st_size > 1e6 else shutil.copy2)(source, target)


def ingest_speed(n: int = N) -> list[Row]:
    """The whole ingest of 10M events from Parquet against the history alone; one day added against a rebuild."""
    with _company(n) as folder:
        whole = []
        for _ in range(2):
            shutil.rmtree(folder / "tables", ignore_errors=True)
            whole.append(_fresh(_INGEST, folder, SALT))
        seconds = min(one["seconds"] for one in whole)
        _fresh(_READY, folder, SALT, "no")
        alone = min(_fresh(_HISTORY, folder, 4, SALT)["seconds"] for _ in range(2))
        extra = events.write_day(folder, n)
        days = []
        for copy in ("first", "second"):  # as the rebuild: best of two
            apart = folder.with_name(f"{folder.name}-{copy}")
            shutil.copytree(folder, apart, copy_function=_linked)
            days.append(_fresh(_INGEST, apart, SALT))
            shutil.rmtree(apart)
        day = min(days, key=lambda one: one["seconds"])
    told = f"{seconds:.1f} s, {whole[0]['peak_gb']:.1f} GB against {alone:.1f} s; Parquet sources, so no CSV is parsed"
    of_day = f"{extra:,} events in {day['seconds']:.1f} s against a rebuild in {seconds:.1f} s"
    return [
        row("ingest.vs_history", seconds / alone, "ratio", 2, "<=", n=n, conditions=told),
        row("ingest.day_vs_rebuild", day["seconds"] / seconds, "ratio", 0.1, "<=", n=n, conditions=of_day),
    ]


_FEATURES = """
import sys, time
from datetime import datetime, timedelta, UTC
from pathlib import Path
from nba.features import table
from nba.history import History
history, k, memory = History.read(Path(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3])
last = datetime(2026, 1, 1, tzinfo=UTC)
begun = time.perf_counter()
rows = 0
for i in range(k):
    with history.as_of(last - timedelta(days=28 * i), memory_gb=memory or None) as snapshot:
        rows += table.build(snapshot).num_rows
out = {"seconds": time.perf_counter() - begun, "rows": rows, "columns": len(table.FEATURES)}
"""


def features_speed(n: int = N) -> list[Row]:
    """All default features at one cut-off over 10M events against SQL and Polars by hand, and at four."""
    with _company(n) as folder:
        _fresh(_INGEST, folder, SALT)
        # In turn: what else runs on the machine then hits all alike.
        one, told = [], {"duckdb": [], "polars": []}
        for _ in range(REPEATS):
            one.append(_fresh(_FEATURES, folder, 1, 0))
            for name, found in told.items():
                found.append(_peer("frames", "features.py", name, folder / "tables"))
        four = [_fresh(_FEATURES, folder, 4, 0) for _ in range(2)]
    peers = {name: min(found, key=lambda each: each["seconds"]) for name, found in told.items() if found[0]}
    seconds = min(each["seconds"] for each in one)
    best = min(peers, key=lambda name: peers[name]["seconds"]) if peers else ""
    by_hand = peers[best]["seconds"] if peers else NAN
    by = ", ".join(f"{name} {found['seconds']:.1f} s" for name, found in peers.items())
    columns, peak = one[0]["columns"], max(each["peak_gb"] for each in one)
    time_ratio = min(each["seconds"] for each in four) / (4 * seconds)
    conditions = f"{columns} features, {seconds:.1f} s, {peak:.1f} GB; by hand {by}"
    return [
        row("features.vs_best_by_hand", seconds / by_hand, "ratio of time", 1.1, "<=",
            peer=f"{best} {peers.get(best, {}).get('version', '')}", n=n, conditions=conditions),
        row("features.cutoffs_time", time_ratio, "ratio", 1.05, "<=", n=n, conditions="4 cut-offs against 4 times one"),
        row("features.cutoffs_memory", max(each["peak_gb"] for each in four) / peak, "ratio", 1.2, "<=", n=n,
            conditions="4 cut-offs in a loop against one"),
    ]  # fmt: skip


_COMMIT = """
import sys
from pathlib import Path
from nba.history import History, connect
workspace = Path(sys.argv[1])
written = {name: workspace / "written" / f"{name}.parquet" for name in ("orders", "events", "touches")}
people = workspace / "written" / "customers.parquet"
with connect(memory_gb=3, spill=workspace / "spill") as connection:
    can = ", ".join(f"true as can_{channel}" for channel in ("email", "sms", "push", "call"))
    connection.execute(f"copy (select distinct customer_id, null::varchar as external_id,"
        f" timestamptz '2024-01-01 00:00:00+00' as joined_at, {can}, null::varchar as timezone,"
        f" 'segment ' || hash(customer_id) % 7 as a_segment from '{workspace}/ready/people.parquet')"
        f" to '{people}' (format parquet)").fetchall()
History.read(workspace).commit(replace={**written, "customers": people})
out = {}
"""


def large() -> list[Row]:
    """Peak memory with 50M events: the history from ready identities, and all default features."""
    with _company(LARGE, memory_gb=3.0) as folder:
        _fresh(_READY, folder, SALT, "no")
        written = _fresh(_HISTORY, folder, 3.0, SALT)
        shutil.rmtree(folder / "tables" / ".cache")
        _fresh(_COMMIT, folder)
        found = _fresh(_FEATURES, folder, 1, 1.0)  # the features themselves stand beside it
    limited = "DuckDB limited to {} GB, spilling"
    told = f"{found['rows']:,} customers, {found['columns']} features, {found['seconds']:.0f} s; {limited.format(1)}"
    return [
        row("history.peak_gb_50m", written["peak_gb"], "GB", 4, "<=", n=LARGE,
            conditions=f"{written['seconds']:.0f} s; {limited.format(3)}"),
        row("features.peak_gb_50m", found["peak_gb"], "GB", 4, "<=", n=LARGE, conditions=told),
    ]  # fmt: skip


def small() -> list[Row]:
    """The same speeds with 1M events, where what does not grow with them weighs most: told, without targets."""
    found = [*identity_components(SMALL), *history_speed(SMALL), *ingest_speed(SMALL), *features_speed(SMALL)]
    return [{**each, "id": f"{each['id']}_1m", "target": None} for each in found]


BENCHMARKS = {
    "identity.components": identity_components,
    "identity.accuracy": identity_accuracy,
    "history.speed": history_speed,
    "ingest.speed": ingest_speed,
    "features.speed": features_speed,
    "events.small": small,
    "events.large": large,
}
