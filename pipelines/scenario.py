"""What if: other limits, levers or rules on the stored candidates of a batch, its prices solved anew."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import settings, tables
from nba.catalog import Catalog
from nba.errors import DataError, MissingError, listed
from nba.history import History
from nba.policy import arbitrate
from nba.policy.allocate import allocate
from nba.policy.explore import Estimate
from nba.serving.decide import Limited, limits_of, scaled, strategy
from pipelines.progress import Progress, silent

Array = NDArray[np.float64]
AS_DECIDED = "as decided"

_CANDIDATES = """
    select d.customer_id, d.decided_at, c.treatment_id, c.is_eligible, c.reason, c.mean, c.se
    from choices c join decisions d using (decision_id)
    where d.batch_id = $batch and coalesce(d.arm, '') <> 'holdout' and d.policy_id <> 'outside'
    order by d.customer_id
"""


@dataclass(frozen=True)
class Changes:
    """What a scenario changes; what it does not name stays.

    Attributes:
        capacity: Channel to contacts per batch.
        budget: Money per batch.
        levers: Action to its business weight.
        costs: Treatment to its cost per delivery, money.
        without_rules: Rules that are not applied, as the reasons of the choices name them.
        stopped: Treatments or actions that are not proposed.
    """

    capacity: Mapping[str, int]
    budget: float | None = None
    levers: Mapping[str, float] | None = None
    costs: Mapping[str, float] | None = None
    without_rules: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The changes in words."""
        parts = [f"{channel} capacity {n}" for channel, n in self.capacity.items()]
        parts += [] if self.budget is None else [f"budget {self.budget:g}"]
        parts += [f"lever of {action} {x:g}" for action, x in (self.levers or {}).items()]
        parts += [f"cost of {name} {x:g}" for name, x in (self.costs or {}).items()]
        parts += [f"without {rule}" for rule in self.without_rules]
        parts += [f"{name} stopped" for name in self.stopped]
        return ", ".join(parts)


class _Stored(NamedTuple):
    # The candidates of a batch: n customers, k treatments of the catalog; reasons (n, k).
    batch_id: str
    decided_at: datetime
    estimate: Estimate
    is_eligible: NDArray[np.bool_]
    reason: NDArray[np.object_]
    share: float


def scenario(
    workspace: Path,
    name: str,
    changes: Changes,
    batch_id: str | None = None,
    *,
    progress: Progress | None = None,
) -> pa.Table:
    """Solve a stored batch again as it was and with changes, and write both to `scenarios`.

    Values are what the models believed then, not what was measured; everybody but the holdout is decided by
    the workspace's strategy. A scenario of the same name replaces the one before.

    Args:
        workspace: Folder of the workspace.
        name: Of the scenario.
        changes: What is changed.
        batch_id: The batch; the last one decided by a model if absent.
        progress: Where to report.

    Returns:
        The rows of the scenario and of the batch as decided.

    Raises:
        MissingError: when no batch was decided by a model.
        DataError: naming all changes that name something unknown.
    """
    progress = progress or silent()
    if name == AS_DECIDED:
        raise DataError(f"the name {AS_DECIDED!r} is taken by the batch itself", "Choose another name.")
    config = settings.read(workspace)
    catalog = settings.read_catalog(workspace, config)
    history = History.read(workspace)
    step = progress.step("solving the scenario", total=3)
    stored = _stored(history, catalog, batch_id)
    _check(changes, catalog, stored)
    step(1)
    with history.as_of(stored.decided_at) as snapshot:
        nuisance = arbitrate.nuisance(snapshot, catalog, config.reward)
    rows = _solve(AS_DECIDED, stored, catalog, config, "")
    step(1)
    changed, after = _changed(stored, catalog, config, changes, nuisance)
    rows += _solve(name, changed, after[0], after[1], changes.words)
    step(1)
    made = tables.SCENARIOS.build(rows)
    kept = history.table("scenarios") if history.has("scenarios") else tables.SCENARIOS.empty()
    others = [
        row for row in kept.to_pylist()
        if row["scenario"] not in (name, AS_DECIDED) or row["batch_id"] != stored.batch_id
    ]  # fmt: skip
    history.commit(replace={"scenarios": pa.concat_tables([tables.SCENARIOS.build(others), made])})
    return made


def parse(pairs: list[str], what: str) -> dict[str, float]:
    """Read `name=number` pairs.

    Raises:
        DataError: naming all that are something else.

    Example:
        >>> parse(["email=500"], "--capacity")
        {'email': 500.0}
    """
    out, faults = {}, []
    for pair in pairs:
        key, _, text = pair.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not key or not np.isfinite(value) or value < 0:
            faults.append(f"{what} {pair!r}; expected name=number, 0 or more")
            continue
        out[key] = value
    if faults:
        raise listed(faults, "the scenario cannot be read", f"Write for example {what} email=500.")
    return out


