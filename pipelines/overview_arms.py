"""Gather for pages: how many customers each arm of each experiment has, and should have."""

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from nba import settings, tables
from nba.errors import DataError
from nba.experiments import design, facts
from nba.history import History
from nba.settings import Experiment

# Where no customer was assigned, the arms of the decisions; each customer counts once.
_FROM_DECISIONS = """(
    select coalesce(experiment_id, 'none') as experiment_id, customer_id, arm, min(decided_at) as assigned_at
    from decided group by all)"""


def gather(connection: duckdb.DuckDBPyConnection, history: History, config: settings.Settings) -> pa.Table:
    """Count the customers of every declared experiment by arm, beside what its shares promise.

    Args:
        connection: Holds `assignments_all` where anybody is assigned, and the view `decided`.
        history: Holds the readouts, whose p-values stand beside the counts.
        config: Declares the experiments.

    Returns:
        The `summary_arms` table; experiments to which nobody is assigned have none.
    """
    source = "assignments_all" if history.has("assignments") else _FROM_DECISIONS
    found = history.table("readouts").to_pylist() if history.has("readouts") else []
    readouts = {(row["experiment_id"], row["arm"]): row for row in found}
    alike = {row["experiment_id"]: row["p_srm"] for row in found}
    out = []
    for experiment in (config.experiment, *config.experiments):
        name = experiment.experiment_id
        for row in _counted(connection, source, experiment, config.experiment):
            p_traffic = readouts.get((name, row["arm"]), {}).get("p_traffic")
            out.append(row | {"experiment_id": name, "p_srm": alike.get(name), "p_traffic": p_traffic})
    return tables.SUMMARY_ARMS.build(out)


def _counted(
    connection: duckdb.DuckDBPyConnection, source: str, experiment: Experiment, standing: Experiment
) -> list[dict[str, Any]]:
    try:
        phased = facts.following(experiment, standing)
    except DataError:
        return []  # the readout says what is wrong with the declaration
    reads = facts.reads_standing(experiment)
    names = [arm.name for arm in experiment.arms]
    rows = connection.sql(
        f"select arm, len(list_filter($changes, lambda t: t <= epoch(assigned_at))) as phase, count(*) as n"
        f" from {source} where experiment_id = $id and (not $only or arm in $arms) group by all",
        params={
            "changes": [change.starts_at.timestamp() for change in phased.phases] or [float("inf")],
            "id": standing.experiment_id if reads else experiment.experiment_id,
            "only": reads,
            "arms": names,
        },
    ).fetchall()
    if not rows:
        return []
    shares = design.phase_shares(phased)
    entered = np.zeros(len(shares))
    for _, phase, n in rows:
        entered[phase] += n
    expected = dict(zip(names, (entered @ shares).tolist()))
    # Arms that no declaration knows are shown too: they are the fault.
    counts = {arm: sum(n for own, _, n in rows if own == arm) for arm in [*names, *(r[0] for r in rows)]}
    return [{"arm": arm, "n": n, "n_expected": expected.get(arm)} for arm, n in counts.items()]
