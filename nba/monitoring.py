"""Is everything as fresh and as full as it should be: one health table of plain findings."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.history import History, Snapshot

RUNS = "runs"  # folder of the records of runs in a workspace
_SAMPLE = 20_000  # customers of a batch whose features are compared
_SAMPLED = "from features where as_of = $at order by hash(customer_id) limit $n"
_WORST = 5
Array = NDArray[np.float64]
# A treatment with fewer closed decisions is too young to be judged; a model that sorts no better than this is
# weak; a feature that carries more than this share of all importance looks like the answer itself.
YOUNG, WEAK_AUC, LEAK = 100, 0.55, 0.5

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
        drift: Population stability index of a feature between the last two batches (over 0.25 is usually
            called a shift).
        value: Share of the expected value per customer of the batch before last below which it dropped.
        srm: Chance of arms this uneven below which assignment is doubted.
    """

    stale_days: float = 8.0
    pressure: float = 0.9
    contacts: float = 0.5
    unanswered_days: float = 3.0
    drift: float = 0.25
    value: float = 0.5
    srm: float = 0.001


def moved(history: History, before: datetime, now: datetime) -> pa.Table:
    """Say how far features have moved between two batches, by the same sample of each wherever it is told.

    Args:
        history: With features.
        before: Moment of the earlier batch.
        now: Moment of the later one.

    Returns:
        The `summary_drift` table, largest index first.
    """
    then, later = (history.sql(_SAMPLED, {"at": at, "n": _SAMPLE}) for at in (before, now))
    return drift(then, later)


def drift(before: pa.Table, now: pa.Table, bins: int = 10) -> pa.Table:
    """Say how far each feature has moved between two samples of customers.

    Of the index (`stability`) below 0.1 is usual, above 0.25 a shift worth a look. It is unknown for what is
    the same for all customers of a moment, as the season is.

    Args:
        before: Columns `f_*` of the earlier customers.
        now: The same columns of the later ones.
        bins: Bins of known values.

    Returns:
        The `summary_drift` table, largest index first.
    """
    rows: list[dict[str, Any]] = []
    for name in before.column_names:
        if name.startswith("f_") and name in now.column_names:
            old, new = (np.asarray(t[name].to_numpy(), dtype=np.float64) for t in (before, now))
            if len(old) and len(new):
                rows.append({"feature": name} | _moved(old, new, bins))
    rows.sort(key=lambda row: (row["psi"] is None, -(row["psi"] or 0.0), row["feature"]))
    return tables.SUMMARY_DRIFT.build(rows)


def _moved(old: Array, new: Array, bins: int) -> dict[str, Any]:
    known_old, known_new = old[~np.isnan(old)], new[~np.isnan(new)]
    same = all(len(part) and len(np.unique(part)) == 1 for part in (known_old, known_new))
    return {
        "psi": None if same else stability(old, new, bins),
        "mean_before": float(known_old.mean()) if len(known_old) else None,
        "mean_now": float(known_new.mean()) if len(known_new) else None,
        "unknown_before": float(1 - len(known_old) / len(old)),
        "unknown_now": float(1 - len(known_new) / len(new)),
    }


def model_checks(treatments: pa.Table, auc: float | None, importance: pa.Table) -> pa.Table:
    """Check what a model learns from, and whether it looks too weak or too good.

    Args:
        treatments: Columns treatment_id, n_chosen, n_closed, n_response: of every treatment offered.
        auc: Of the model on customers that it had not seen; None where unknown.
        importance: Columns model, feature, importance.

    Returns:
        The `summary_checks` table.
    """
    rows: list[dict[str, object]] = []

    def add(check: str, subject: str, value: float | None, limit: float, *, bad: bool) -> None:
        status = "warning" if bad else "ok"
        rows.append({"check": check, "subject": subject, "status": status, "value": value, "limit": limit})

    for row in treatments.to_pylist():
        name, closed = row["treatment_id"], row["n_closed"]
        add("never chosen", name, row["n_chosen"], 1, bad=row["n_chosen"] < 1)
        add("no positives", name, row["n_response"], 1, bad=closed > 0 and row["n_response"] < 1)
        add("too young", name, closed, YOUNG, bad=closed < YOUNG)
    if auc is not None:
        add("low discrimination", "response", auc, WEAK_AUC, bad=auc < WEAK_AUC)
    response = [row for row in importance.to_pylist() if row["model"] == "response"]
    total = sum(row["importance"] for row in response)
    if response and total > 0:
        top = max(response, key=lambda row: row["importance"])
        share = top["importance"] / total
        add("leaking feature", top["feature"], share, LEAK, bad=share > LEAK)
    return tables.SUMMARY_CHECKS.build(rows)


