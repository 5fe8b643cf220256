"""Share the margin of orders among the touches before them, by every method of the workspace."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from nba import settings, tables
from nba.attribution import aggregated, credit, markov, paths, report
from nba.errors import DataError, MissingError
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
    history.check_before("orders", "ordered_at", at)
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


def attribute_paths(source: Path, target: Path) -> pa.Table:
    """Credit a CSV of path counts (path, total_conversions, total_conversion_value, total_null).

    Args:
        source: One row per path, channels separated by ` > `; value and nulls may be absent.
        target: Parquet file to write: method, channel, conversions, value, reason.

    Raises:
        MissingError: when the file is absent.
        DataError: when it has no paths or conversions.
    """
    if not source.is_file():
        raise MissingError(f"{source} does not exist; expected a CSV of path counts", "Name the file.")
    table = pa_csv.read_csv(source)
    absent = [n for n in ("path", "total_conversions") if n not in table.column_names]
    if absent:
        raise DataError(f"{source} lacks {absent}; found {table.column_names}", "Rename its columns.")
    given = {n: table[n].to_numpy().astype(float) for n in table.column_names if n.startswith("total_")}
    won = given["total_conversions"]
    walks = markov.walks(table["path"], won, given.get("total_null", 0 * won))
    out = aggregated.credits(walks, given.get("total_conversion_value"))
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(out, target)
    return out
