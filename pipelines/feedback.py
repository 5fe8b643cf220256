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
        rows: One per arm: outcomes added, and their means.
    """

    n_closed: int
    rows: list[dict[str, Any]]


def feedback(workspace: Path, at: datetime, *, progress: Progress | None = None) -> FeedbackReport:
    """Append the outcomes of decisions whose window has closed by a moment; again changes nothing.

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
        rows = _summary(snapshot.connection, found)
    if found.num_rows:
        history.commit(append={"outcomes": found})
    step(1)
    return FeedbackReport(found.num_rows, rows)


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
