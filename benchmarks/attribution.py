"""Attribution: exactness and speed of Markov chains, and the distance of every method from the truth.

ChannelAttribution (GPL) runs in its own environment, which `make peers` makes.
"""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from benchmarks.record import Row, peer_python, row
from nba.attribution import incremental, markov, rules, shapley
from nba.histories import simulated_paths as worlds
from nba.history import connect

DATA = Path(os.environ.get("NBA_DATA", Path(__file__).parents[2] / "shared" / "data"))
ADS = len(worlds.ADS)
N, SEEDS = 100_000, (11, 12, 13)  # not those that the method was developed on


def dense_credit(walks: markov.Walks, order: int) -> np.ndarray:
    """Compute Markov credit by dense algebra from journeys one by one: slow, and nothing shared."""
    states: dict[tuple[int, ...], int] = {(): 0}
    steps: dict[tuple[int, int], float] = {}
    won: dict[int, float] = {}
    out: dict[int, float] = {}
    begin = 0
    for length, yes, no in zip(walks.length, walks.conversions, walks.nulls):
        path = walks.code[begin : begin + length].tolist()
        begin += length
        here = 0
        for i in range(length):
            there = states.setdefault(tuple(path[max(0, i + 1 - order) : i + 1]), len(states))
            steps[here, there] = steps.get((here, there), 0.0) + yes + no
            out[here] = out.get(here, 0.0) + yes + no
            here = there
        won[here] = won.get(here, 0.0) + yes
        out[here] = out.get(here, 0.0) + yes + no
    m = len(states)
    inner, end = np.zeros((m, m)), np.zeros(m)
    for (i, j), weight in steps.items():
        inner[i, j] = weight / out[i]
    for i, weight in won.items():
        end[i] = weight / out[i]
    whole = np.linalg.solve(np.eye(m) - inner, end)[0]
    newest = np.array([state[-1] if state else -1 for state in states])
    removal = []
    for channel in range(len(walks.channels)):
        keep = newest != channel
        cut = np.linalg.solve((np.eye(m) - inner)[np.ix_(keep, keep)], end[keep])[0]
        removal.append(1 - cut / whole)
    return np.array(removal) / np.sum(removal)


def public_paths() -> markov.Walks:
    """Read the public path data."""
    table = pa_csv.read_csv(DATA / "attribution_paths" / "paths.csv.gz")
    conversions, nulls = (table[n].to_numpy().astype(float) for n in ("total_conversions", "total_null"))
    return markov.walks(table["path"], conversions, nulls)


def exact() -> list[Row]:
    """Compare orders 1-3 on the public paths with dense algebra."""
    walks = public_paths()
    worst = max(
        float(np.abs(markov.fit(walks, order).credit - dense_credit(walks, order)).max())
        for order in (1, 2, 3)
    )
    return [
        row("mta.markov_error", worst, "share", 1e-8, "<=", n=len(walks.length),
            conditions="largest difference of a channel's share, orders 1-3, against dense algebra"),
    ]  # fmt: skip


_PEER = """
import sys, time, json, contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    import pandas as pd, ChannelAttribution as ca
    d = pd.read_csv(sys.argv[1])
    def run(order):
        c, t = time.process_time(), time.perf_counter()
        ca.markov_model(
            d, "path", "conversions", var_null="nulls", order=order, sep=">", ncore=1, verbose=False)
        return time.process_time() - c, time.perf_counter() - t
    out = [run(int(sys.argv[2])) for _ in range(2)]
print(json.dumps(out))
"""


