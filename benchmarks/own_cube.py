"""This project's side of the cube benchmark; a process of its own, so that its peak memory is its own.

Reads commands from standard input (own, scan, page, effects, peak) and answers each with one line.
"""

import json
import sys
import time
from pathlib import Path

import duckdb
import numpy as np

from nba.experiments import analyze, cube
from nba.experiments.cube import Metric, Sums

METRICS = (*(Metric(f"y{i}", None, f"x{i}") for i in (1, 2, 3, 4)), Metric("num", "den", "wn", "wd"))
MEMORY = "455MB"  # of DuckDB: the table as it is stored, and no more


def page(made: cube.Cube) -> analyze.Effects:
    """Compute all of a page from a cube of variant x segment: 5 metrics x (all + 20 segments)."""
    segment = np.array(made.keys["segment"].to_pylist())
    variant = np.array(made.keys["variant"].to_pylist())
    parts = int(segment.max()) + 1
    by_arm = made.sums.gather(variant, 2)
    whole = Sums(
        *(np.concatenate([a, b]) if i != 1 else a for i, (a, b) in enumerate(zip(made.sums, by_arm)))
    )
    place = {(v, s): i for i, (v, s) in enumerate(zip(variant.tolist(), segment.tolist()))}
    treated = np.array([len(segment) + 1, *(place[1, s] for s in range(parts))])
    control = np.array([len(segment), *(place[0, s] for s in range(parts))])
    found = analyze.compare(whole, cube.columns_of(METRICS, made.variables), treated, control)
    analyze.correct(found.p_value[:, 1:], "holm")
    for i in range(len(METRICS)):
        analyze.heterogeneity(found.effect[i, 1:], found.se[i, 1:])
    return found


def main(path: str) -> None:
    """Answer commands on a DuckDB file until there are no more."""
    connection = duckdb.connect(path, read_only=True, config={"threads": 2, "memory_limit": MEMORY})
    connection.execute("set enable_progress_bar = false").fetchall()  # it would print among the answers
    variables = cube.variables_of(METRICS)
    scan = f"select variant, segment, {', '.join(f'sum({v})' for v in variables)} from users group by 1, 2"
    made = None
    for line in sys.stdin:
        begun = time.perf_counter(), time.process_time()
        if (command := line.strip()) == "own":
            made = cube.build(connection, "users", ["variant", "segment"], METRICS)
            page(made)
        elif command == "scan":
            connection.execute(scan).fetchall()
        answer: object = [time.perf_counter() - begun[0], time.process_time() - begun[1]]
        if command == "page":
            answer = min(_page_seconds(made) for _ in range(20))
        elif command == "effects":
            answer = page(made).effect.tolist() if made else None
        elif command == "peak":
            status = Path("/proc/self/status").read_text().splitlines()
            answer = int(next(row for row in status if "VmHWM" in row).split()[1]) / 1e6
        print(json.dumps(answer), flush=True)


def _page_seconds(made: cube.Cube | None) -> float:
    assert made is not None
    begun = time.perf_counter()
    page(made)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main(sys.argv[1])
