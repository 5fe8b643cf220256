"""Map, sort and write a history with pandas or Polars from ready identities; prints one JSON object."""

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

name, ready, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
target.mkdir(exist_ok=True)
TABLES = {"orders": "ordered_at", "events": "occurred_at", "touches": "touched_at"}
if name == "pandas":
    import pandas as pd

    begun = time.perf_counter()
    people = pd.read_parquet(ready / "people.parquet")
    for table, at in TABLES.items():
        rows = pd.read_parquet(ready / f"{table}.parquet")
        rows = rows.merge(people, on="combo").drop(columns="combo")
        rows = rows.sort_values(["customer_id", at, "key"])
        rows.to_parquet(target / f"{table}.parquet", compression="zstd", compression_level=1, index=False)
        del rows
else:
    import polars as pl

    begun = time.perf_counter()
    people = pl.scan_parquet(ready / "people.parquet")
    for table, at in TABLES.items():
        rows = pl.scan_parquet(ready / f"{table}.parquet").join(people, on="combo").drop("combo")
        rows = rows.sort("customer_id", at, "key").collect(engine="streaming")
        rows.write_parquet(target / f"{table}.parquet", compression="zstd", compression_level=1)
        del rows
seconds = time.perf_counter() - begun
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps({"seconds": seconds, "peak_gb": peak, "version": version(name)}))
