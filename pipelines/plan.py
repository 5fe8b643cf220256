"""Plan the experiments of a workspace from its own history: what they can see, and an A/A check."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import settings, tables
from nba.errors import DataError, MissingError
from nba.experiments import cube, design, facts, planning
from nba.experiments.readout import horizon_days
from nba.history import History, Snapshot
from nba.settings import Experiment
from pipelines.progress import Progress, silent

DAYS = (7, 14, 28, 56)
SPLITS = 100


class Plan(NamedTuple):
    """What the experiments of a workspace can see.

    Attributes:
        curve: Smallest visible effect by experiment, metric, arm and days, at 80% power.
        needs: What the planned effect of each primary metric takes, in customers and days.
        aa: Share of A/A tests on past customers that saw a difference, by experiment and metric.
    """

    curve: pa.Table
    needs: pa.Table
    aa: pa.Table


def plan(workspace: Path, at: datetime, *, progress: Progress | None = None) -> Plan:
    """Measure what each experiment's metrics vary by in the history, and test the history against itself.

    Args:
        workspace: The workspace folder.
        at: The moment to look back from.
        progress: Where to report.

    Raises:
        MissingError: when the workspace has no customers yet.
        DataError: when a segment is not an attribute of customers, or nothing happened lately.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    history = History.read(workspace)
    if not history.has("customers"):
        raise MissingError(f"{workspace} has no customers yet", "Run `nba ingest` first.")
    experiments = (config.experiment, *config.experiments)
    advance = progress.step("looking at past customers", total=len(experiments))
    curves, needs, checks = [], [], []
    with history.as_of(at) as snapshot:
        facts.check_segments(snapshot, *experiments)
        _check_recent(snapshot)
        for experiment in experiments:
            reach = 1.0 if experiment is config.experiment else _reach(config, experiment)
            # Quantiles have no variance that a plan could rest on.
            means = tuple(metric for metric in experiment.metrics if metric.quantile is None)
            planned = experiment.model_copy(update={"metrics": means})
            spreads = _spreads(snapshot, planned, reach)
            curves += _curves(planned, spreads)
            needs += _needs(planned, spreads)
            checks += _aa(snapshot, planned)
            advance(1)
    return Plan(*(pa.Table.from_pylist(rows) for rows in (curves, needs, checks)))


def _check_recent(snapshot: Snapshot) -> None:
    # Of days in which nobody did anything a plan would be made of nothing.
    last = snapshot.connection.execute(
        "select max(last_at) from (select max(ordered_at) as last_at from orders"
        " union all select max(occurred_at) from events union all select max(touched_at) from touches)"
    ).fetchall()[0][0]
    if last is None or last < snapshot.at - timedelta(days=DAYS[-1]):
        found = f"the last is of {last:%Y-%m-%d %H:%M}" if last else "there is none at all"
        raise DataError(
            f"no order, event or touch in the {DAYS[-1]} days before {snapshot.at:%Y-%m-%d %H:%M}: {found}",
            "Name a moment within the history by --at, or ingest what happened since.",
        )


def _reach(config: settings.Settings, experiment: Experiment) -> float:
    # The part of customers that a trial can have (audiences are not counted).
    assert isinstance(experiment, settings.Trial)
    if facts.reads_standing(experiment):
        names = {arm.name for arm in experiment.arms}
        return sum(arm.share for arm in config.experiment.arms if arm.name in names)
    open_share = sum(arm.share for arm in config.experiment.arms if arm.policy == "champion")
    return open_share * (experiment.slots[1] - experiment.slots[0])


def spreads(snapshot: Snapshot, config: settings.Settings) -> list[dict[str, object]]:
    """Measure how much each metric of the standing experiment varies between past customers, by duration.

    Args:
        snapshot: The history as it was known.
        config: Names the metrics.

    Returns:
        Rows of the `summary_spreads` table.
    """
    rows: list[dict[str, object]] = []
    experiment = config.experiment
    for days in DAYS:
        people, made = _past(snapshot, experiment, days)
        if people.num_rows < 2:
            continue
        variables = cube.variables_of(made)
        sums = cube.Sums.of(_values(people, variables), np.zeros(people.num_rows, dtype=np.int64), 1)
        for metric, columns in zip(experiment.metrics, made):
            found = planning.spread(sums, columns, variables)
            if not np.isfinite([found.mean, found.sd, found.sd_adjusted]).all():
                continue  # a ratio over nothing, as one per order where nobody ordered
            named = {"experiment_id": experiment.experiment_id, "metric": metric.name, "days": days}
            rows.append(named | found._asdict())
    return rows


