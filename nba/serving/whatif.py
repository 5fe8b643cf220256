"""What if: other limits, levers or rules on the candidates of a batch, its prices solved anew."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import settings
from nba.catalog import Catalog
from nba.errors import DataError, listed
from nba.policy import levers
from nba.policy.allocate import allocate
from nba.policy.explore import Estimate
from nba.policy.limits import Limited, bounded, reachable, scaled
from nba.policy.limits import of as limits_of
from nba.serving.deciders import strategy

Array = NDArray[np.float64]
AS_DECIDED = "as decided"
NOT_OFFERED = "not offered then"  # treatments that are new since, and those of which nothing is believed


@dataclass(frozen=True)
class Changes:
    """What a scenario changes; what it does not name stays.

    Attributes:
        capacity: Channel, or volume by its name, to contacts per batch.
        budget: Money per batch.
        levers: Action, or lever by context, to its business weight.
        costs: Treatment to its cost per delivery, money.
        without_rules: Rules that are not applied, as the reasons of the choices name them.
        stopped: Treatments or actions that are not proposed.
        rules_as_set: Whether the rules are those that the settings have now.
    """

    capacity: Mapping[str, int]
    budget: float | None = None
    levers: Mapping[str, float] | None = None
    costs: Mapping[str, float] | None = None
    without_rules: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    rules_as_set: bool = False

    @property
    def words(self) -> str:
        """The changes in words."""
        parts = [f"{channel} capacity {n}" for channel, n in self.capacity.items()]
        parts += [] if self.budget is None else [f"budget {self.budget:g}"]
        parts += [f"lever of {action} {x:g}" for action, x in (self.levers or {}).items()]
        parts += [f"cost of {name} {x:g}" for name, x in (self.costs or {}).items()]
        parts += [f"without {rule}" for rule in self.without_rules]
        parts += [f"{name} stopped" for name in self.stopped]
        parts += ["rules as set now"] if self.rules_as_set else []
        return ", ".join(parts)


class Stored(NamedTuple):
    """The candidates of a batch: n customers, k treatments of the catalog.

    Attributes:
        estimate: Belief in money, shapes (n, k).
        is_eligible: Shape (n, k).
        reason: Rule that removed each candidate, the first where several would, shape (n, k); empty if
            eligible.
        share: Part of the batch's customers that these are; limits shrink with it.
        nuisance: Price of fatigue per contact, money, shape (n, k).
        weight: Business weights that the belief holds, shape (n, k).
        context: Which of the settings' levers hold, as bits, shape (n,); 0 where it is not known.
        spent: Choices of each treatment by earlier batches of the same day, shape (k,).
        stands_for: Customers that are decided, the holdout not among them, for each of these.
        ids: The customers, where they are known, in order.
    """

    batch_id: str
    decided_at: datetime
    estimate: Estimate
    is_eligible: NDArray[np.bool_]
    reason: NDArray[np.object_]
    share: float
    nuisance: Array
    weight: Array
    context: NDArray[np.int32]
    spent: Array
    stands_for: float = 1.0
    ids: tuple[str, ...] = ()

    def limited(self, catalog: Catalog, limits: settings.Limits) -> Limited:
        """Give these customers' part of a batch's limits, minimums lowered to what can be held."""
        whole = limits_of(catalog, limits, self.spent)
        return reachable(scaled(whole, self.share, self.share * self.stands_for), self.is_eligible)[0]

    def gain(self, catalog: Catalog) -> Estimate:
        """Give what treatments gain before costs and without any weight, shapes (n, k)."""
        gross = (self.estimate.mean + catalog.cost + self.nuisance) / self.weight
        gross[:, 0] = 0.0
        return Estimate(gross, self.estimate.se / self.weight)


def stored_of(rows: pa.Table, catalog: Catalog, batch_id: str, share: float) -> Stored:
    """Put candidates into matrices.

    Args:
        rows: Columns customer_id (ordered), decided_at, treatment_id, is_eligible, reason, mean, se; and
            where known nuisance and weight (the actions' levers where not).
        catalog: Fixes the columns.
        batch_id: The batch.
        share: Part of the batch's customers that these are.

    Raises:
        DataError: when nothing is believed of any of them.
    """
    code = rows["customer_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    column = catalog.columns(rows["treatment_id"].to_pylist())
    n, k = int(code.max()) + 1, len(catalog.treatment_ids)
    cell = (code[column >= 0], column[column >= 0])
    mean, se = np.full((n, k), np.nan), np.full((n, k), np.nan)
    mean[cell], se[cell] = rows["mean"].to_numpy()[column >= 0], rows["se"].to_numpy()[column >= 0]
    is_eligible, reason = np.zeros((n, k), dtype=bool), np.full((n, k), NOT_OFFERED, dtype=object)
    is_eligible[cell] = rows["is_eligible"].to_numpy(zero_copy_only=False)[column >= 0]
    reason[cell] = np.array(rows["reason"].to_pylist(), dtype=object)[column >= 0]
    if np.isnan(mean[:, 1:]).all():
        raise DataError(
            f"batch {batch_id!r} was decided without a model: nothing is believed of its candidates",
            "Name a later batch.",
        )
    mean[:, 0] = se[:, 0] = 0.0
    believed = np.isfinite(mean)
    reason[~believed] = NOT_OFFERED
    estimate = Estimate(np.nan_to_num(mean), np.nan_to_num(se))
    known = column >= 0
    nuisance, weight = np.zeros((n, k)), np.tile(catalog.lever, (n, 1))
    for name, into in (("nuisance", nuisance), ("weight", weight)):
        if name in rows.column_names:
            value = np.asarray(rows[name].cast(pa.float64()).to_numpy(), dtype=np.float64)[known]
            into[cell] = np.where(np.isnan(value), into[cell], value)
    at, context = rows["decided_at"][0].as_py(), np.zeros(n, dtype=np.int32)
    return Stored(
        batch_id, at, estimate, is_eligible & believed, reason, share, nuisance, weight, context, np.zeros(k)
    )


def sample_of(rows: pa.Table, catalog: Catalog) -> Stored:
    """Put the sample of a batch that is kept for pages into matrices.

    Args:
        rows: The table `summary_candidates`.
        catalog: Fixes the columns.

    Raises:
        DataError: when nothing is believed of any of them, or whom they stand for was not kept.
    """
    first = rows.slice(0, 1).to_pylist()[0]
    if first["stands_for"] is None:
        raise DataError(
            f"the sample of batch {first['batch_id']!r} does not say how many customers it stands for: an"
            " earlier version gathered it",
            "Run `nba overview`.",
        )
    spent = np.zeros(len(catalog.treatment_ids))
    column = catalog.columns(rows["treatment_id"].to_pylist())
    spent[column[column >= 0]] = rows["spent_today"].to_numpy()[column >= 0]
    stored = stored_of(rows, catalog, first["batch_id"], first["sampled"])
    return stored._replace(spent=spent, stands_for=first["stands_for"])


def preview(
    stored: Stored, catalog: Catalog, config: settings.Settings, changes: Changes
) -> list[dict[str, Any]]:
    """Solve a sample of a batch as it was and with changes, and write both large for the whole batch.

    Args:
        stored: A random sample of the batch's candidates.
        catalog: Fixes the columns.
        config: Limits and strategy of the whole batch.
        changes: What is changed.

    Returns:
        Rows of the `scenarios` table, of everybody but the holdout; intervals are those of belief, not of the
        sample.

    Raises:
        DataError: naming all changes that name something unknown.
    """
    check(changes, catalog, stored, config)
    rows = solve(AS_DECIDED, stored, catalog, config, "")
    after, (others, settled) = changed(stored, catalog, config, changes)
    rows += solve("what if", after, others, settled, changes.words)
    # Of those who are decided: the holdout gets nothing and is worth nothing.
    sums = ("value", "value_lower", "value_upper", "contacts", "cost", "available", "used")
    return [row | {name: row[name] * stored.stands_for for name in sums if name in row} for row in rows]


def check(changes: Changes, catalog: Catalog, stored: Stored, config: settings.Settings) -> None:
    """Check that everything a scenario changes is known, and that weights keep their bounds.

    Raises:
        DataError: naming all that is not.
    """
    actions = set(catalog.action[1:].tolist())
    volumes = {volume.name for volume in config.limits.volumes}
    known = {
        "capacity": (changes.capacity, set(catalog.channels) | volumes),
        "lever": (changes.levers or {}, actions | {lever.name for lever in config.policy.levers}),
        "cost": (changes.costs or {}, set(catalog.treatment_ids[1:])),
        "rule": (changes.without_rules, set(stored.reason[~stored.is_eligible].tolist()) - {NOT_OFFERED}),
        "stop": (changes.stopped, actions | set(catalog.treatment_ids[1:])),
    }
    faults = [
        f"{what} {name!r} is not known; expected one of {sorted(allowed)}"
        for what, (given, allowed) in known.items()
        for name in given
        if name not in allowed
    ]
    faults += [
        f"lever {name!r} is {weight:g}; expected {levers.LOW:g} to {levers.HIGH:g}"
        for name, weight in (changes.levers or {}).items()
        if not levers.LOW <= weight <= levers.HIGH
    ]
    if faults:
        raise listed(faults, "the scenario cannot be solved", "Name what the catalog and the batch have.")


def asked_again(stored: Stored, again: NDArray[np.object_], changes: Changes) -> Stored:
    """Say which other rules remove the candidates of the rules that are left out, or what all rules say now.

    Only the first rule that removed a candidate is stored: without it, later ones may still remove it.

    Args:
        stored: As decided.
        again: Reasons by the rules at the same moment, those left out not asked, shape (n, k).
        changes: Which are left out.
    """
    known = stored.reason != NOT_OFFERED
    if changes.rules_as_set:
        reason = np.where(known, again, stored.reason)
        return stored._replace(reason=reason, is_eligible=reason == "")
    opened = known & np.isin(stored.reason, list(changes.without_rules)) & (again != "")
    return stored._replace(reason=np.where(opened, again, stored.reason))


def changed(
    stored: Stored, catalog: Catalog, config: settings.Settings, changes: Changes
) -> tuple[Stored, tuple[Catalog, settings.Settings]]:
    """Apply changes to stored candidates: gives them, and the catalog and settings they then belong to."""
    weights, costs = changes.levers or {}, changes.costs or {}
    actions = tuple(replace(a, lever=weights.get(a.action_id, a.lever)) for a in catalog.actions)
    treatments = tuple(replace(t, cost=costs.get(t.treatment_id, t.cost)) for t in catalog.treatments)
    after, own = Catalog(actions, treatments), config.policy.levers
    moved = tuple(x.model_copy(update={"weight": weights.get(x.name, x.weight)}) for x in own)
    ratio = levers.weights(stored.context, moved, after) / levers.weights(stored.context, own, catalog)
    weight = np.clip(stored.weight * ratio, levers.LOW, levers.HIGH)
    belief = levers.weighted(stored.gain(catalog), after.cost + stored.nuisance, weight)
    is_eligible = stored.is_eligible | np.isin(stored.reason, list(changes.without_rules))
    stopped = np.isin(catalog.action, changes.stopped) | np.isin(catalog.treatment_ids, changes.stopped)
    is_eligible = is_eligible & ~stopped
    is_eligible[:, 0] = True
    settled = config.model_copy(
        update={
            "limits": _limits(config.limits, catalog, changes),
            "policy": config.policy.model_copy(update={"levers": moved}),
        }
    )
    return stored._replace(estimate=belief, is_eligible=is_eligible, weight=weight), (after, settled)


def _limits(limits: settings.Limits, catalog: Catalog, changes: Changes) -> settings.Limits:
    asked = {name: int(n) for name, n in changes.capacity.items()}
    channels = {name: n for name, n in asked.items() if name in catalog.channels}
    volumes = []
    for volume in limits.volumes:
        most = asked.get(volume.name, volume.most)
        least = volume.least if most is None else min(volume.least, most)
        volumes.append(volume.model_copy(update={"most": most, "least": least}))
    budget = limits.budget if changes.budget is None else changes.budget
    return limits.model_copy(
        update={"capacity": {**limits.capacity, **channels}, "budget": budget, "volumes": tuple(volumes)}
    )


def solve(
    name: str, stored: Stored, catalog: Catalog, config: settings.Settings, words: str
) -> list[dict[str, Any]]:
    """Solve the prices of stored candidates and give rows of the `scenarios` table, valued without levers.

    The interval takes the errors of belief as fully correlated: one model believed of all customers, and how
    far its errors are shared is not known. Its width is the largest that the standard errors allow.
    """
    limited = stored.limited(catalog, config.limits)
    found = allocate(
        strategy(config.policy),
        stored.estimate,
        stored.is_eligible,
        limited.use,
        limited.available,
        limited.least,
    )
    # Weights rank, money stays money: what is expected is valued without any.
    gain = stored.gain(catalog)
    plain = levers.weighted(gain, catalog.cost + stored.nuisance, np.ones((1, 1)))
    value = float((found.final * plain.mean).sum())
    half = 1.96 * float((found.final * plain.se).sum())
    base = {"scenario": name, "batch_id": stored.batch_id, "changes": words}
    total = {
        "item": "total", "value": value, "value_lower": value - half, "value_upper": value + half,
        "contacts": float(found.final[:, 1:].sum()), "cost": float((found.final @ catalog.cost).sum()),
    }  # fmt: skip
    n = len(stored.is_eligible)
    limits = [
        {"item": limit, "available": bounded(limited.available[j], limited.use[:, j], n),
         "used": float(found.expected_use[j]), "price": float(found.price[j])}
        for j, limit in enumerate(limited.names)
    ]  # fmt: skip
    return [{**base, **row} for row in (total, *limits)]
