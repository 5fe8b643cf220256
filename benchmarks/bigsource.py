# ruff: noqa: E501
"""One large raw file under a limit of memory: what `nba ingest` takes to read it and make a history of it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import Row, row
from nba.history import connect

ROOT = Path(__file__).parents[1]
SIZE_GB = float(os.environ.get("NBA_BENCH_SOURCE_GB", "5"))
LIMIT_GB = 1.0
_BYTES = {"csv": 176, "jsonl": 248}
_TOML = """
[workspace]
name = "large"
timezone = "UTC"
memory_gb = {limit}

[[sources]]
name = "web"
table = "events"
path = "web.{format}"
format = "{format}"
identifiers = {{ cookie = "cookie", email = "email" }}
columns = {{ event_id = "event_id", occurred_at = "ts", kind = "type", detail = "url" }}
constants = {{ channel = "web" }}
"""
# A log of clicks: long addresses and browsers that nothing maps, one cookie in three events' worth of a person.
_ROWS = """
    select 'W' || i as event_id, timestamp '2025-01-01' + to_seconds((hash(i, 'at') % 31536000)::bigint) as ts,
        'ck' || hash(i % {cookies}, 'cookie') as cookie,
        case when hash(i, 'login') % 10 < 3 then 'User.' || (i % {cookies}) // 3 || '@mail' || i % 3 || '.es' end as email,
        ['visit', 'view', 'cart', 'search'][1 + (hash(i, 'kind') % 4)::int] as type,
        'https://shop.example/department/' || hash(i, 'page') % 500 || '/item?campaign=' || hash(i, 'c') % 90 as url,
        'Mozilla/5.0 (X11; Linux x86_64; rv:' || 100 + i % 40 || ') Gecko Firefox/' || 100 + i % 40 as agent
    from range({n}) t(i)"""


def write(folder: Path, form: str, gigabytes: float) -> int:
    """Write a workspace with one source file of about that size; gives the number of its rows."""
    n = int(gigabytes * 1e9 / _BYTES[form])
    (folder / "nba.toml").write_text(_TOML.format(limit=LIMIT_GB, format=form))
    (folder / ".salt").write_text("a salt of the benchmarks, long enough")
    rows = _ROWS.format(n=n, cookies=max(n // 15, 1))
    how = "format csv, header" if form == "csv" else "format json"
    with connect() as connection:
        connection.execute(f"copy ({rows}) to '{folder / f'web.{form}'}' ({how})").fetchall()
    return n


_INGEST = """
import sys, time, json
from pathlib import Path
from pipelines import ingest
begun = time.perf_counter()
report = ingest.ingest(Path(sys.argv[1]))
kept = sum(row["rows_kept"] for row in report.rows)
# Of this process alone: ru_maxrss would begin with what its parent held.
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e6
print(json.dumps({"seconds": time.perf_counter() - begun, "kept": kept, "peak_gb": peak}))
"""


def _measured(form: str) -> Row:
    import json

    folder = Path(tempfile.mkdtemp(prefix="nba-large-"))
    try:
        n = write(folder, form, SIZE_GB)
        size = (folder / f"web.{form}").stat().st_size / 1e9
        done = subprocess.run(
            [sys.executable, "-c", _INGEST, str(folder)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        found = json.loads(done.stdout.strip().splitlines()[-1])
        if found["kept"] != n:
            raise RuntimeError(f"{found['kept']:.0f} of {n} rows were kept")
        told = f"{form} of {size:.1f} GB, {n:,} rows, memory_gb = {LIMIT_GB:g}: {found['seconds']:.0f} s, every row kept"
        return row(f"ingest.peak_gb_{form}", found["peak_gb"], "GB", 2, "<=", n=n, conditions=told)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def memory() -> list[Row]:
    """Peak memory of the whole ingest of one 5 GB file, as CSV and as JSON lines."""
    return [_measured(form) for form in _BYTES]


BENCHMARKS = {"ingest.memory": memory}
