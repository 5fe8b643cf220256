"""Results of benchmarks: rows with a target, printed as a table and kept as JSON."""

import json
import math
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

RESULTS = Path(__file__).parent / "results"
PEERS = Path(__file__).parents[1] / ".peers"

Direction = Literal["<=", ">=", "in", "="]


class Row(TypedDict):
    """One measured number.

    `target` is a number, or a pair for direction "in", or None where there is none; `peer` names what it
    is compared with and its version; `n` is the size of what was measured; `conditions` is free text.
    """

    id: str
    value: float
    unit: str
    target: Any
    direction: Direction
    peer: str
    n: int
    seeds: int
    conditions: str


Benchmark = Callable[[], list[Row]]


def row(id: str, value: float, unit: str, target: Any, direction: Direction, **more: Any) -> Row:  # noqa: A002
    """Make a row; `peer`, `n`, `seeds` and `conditions` may be left out."""
    out: Row = {
        "id": id, "value": float(value), "unit": unit, "target": target, "direction": direction,
        "peer": "", "n": 0, "seeds": 1, "conditions": "",
    }  # fmt: skip
    out.update(more)  # type: ignore[typeddict-item]
    return out


def peer_python(name: str) -> str | None:
    """Give the Python of a peer's own environment, made by `make peers`; None where it is not there."""
    path = PEERS / name / "bin" / "python"
    return str(path) if path.is_file() else None


def peer(env: str, script: str, *arguments: str) -> Any:
    """Run a script of `benchmarks/peers` in a peer's environment, on one core; its JSON, or None."""
    python = peer_python(env)
    if python is None:
        return None
    command = [python, str(Path(__file__).parent / "peers" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        print(f"{env}: {done.stderr[-500:]}")
        return None
    return json.loads(done.stdout)


def reached(result: Row) -> bool | None:
    """Say whether a row meets its target; None where there is none.

    Example:
        >>> reached(row("demo.seconds", 200, "s", 300, "<="))
        True
    """
    value, target = result["value"], result["target"]
    if target is None:
        return None
    if math.isnan(value):
        return False
    if result["direction"] == "<=":
        return bool(value <= target)
    if result["direction"] == ">=":
        return bool(value >= target)
    if result["direction"] == "in":
        return bool(target[0] <= value <= target[1])
    return bool(value == target)


def write(name: str, rows: list[Row]) -> Path:
    """Write the rows of one benchmark to `benchmarks/results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    clean = [{k: (None if isinstance(v, float) and math.isnan(v) else v) for k, v in r.items()} for r in rows]
    path.write_text(json.dumps(clean, indent=1) + "\n", encoding="utf-8")
    return path


def table(rows: list[Row]) -> str:
    """Print rows as an aligned table."""
    lines = [("id", "value", "unit", "target", "", "peer", "n", "seeds")]
    for r in rows:
        mark = {True: "reached", False: "NOT REACHED", None: ""}[reached(r)]
        target = "" if r["target"] is None else f"{r['direction']} {r['target']}"
        lines.append(
            (r["id"], f"{r['value']:.4g}", r["unit"], target, mark, r["peer"], str(r["n"]), str(r["seeds"]))
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines)


def all_benchmarks(modules: Mapping[str, Any]) -> dict[str, Benchmark]:
    """Gather the `BENCHMARKS` of the modules; names must not repeat."""
    out: dict[str, Benchmark] = {}
    for module in modules.values():
        for name, run in getattr(module, "BENCHMARKS", {}).items():
            if name in out:
                raise ValueError(f"benchmark {name!r} is registered twice")
            out[name] = run
    return out
