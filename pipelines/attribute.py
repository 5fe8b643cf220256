"""Share the margin of orders among the touches before them, by every method of the workspace."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa

from nba import settings, tables
from nba.attribution import credit, paths, report
from nba.history import History
from pipelines.progress import Progress


def attribute(workspace: Path, at: datetime, *, progress: Progress) -> pa.Table:
    """Write the `credits`, `attribution` and `path_statistics` tables from the history before `at`.

    Raises:
        MissingError: when the workspace holds no orders or no touches yet.
    """
    given = settings.read(workspace).attribution
    history = History.read(workspace)
    history.paths("orders")
    history.paths("touches")
    with history.as_of(at) as snapshot:
        done = progress.step("following customers to their orders", total=1)
        paths.build(snapshot.connection, given, at)
        statistics = paths.statistics(snapshot.connection)
        done(1)
        done = progress.step(f"crediting touches by {len(given.methods)} methods", total=1)
        table = tables.CREDITS.conform(credit.credits(snapshot.connection, given))
        done(1)
        done = progress.step("setting credited against caused", total=1)
        channels, calibrated = report.build(snapshot.connection, table, given, at)
        table = pa.concat_tables([table, tables.CREDITS.conform(calibrated)])
        done(1)
    history.commit(replace={"credits": table, "attribution": channels, "path_statistics": statistics})
    return table
