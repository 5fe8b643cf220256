"""tea-tasting's side of the cube benchmark; runs in its own environment, never in the project's.

`make peers` makes it from `tea.txt`.

Reads commands from standard input (composite, loop, effects) and answers each with one line.
"""

import json
import sys
import time

import ibis
import tea_tasting as tt

SEGMENTS = 20
METRICS = {
    **{f"m{i}": tt.Mean(f"y{i}", f"x{i}") for i in (1, 2, 3, 4)},
    "m5": tt.RatioOfMeans("num", "den", "wn", "wd"),
}


def composite(users: "ibis.Table") -> dict[tuple[int, int], object]:
    keyed = users.mutate(cell=users.variant.cast("int32") * SEGMENTS + users.segment.cast("int32"))
    experiment = tt.Experiment(METRICS, variant="cell")
    columns = tt.metrics.AggrCols()
    for metric in METRICS.values():
        columns |= metric.aggr_cols
    found = tt.aggr.read_aggregates(keyed, "cell", **columns._asdict())
    out = {}
    arms = {v: [found[v * SEGMENTS + s] for s in range(SEGMENTS)] for v in (0, 1)}
    total = {}
    for v, parts in arms.items():
        whole = parts[0]
        for part in parts[1:]:
            whole = whole + part
        total[v] = whole
    for number, data in enumerate([total, *({v: arms[v][s] for v in (0, 1)} for s in range(SEGMENTS))]):
        out[number] = {
            name: metric.analyze_aggregates(data[0], data[1]) for name, metric in experiment.metrics.items()
        }
    return out


def loop(users: "ibis.Table") -> None:
    experiment = tt.Experiment(METRICS, variant="variant")
    experiment.analyze(users)
    for s in range(SEGMENTS):
        experiment.analyze(users.filter(users.segment == s))


def main(path: str) -> None:
    connection = ibis.duckdb.connect(path, read_only=True, threads=2)
    users = connection.table("users")
    for line in sys.stdin:
        begun = time.perf_counter(), time.process_time()
        if line.strip() == "composite":
            composite(users)
            print([time.perf_counter() - begun[0], time.process_time() - begun[1]], flush=True)
        elif line.strip() == "loop":
            loop(users)
            print([time.perf_counter() - begun[0], time.process_time() - begun[1]], flush=True)
        elif line.strip() == "effects":
            found = composite(users)
            table = [[found[c][m].effect_size for c in range(SEGMENTS + 1)] for m in METRICS]
            print(json.dumps(table), flush=True)


main(sys.argv[1])