def speed() -> list[Row]:
    """Time orders 1 to 3 on a million journeys over ten channels, A B A B, and weigh the memory."""
    rng = np.random.default_rng(5)
    n = 1_000_000
    length = np.minimum(rng.geometric(1 / 4.5, n), 40)
    code = rng.choice(10, length.sum(), p=np.arange(10, 0, -1) / 55)
    names = np.array([f"channel_{i}" for i in range(10)])
    values = pa.DictionaryArray.from_arrays(pa.array(code.astype(np.int32)), pa.array(names.tolist()))
    begin = pa.array(np.concatenate([[0], np.cumsum(length)]), pa.int32())
    text = pc.binary_join(pa.ListArray.from_arrays(begin, values.cast(pa.string())), ">")
    won = rng.random(n) < 0.2
    table = pa.table({"path": text, "conversions": won.astype(int), "nulls": (~won).astype(int)})
    del values, text, code
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "paths.csv"
        pa_csv.write_csv(table, path)
        result = []
        for order in (1, 2, 3):
            mine, theirs = [], []
            for _ in range(2):
                mine.append(_own(path, order))
                theirs += _peer(path, order)
            ours, peer = float(np.median([m[0] for m in mine])), float(np.median(theirs or [np.nan]))
            result.append(
                row(f"mta.markov{order}_vs_channelattribution", peer / ours, "x", 2, ">=", n=n,
                    peer="ChannelAttribution 2.2.5",
                    conditions=f"CPU seconds from path text to credit, one thread each, A B A B; "
                    f"{ours:.1f} s against {peer:.1f} s"),
            )  # fmt: skip
            peak = max(m[1] for m in mine)
    result.append(
        row("mta.peak_gb_1m", peak, "GB", 1, "<", n=n, conditions="peak resident memory, order 3")
        | {"direction": "<="}  # type: ignore[operator]
    )
    return result


_OWN = """
import sys, time, json, resource
import pyarrow as pa, pyarrow.csv as c
from nba.attribution import markov
t = c.read_csv(sys.argv[1]); pa.set_cpu_count(1)
a, b = (t[n].to_numpy().astype(float) for n in ("conversions", "nulls"))
s = time.process_time(); markov.fit(markov.walks(t["path"], a, b, ">"), int(sys.argv[2]))
print(json.dumps([time.process_time() - s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))
"""


def _own(path: Path, order: int) -> list[float]:
    import sys

    return json.loads(_run(sys.executable, _OWN, path, order) or "[NaN, NaN]")


def _peer(path: Path, order: int) -> list[float]:
    python = peer_python("channelattribution")
    text = _run(python, _PEER, path, order) if python else ""
    return [cpu for cpu, _ in json.loads(text)] if text else []


def _run(python: str, script: str, path: Path, order: int) -> str:
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-c", script, str(path), str(order)], capture_output=True, text=True, env=alone
    )
    if done.returncode:
        print(done.stderr[-1500:])
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else ""


def rule_speed() -> list[Row]:
    """Time all rules' channel totals on ten million touches against the bare window query."""
    connection = connect(threads=2)
    connection.execute(
        """
        create table steps as
        with raw as (select i, (hash(i) % 2500000)::varchar as order_id, hash(i, 1) % 10 as c,
            (hash(i, 2) % 2592000) / 86400.0 as age_days from range(10000000) t(i))
        select order_id as journey_id, order_id, 'c' || c as channel, c < 7 as is_ad, age_days, true
            as is_conversion, 1.0 as margin, row_number() over w as position,
            count(*) over (partition by order_id) as n from raw window w as (partition by order_id order by
            age_days desc)
        """
    ).fetchall()
    bare = """select channel, sum(k), sum(m) from (select channel, row_number() over (partition by order_id
        order by age_days desc) as k, count(*) over (partition by order_id) as m from steps) group by 1"""
    ours = rules.totals_query(("first", "last", "linear", "time_decay", "position"), 7.0)
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(3):
        for name, query in (("bare", bare), ("ours", ours)):
            begun = time.perf_counter()
            connection.execute(query).fetchall()
            times[name].append(time.perf_counter() - begun)
    ratio = float(np.median(times["ours"]) / np.median(times["bare"]))
    return [
        row("mta.rules_vs_window", ratio, "x", 1.2, "<=", n=10_000_000,
            conditions=f"five rules by channel, {np.median(times['ours']):.1f} s, A B A B A B"),
    ]  # fmt: skip


