"""Run benchmarks by name: `python -m benchmarks NAME...`, or `all`; without a name, list them."""

import importlib
import os
import pkgutil
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import benchmarks
from benchmarks.record import all_benchmarks, table, write


def main(names: list[str]) -> int:
    """Run the named benchmarks, print their tables, and keep their results; 2 for an unknown name."""
    skip = {"__main__", "record", "own_cube", "serving_worlds"}
    found = [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in skip and not m.ispkg]
    known = all_benchmarks({name: importlib.import_module(f"benchmarks.{name}") for name in found})
    wanted = sorted(known) if names == ["all"] else names
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        print(f"unknown: {unknown}" if unknown else "Name one or more, or all:", *sorted(known), sep="\n  ")
        return 2 if unknown else 0
    for name in wanted:
        print(f"== {name}", flush=True)
        begun = time.perf_counter()
        rows = known[name]()
        print(table(rows))
        print(f"-- {time.perf_counter() - begun:.0f} s, {write(name, rows).name}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