def runs(workspace: Path, most: int = 10) -> pa.Table:
    """Read the records of nights and weeks, the newest of each kind first.

    Args:
        workspace: Its folder `runs` holds one JSON file per run, named by kind and moment.
        most: Runs of each kind at most.

    Returns:
        The `runs` table; a record that cannot be read is one row that says so.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for path in sorted((workspace / RUNS).glob("*.json"), key=lambda p: p.stem.rpartition("-")[2])[::-1]:
        kind = path.stem.rpartition("-")[0]
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= most:
            rows += _run(path)
    return tables.RUNS.build(rows)


def _run(path: Path) -> list[dict[str, Any]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        steps = [_step(path.stem, name, step) for name, step in record["steps"].items()]
        if record["status"] == "running":  # at work, or broken off without a word
            note = "at work, or broken off"
            steps.append({"run_id": path.stem, "step": "", "status": "unfinished", "note": note})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        note = f"the record cannot be read: {error}"
        return [{"run_id": path.stem, "step": "", "status": "failed", "note": note}]
    return steps


def _step(run_id: str, name: str, step: dict[str, Any]) -> dict[str, Any]:
    counted = ", ".join(f"{key}: {value}" for key, value in (step.get("numbers") or {}).items())
    note = " ".join(text for text in (step.get("error"), step.get("hint")) if text) or counted
    return {
        "run_id": run_id,
        "step": name,
        "status": step["status"],
        "started_at": datetime.fromisoformat(step["started"]),
        "seconds": step["seconds"],
        "note": note,
    }


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
        *_value(snapshot, thresholds),
        *_drift(snapshot, thresholds),
        *_uneven(snapshot, thresholds),
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


def _value(snapshot: Snapshot, thresholds: Thresholds) -> list[dict[str, object]]:
    # Only arms that a belief decided; a holdout expects nothing.
    rows = snapshot.sql(
        "select arm, batch_id, max(decided_at) as decided_at, avg(expected_value) as value from decisions"
        " where policy_id not in ('none', 'outside', 'random', 'uniform-start')"
        " and expected_value is not null"
        " group by 1, 2 qualify row_number() over (partition by arm order by max(decided_at) desc) <= 2"
        " order by arm, decided_at desc"
    ).to_pylist()
    out = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row["value"] for row in rows if row["arm"] == arm]
        if len(own) < 2 or own[1] <= 0:
            note = "two batches with a positive expected value are needed"
            out.append(_row("value holds", arm, "unknown", own[0], None, note))
            continue
        limit = thresholds.value * own[1]
        note = f"expected value per customer; {own[1]:.3g} in the batch before"
        out.append(_row("value holds", arm, "ok" if own[0] >= limit else "warning", own[0], limit, note))
    return out


def stability(before: NDArray[np.float64], after: NDArray[np.float64], bins: int = 10) -> float:
    """Give the population stability index of a feature: sum of (a - b) ln(a / b) over deciles of `before`.

    Unknown values are a class of their own; shares are smoothed by half a customer.

    Args:
        before: Values then, shape (n,); NaN where unknown.
        after: Values now, shape (m,).
        bins: Quantiles of `before`.

    Example:
        >>> stability(np.arange(1000.0), np.arange(1000.0))
        0.0
        >>> stability(np.arange(1000.0), np.arange(1000.0) + 500) > 1
        True
    """
    known = before[~np.isnan(before)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])) if len(known) else np.zeros(0)

    def shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
        at = np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="left"))
        counts = np.bincount(at, minlength=len(edges) + 2) + 0.5
        return np.asarray(counts / counts.sum())

    b, a = shares(before), shares(after)
    return float(((a - b) * np.log(a / b)).sum())


def _drift(snapshot: Snapshot, thresholds: Thresholds) -> list[dict[str, object]]:
    if not snapshot.history.has("features"):
        return []
    found = snapshot.sql("select distinct decided_at as at from decisions order by 1 desc limit 2")
    moments = found["at"].to_pylist()
    if len(moments) < 2:
        return [_row("features are stable", "", "unknown", None, thresholds.drift, "two batches are needed")]
    found = moved(snapshot.history, moments[1], moments[0]).to_pylist()
    note = "population stability index between the last two batches"
    limit = thresholds.drift
    return [
        _row("features are stable", name, "warning" if size > limit else "ok", size, limit, note)
        for name, size in [(row["feature"], row["psi"]) for row in found if row["psi"] is not None][:_WORST]
    ]


def _uneven(snapshot: Snapshot, thresholds: Thresholds) -> list[dict[str, object]]:
    if not snapshot.history.has("readouts"):
        return []
    out = []
    for row in snapshot.history.table("readouts").to_pylist():
        p = row["p_srm"]
        status = "unknown" if p is None else "warning" if p < thresholds.srm else "ok"
        note = f"chance of arms this uneven in {row['experiment_id']} if assignment works"
        out.append(_row("arms are even", row["experiment_id"], status, p, thresholds.srm, note))
    return list({str(row["subject"]): row for row in out}.values())


def _row(
    check: str, subject: str, status: str, value: float | None, limit: float | None, note: str
) -> dict[str, object]:
    return {
        "check": check, "subject": subject, "status": status, "value": value, "limit": limit, "note": note
    }  # fmt: skip