_BUILD = """
import sys, time, json, resource
from datetime import UTC, datetime
from nba.attribution import paths
from nba.history import connect
from nba.settings import Attribution
c = connect(threads=2, memory_gb=float(sys.argv[1]))
c.execute(f"set temp_directory = '{sys.argv[2]}'").fetchall()
n = int(sys.argv[3])
c.execute(f'''
create view touches as select i::varchar as touch_id, (hash(i) % ({n} // 5))::varchar as customer_id,
    timestamptz '2026-01-01 00:00:00+00' + to_seconds((hash(i, 2) % 7776000)::bigint) as touched_at,
    'c' || (hash(i, 1) % 10) as channel, 'clicked' as kind, null::varchar as treatment_id,
    null::varchar as decision_id, 0.0 as cost from '{sys.argv[2]}/i.parquet';
create view orders as select i::varchar as order_id, (hash(i, 3) % ({n} // 5))::varchar as customer_id,
    timestamptz '2026-01-01 00:00:00+00' + to_seconds((hash(i, 4) % 7776000)::bigint) as ordered_at,
    20.0 as revenue, 10.0 as margin, 1 as n_items, false as is_return
    from '{sys.argv[2]}/i.parquet' where i < {n} // 10;
''').fetchall()
t = time.perf_counter()
c.execute("create temp table bare as select customer_id, channel, row_number() over (partition by customer_id"
          " order by touched_at, touch_id) as k from touches").fetchall()
bare = time.perf_counter() - t
c.execute("drop table bare").fetchall()
t = time.perf_counter()
paths.build(c, Attribution(), datetime(2026, 4, 15, tzinfo=UTC))
built = time.perf_counter() - t
ways = paths.sequences(c).num_rows
whole = time.perf_counter() - t
counted = c.execute("select count(*), count(distinct journey_id) from steps").fetchall()[0]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps([bare, built, whole, ways, *counted, peak]))
"""


def path_speed(n: int = 10_000_000, memory_gb: float = 2.0) -> list[Row]:
    """Build the paths of ten million touches in DuckDB, and weigh the memory of the process."""
    import sys

    with tempfile.TemporaryDirectory() as folder:
        with connect(threads=2) as connection:
            query = f"copy (select i from range({n}) t(i)) to '{folder}/i.parquet'"
            connection.execute(query).fetchall()
        command = [sys.executable, "-c", _BUILD, str(memory_gb), folder, str(n)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-1500:])
        return []
    bare, built, whole, ways, steps, journeys_, peak = json.loads(done.stdout.strip().splitlines()[-1])
    said = (
        f"{n:,} touches, {n // 10:,} orders to {journeys_:,.0f} journeys: {built:.1f} s, with {ways:,} "
        f"distinct sequences {whole:.1f} s; one window over the touches {bare:.1f} s; 2 threads, DuckDB held "
        f"to {memory_gb:g} GB, {steps:,.0f} steps"
    )
    weighed = "peak resident memory of the process"
    return [
        row("mta.paths_vs_window", built / bare, "x", None, "<=", n=n, conditions=said),
        row("mta.paths_seconds", whole, "s", None, "<=", n=n, conditions=said),
        row("mta.paths_peak_gb", peak, "GB", None, "<=", n=n, conditions=weighed),
    ]  # fmt: skip


def distance(credit: np.ndarray, truth: np.ndarray) -> float:
    """Total variation between shares; negative credit counts as none."""
    value = np.maximum(np.nan_to_num(credit), 0)
    whole = np.concatenate([truth, np.zeros(len(value) - len(truth))])
    return float(0.5 * np.abs(value / value.sum() - whole / whole.sum()).sum())