def _past(snapshot: Snapshot, experiment: Experiment, days: int) -> tuple[pa.Table, tuple[cube.Metric, ...]]:
    """Sum what past customers did in the last days, as if they had been assigned then."""
    began = snapshot.at - timedelta(days=days)
    ids = snapshot.connection.sql(
        "select customer_id from customers where joined_at < $began order by 1", params={"began": began}
    ).to_arrow_table()
    n = ids.num_rows
    people = ids.append_column("assigned_at", pa.array([began] * n, tables.TIME))
    people = people.append_column("is_moved", pa.array([False] * n, pa.bool_()))
    window = facts.Window(snapshot.at, snapshot.at)
    return facts.totals(snapshot, people, experiment.metrics, window)


def _spreads(
    snapshot: Snapshot, experiment: Experiment, reach: float
) -> dict[str, dict[int, planning.Spread]]:
    spreads: dict[str, dict[int, planning.Spread]] = {metric.name: {} for metric in experiment.metrics}
    for days in sorted({*DAYS, _planned_days(experiment)}):
        rows, made = _past(snapshot, experiment, days)
        if rows.num_rows < 2:
            continue
        variables = cube.variables_of(made)
        sums = cube.Sums.of(_values(rows, variables), np.zeros(rows.num_rows, dtype=np.int64), 1)
        for metric, columns in zip(experiment.metrics, made):
            found = planning.spread(sums, columns, variables)
            if found.sd > 0:
                spreads[metric.name][days] = found._replace(n=int(found.n * reach))
    return spreads


def _planned_days(experiment: Experiment) -> int:
    return max(round(horizon_days(experiment)), 1)


def _compared(experiment: Experiment) -> list[tuple[str, tuple[float, float]]]:
    # Arms and their shares beside the control's; an arm of share 0 has no plan.
    shares = {arm.name: arm.share for arm in experiment.arms}
    control = shares.pop(experiment.control)
    return [(arm, (share, control)) for arm, share in shares.items() if min(share, control) > 0]


def _alpha(experiment: Experiment) -> float:
    return (1 - experiment.level) / max(len(experiment.arms) - 1, 1)


def _curves(
    experiment: Experiment, spreads: dict[str, dict[int, planning.Spread]]
) -> list[dict[str, object]]:
    out: list[dict[str, object]] = []
    for name, by_days in spreads.items():
        for arm, shares in _compared(experiment):
            rows = planning.curve(by_days, shares, alpha=_alpha(experiment))
            named = {"experiment_id": experiment.experiment_id, "metric": name, "arm": arm}
            out += [named | row for row in rows.to_pylist()]
    return out


def _needs(experiment: Experiment, spreads: dict[str, dict[int, planning.Spread]]) -> list[dict[str, object]]:
    primary = next(metric for metric in experiment.metrics if metric.role == "primary")
    planned, by_days = _planned_days(experiment), spreads[primary.name]
    if planned not in by_days or not primary.planned_effect > 0:
        return []
    # What is gained per customer grows with the days; a ratio does not.
    grows = primary.denominator is None
    effects = {d: primary.planned_effect * (d / planned if grows else 1.0) for d in by_days}
    out: list[dict[str, object]] = []
    for arm, shares in _compared(experiment):
        found = planning.need(by_days, effects, planned, shares, alpha=_alpha(experiment))
        named = {
            "experiment_id": experiment.experiment_id, "metric": primary.name, "arm": arm,
            "planned_effect": primary.planned_effect, "planned_days": planned,
        }  # fmt: skip
        out.append(named | found._asdict())
    return out


def _aa(snapshot: Snapshot, experiment: Experiment) -> list[dict[str, object]]:
    rows, made = _past(snapshot, experiment, DAYS[-2])
    if rows.num_rows < 2:
        return []
    ids = rows["customer_id"].to_pylist()
    variables = cube.variables_of(made)
    values = _values(rows, variables)

    # Drawn once for all metrics: hashing takes longer than all tests.
    splits = [_split(experiment, ids, number) for number in range(SPLITS)]
    out: list[dict[str, object]] = []
    for metric, columns in zip(experiment.metrics, made):
        check = planning.aa_check(values, columns, variables, splits.__getitem__, SPLITS, experiment.level)
        out.append(
            {
                "experiment_id": experiment.experiment_id,
                "metric": metric.name,
                "n": check.n,
                "rejected": check.rejected.value,
                "expected": check.level,
                "is_fine": check.is_fine,
                "reason": check.rejected.reason,
            }
        )
    return out


def _split(experiment: Experiment, ids: list[str], number: int) -> NDArray[np.int8]:
    other = experiment.model_copy(update={"salt": f"aa|{number}", "phases": ()})
    return np.asarray(design.assign(other, ids).arm == experiment.control, dtype=np.int8)


def _values(rows: pa.Table, variables: tuple[str, ...]) -> NDArray[np.float64]:
    return np.stack([rows[name].to_numpy() for name in variables], axis=1)
