"""Gather the outcomes of decisions whose reward window has closed."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from nba import feedback as closing
from nba import settings
from nba.history import History
from pipelines.progress import Progress, silent


@dataclass(frozen=True)
class FeedbackReport:
    """What came of decisions.

    Attributes:
        n_closed: Outcomes added by this run.
        n_corrected: Earlier outcomes that late data changed.
        n_waiting: Decisions whose window has ended but whose data have not come yet.
        faults: Touches that do not count for the decision that they name, by reason.
        rows: One per arm: outcomes added, and their means.
    """

    n_closed: int
    n_corrected: int
    n_waiting: int
    faults: list[dict[str, Any]]
    rows: list[dict[str, Any]]


def feedback(workspace: Path, at: datetime, *, progress: Progress | None = None) -> FeedbackReport:
    """Append the outcomes of decisions whose window has closed by a moment; again changes nothing.

    Outcomes that late data have changed get a row in `corrections`; touches that name a decision and yet
    do not count for it are listed in `feedback_faults`.

    Args:
        workspace: Folder of the workspace.
        at: The moment to look back from.
        progress: Where to report.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    catalog = settings.read_catalog(workspace, config)
    history = History.read(workspace)
    step = progress.step("closing reward windows", total=1)
    with history.as_of(at) as snapshot:
        found = closing.outcomes(snapshot, catalog, config.reward)
        corrected = closing.corrections(snapshot, catalog, config.reward)
        faults = closing.refused(snapshot, config.reward)
        n_waiting = closing.waiting(snapshot, config.reward)
        rows = _summary(snapshot.connection, found)
    appended = {"outcomes": found, "corrections": corrected}
    appended = {name: table for name, table in appended.items() if table.num_rows}
    known = history.table("feedback_faults") if history.has("feedback_faults") else faults.slice(0, 0)
    replaced = {} if faults.equals(known) else {"feedback_faults": faults}
    if appended or replaced:
        history.commit(append=appended, replace=replaced)
    step(1)
    reasons = faults.group_by("reason").aggregate([("touch_id", "count")]).to_pylist()
    shown = [{"reason": row["reason"], "touches": row["touch_id_count"]} for row in reasons]
    return FeedbackReport(found.num_rows, corrected.num_rows, n_waiting, shown, rows)


def _summary(connection: Any, found: pa.Table) -> list[dict[str, Any]]:
    connection.register("closed_now", found)
    return (
        connection.sql(
            "select coalesce(arm, 'none') as arm, count(*) as closed, avg(is_response::int) as responses,"
            " avg(is_click::int) as clicks, avg(is_unsubscribe::int) as unsubscribes, avg(reward) as reward"
            " from closed_now join decisions using (decision_id) group by 1 order by 1"
        )
        .to_arrow_table()
        .to_pylist()
    )
