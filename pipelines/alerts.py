"""Alerts: what somebody should look at, as one table."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa

from nba import monitoring, tables
from nba.history import History

_NAMES = {
    "data is fresh": "stale data",
    "batch is full": "empty batch",
    "batch is answered": "silent batch",
    "limit leaves room": "cap pressure",
    "features are stable": "drift",
    "arms are even": "SRM",
    "value holds": "value drop",
}
_KEPT = ("subject", "status", "value", "limit", "note")


def alerts(workspace: Path, at: datetime, thresholds: monitoring.Thresholds | None = None) -> pa.Table:
    """Check what was known at a moment, and keep the findings as the table `alerts`.

    Args:
        workspace: Folder of the workspace.
        at: The moment; what was decided before it counts.
        thresholds: When to warn.

    Returns:
        The `alerts` table, warnings first.
    """
    history = History.read(workspace)
    with history.as_of(at) as snapshot:
        found = monitoring.health(snapshot, thresholds).to_pylist()
    rows = [{"alert": _NAMES[row["check"]], "at": at, **{k: row[k] for k in _KEPT}} for row in found]
    order = ("warning", "unknown", "ok")
    table = tables.ALERTS.build(sorted(rows, key=lambda row: (order.index(row["status"]), row["alert"])))
    history.commit(replace={"alerts": table})
    return table