def _stored(history: History, catalog: Catalog, batch_id: str | None) -> _Stored:
    if not history.has("choices"):
        raise MissingError("no batch has been decided yet", "Run `nba decide` first.")
    if batch_id is None:
        last = history.sql(
            "select batch_id from decisions d join choices c using (decision_id)"
            " where c.treatment_id <> 'none' and not isnan(c.mean) and c.mean is not null"
            " group by 1 order by max(decided_at) desc limit 1"
        )
        if not last.num_rows:
            raise MissingError(
                "no batch was decided by a model yet", "Run `nba learn`, then `nba decide`, first."
            )
        batch_id = last["batch_id"][0].as_py()
    rows = history.sql(_CANDIDATES, {"batch": batch_id})
    if not rows.num_rows:
        raise DataError(f"batch {batch_id!r} is not known", "`nba overview` lists the batches.")
    code = rows["customer_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    column = catalog.columns(rows["treatment_id"].to_pylist())
    n, k = int(code.max()) + 1, len(catalog.treatment_ids)
    cell = (code[column >= 0], column[column >= 0])
    mean, se = np.full((n, k), np.nan), np.full((n, k), np.nan)
    mean[cell], se[cell] = rows["mean"].to_numpy()[column >= 0], rows["se"].to_numpy()[column >= 0]
    is_eligible, reason = np.zeros((n, k), dtype=bool), np.full((n, k), "not offered then", dtype=object)
    is_eligible[cell] = rows["is_eligible"].to_numpy(zero_copy_only=False)[column >= 0]
    reason[cell] = np.array(rows["reason"].to_pylist(), dtype=object)[column >= 0]
    if np.isnan(mean[:, 1:]).all():
        raise DataError(
            f"batch {batch_id!r} was decided without a model: nothing is believed of its candidates",
            "Name a later batch.",
        )
    mean[:, 0] = se[:, 0] = 0.0
    believed = np.isfinite(mean)
    total = history.sql("select count(*) as n from decisions where batch_id = $b", {"b": batch_id})
    share = n / total["n"][0].as_py()
    estimate = Estimate(np.nan_to_num(mean), np.nan_to_num(se))
    return _Stored(batch_id, rows["decided_at"][0].as_py(), estimate, is_eligible & believed, reason, share)


def _check(changes: Changes, catalog: Catalog, stored: _Stored) -> None:
    actions = set(catalog.action[1:].tolist())
    known = {
        "capacity": (changes.capacity, set(catalog.channels)),
        "lever": (changes.levers or {}, actions),
        "cost": (changes.costs or {}, set(catalog.treatment_ids[1:])),
        "rule": (changes.without_rules, set(stored.reason[~stored.is_eligible].tolist())),
        "stop": (changes.stopped, actions | set(catalog.treatment_ids[1:])),
    }
    faults = [
        f"{what} {name!r} is not known; expected one of {sorted(allowed)}"
        for what, (given, allowed) in known.items()
        for name in given
        if name not in allowed
    ]
    if faults:
        raise listed(faults, "the scenario cannot be solved", "Name what the catalog and the batch have.")


def _changed(
    stored: _Stored, catalog: Catalog, config: settings.Settings, changes: Changes, nuisance: Array
) -> tuple[_Stored, tuple[Catalog, settings.Settings]]:
    levers, costs = changes.levers or {}, changes.costs or {}
    actions = tuple(replace(a, lever=levers.get(a.action_id, a.lever)) for a in catalog.actions)
    treatments = tuple(replace(t, cost=costs.get(t.treatment_id, t.cost)) for t in catalog.treatments)
    after = Catalog(actions, treatments)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(catalog.lever > 0, after.lever / catalog.lever, 1.0)
    gross = stored.estimate.mean + catalog.cost + nuisance
    mean = gross * factor - after.cost - nuisance
    mean[:, 0] = 0.0
    is_eligible = stored.is_eligible | np.isin(stored.reason, list(changes.without_rules))
    stopped = np.isin(catalog.action, changes.stopped) | np.isin(catalog.treatment_ids, changes.stopped)
    is_eligible = is_eligible & ~stopped
    is_eligible[:, 0] = True
    limits = config.limits.model_copy(
        update={
            "capacity": {**config.limits.capacity, **{k: int(v) for k, v in changes.capacity.items()}},
            "budget": config.limits.budget if changes.budget is None else changes.budget,
        }
    )
    estimate = Estimate(mean, stored.estimate.se * np.abs(factor))
    changed = stored._replace(estimate=estimate, is_eligible=is_eligible)
    return changed, (after, config.model_copy(update={"limits": limits}))


def _solve(
    name: str, stored: _Stored, catalog: Catalog, config: settings.Settings, words: str
) -> list[dict[str, Any]]:
    limited: Limited = scaled(limits_of(catalog, config.limits), stored.share)
    found = allocate(
        strategy(config.policy), stored.estimate, stored.is_eligible, limited.use, limited.available
    )
    value = float((found.final * stored.estimate.mean).sum())
    half = 1.96 * float(np.sqrt(((found.final * stored.estimate.se) ** 2).sum()))
    base = {"scenario": name, "batch_id": stored.batch_id, "changes": words}
    total = {
        "item": "total", "value": value, "value_lower": value - half, "value_upper": value + half,
        "contacts": float(found.final[:, 1:].sum()), "cost": float((found.final @ catalog.cost).sum()),
    }  # fmt: skip
    limits = [
        {"item": limit, "available": float(limited.available[j]), "used": float(found.expected_use[j]),
         "price": float(max(found.price[j], 0.0))}
        for j, limit in enumerate(limited.names)
    ]  # fmt: skip
    return [{**base, **row} for row in (total, *limits)]