def watched(world: worlds.World) -> incremental.Days:
    """Give a world to the hazard model: these customers order once, so an order ends their watch.

    The platform does not know that and watches everybody to the end; `notebooks/20_attribution.ipynb`
    judges it so.
    """
    who, day, channel = world.touch
    n = len(world.order_day)
    has = np.flatnonzero(np.isfinite(world.order_day))
    order_day = world.order_day[has].astype(np.int64)
    last = np.full(n, worlds.DAYS - 1)
    last[has] = order_day
    is_ad = np.arange(len(worlds.CHANNELS)) < ADS
    return incremental.Days(
        n, worlds.DAYS, (who, day.astype(np.int64), channel.astype(np.int64)),
        (has, order_day, np.ones(len(has))), np.zeros(n, dtype=np.int64), last, is_ad, True,
    )  # fmt: skip


def journeys(world: worlds.World, only_ads: bool) -> markov.Walks:
    """Give a world's journeys: touches of a customer until the order or the end."""
    who, day, channel = world.touch
    keep = (channel < ADS) | (not only_ads)
    who, day, channel = who[keep], day[keep], channel[keep]
    order = np.lexsort((day, who))
    customers, length = np.unique(who[order], return_counts=True)
    won = np.isfinite(world.order_day)[customers].astype(float)
    names = worlds.CHANNELS[:ADS] if only_ads else worlds.CHANNELS
    return markov.Walks(names, channel[order].astype(np.int64), length, won, 1 - won)


def ruled(walks: markov.Walks, how: str) -> np.ndarray:
    """Share conversions by a model or a rule over journeys."""
    k = len(walks.channels)
    end = np.cumsum(walks.length)
    if how == "markov":
        return markov.fit(walks, 1).credit
    if how == "shapley":
        row_of = np.repeat(np.arange(len(end)), walks.length)
        member = np.bincount(row_of * k + walks.code, minlength=len(end) * k).reshape(-1, k) > 0
        return shapley.fit(member, walks.conversions, walks.nulls, "rate").credit
    at = end - 1 if how == "last" else end - walks.length
    return np.bincount(walks.code[at], walks.conversions, k)


def truth_distance() -> list[Row]:
    """Judge every method in three difficulties, with a 10% holdout and without any experiment."""
    out = []
    for difficulty, with_target, without_target in (
        ("easy", 0.07, 0.07), ("real", 0.09, 0.15), ("hard", 0.14, 0.18),
    ):  # fmt: skip
        caused, _, _ = worlds.truth(difficulty, 200_000)
        truth = caused * N
        got: dict[str, list[float]] = {}
        for seed in SEEDS:
            held = worlds.simulate(difficulty, N, seed, holdout=0.1)
            whole = worlds.simulate(difficulty, N, seed)
            seen = incremental.observed(watched(whole))
            seen_held = _only_ads(incremental.observed(watched(held)))
            itt = incremental.held_out(np.isfinite(held.order_day).astype(float), held.served)
            both = incremental.combine(itt, seen_held)
            served = held.served.mean(axis=0)
            found = {
                "combined": distance(both.value, truth * served), "holdout alone": distance(itt.value, truth),
                "observed": distance(seen.value[:ADS], truth),
                "level combined": float(both.value.sum() / (truth * served).sum()),
                "level observed": float(np.nansum(seen.value) / truth.sum()),
            }  # fmt: skip
            for only_ads in (False, True):
                walks = journeys(whole, only_ads)
                for how in ("first", "last", "markov", "shapley"):
                    found[f"{how}{'_ads' if only_ads else ''}"] = distance(ruled(walks, how), truth)
            for name, value in found.items():
                got.setdefault(name, []).append(value)
        mean = {name: float(np.mean(values)) for name, values in got.items()}
        rest = ", ".join(f"{k} {v:.3f}" for k, v in mean.items() if k not in ("combined", "observed"))
        more = {"n": N, "seeds": len(SEEDS), "conditions": f"mean of seeds; in the same worlds: {rest}"}
        best = min(mean[name] for name in ("first_ads", "last_ads", "markov_ads", "shapley_ads"))
        out += [
            row(f"mta.tv_holdout_{difficulty}", mean["combined"], "TV", with_target, "<=", **more),
            row(f"mta.tv_observed_{difficulty}", mean["observed"], "TV", without_target, "<=", **more),
            row(f"mta.level_holdout_{difficulty}", mean["level combined"], "x", (0.85, 1.15), "in", **more),
            row(f"mta.tv_best_rule_{difficulty}", best, "TV", None, "<=", n=N, seeds=len(SEEDS),
                conditions="best of advertising-only first, last, Markov 1 and Shapley"),
        ]  # fmt: skip
    return out


