"""How fast and how exact the cube of sums is that readouts are made of.

The cube reads 10M users beside the peer tea-tasting 1.14.0, in the environment that `make peers` makes.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from benchmarks.own_cube import METRICS
from benchmarks.record import Row, peer_python, row
from nba.experiments import cube
from nba.experiments.cube import Metric

Array = NDArray[np.float64]
PEER = Path(__file__).parent / "peers" / "tea.py"


_USERS = """create table users as
with b as (select i, random() a, random() b, random() c, random() d, random() e, random() f, random() g
    from range({n}) t(i))
select i as unit, (hash(i) % 2)::utinyint as variant, (hash(i * 7 + 3) % 20)::utinyint as segment,
    -ln(a) * 10 as x1, -ln(a) * 6 - ln(b) * 4 as y1, -ln(c) * 20 as x2, -ln(c) * 5 - ln(d) * 20 as y2,
    e * 100 as x3, e * 50 + f * 80 as y3, floor(-ln(g) * 3) as x4, floor(-ln(g) * 2 + a * 2) as y4,
    floor(1 + d * 5) as wd, floor(1 + d * 4 + b * 2) as den, floor(d * 3) as wn, floor(d * 2 + c * 2) as num
from b"""


def cube_speed(n: int = 10_000_000, rounds: int = 5) -> list[Row]:
    """Time the cube against a scan and tea-tasting on one DuckDB file, interleaved; about 3 minutes."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/users.duckdb"
        with duckdb.connect(path, config={"threads": 2}) as connection:
            connection.execute("set enable_progress_bar = false").fetchall()
            connection.execute("select setseed(0.5)").fetchall()
            connection.execute(_USERS.format(n=n)).fetchall()
        own = _Worker([sys.executable, "-m", "benchmarks.own_cube", path])
        python = peer_python("tea")
        peer = _Worker([python, str(PEER), path]) if python else None
        names = ("own", "scan", "composite", "loop")
        times: dict[str, list[float]] = {f"{name}{of}": [] for name in names for of in ("", " (CPU)")}
        for number in range(rounds + 1):
            now = {name: own.ask(name) for name in ("own", "scan")}
            if peer is not None:
                now["composite"] = peer.ask("composite")
                now["loop"] = peer.ask("loop") if number < 3 else (np.nan, np.nan)
            if number:  # the first round warms up
                for name, (wall, cpu) in now.items():
                    times[name].append(wall)
                    times[f"{name} (CPU)"].append(cpu)
        page_seconds = own.ask("page")
        if peer is not None:
            assert np.allclose(np.array(own.ask("effects")), np.array(peer.ask("effects")), rtol=1e-7)
            peer.stop()
        peak = own.ask("peak")
        own.stop()

    def against(name: str, of: str = "") -> float:
        own, other = np.array(times[f"own{of}"]), np.array(times[f"{name}{of}"])
        return float(np.nanmedian(other / own)) if np.isfinite(other).any() else float("nan")

    shown = {name: [round(x, 2) for x in values] for name, values in times.items()}
    text = f"{n:,} users, 5 metrics with CUPED, overall and 20 segments; seconds by round {json.dumps(shown)}"
    more = {"n": n, "seeds": rounds, "conditions": text}
    tea = "tea-tasting 1.14.0"
    return [
        row("cube.vs_tea_composite", against("composite"), "ratio", 1.8, ">=", peer=tea, **more),
        row("cube.vs_tea_loop", against("loop"), "ratio", 12, ">=", peer=tea, **more),
        row("cube.vs_scan", 1 / against("scan"), "ratio", 2, "<=", peer="sums of the same columns", **more),
        row(
            "cube.vs_tea_composite_cpu", against("composite", " (CPU)"), "ratio", None, ">=", peer=tea, **more
        ),
        row("cube.vs_tea_loop_cpu", against("loop", " (CPU)"), "ratio", None, ">=", peer=tea, **more),
        row("cube.vs_scan_cpu", 1 / against("scan", " (CPU)"), "ratio", None, "<=", **more),
        row("cube.peak_gb", peak, "GB", 0.6, "<=", **more),
        row("cube.page_ms", 1000 * page_seconds, "ms", 20, "<=", **more),
    ]


class _Worker:
    """A process that answers commands over pipes: this project's cube, or a peer in its own environment."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )

    def ask(self, command: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(command, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended during {command!r}")
        return json.loads(line)

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def precision(n: int = 2_000_000) -> list[Row]:
    """Compare the variance of values near a million with spread 1 to extended precision; about 3 s."""
    values = 1e6 + np.random.default_rng(21).normal(size=n)
    with duckdb.connect() as connection:
        connection.register("rows", {"arm": np.zeros(n, np.int8), "y": values})
        made = cube.build(connection, "rows", ["arm"], [Metric("y")])
    exact = np.longdouble(values)
    truth = ((exact - exact.mean()) ** 2).sum() / (n - 1)
    error = abs(float(made.sums.covariance()[0, 0, 0] / truth - 1))
    return [row("cube.variance_error", error, "relative", 1e-9, "<=", n=n, conditions="mean / sd = 1e6")]


def cube_day(n: int = 10_000_000, events: int = 1_000_000) -> list[Row]:
    """Take one further day into the cube, against a rebuild from 30 days of events; about 2 minutes."""
    outcomes = ("y1", "y2", "y3", "y4", "num", "den")
    summed = ", ".join(f"sum({v}) as {v}" for v in outcomes)
    with tempfile.TemporaryDirectory() as folder:
        connection = duckdb.connect(f"{folder}/e.duckdb", config={"threads": 2, "memory_limit": "2GB"})
        run = lambda sql: connection.execute(sql).fetchall()  # noqa: E731
        run("set enable_progress_bar = false")
        run("select setseed(0.5)")
        run(_USERS.format(n=n))
        run(
            f"create table events as select (random() * {n - 1})::bigint as unit, d as day,"
            " random() * 3 as y1,"
            " random() * 4 as y2, random() * 5 as y3, 1.0::double as y4, floor(random() * 2) as num,"
            f" 1.0::double as den from (from range(30) u(d), range({events}) t(i) order by d)"
        )

        def rebuild(name: str, last: int) -> cube.Cube:
            filled = ", ".join(f"coalesce(s.{v}, 0) as {v}" for v in outcomes)
            users = f"select * exclude ({', '.join(outcomes)}) from users"
            by_unit = f"select unit, {summed} from events where day <= {last} group by unit"
            joined = f"select u.*, {filled} from ({users}) u left join ({by_unit}) s using (unit)"
            run(f"create table {name} as {joined}")
            return cube.build(connection, name, ["variant", "segment"], METRICS)

        before = rebuild("totals", 28)
        begun = time.perf_counter()
        day = f"select unit, {summed} from events where day = 29 group by unit"
        after = cube.advance(connection, before, "totals", day, METRICS, outcomes)
        one_day = time.perf_counter() - begun
        begun = time.perf_counter()
        whole = rebuild("again", 29)
        again = time.perf_counter() - begun
        apart = np.nanmax(np.abs(after.sums.covariance() / whole.sums.covariance() - 1))
        connection.close()
    assert apart < 1e-8, apart
    text = f"day 30 of {events:,} events a day, {n:,} users: {one_day:.1f} s against {again:.1f} s"
    text += f"; covariances apart by {apart:.1e}"
    return [row("cube.day_vs_rebuild", one_day / again, "ratio", 0.125, "<=", n=30 * events, conditions=text)]


BENCHMARKS = {
    "experiments.precision": precision,
    "experiments.cube": cube_speed,
    "experiments.cube_day": cube_day,
}
