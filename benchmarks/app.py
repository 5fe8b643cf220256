"""The app at size, in Chromium: first paint of every page and the change of a filter, on a large workspace.

The workspace is a small simulated one, played through the whole loop, whose big tables are then replaced by
generated ones of the size asked for (the contract's columns, sorted as the steps sort them). The page-ready
tables are those of the small world, spread over as many batches: their size depends on batches, arms,
treatments and segments, not on customers.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import Row, row
from nba import tables
from nba.history import FOLDER, INDEX, History, connect, replace_text
from pipelines import demo
from pipelines.app import served, wait_for
from pipelines.progress import silent

CUSTOMERS, EVENTS, BATCHES = 1_000_000, 10_000_000, 30
KEPT = "NBA_BENCH_WORKSPACE"  # a folder in which the workspace is made, or found again
WORLD = 3_000, 4, 7  # customers, batches and seed of the small world
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PLOT, DRAWN = ".js-plotly-plot", "figures"
NUMBER = "[data-testid=stHeading] h2"
Page = tuple[str, str, str, str, str]
ONE, OTHER = (f"c{n:020d}" for n in (CUSTOMERS // 7, CUSTOMERS // 3))
# Each page: its address, the headline number or sentence that answers first, the sign of its first figure, a
# filter to change, and the sign of the change: a text, or that its figures are drawn anew.
PAGES: dict[str, Page] = {
    "overview": ("", NUMBER, PLOT, "attribute:Region", DRAWN),
    "experiments": ("experiments", "p:has-text('against holdout:')", PLOT, "metric:Orders", DRAWN),
    "attribution": ("attribution", NUMBER, PLOT, "by:Action", DRAWN),
    "clv": ("clv", NUMBER, PLOT, "view:Still customers?", DRAWN),
    "policy": ("policy", NUMBER, PLOT, "by:Action", DRAWN),
    "decision": (f"decision?customer={ONE}", NUMBER, PLOT, "customer", f"text=customer {OTHER}"),
    "value": ("value", "p:has-text('nothing that they could be given')", PLOT, "", ""),
    "models": ("models", NUMBER, PLOT, "view:How good", DRAWN),
    "health": ("health", NUMBER, PLOT, "view:People and consent", DRAWN),
}
REPEATS = 3

# Rows that the step writes at once: 32,768 customers of a batch.
_GROUPS = {"decisions": 32_768, "choices": 360_448, "features": 32_768}
_BIG = {
    "customers": """
        select 'c' || printf('%020d', i) as customer_id, 'C' || i as external_id,
            timestamptz '2024-01-01 00:00+00' + to_seconds(i) as joined_at,
            i % 2 = 0 as can_email, i % 3 = 0 as can_sms, i % 4 = 0 as can_push, i % 5 = 0 as can_call,
            'Europe/Madrid' as timezone, ['search', 'store', 'social'][i % 3 + 1] as a_acquisition,
            ['Madrid', 'Galicia'][i % 2 + 1] as a_region
        from range({customers}) t(i)""",
    "events": """
        select md5(i::varchar) as event_id,
            'c' || printf('%020d', i * {customers} // {events}) as customer_id,
            timestamptz '2025-06-01 00:00+00' + to_seconds((i * 7919) % 23000000) as occurred_at,
            ['visit', 'view', 'cart', 'ticket'][i % 4 + 1] as kind, 'web' as channel, '/page' as detail,
            null::timestamptz as known_at
        from range({events}) t(i)""",
    "orders": """
        select 'o' || i as order_id, 'c' || printf('%020d', i * 2 // 3) as customer_id,
            timestamptz '2025-06-01 00:00+00' + to_seconds((i * 7919) % 23000000) as ordered_at,
            50.0 as revenue, 20.0 as margin, 2::bigint as n_items, false as is_return,
            null::timestamptz as known_at
        from range({customers} * 3 // 2) t(i)""",
    "touches": """
        select 't' || i as touch_id, 'c' || printf('%020d', i // 3) as customer_id,
            timestamptz '2025-06-01 00:00+00' + to_seconds((i * 7919) % 23000000) as touched_at,
            'email' as channel, ['sent', 'delivered', 'seen'][i % 3 + 1] as kind,
            'discount_email' as treatment_id, null::varchar as decision_id, 0.05 as cost,
            null::timestamptz as known_at
        from range({customers} * 3) t(i)""",
}
_DECISIONS = """
    select '{batch}.' || substr(md5(i || '{batch}'), 1, 16) as decision_id, '{batch}' as batch_id,
        'c' || printf('%020d', i) as customer_id, 'C' || i as external_id,
        if(i % 4 = 0, 'discount_email', 'none') as treatment_id, if(i % 4 = 0, 'email', 'none') as channel,
        timestamptz '{at}' as decided_at, if(i % 4 = 0, 0.3, 0.7) as p_action, 'softmax@m' as policy_id,
        'policy' as experiment_id, if(i % 10 = 0, 'holdout', 'policy') as arm, 0.9 as p_arm,
        if(i % 4 = 0, 0.5, 0.0) as expected_value, 'explored among 4 eligible' as reason, 'h' as config_hash,
        timestamptz '{at}' + to_days(7) as valid_until{more}
    from range({customers}) t(i)"""
_OUTCOMES = """
    select '{batch}.' || substr(md5(i || '{batch}'), 1, 16) as decision_id, true as is_delivered,
        i % 20 = 0 as is_response, false as is_click, false as is_unsubscribe,
        if(i % 20 = 0, 20.0, 0.0) as reward, timestamptz '{at}' + to_days(14) as closed_at,
        14::bigint as window_days{more}
    from range({customers}) t(i)"""
_CHOICES = """
    select '{batch}.' || substr(md5(i || '{batch}'), 1, 16) as decision_id, k as treatment_id,
        (i + length(k)) % 3 > 0 or k = 'none' as is_eligible,
        if((i + length(k)) % 3 > 0 or k = 'none', '', 'no consent') as reason,
        0.1 as p_action, if(k = 'none', 0.0, 0.3) as mean, 0.2 as se, 0.1 as price{more}
    from range({customers}) t(i), (select unnest({names}) as k)
    order by i, k"""
_FEATURES = """
    select 'c' || printf('%020d', i) as customer_id, timestamptz '{at}' as as_of{columns}
    from range({customers}) t(i)"""


def make(folder: Path, customers: int = CUSTOMERS, events: int = EVENTS, batches: int = BATCHES) -> Path:
    """Make the large workspace in a folder that must not exist."""
    demo.run_loop(folder, *WORLD, progress=silent())
    history = History.read(folder)
    newest = max(history.table("batches")["decided_at"].to_pylist())
    moments = [newest - timedelta(weeks=b) for b in range(batches)][::-1]
    spread = {
        name: _spread(history.table(name), moments) for name in ("batches", "summary_batches", "summary_mix")
    }
    history = history.commit(replace=spread)
    features = [n for n in history.table("features").column_names if n.startswith("f_")]
    names = sorted(set(history.table("choices")["treatment_id"].to_pylist()))
    size = {"customers": customers, "events": events}
    files: dict[str, list[str]] = {}
    with connect() as connection:
        for name, query in _BIG.items():
            files[name] = [_write(connection, folder, name, 0, query.format(**size))]
        for number, at in enumerate(moments):
            given = {"batch": f"{at:%Y%m%dT%H%M%S}", "at": f"{at:%Y-%m-%d %H:%M}+00", **size}
            more = {
                name: _absent(tables.BY_NAME[name], query)
                for name, query in (("decisions", _DECISIONS), ("outcomes", _OUTCOMES), ("choices", _CHOICES))
            }
            files.setdefault("decisions", []).append(
                _write(
                    connection,
                    folder,
                    "decisions",
                    number,
                    _DECISIONS.format(more=more["decisions"], **given),
                )
            )
            if number < batches - 2:
                files.setdefault("outcomes", []).append(
                    _write(
                        connection,
                        folder,
                        "outcomes",
                        number,
                        _OUTCOMES.format(more=more["outcomes"], **given),
                    )
                )
            if number >= batches - 2:
                query = _CHOICES.format(names=names, more=more["choices"], **given)
                files.setdefault("choices", []).append(_write(connection, folder, "choices", number, query))
                columns = "".join(f', (i % 100)::double as "{name}"' for name in features)
                query = _FEATURES.format(columns=columns, **given)
                files.setdefault("features", []).append(_write(connection, folder, "features", number, query))
    _count(folder, history, files)
    return folder


def _is_made(folder: Path) -> bool:
    return any("generated" in path for path in History.read(folder).paths("events"))


def _absent(table: tables.Table, query: str) -> str:
    # Columns that may be unknown and that the query does not give.
    kinds = {"number": "double", "count": "bigint", "flag": "boolean", "time": "timestamptz"}
    return "".join(
        f', null::{kinds.get(f.kind, "varchar")} as "{f.name}"'
        for f in table.fields
        if f" as {f.name}" not in query
    )


def _spread(table: pa.Table, moments: list[datetime]) -> pa.Table:
    # The rows of the newest batches, once for each moment.
    rows = table.to_pylist()
    known = sorted({r["decided_at"] for r in rows})
    out: list[dict[str, Any]] = []
    for number, at in enumerate(moments):
        source = known[number % len(known)]
        shift = at - source
        for r in rows:
            if r["decided_at"] == source:
                moved = {"decided_at": at, "batch_id": f"{at:%Y%m%dT%H%M%S}"}
                if r.get("matures_at"):
                    moved["matures_at"] = r["matures_at"] + shift
                out.append(r | moved)
    return pa.Table.from_pylist(out, table.schema)


def _write(connection: Any, folder: Path, name: str, number: int, query: str) -> str:
    file = f"{name}/{900 + number:06d}-generated.parquet"
    path = folder / FOLDER / file
    path.parent.mkdir(parents=True, exist_ok=True)
    form = f"format parquet, compression zstd, row_group_size {_GROUPS.get(name, 122_880)}"
    connection.execute(f"copy ({query}) to '{path}' ({form})").fetchall()
    part = next(pq.ParquetFile(path).iter_batches(1000))
    faults = tables.BY_NAME[name].faults(pa.Table.from_batches([part]).replace_schema_metadata(None))
    wrong = [fault for fault in faults if "type" not in fault]
    if wrong:
        raise ValueError(f"{name} breaks its contract: {wrong}")
    return file


def _count(folder: Path, history: History, files: dict[str, list[str]]) -> None:
    import json

    kept = {name: list(paths) for name, paths in history.files.items()} | files
    index = {"version": history.version, "tables": dict(sorted(kept.items()))}
    replace_text(folder / FOLDER / INDEX, json.dumps(index, indent=1))


def measure(address: str, pages: Mapping[str, Page] = PAGES) -> dict[str, tuple[float, float, float]]:
    """Time every page in a fresh tab: seconds to its answer in words, its figure, and a filter's change.

    A first round warms the server, as a colleague's visit would; the median of the following is taken.
    """
    from playwright.sync_api import sync_playwright

    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in pages}
    with sync_playwright() as player:
        browser = player.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        context = browser.new_context(viewport={"width": 1440, "height": 1000}, locale="en-GB")
        for repeat in range(REPEATS + 1):
            for name, page in pages.items():
                seconds = _visit(context, address, page)
                if repeat:
                    found[name].append(seconds)
        browser.close()
    medians = {name: np.median(np.array(seconds), axis=0).tolist() for name, seconds in found.items()}
    return {name: (words, paint, change) for name, (words, paint, change) in medians.items()}


def _visit(context: Any, address: str, page: Page) -> tuple[float, float, float]:
    where, answer, sign, given, changed = page
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    begun = time.perf_counter()
    tab.goto(f"{address}/{where}")
    tab.locator(answer).first.wait_for()
    said = time.perf_counter() - begun
    tab.locator(sign).first.wait_for()
    painted = time.perf_counter() - begun
    _settle(tab)
    filtered = float("nan")
    if given:
        tab.wait_for_function(f"() => {_FIGURES}.length > 0")
        before = tab.evaluate(f"() => {_FIGURES}")
        begun = time.perf_counter()
        _change(tab, given)
        if changed == DRAWN:
            tab.wait_for_function(f"before => {_FIGURES} !== before && {_FIGURES}.length > 0", arg=before)
        else:
            tab.locator(changed).first.wait_for()
        _settle(tab)
        filtered = time.perf_counter() - begun
    tab.close()
    return said, painted, filtered


@contextmanager
def _bare() -> Iterator[str]:
    # A page of one title, one chart and one choice: what Streamlit and plotly take in any case.
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        script = Path(folder) / "bare.py"
        script.write_text(_BARE, encoding="utf-8")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        options = [f"--server.port={port}", "--server.headless=true", "--server.fileWatcherType=none"]
        words = [
            sys.executable,
            "-m",
            "streamlit",
            "run",
            str(script),
            "--server.address=127.0.0.1",
            *options,
        ]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


_BARE = """
import plotly.graph_objects as go, streamlit as st
st.set_page_config(layout="wide")
st.title("Bare")
st.plotly_chart(go.Figure(go.Bar(x=[1, 2], y=[2, 3])))
st.write("word " * 50)
st.write("chosen " + st.segmented_control("Choose", ["one", "two"], default="one"))
"""


# All that the figures of a page say.
_FIGURES = "[...document.querySelectorAll('.js-plotly-plot')].map(one => one.textContent).join('|')"


def _change(tab: Any, given: str) -> None:
    if given == "customer":
        box = tab.get_by_role("textbox", name="Customer").first
        box.fill(OTHER)
        box.press("Enter")
        return
    _, _, text = given.partition(":")
    tab.get_by_role("radio", name=text).or_(tab.get_by_role("button", name=text)).first.click()


def _settle(tab: Any) -> None:
    # Streamlit says by an attribute whether a script is running.
    tab.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')?.getAttribute('data-test-script-state')"
        " === 'notRunning'"
    )


