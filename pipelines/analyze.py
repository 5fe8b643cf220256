"""Read the experiments of a workspace: what each arm changed against its control."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from nba import settings, tables
from nba.errors import MissingError
from nba.experiments import analyze as effects
from nba.experiments import cube
from nba.experiments.analyze import Metric
from nba.history import History, Snapshot
from pipelines.progress import Progress, silent

BEFORE_DAYS = 365
METRICS = {
    "margin": Metric("margin", covariate="margin_before"),
    "orders": Metric("orders", covariate="orders_before"),
    "unsubscribes": Metric("unsubscribes"),
}
ESTIMAND = "effect of what was run on customers as assigned, per customer, from assignment to {until}"

# Per customer from the assignment to the last matured moment; the covariates end at the assignment.
_TOTALS = f"""
with a as (
    select customer_id, arm, assigned_at from assignments
    where experiment_id = $experiment and assigned_at <= $entered
), bought as (
    select customer_id,
        sum(margin) filter (ordered_at >= assigned_at) as margin,
        count(*) filter (ordered_at >= assigned_at and not is_return) as orders,
        sum(margin) filter (ordered_at < assigned_at) as margin_before,
        count(*) filter (ordered_at < assigned_at and not is_return) as orders_before
    from orders join a using (customer_id)
    where ordered_at < $until and ordered_at >= assigned_at - to_days({BEFORE_DAYS})
    group by customer_id
), touched as (
    select customer_id, sum(cost) as cost, max((kind = 'unsubscribed')::int) as unsubscribes
    from touches join a using (customer_id)
    where touched_at >= assigned_at and touched_at < $until
    group by customer_id
)
select arm,
    coalesce(margin, 0) - coalesce(cost, 0) as margin, coalesce(orders, 0)::double as orders,
    coalesce(unsubscribes, 0)::double as unsubscribes,
    coalesce(margin_before, 0) as margin_before, coalesce(orders_before, 0)::double as orders_before
from a left join bought using (customer_id) left join touched using (customer_id)
"""


def analyze(workspace: Path, at: datetime, *, progress: Progress | None = None) -> pa.Table:
    """Compare each arm of the standing experiment with its control, and keep the `effects`.

    A customer counts from its assignment, whatever it then received (intention to treat), up to the last
    matured moment: the last one at or before `at` at which a reward window closed. Customers whose first
    window has not closed by then do not count yet.

    Args:
        workspace: The workspace folder.
        at: Moment of the readout; nothing later is seen.
        progress: Where to report.

    Returns:
        The `effects` table.

    Raises:
        MissingError: when no batch was decided yet.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    history = History.read(workspace)
    if not history.has("assignments"):
        raise MissingError(f"{workspace} has no assignments yet", "Run `nba decide` first.")
    done = progress.step("comparing the arms", total=1)
    with history.as_of(at) as snapshot:
        entered, until = matured(snapshot, config.reward.window_days)
        table = _effects(snapshot, config.experiment, entered, until)
    history.commit(replace={"effects": table})
    done(1)
    return table


def matured(snapshot: Snapshot, window_days: int) -> tuple[datetime, datetime]:
    """Give the last moment of assignment that counts, and the last matured moment.

    Args:
        snapshot: What was known.
        window_days: Length of the reward window.
    """
    row = snapshot.connection.execute(
        "select max(decided_at), max(decided_at) + to_days($days::integer) from decisions"
        " where decided_at + to_days($days::integer) <= $at",
        {"days": window_days, "at": snapshot.at},
    ).fetchall()[0]
    if row[0] is None:
        raise MissingError(
            f"no decision's window of {window_days} days has closed by {snapshot.at:%Y-%m-%d %H:%M}",
            "Read the experiment later, or shorten reward.window_days.",
        )
    return row[0], row[1]


def _effects(
    snapshot: Snapshot, experiment: settings.Experiment, entered: datetime, until: datetime
) -> pa.Table:
    parameters = {"experiment": experiment.experiment_id, "entered": entered, "until": until}
    rows = snapshot.sql(_TOTALS, parameters)
    snapshot.connection.register("customer_totals", rows)
    variables = tuple(name for name in rows.column_names if name != "arm")
    made = cube.build(snapshot.connection, "from customer_totals", ["arm"], variables)
    arms = made.keys["arm"].to_pylist()
    number = {arm: i for i, arm in enumerate(arms)}
    wanted = [arm.name for arm in experiment.arms if arm.name != experiment.control]
    sums = made.sums.gather(np.arange(len(arms)), len(arms) + 1)  # the last cell has nobody
    columns = effects.columns_of(tuple(METRICS.values()), variables)
    treated = np.array([number.get(arm, len(arms)) for arm in wanted])
    control = np.full(len(wanted), number.get(experiment.control, len(arms)))
    found = effects.compare(sums, columns, treated, control, experiment.level)
    out = []
    for i, name in enumerate(METRICS):
        for j, arm in enumerate(wanted):
            numbers = {k: float(v[i, j]) for k, v in found._asdict().items() if k in _SHOWN}
            out.append(
                {
                    "experiment_id": experiment.experiment_id, "metric": name, "arm": arm,
                    "segment": "all", "control": experiment.control, "n": int(found.n[i, j]),
                    "n_control": int(found.n_control[i, j]), "level": experiment.level,
                    "method": "Welch, CUPED" if METRICS[name].covariate else "Welch",
                    "estimand": ESTIMAND.format(until=f"{until:%Y-%m-%d %H:%M}"),
                    "reason": effects.REASONS[int(found.reason[i, j])],
                }
                | {k: None if np.isnan(v) else v for k, v in numbers.items()}
            )  # fmt: skip
    return tables.EFFECTS.build(out)


_SHOWN = {"mean", "mean_control", "effect", "lower", "upper", "p_value"}
_SHOWN |= {"relative_effect", "relative_lower", "relative_upper"}
