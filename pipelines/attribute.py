"""Share the margin of orders among the touches before them, by every method of the workspace."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from nba import settings, tables
from nba.attribution import aggregated, credit, markov, parts, paths, report
from nba.errors import DataError, MissingError, SettingsError
from nba.history import History
from pipelines.overview_policy import attributes
from pipelines.progress import Progress

_VALUE = "total_conversion_value"
_COUNTS = ("total_conversions", _VALUE, "total_null")


def attribute(workspace: Path, at: datetime, *, progress: Progress) -> pa.Table:
    """Write the `credits`, `attribution`, `attribution_parts`, `incremental` and `path_statistics` tables.

    Everything is from before `at`.

    Raises:
        MissingError: when the workspace holds no orders or no touches yet.
        SettingsError: when `attribution.holdouts` names an experiment that nobody knows.
    """
    config = settings.read(workspace)
    given = config.attribution
    offers = _offers(workspace, config)
    history = History.read(workspace)
    history.paths("orders")
    history.paths("touches")
    history.check_before("orders", "ordered_at", at)
    _check_holdouts(history, config)
    with history.as_of(at) as snapshot:
        done = progress.step("following customers to their orders", total=1)
        snapshot.connection.register("offers", offers)
        paths.build(snapshot.connection, given, at)
        statistics = paths.statistics(snapshot.connection)
        done(1)
        done = progress.step(f"crediting touches by {len(given.methods)} methods", total=1)
        table = tables.CREDITS.conform(credit.credits(snapshot.connection, given))
        done(1)
        done = progress.step("setting credited against caused", total=1)
        built = report.build(snapshot.connection, table, given, at)
        by_part = parts.table(
            snapshot.connection, built.attribution, attributes(snapshot.connection), given.level
        )
        table = pa.concat_tables([table, tables.CREDITS.conform(built.calibrated)])
        done(1)
    history.commit(
        replace={
            "credits": table,
            "attribution": built.attribution,
            "attribution_parts": by_part,
            "incremental": built.incremental,
            "path_statistics": statistics,
        }
    )
    return table


def _check_holdouts(history: History, config: settings.Settings) -> None:
    known = {experiment.experiment_id for experiment in config.experiments}
    if history.has("assignments"):
        rows = history.sql("select distinct experiment_id from assignments")
        known |= set(rows["experiment_id"].to_pylist())
    unknown = {c: e for c, e in config.attribution.holdouts.items() if e not in known}
    if unknown:
        found = f"attribution.holdouts names {unknown}; expected experiments among {sorted(known)}"
        raise SettingsError(found, "Name experiments of the workspace whose arm `holdout` is never served.")


def _offers(workspace: Path, config: settings.Settings) -> pa.Table:
    # Paths and decisions can be attributed without a catalog; only actions and campaigns are unknown then.
    if not (workspace / config.catalog.treatments).is_file():
        return tables.TREATMENTS.empty().append_column("campaign", pa.array([], pa.string()))
    catalog = settings.read_catalog(workspace, config)
    campaigns = {action.action_id: f"{action.issue} / {action.group}" for action in catalog.actions}
    offers = catalog.to_tables()[1]
    of_each = [campaigns[name] for name in offers["action_id"].to_pylist()]
    return offers.append_column("campaign", pa.array(of_each, pa.string()))


def attribute_paths(source: Path, target: Path, intent: Sequence[str] = ()) -> pa.Table:
    """Credit a CSV of path counts (path, total_conversions, total_conversion_value, total_null).

    Args:
        source: One row per path, channels separated by `>`; value and nulls may be absent.
        target: Parquet file to write: method, channel, conversions, value, reason. The transitions of the
            Markov chains go beside it, as `<name>_transitions.parquet`.
        intent: Channels that only follow intent; every method is then also run without them (`_ads`).

    Raises:
        MissingError: when the file is absent.
        SettingsError: when it has no such intent channel, or no other.
        DataError: when it has no paths or conversions, or they cannot be read; nothing is written then.
    """
    if not source.is_file():
        raise MissingError(f"{source} does not exist; expected a CSV of path counts", "Name the file.")
    table = _path_counts(source)
    given = {n: table[n].to_numpy() for n in table.column_names if n != "path"}
    won = given["total_conversions"]
    walks = markov.walks(table["path"], won, given.get("total_null", 0 * won))
    unknown = [name for name in intent if name not in walks.channels]
    if unknown or set(walks.channels) <= set(intent):
        found = f"no channel is called {unknown}" if unknown else "every channel follows intent"
        raise SettingsError(
            f"{source}: {found}; its channels are {list(walks.channels)}", "Name some of them."
        )
    out = aggregated.credits(walks, given.get("total_conversion_value"), intent)
    target.parent.mkdir(parents=True, exist_ok=True)
    chains = [(i, markov.fit(walks, i).table()) for i in (1, 2, 3)]
    steps = [c.append_column("order", pa.array([i] * c.num_rows, pa.int64())) for i, c in chains]
    _write(pa.concat_tables(steps), target.with_name(f"{target.stem}_transitions.parquet"))
    _write(out, target)
    return out


def _write(table: pa.Table, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")  # an interrupted run leaves no half-written file
    pq.write_table(table, part)
    part.replace(target)


def _path_counts(source: Path) -> pa.Table:
    # path as text without blanks around channels, counts as float64; all faults at once.
    text = pa_csv.ConvertOptions(column_types={"path": pa.string()})
    try:
        table = pa_csv.read_csv(source, convert_options=text)
    except (pa.ArrowInvalid, OSError) as error:
        found = str(error).splitlines()[0]
        raise DataError(f"{source} is no table of path counts: {found}", "Save it as a CSV.") from error
    absent = [n for n in ("path", "total_conversions") if n not in table.column_names]
    if absent:
        raise DataError(f"{source} lacks {absent}; found {table.column_names}", "Rename its columns.")
    given, faults = {}, []
    for name in (n for n in table.column_names if n in _COUNTS):
        try:
            given[name] = table[name].cast(pa.float64()).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            faults.append(f"{name} is not a number: {str(error).splitlines()[0]}")
            continue
        wrong = ~np.isfinite(given[name]) if name == _VALUE else ~(np.nan_to_num(given[name], nan=-1.0) >= 0)
        if wrong.any():
            kind = "unknown" if name == _VALUE else "unknown or negative"
            faults.append(f"{name} holds {int(wrong.sum())} numbers that are {kind}")
    path = pc.replace_substring_regex(pc.fill_null(table["path"], ""), r"\s*>\s*", " > ")
    path = pc.utf8_trim_whitespace(path)
    blank = pc.sum(pc.match_substring_regex(path, r"(^|>)\s*(>|$)")).as_py() or 0
    if not table.num_rows:
        faults.append("it holds no paths")
    if blank:
        faults.append(f"path holds {blank} rows with an empty channel")
    if faults:
        hint = "Counts are 0 or more, values are numbers, paths are as a > b > c."
        raise DataError(f"{source} cannot be credited: {'; '.join(faults)}", hint)
    return pa.table({"path": path, **given})
