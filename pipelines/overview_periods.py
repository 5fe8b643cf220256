"""Gather for pages: what the last batches' time was worth, by customers who were randomised before it.

Rewards of batches are not added up: their windows overlap, so that a purchase would count for several. What
is compared is each customer's money in that stretch of time, whatever contact of whichever batch led to it,
by the arm that it had been assigned to before: arms stay as they were drawn, so the policy causes the
difference.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nba import settings, tables
from nba.experiments import facts
from nba.experiments.analyze import welch
from nba.history import History, Snapshot
from nba.settings import Experiment, Measured

LAST = (4, 12)  # batches, of which one further must have matured
_BATCHES = """
    select min(decided_at) as decided_at from decisions where experiment_id = $id and decided_at <= $entered
    group by batch_id order by 1 desc
"""
_COST = Measured(name="cost", numerator="cost")
_MOVED = "shares of the arms changed in a phase, so customers who came earlier and later are not alike"
_FEW = "no variance, or fewer than 2 customers in an arm who were there before"


def gather(history: History, config: settings.Settings, at: datetime) -> dict[str, pa.Table]:
    """Give what the last batches' time was worth, where more batches have matured than these.

    Args:
        history: With assignments and decisions.
        config: Declares the standing experiment and its metric in money.
        at: Nothing later is seen.
    """
    experiment, metric = config.experiment, config.experiment.headline
    if metric is None or not (history.has("assignments") and history.has("decisions")):
        return {}
    rows: list[dict[str, Any]] = []
    with history.as_of(at) as snapshot:
        window = facts.matured(snapshot, config.reward.window_days, experiment.ends_at)
        if window is None:
            return {"summary_periods": tables.SUMMARY_PERIODS.empty()}
        asked = {"id": experiment.experiment_id, "entered": window.entered}
        begun = snapshot.sql(_BATCHES, asked)["decided_at"].to_pylist()
        people = facts.assigned(snapshot, experiment)
        for n in LAST:
            if len(begun) > n:
                rows += _period(snapshot, experiment, metric, people, (begun[n - 1], window), n)
    return {"summary_periods": tables.SUMMARY_PERIODS.build(rows)}


def _period(
    snapshot: Snapshot,
    experiment: Experiment,
    metric: Measured,
    people: pa.Table,
    stretch: tuple[datetime, facts.Window],
    n_batches: int,
) -> list[dict[str, Any]]:
    since, window = stretch
    before = pc.less_equal(people["assigned_at"], pa.scalar(since, tables.TIME))
    people = people.filter(pc.and_(before, pc.invert(people["is_moved"])))
    # The cost is what the value is net of: of the same customers over the same time.
    gained = facts.gained(snapshot, people, [metric, _COST], since, window.until)
    ids, arms = people["customer_id"].to_pylist(), np.array(people["arm"].to_pylist(), dtype=object)
    each = {row["customer_id"]: (row["y0"] or 0.0, row["y1"] or 0.0) for row in gained.to_pylist()}
    value, spent = np.array([each.get(name, (0.0, 0.0)) for name in ids]).reshape(-1, 2).T
    if metric.cap is not None:
        value = np.minimum(value, metric.cap)
    names = [arm.name for arm in experiment.arms if arm.name != experiment.control]
    found = compared(value, arms, experiment.control, names, experiment.level)
    told = {"period": f"last_{n_batches}", "since": since, "until": window.until, "n_batches": n_batches}
    told |= {"metric": metric.name, "control": experiment.control, "level": experiment.level}
    unknown = dict.fromkeys(("effect", "lower", "upper", "total", "total_lower", "total_upper"))
    return [
        row | told | {"cost": float(spent[arms == row["arm"]].sum())}
        | (unknown | {"reason": _MOVED} if experiment.phases else {})
        for row in found
    ]  # fmt: skip


def compared(
    value: NDArray[np.float64], arm: NDArray[np.object_], control: str, names: Sequence[str], level: float
) -> list[dict[str, Any]]:
    """Compare each arm's money per customer with the control's.

    Args:
        value: Of each customer, shape (n,).
        arm: The arm of each.
        control: The arm compared with.
        names: The other arms.
        level: Confidence level.

    Returns:
        Per arm: n, n_control, effect per customer and in total with its interval, and the reason where it is
        not known.
    """
    base = value[arm == control]
    out = []
    for name in names:
        mine = value[arm == name]
        row: dict[str, Any] = {"arm": name, "n": len(mine), "n_control": len(base), "reason": _FEW}
        out.append(row)
        if min(len(mine), len(base)) < 2:
            continue
        a, b = np.array([[len(x), x.mean(), x.var(ddof=1)] for x in (mine, base)])
        parts = welch(a[0], a[1], a[2], b[0], b[1], b[2], level)
        found = {key: float(part) for key, part in parts.items()}
        if np.isfinite(found["lower"]):
            ends = {name: found[name] for name in ("effect", "lower", "upper")}
            sums = dict(zip(("total", "total_lower", "total_upper"), (x * len(mine) for x in ends.values())))
            row |= ends | sums | {"reason": ""}
    return out
