# ruff: noqa: E501
"""The default features, written by hand in DuckDB's SQL or in Polars; prints one JSON object.

The same columns from the same tables, without rounding, checks or a framework.
"""

import json
import resource
import sys
import time
from datetime import datetime, timezone
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

name, tables = sys.argv[1], Path(sys.argv[2])
AT = datetime(2026, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 (peers may have an older Python)
index = json.loads((tables / "history.json").read_text())["tables"]
files = {t: [str(tables / f) for f in index[t]] for t in ("customers", "orders", "events", "touches")}
CHANNELS = ("email", "sms", "push", "call")


def by_duckdb() -> int:
    import duckdb

    connection = duckdb.connect(config={"threads": 2})
    connection.execute("set TimeZone = 'UTC'").fetchall()
    at = f"timestamptz '{AT:%Y-%m-%d %H:%M:%S}+00'"

    def rows(table: str, time_column: str) -> str:
        return (
            f"(select *, (epoch_us({at}) - epoch_us({time_column})) / 86400e6 as age"
            f" from read_parquet({files[table]}) where {time_column} < {at})"
        )

    bought = "filter (not is_return)"
    gap = f"(max(age) {bought} - min(age) {bought}) / nullif(count(*) {bought} - 1, 0)"
    orders = [
        f"min(age) {bought}", f"max(age) {bought}",
        *(f"count(*) filter (not is_return and age <= {d})" for d in (7, 28, 90, 365)),
        gap, f"least(20, min(age) {bought} / ({gap}))",
        "(count(*) filter (not is_return and age <= 90) + 1.0) / (count(*) filter (not is_return and age > 90 and age <= 180) + 1.0)",
        f"avg((isodow(ordered_at) >= 6)::int) {bought}",
        f"case count(*) {bought} when 0 then 0 when 1 then 1 else 2 + (min(age) {bought} > 2 * greatest(7, {gap}))::int + (min(age) {bought} > 4 * greatest(7, {gap}))::int end",
        *(f"sum(margin) filter (age <= {d})" for d in (28, 90, 365)),
        "sum(revenue) filter (age <= 365)", f"avg(margin) {bought}", f"count(*) {bought}", f"avg(revenue) {bought}",
        f"arg_min(revenue, (age, order_id)) {bought}", f"sum(margin) {bought} / nullif(sum(revenue) {bought}, 0)",
        f"avg(n_items) {bought}", f"count(*) filter (is_return) / (count(*) {bought} + 1.0)",
        "count(*) filter (is_return and age <= 365)", f"max(revenue) {bought}",
        "sum(margin) filter (not is_return and age <= 90) / nullif(sum(margin) filter (not is_return and age <= 180), 0)",
    ]  # fmt: skip
    angle = "2 * pi() * (epoch_us(occurred_at) % 86400000000) / 86400e6"
    events = [
        *(f"count(*) filter (kind = 'visit' and age <= {d})" for d in (7, 28, 90, 365)),
        "count(*) filter (kind = 'view' and age <= 28)",
        *(f"count(*) filter (kind = 'cart' and age <= {d})" for d in (7, 28)),
        "count(*) filter (kind = 'search' and age <= 28)",
        *(
            f"(count(*) filter (kind = '{k}' and age <= 365) + {4 * w}) / (count(*) filter (kind = 'visit' and age <= 365) + 4)"
            for k, w in (("view", 1.0), ("cart", 0.25), ("search", 0.25))
        ),
        *(f"min(age) filter (kind = '{k}')" for k in ("visit", "cart", "search")),
        "count(*) filter (channel = 'app' and age <= 90) / nullif(count(*) filter (channel in ('app', 'web') and age <= 90), 0)",
        *(f"count(*) filter (kind = 'ticket' and age <= {d})" for d in (90, 365)),
        *(f"count(*) filter (kind = 'complaint' and age <= {d})" for d in (180, 730)),
        "(count(*) filter (kind = 'visit' and age <= 28) + 1.0) / (count(*) filter (kind = 'visit' and age > 28 and age <= 56) + 1.0)",
        f"avg(sin({angle}))", f"avg(cos({angle}))",
    ]  # fmt: skip
    touches = [
        *(f"count(*) filter (kind = 'sent' and age <= {d})" for d in (7, 14, 28)),
        "min(age) filter (kind = 'sent')", "min(age) filter (kind = 'clicked')",
        "(count(*) filter (kind = 'sent' and age <= 28) + 1.0) / (count(*) filter (kind = 'sent' and age <= 365) * 28 / 365.0 + 1.0)",
        "count(*) filter (kind = 'unsubscribed')",
        "(count(*) filter (kind = 'clicked' and age <= 365) + 0.4) / (count(*) filter (kind = 'seen' and age <= 365) + 4)",
    ]  # fmt: skip
    for channel in CHANNELS:
        sent = f"count(*) filter (channel = '{channel}' and kind = 'sent' and age <= 365)"
        touches += [f"count(*) filter (channel = '{channel}' and kind = 'sent' and age <= 90)"]
        touches += [
            f"(count(*) filter (channel = '{channel}' and kind = '{k}' and age <= 365) + {4 * w}) / ({sent} + 4)"
            for k, w in (("clicked", 0.03), ("seen", 0.25))
        ]
        touches += [f"min(age) filter (channel = '{channel}' and kind in ('seen', 'clicked'))"]
        touches += [f"bool_or(channel = '{channel}' and kind = 'unsubscribed')::int"]
    parts, joins, given = [], [], []
    for table, at_column, made in (
        ("orders", "ordered_at", orders), ("events", "occurred_at", events), ("touches", "touched_at", touches)
    ):  # fmt: skip
        columns = ", ".join(f"({sql})::double as {table}_{i}" for i, sql in enumerate(made))
        parts.append(
            f"{table} as (select customer_id, {columns} from {rows(table, at_column)} group by customer_id)"
        )
        joins.append(f"left join {table} using (customer_id)")
        given.append(f"{table}.* exclude (customer_id)")
    segments = ", ".join(f"(a_segment = 'segment {i}')::double as s{i}" for i in range(7))
    found = connection.sql(
        f"with {', '.join(parts)} select customer_id, {at} as as_of, {', '.join(given)}, {segments}, sin(1.0) as y, cos(1.0) as z"
        f" from {rows('customers', 'joined_at')} c {' '.join(joins)} order by customer_id"
    ).to_arrow_table()
    connection.close()
    return int(found.num_rows)


def by_polars() -> int:
    import polars as pl

    def rows(table: str, time_column: str) -> "pl.LazyFrame":
        age = (pl.lit(AT) - pl.col(time_column)).dt.total_microseconds() / 86400e6
        return pl.scan_parquet(files[table]).filter(pl.col(time_column) < AT).with_columns(age=age)

    age, kind, channel = pl.col("age"), pl.col("kind"), pl.col("channel")
    ok = ~pl.col("is_return")

    def count(condition: "pl.Expr") -> "pl.Expr":
        return condition.sum().cast(pl.Float64)

    def total(column: str, condition: "pl.Expr") -> "pl.Expr":
        return pl.col(column).filter(condition).sum()

    gap = (age.filter(ok).max() - age.filter(ok).min()) / (count(ok) - 1)
    orders = [
        age.filter(ok).min(), age.filter(ok).max(), *(count(ok & (age <= d)) for d in (7, 28, 90, 365)),
        gap, pl.min_horizontal(pl.lit(20.0), age.filter(ok).min() / gap),
        (count(ok & (age <= 90)) + 1) / (count(ok & (age > 90) & (age <= 180)) + 1),
        (pl.col("ordered_at").dt.weekday() >= 6).filter(ok).mean(),
        pl.when(count(ok) <= 1).then(count(ok)).otherwise(
            2 + (age.filter(ok).min() > 2 * gap).cast(pl.Float64) + (age.filter(ok).min() > 4 * gap).cast(pl.Float64)),
        *(total("margin", age <= d) for d in (28, 90, 365)), total("revenue", age <= 365),
        pl.col("margin").filter(ok).mean(), count(ok), pl.col("revenue").filter(ok).mean(),
        pl.col("revenue").filter(ok).sort_by(age.filter(ok)).first(),
        total("margin", ok) / total("revenue", ok), pl.col("n_items").filter(ok).mean(),
        count(~ok) / (count(ok) + 1), count(~ok & (age <= 365)), pl.col("revenue").filter(ok).max(),
        total("margin", ok & (age <= 90)) / total("margin", ok & (age <= 180)),
    ]  # fmt: skip
    angle = (pl.col("occurred_at").dt.timestamp("us") % 86_400_000_000) * (6.283185307179586 / 86400e6)
    events = [
        *(count((kind == "visit") & (age <= d)) for d in (7, 28, 90, 365)), count((kind == "view") & (age <= 28)),
        *(count((kind == "cart") & (age <= d)) for d in (7, 28)), count((kind == "search") & (age <= 28)),
        *(age.filter(kind == k).min() for k in ("visit", "cart", "search")),
        count((channel == "app") & (age <= 90)) / count(channel.is_in(["app", "web"]) & (age <= 90)),
        *((count((kind == k) & (age <= 365)) + 4 * w) / (count((kind == "visit") & (age <= 365)) + 4)
          for k, w in (("view", 1.0), ("cart", 0.25), ("search", 0.25))),
        *(count((kind == "ticket") & (age <= d)) for d in (90, 365)),
        *(count((kind == "complaint") & (age <= d)) for d in (180, 730)),
        (count((kind == "visit") & (age <= 28)) + 1) / (count((kind == "visit") & (age > 28) & (age <= 56)) + 1),
        angle.sin().mean(), angle.cos().mean(),
    ]  # fmt: skip
    sent = kind == "sent"
    touches = [
        *(count(sent & (age <= d)) for d in (7, 14, 28)), age.filter(sent).min(), age.filter(kind == "clicked").min(),
        (count(sent & (age <= 28)) + 1) / (count(sent & (age <= 365)) * 28 / 365 + 1), count(kind == "unsubscribed"),
        (count((kind == "clicked") & (age <= 365)) + 0.4) / (count((kind == "seen") & (age <= 365)) + 4),
    ]  # fmt: skip
    for one in CHANNELS:
        on = channel == one
        touches += [count(on & sent & (age <= 90))]
        touches += [
            (count(on & (kind == k) & (age <= 365)) + 4 * w) / (count(on & sent & (age <= 365)) + 4)
            for k, w in (("clicked", 0.03), ("seen", 0.25))
        ]
        touches += [age.filter(on & kind.is_in(["seen", "clicked"])).min()]
        touches += [(on & (kind == "unsubscribed")).any()]
    out = rows("customers", "joined_at")
    for table, time_column, made in (
        ("orders", "ordered_at", orders), ("events", "occurred_at", events), ("touches", "touched_at", touches)
    ):  # fmt: skip
        named = [each.alias(f"{table}_{i}") for i, each in enumerate(made)]
        out = out.join(
            rows(table, time_column).group_by("customer_id").agg(named), on="customer_id", how="left"
        )
    segments = [(pl.col("a_segment") == f"segment {i}").cast(pl.Float64).alias(f"s{i}") for i in range(7)]
    frame = out.with_columns(segments).sort("customer_id").collect(engine="streaming")
    return int(frame.height)


import_module(name)
begun = time.perf_counter()
found = by_duckdb() if name == "duckdb" else by_polars()
seconds = time.perf_counter() - begun
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps({"seconds": seconds, "rows": found, "peak_gb": peak, "version": version(name)}))
