"""What each treatment changed against no contact, from the platform's own adaptive decisions."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nba import tables
from nba.catalog import NONE
from nba.experiments import adaptive, srm
from nba.history import Snapshot
from nba.stats import Interval

Array = NDArray[np.float64]
LEAST = 200
PLANNED_BATCHES = 13
LEAST_CHOSEN = 30
# Rewards are mostly one value, the cost without a purchase: where hardly any differs, the spread is not seen.
LEAST_UNUSUAL = 10
ESTIMAND = (
    "mean effect on the reward per decision of choosing it rather than no contact, over the logged decisions"
    " in which both could be chosen; what these treatments did, not what they would do elsewhere"
)


def action_effects(snapshot: Snapshot, level: float = 0.95) -> pa.Table:
    """Estimate every treatment against no contact from closed decisions, whatever the policy learned.

    Args:
        snapshot: What was known.
        level: Confidence level.

    Returns:
        The `action_effects` table, one row for each treatment that was ever a candidate.
    """
    rows = snapshot.sql(
        "select decision_id, batch_id, customer_id, decided_at, treatment_id, reward from decisions"
        " join outcomes using (decision_id) order by decided_at, batch_id, decision_id"
    )
    if rows.num_rows == 0:
        return tables.ACTION_EFFECTS.empty()
    snapshot.connection.register("closed_decisions", rows)
    pairs = snapshot.sql(
        "select decision_id, c.treatment_id, p_action from choices c semi join closed_decisions"
        " using (decision_id) where p_action > 0"
    )
    names = sorted({NONE, *_names(pairs), *_names(rows)})
    p_action = _matrix(rows, pairs, names)
    chosen = _codes(rows["treatment_id"], names)
    batch = np.unique(rows["batch_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    order = _in_order(batch)
    customer = np.unique(rows["customer_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    reward = rows["reward"].to_numpy()
    model = adaptive.lagged_means(reward, chosen, order, len(names))
    log = adaptive.Log(reward, chosen, p_action, order, model, customer)
    check = srm.logged(chosen, p_action, order)
    if check.is_alarm:
        fault = f"treatments were not chosen as their logged probabilities say (p = {check.p_value:.2g})"
        return tables.ACTION_EFFECTS.build(
            _unknown(name, len(reward), int((chosen == names.index(name)).sum()), level, fault)
            for name in names
            if name != NONE
        )
    found = [_row(log, names, name, level) for name in names if name != NONE]
    return tables.ACTION_EFFECTS.build(found)


def traffic(snapshot: Snapshot, experiment_id: str, arm: str) -> srm.Mismatch:
    """Check the treatments of an arm's decisions against their logged probabilities, whatever it learned.

    Args:
        snapshot: What was known.
        experiment_id: The experiment whose arm decided.
        arm: The arm.
    """
    rows = snapshot.sql(
        "select decision_id, batch_id, treatment_id from decisions"
        " where experiment_id = $id and arm = $arm order by decided_at, batch_id, decision_id",
        {"id": experiment_id, "arm": arm},
    )
    snapshot.connection.register("of_arm", rows)
    pairs = snapshot.sql(
        "select decision_id, c.treatment_id, p_action from choices c semi join of_arm using (decision_id)"
        " where p_action > 0"
    )
    names = sorted({*_names(pairs), *_names(rows)})
    p_action = _matrix(rows, pairs, names)
    if rows.num_rows == 0 or (np.abs(p_action.sum(axis=1) - 1) > 1e-6).any():
        return srm.Mismatch(np.nan, False, p_action.sum(axis=0), "probabilities were not logged")
    order = np.unique(rows["batch_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    return srm.logged(_codes(rows["treatment_id"], names), p_action, _in_order(order))


def _unknown(name: str, n: int, n_chosen: int, level: float, reason: str) -> dict[str, Any]:
    return {
        "treatment_id": name, "n": n, "n_chosen": n_chosen, "level": level, "method": "not computed",
        "estimand": ESTIMAND, "reason": reason,
    }  # fmt: skip


def _row(log: adaptive.Log, names: list[str], name: str, level: float) -> dict[str, Any]:
    column, none = names.index(name), names.index(NONE)
    both = (log.p_action[:, column] > 0) & (log.p_action[:, none] > 0)
    part = log.only(both)
    n, n_chosen = int(both.sum()), int((part.chosen == column).sum())
    target = np.zeros(part.p_action.shape)
    target[:, column], target[:, none] = 1.0, -1.0
    reason = _too_few(part, column, none)
    if reason:
        found, lower, upper = Interval.unknown(reason, n), np.nan, np.nan
    else:
        found = adaptive.final(part, target, level)
        # Tuned by the first batch alone: a tuning that followed the data would not be valid at every look.
        planned = float(PLANNED_BATCHES * (part.batch == part.batch[0]).sum())
        watched = adaptive.monitor(part, target, planned, level)
        lower, upper = watched.lower[-1], watched.upper[-1]
    return {
        "treatment_id": name, "n": n, "n_chosen": n_chosen, "effect": _known(found.value),
        "lower": _known(found.lower), "upper": _known(found.upper),
        "always_lower": _known(lower), "always_upper": _known(upper), "level": level,
        "max_weight": _known((1 / part.p_action[:, [column, none]]).max()) if n else None,
        "method": "adaptively weighted AIPW, clustered by customer; always: AIPW with confidence sequence",
        "estimand": ESTIMAND, "reason": found.reason,
    }  # fmt: skip


def _too_few(part: adaptive.Log, column: int, none: int) -> str:
    # Why the normal approximation cannot be trusted, empty if it can.
    n = len(part.reward)
    n_chosen, n_none = (int((part.chosen == a).sum()) for a in (column, none))
    if n < LEAST or min(n_chosen, n_none) < LEAST_CHOSEN:
        found = f"{n} decisions could have had it, {n_chosen} did and {n_none} had no contact"
        return f"{found}; expected {LEAST} or more, and {LEAST_CHOSEN} of each"
    for a, who in ((column, "had it"), (none, "had no contact")):
        reward = part.reward[part.chosen == a]
        unusual = len(reward) - int(np.unique(reward, return_counts=True)[1].max())
        if unusual < LEAST_UNUSUAL:
            found = f"of {len(reward)} decisions that {who}, {unusual} had another reward than the usual one"
            return f"{found}; expected {LEAST_UNUSUAL} or more"
    return ""


def _matrix(rows: pa.Table, pairs: pa.Table, names: list[str]) -> Array:
    at = pc.index_in(pairs["decision_id"], rows["decision_id"].combine_chunks()).to_numpy()
    out = np.zeros((rows.num_rows, len(names)))
    out[at, _codes(pairs["treatment_id"], names)] = pairs["p_action"].to_numpy()
    return out


def _codes(column: pa.ChunkedArray, names: list[str]) -> NDArray[np.int64]:
    return np.asarray(pc.index_in(column, pa.array(names, pa.string())).to_numpy(), dtype=np.int64)


def _names(table: pa.Table) -> list[str]:
    return [str(name) for name in pc.unique(table["treatment_id"]).to_pylist()]


def _in_order(batch: NDArray[np.int64]) -> NDArray[np.int64]:
    # Batches are numbered by first appearance: rows come in the order of their decisions.
    _, first = np.unique(batch, return_index=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[batch]


def _known(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
