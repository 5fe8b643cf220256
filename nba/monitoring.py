"""Is everything as fresh and as full as it should be: one health table of plain findings."""

from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa

from nba.history import Snapshot

SCHEMA = pa.schema(
    [
        ("check", pa.string()),
        ("subject", pa.string()),
        ("status", pa.string()),
        ("value", pa.float64()),
        ("limit", pa.float64()),
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True)
class Thresholds:
    """When a finding is worth a warning.

    Attributes:
        stale_days: Newest row of a table older than this.
        pressure: Share of a limit used above which the limit binds.
        contacts: Share of the batch before last's contacts below which a batch is suspiciously empty.
        unanswered_days: Delivered contacts of a batch this old without any touch.
    """

    stale_days: float = 8.0
    pressure: float = 0.9
    contacts: float = 0.5
    unanswered_days: float = 3.0


def health(snapshot: Snapshot, thresholds: Thresholds | None = None) -> pa.Table:
    """Check freshness, emptiness, limits and answers, as known at the snapshot's moment.

    Args:
        snapshot: What was known.
        thresholds: When to warn.

    Returns:
        One row per check and subject: status `ok`, `warning` or `unknown`, the value found and its limit.
    """
    thresholds = thresholds or Thresholds()
    rows = [
        *_freshness(snapshot, thresholds),
        *_batch(snapshot, thresholds),
        *_pressure(snapshot, thresholds),
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def _freshness(snapshot: Snapshot, thresholds: Thresholds) -> list[dict[str, object]]:
    out = []
    for table, column in (("orders", "ordered_at"), ("events", "occurred_at"), ("touches", "touched_at")):
        newest = snapshot.sql(f"select max({column}) as newest from {table}")["newest"][0].as_py()
        if newest is None:
            out.append(_row("data is fresh", table, "unknown", None, thresholds.stale_days, "no rows"))
            continue
        age = (snapshot.at - newest) / timedelta(days=1)
        note = f"newest row is of {newest:%Y-%m-%d %H:%M} UTC"
        status = "ok" if age <= thresholds.stale_days else "warning"
        out.append(_row("data is fresh", table, status, age, thresholds.stale_days, note))
    return out


def _batch(snapshot: Snapshot, thresholds: Thresholds) -> list[dict[str, object]]:
    batches = snapshot.sql(
        "select batch_id, max(decided_at) as decided_at, count(*) as n,"
        " count(*) filter (treatment_id <> 'none') as contacts"
        " from decisions group by 1 order by 2 desc limit 2"
    ).to_pylist()
    if not batches:
        return [_row("batch is full", "", "unknown", None, None, "no batch has been decided")]
    last = batches[0]
    expected = thresholds.contacts * batches[1]["contacts"] if len(batches) > 1 else 1.0
    status = "ok" if last["contacts"] >= max(expected, 1.0) else "warning"
    note = f"{last['contacts']} contacts for {last['n']} customers"
    out = [_row("batch is full", last["batch_id"], status, float(last["contacts"]), expected, note)]
    answered = snapshot.sql(
        "select count(distinct t.decision_id) as n from decisions join touches t using (decision_id)"
        " where batch_id = $batch",
        {"batch": last["batch_id"]},
    )["n"][0].as_py()
    age = (snapshot.at - last["decided_at"]) / timedelta(days=1)
    share = answered / last["contacts"] if last["contacts"] else None
    silent = share is not None and share == 0 and age > thresholds.unanswered_days
    note = f"{answered} of {last['contacts']} contacts are known to have been sent"
    out.append(_row("batch is answered", last["batch_id"], "warning" if silent else "ok", share, None, note))
    return out


def _pressure(snapshot: Snapshot, thresholds: Thresholds) -> list[dict[str, object]]:
    if not snapshot.history.has("batches"):
        return []
    batches = snapshot.history.table("batches")
    rows = [row for row in batches.to_pylist() if row["decided_at"] < snapshot.at]
    newest = max((row["decided_at"] for row in rows), default=None)
    out = []
    for row in rows:
        if row["decided_at"] != newest or row["arm"] == "holdout" or row["available"] <= 0:
            continue
        share = row["used"] / row["available"]
        status = "warning" if row["price"] > 0 and share > thresholds.pressure else "ok"
        note = f"one more unit is worth {row['price']:.3g} in arm {row['arm']}"
        subject = f"{row['arm']} {row['limit']}"
        out.append(_row("limit leaves room", subject, status, share, thresholds.pressure, note))
    return out


def _row(
    check: str, subject: str, status: str, value: float | None, limit: float | None, note: str
) -> dict[str, object]:
    return {
        "check": check, "subject": subject, "status": status, "value": value, "limit": limit, "note": note
    }  # fmt: skip