def pages() -> list[Row]:
    """Time first paint and filter change of every page on the large workspace."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(os.environ.get(KEPT) or Path(folder) / "large")
        if not (workspace / FOLDER / INDEX).is_file() or not _is_made(workspace):
            make(workspace)
        with served(workspace) as address, _bare() as bare:
            found = measure(address)
            floor = measure(bare, {"bare": ("", "text=word word", PLOT, "choice:two", "text=chosen two")})[
                "bare"
            ]
    for name, (words, paint, change) in {"a bare page": floor, **found}.items():
        print(f"{name:12} words {words:.2f} s, figure {paint:.2f} s, filter {change:.2f} s", flush=True)
    more = {
        "n": CUSTOMERS,
        "conditions": f"{EVENTS:,} events, {BATCHES} batches, 2 cores; server warm, fresh tab; median of"
        f" {REPEATS}; big tables generated, page-ready tables of a small world over as many batches; a bare"
        f" page with one chart takes {floor[1]:.2f} s, its filter {floor[2]:.2f} s, in the same run",
    }
    words, paint, change = (float(np.nanmax(part)) for part in zip(*found.values(), strict=True))
    return [
        row("app.first_words_s", words, "s", 2, "<=", **more),
        row("app.first_paint_s", paint, "s", 2, "<=", **more),
        row("app.filter_s", change, "s", 1, "<=", **more),
        row("app.pages_checked", len(found), "pages", 9, "=", **more),
    ]


BENCHMARKS = {"app": pages}
