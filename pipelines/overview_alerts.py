"""Gather for pages: what somebody should look at, as kinds that a page words, worst first."""

from datetime import datetime
from typing import Any

import pyarrow as pa

from nba import monitoring, settings, tables
from nba.experiments import decision, srm
from nba.history import History

_KINDS = {
    "data is fresh": "stale data",
    "batch is full": "thin batch",
    "batch is answered": "unanswered batch",
    "limit leaves room": "limit pressed",
    "features are stable": "drift",
    "value holds": "value drop",
}
_ORDER = {"error": 0, "warning": 1, "info": 2}


def gather(history: History, config: settings.Settings, at: datetime, made: dict[str, pa.Table]) -> pa.Table:
    """Turn findings of all readers into one list.

    Args:
        history: What the workspace holds.
        config: Says which arms run the champion: only their limits are worth a look.
        at: The moment of the summary.
        made: Summaries made in this run.
    """
    rows = [
        *_arms(history),
        *_verdicts(history),
        *_health(history, config, at),
        *_immature(made),
        *_credit(history),
    ]
    rows.sort(key=lambda row: _ORDER[row["severity"]])
    return tables.SUMMARY_ALERTS.build(rows)


def _row(kind: str, subject: str, severity: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "subject": subject, "severity": severity, "note": ""} | more


def _arms(history: History) -> list[dict[str, Any]]:
    rows = history.table("readouts").to_pylist() if history.has("readouts") else []
    chances = {row["experiment_id"]: row["p_srm"] for row in rows}
    return [
        _row("uneven arms", name, "error", value=p, limit=srm.SEQUENTIAL_ALARM)
        for name, p in chances.items()
        if p is not None and p < srm.SEQUENTIAL_ALARM
    ]


def _verdicts(history: History) -> list[dict[str, Any]]:
    if not history.has("readouts"):
        return []
    out: dict[tuple[str, str], dict[str, Any]] = {}
    for row in history.table("readouts").to_pylist():
        experiment, subject = row["experiment_id"], f"{row['experiment_id']}: {row['arm']}"
        if row["verdict"] == "stop: harm":
            out["harm", subject] = _row("harm", subject, "error", note=row["reason"])
        elif decision.is_distrusted(row):
            # The data of all its arms are in doubt, for one reason.
            out["unreadable", experiment] = _row("unreadable", experiment, "error", note=row["reason"])
        elif row["verdict"] != "keep running":
            out["verdict", subject] = _row("verdict", subject, "info", note=row["verdict"])
    return list(out.values())


def _health(history: History, config: settings.Settings, at: datetime) -> list[dict[str, Any]]:
    needed = ("orders", "events", "touches", "decisions")
    if not any(history.has(name) for name in needed):
        return []
    champions = {arm.name for arm in config.experiment.arms if arm.policy == "champion"}
    with history.as_of(at) as snapshot:
        found = monitoring.health(snapshot).to_pylist()
    return [
        _row(
            _KINDS[row["check"]], row["subject"], "warning",
            value=row["value"], limit=row["limit"], note=row["note"],
        )
        for row in found
        if row["status"] == "warning" and row["check"] in _KINDS
        and (row["check"] != "limit leaves room" or row["subject"].split(" ")[0] in champions)
    ]  # fmt: skip


def _immature(made: dict[str, pa.Table]) -> list[dict[str, Any]]:
    numbers = {row["measure"]: row["value"] for row in made["summary_numbers"].to_pylist()}
    batches, matured = numbers.get("batches") or 0, numbers.get("batches_matured") or 0
    if batches <= matured:
        return []
    return [_row("immature", "batches", "info", value=batches - matured, limit=batches)]


def _credit(history: History) -> list[dict[str, Any]]:
    if not history.has("attribution"):
        return []
    rows = history.table("attribution").to_pylist()
    wrong = sorted({row["method"] for row in rows if row["period"] == "all" and row["warning"]})
    if not wrong:
        return []
    return [_row("credit disagrees", "attribution", "info", value=len(wrong), note=", ".join(wrong))]