def _only_ads(whole: incremental.Caused) -> incremental.Caused:
    return incremental.Caused(
        whole.value[:ADS], whole.se[:ADS], whole.n[:ADS], whole.source, whole.reason[:ADS]
    )


def coverage(n: int = 10_000, n_worlds: int = 200) -> list[Row]:
    """Count how often intervals of incremental credit hold the truth: randomised, and as tables show it."""
    caused, _, _ = worlds.truth("real", 300_000)
    hits: dict[str, list[float]] = {"held": [], "combined": []}
    for seed in range(n_worlds):
        world = worlds.simulate("real", n, 1000 + seed, holdout=0.3)
        found = incremental.held_out(np.isfinite(world.order_day).astype(float), world.served)
        truth = caused * world.served.sum(axis=0)
        both = incremental.combine(found, _only_ads(incremental.observed(watched(world))))
        for name, one in (("held", found), ("combined", both)):
            lower, upper = one.interval()
            hits[name].append(float(((lower <= truth) & (truth <= upper)).mean()))
    return [
        row("mta.incremental_coverage", float(np.mean(hits["held"])), "", (0.93, 0.97), "in", n=n,
            seeds=n_worlds,
            conditions="95% intervals of 7 channels, real difficulty, channel holdouts of 30%, unshrunk"),
        row("mta.combined_coverage", float(np.mean(hits["combined"])), "", (0.93, 0.97), "in", n=n,
            seeds=n_worlds,
            conditions="the same shrunk to the observed estimates, as the attribution table shows them"),
        row("mta.decided_coverage", decided_coverage(), "", (0.93, 0.97), "in", n=4_000, seeds=200,
            conditions="95% intervals from logged decisions: 2 channels, p_action by customer, AIPW"),
    ]  # fmt: skip


def decided_coverage(n: int = 4_000, n_worlds: int = 200) -> float:
    """Count the same for logged decisions whose probabilities depend on the customer."""
    hits = []
    for seed in range(n_worlds):
        rng = np.random.default_rng([11, seed])
        x = rng.standard_normal(n)
        score = np.exp(np.column_stack([np.zeros(n), 0.8 * x, -0.5 * x + 0.3]))
        p = score / score.sum(axis=1, keepdims=True)
        channel = (rng.random((n, 1)) > np.cumsum(p, axis=1)).sum(axis=1) - 1
        effect = np.column_stack([0.5 + 0.3 * x, np.full(n, 0.2)])
        y = 1 + x + 0.5 * x**2 + rng.standard_normal(n)
        y += np.where(channel == 0, effect[:, 0], 0) + np.where(channel == 1, effect[:, 1], 0)
        found = incremental.decided(y, channel, p[:, 1:], p[:, 0], np.arange(n), x[:, None])
        lower, upper = found.interval()
        # What contacts are worth in expectation over the draws: the estimand of the totals.
        truth = n * np.array([_expected(0), _expected(1)])
        hits.append(((lower <= truth) & (truth <= upper)).mean())
    return float(np.mean(hits))


def _expected(channel: int) -> float:
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    score = np.exp(np.column_stack([np.zeros(60), 0.8 * x, -0.5 * x + 0.3]))
    p = score / score.sum(axis=1, keepdims=True)
    effect = 0.5 + 0.3 * x if channel == 0 else np.full(60, 0.2)
    return float((weight / weight.sum()) @ (p[:, 1 + channel] * effect))


BENCHMARKS = {
    "mta.exact": exact,
    "mta.speed": speed,
    "mta.rules": rule_speed,
    "mta.paths": path_speed,
    "mta.truth": truth_distance,
    "mta.coverage": coverage,
}
