"""The whole chain for one batch of customers: rules, belief, limits, probabilities, one hashed draw each.

Everything here is a pure function of its inputs: the same batch gives the same decisions on any machine,
in any order and after any re-run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nba import draws, settings, tables
from nba.catalog import NONE, Catalog
from nba.errors import DataError
from nba.experiments import design
from nba.history import Snapshot
from nba.policy import limits as volumes
from nba.policy import windows
from nba.policy.allocate import Allocation, allocate, trim
from nba.policy.eligibility import Eligibility, Terms, eligible, removals, removed
from nba.policy.explore import Estimate
from nba.policy.limits import Limited, scaled
from nba.policy.streamed import Cut
from nba.serving.deciders import START, Decider, Scorer, check_features, deciders, worth_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """One run of decisions, as tables of the contract.

    Attributes:
        policies: Arm to the policy that decided it.
        models: Alias to the model's id and version.
        notes: What somebody should know: no model yet, an exploration floor cut by a limit.
    """

    batch_id: str
    decided_at: datetime
    valid_until: datetime
    config_hash: str
    decisions: pa.Table
    choices: pa.Table
    batches: pa.Table
    removals: pa.Table
    features: pa.Table
    assignments: pa.Table
    policies: Mapping[str, str]
    models: Mapping[str, str]
    notes: tuple[str, ...]


class _Decided(NamedTuple):
    # What was found for the customers of one arm; arrays in the order of `rows`.
    rows: NDArray[np.int64]
    decider: Decider
    allocation: Allocation
    limited: Limited
    column: NDArray[np.int64]
    dropped: NDArray[np.int64]


class _Merged(NamedTuple):
    # All arms together, in the order of the customers: shapes (n,), then (n, k).
    arm: NDArray[np.object_]
    policy_id: NDArray[np.object_]
    reason: NDArray[np.object_]
    column: NDArray[np.int64]
    p: Array
    mean: Array
    se: Array
    price: Array
    weight: Array


def decide(
    snapshot: Snapshot,
    features: pa.Table,
    catalog: Catalog,
    config: settings.Settings,
    models: Mapping[str, Scorer],
    batch_id: str,
) -> Batch:
    """Decide one treatment, or none, for every customer of the features table.

    Args:
        snapshot: What was known; its moment is the moment of decision.
        features: One row per customer.
        catalog: Fixes the columns.
        config: Rules, limits, reward, policy and experiment.
        models: Registered models by alias (`champion`, `challenger`); without a champion the batch explores
            evenly.
        batch_id: Names the batch; part of every draw.

    Raises:
        DataError: when there is no customer, a feature that a model reads is missing, or a channel of the
            catalog has no consent column.
    """
    check_features(models, features.column_names)
    at, customer_ids = snapshot.at, features["customer_id"].combine_chunks()
    ids: list[str] = customer_ids.to_pylist()
    if not ids:
        raise DataError(f"no customer is known at {at}", "Ingest customers first.")
    valid_until, zone = at + timedelta(days=config.policy.valid_days), config.workspace.timezone
    terms = Terms(valid_until, zone, config.reward.window_days)
    rules = eligible(snapshot, catalog, config.limits, customer_ids, config.engagement, features, terms)
    worth = worth_of(snapshot, features, catalog, config)
    who = deciders(snapshot.at, features, catalog, config, models, worth)
    limited = volumes.of(catalog, config.limits, volumes.spent_today(snapshot, catalog, zone))
    people = _attributes(snapshot, config, customer_ids)
    units = design.units(snapshot)
    placed = design.place(config, ids, at, people, units)
    arms = design.arms(config, at)
    able = [arm.name for arm in arms if who[arm.name].policy is not None]
    active = float(np.isin(placed.arm, able).mean()) or 1.0
    decided = {}
    for arm in arms:
        rows = np.flatnonzero(placed.arm == arm.name)
        share = scaled(limited, len(rows) / len(ids), active)
        names = [ids[row] for row in rows]
        decided[arm.name] = _decide_arm(who[arm.name], rules, rows, share, names, batch_id)
    merged = _merge(decided, rules, worth.weight)
    decision_id = _decision_ids(batch_id, ids)
    decisions = _decision_rows(customer_ids, decision_id, batch_id, merged, catalog) | {
        "external_id": _external_ids(snapshot, customer_ids),
        "decided_at": pa.array([at] * len(ids), tables.TIME),
        "experiment_id": pa.array(placed.experiment_id.tolist(), pa.string()),
        "p_arm": pa.array(placed.p_arm),
        "config_hash": _same(config.config_hash, len(ids)),
        "valid_until": pa.array([valid_until] * len(ids), tables.TIME),
        **send_spans(config, at, catalog, rules.zone, merged.column),
    }
    return Batch(
        batch_id,
        at,
        valid_until,
        config.config_hash,
        tables.DECISIONS.conform(pa.table(decisions)),
        _choice_rows(decision_id, merged, rules, catalog),
        _limit_rows(batch_id, at, catalog, decided),
        removals(batch_id, removed(rules.reason, len(rules.reasons)), config.engagement, catalog),
        features,
        design.assignments(config, ids, at, _assigned(snapshot), people, units),
        {name: found.decider.policy_id for name, found in decided.items()},
        {alias: model.model_id for alias, model in models.items()},
        _notes(catalog, decided, limited),
    )


def _decide_arm(
    decider: Decider,
    rules: Eligibility,
    rows: NDArray[np.int64],
    limited: Limited,
    ids: Sequence[str],
    batch_id: str,
) -> _Decided:
    is_eligible = rules.is_eligible[rows]
    if decider.policy is None:
        allocation = _held_out(len(rows), limited)
    else:
        own = Estimate(decider.belief.mean[rows], decider.belief.se[rows])
        least = volumes.reachable(limited, is_eligible)[0].least
        allocation = allocate(decider.policy, own, is_eligible, limited.use, limited.available, least)
    column = draws.pick(allocation.drawn, draws.uniform(ids, f"decision|{batch_id}"))
    dropped = trim(column, limited.use, limited.available, ids, f"decision|{batch_id}")
    column = np.where(dropped >= 0, 0, column)
    return _Decided(rows, decider, allocation, limited, column, dropped)


def send_spans(
    config: settings.Settings,
    at: datetime,
    catalog: Catalog,
    zone: NDArray[np.int16],
    column: NDArray[np.int64],
) -> dict[str, pa.Array]:
    """Give the columns `send_from` and `send_until`: when each choice may be sent; unknown for `none`."""
    until, channels = at + timedelta(days=config.policy.valid_days), catalog.channels
    found = windows.spans(at, until, zone, channels, config.engagement.send_windows)
    number = np.array([-1, *(channels.index(str(name)) for name in catalog.channel[1:])])[column]
    every, none = np.arange(len(column)), number < 0
    names = ("send_from", "send_until")
    return {
        name: pa.array(part[every, number], pa.int64(), mask=none).cast(tables.TIME)
        for name, part in zip(names, found)
    }


def _held_out(n: int, limited: Limited) -> Allocation:
    k, m = limited.use.shape
    p = np.zeros((n, k))
    p[:, 0] = 1.0
    return Allocation(p, p, np.zeros(m), np.zeros(m), np.ones(k), np.ones(k))


def _merge(decided: Mapping[str, _Decided], rules: Eligibility, weight: Array) -> _Merged:
    n, k = rules.is_eligible.shape
    matrix = np.zeros((n, k))
    out = _Merged(
        np.empty(n, dtype=object),
        np.empty(n, dtype=object),
        np.empty(n, dtype=object),
        np.zeros(n, dtype=np.int64),
        matrix,
        matrix.copy(),
        matrix.copy(),
        matrix.copy(),
        weight,
    )
    for name, found in decided.items():
        rows = found.rows
        out.arm[rows], out.policy_id[rows] = name, found.decider.policy_id
        out.column[rows] = found.column
        out.p[rows] = found.allocation.final
        out.mean[rows], out.se[rows] = found.decider.belief.mean[rows], found.decider.belief.se[rows]
        out.price[rows] = found.limited.use @ found.allocation.price
        out.reason[rows] = _reasons(found, rules, out.mean[rows] - out.price[rows])
    return out


def _decision_rows(
    ids: pa.Array, decision_id: list[str], batch_id: str, merged: _Merged, catalog: Catalog
) -> dict[str, pa.Array]:
    n = len(ids)
    every = np.arange(n)
    return {
        "decision_id": pa.array(decision_id, pa.string()),
        "batch_id": _same(batch_id, n),
        "customer_id": ids,
        "treatment_id": _named(merged.column, catalog.treatment_ids),
        "channel": _named(merged.column, tuple(str(channel) for channel in catalog.channel)),
        "p_action": pa.array(merged.p[every, merged.column]),
        "policy_id": pa.array(merged.policy_id, pa.string()),
        "arm": pa.array(merged.arm, pa.string()),
        "expected_value": pa.array(merged.mean[every, merged.column], from_pandas=True),
        "reason": pa.array(merged.reason, pa.string()),
    }


def _choice_rows(decision_id: list[str], merged: _Merged, rules: Eligibility, catalog: Catalog) -> pa.Table:
    n, k = rules.is_eligible.shape
    return tables.CHOICES.conform(
        pa.table(
            {
                "decision_id": _named(np.repeat(np.arange(n), k), decision_id),
                "treatment_id": _named(np.tile(np.arange(k), n), catalog.treatment_ids),
                "is_eligible": rules.is_eligible.ravel(),
                "reason": _named(rules.reason.ravel(), rules.reasons),
                "p_action": merged.p.ravel(),
                "mean": pa.array(merged.mean.ravel(), from_pandas=True),
                "se": pa.array(merged.se.ravel(), from_pandas=True),
                "price": merged.price.ravel(),
                "weight": merged.weight.ravel(),
            }
        )
    )


def _reasons(found: _Decided, rules: Eligibility, worth: Array) -> NDArray[np.object_]:
    is_eligible, codes = rules.is_eligible[found.rows], rules.reason[found.rows]
    n_eligible = is_eligible.sum(axis=1)
    best = np.where(is_eligible, np.nan_to_num(worth, nan=-np.inf), -np.inf).max(axis=1)
    every = np.arange(len(found.rows))
    is_best = worth[every, found.column] >= best
    out = np.empty(len(found.rows), dtype=object)
    if found.decider.policy is None:
        out[:] = "held out" if found.decider.policy_id == "none" else "decided outside"
        return out
    by_belief = found.decider.policy_id != START and found.decider.policy.floor < 1
    how = "no model yet: drawn evenly" if found.decider.policy_id == START else "drawn evenly"
    for i in every:
        among = f"among {n_eligible[i]} eligible"
        if found.dropped[i] >= 0:
            out[i] = f"drawn, but beyond the limit of {found.limited.names[found.dropped[i]]}"
        elif n_eligible[i] == 1:
            out[i] = f"nothing eligible: {_most(codes[i], rules.reasons)}"
        elif not by_belief:
            out[i] = f"{how} {among}, before limits"
        elif not is_best[i]:
            out[i] = f"explored {among}"
        elif found.column[i] == 0:
            out[i] = f"no contact is best {among}"
        else:
            out[i] = f"best by expected value {among}"
    return out


def _most(codes: NDArray[np.int8], reasons: Sequence[str]) -> str:
    return reasons[int(np.bincount(codes[1:], minlength=len(reasons)).argmax())] if len(codes) > 1 else NONE


def _limit_rows(batch_id: str, at: datetime, catalog: Catalog, decided: Mapping[str, _Decided]) -> pa.Table:
    rows = []
    for arm, found in decided.items():
        n = len(found.rows)
        count = np.bincount(found.column, minlength=len(catalog.treatment_ids))
        for limit in dict.fromkeys((*catalog.channels, *found.limited.names)):
            limited = limit in found.limited.names
            j = found.limited.names.index(limit) if limited else -1
            use = found.limited.use[:, j] if limited else (catalog.channel == limit).astype(np.float64)
            rows.append(
                {
                    "batch_id": batch_id,
                    "arm": arm,
                    "limit": limit,
                    "decided_at": at,
                    "available": volumes.bounded(found.limited.available[j], use, n) if limited else float(n),
                    "used": float(count @ use),
                    "price": float(found.allocation.price[j]) if limited else 0.0,
                    "n_customers": n,
                }
            )
    return tables.BATCHES.build(rows)


def _assigned(snapshot: Snapshot) -> dict[str, list[str]]:
    rows = snapshot.sql("select experiment_id, list(customer_id) as ids from assignments group by 1")
    return {row["experiment_id"]: row["ids"] for row in rows.to_pylist()}


def _attributes(snapshot: Snapshot, config: settings.Settings, ids: pa.Array) -> dict[str, Sequence[object]]:
    # Only what the audiences of trials ask for, in the order of the ids.
    names = sorted({name for trial in config.experiments for name in trial.audience})
    if not names:
        return {}
    found = snapshot.table("customers")
    known = [name for name in names if name in found.column_names]
    order = pc.index_in(ids, found["customer_id"].combine_chunks())
    return {name: found[name].take(order).to_pylist() for name in known}


def _notes(catalog: Catalog, decided: Mapping[str, _Decided], limited: Limited) -> tuple[str, ...]:
    expected = np.sum([found.allocation.expected_use for found in decided.values()], axis=0)
    out = [lack.words for lack in volumes.short(limited, expected)]
    for arm, found in decided.items():
        if found.decider.policy_id == START:
            out.append(f"arm {arm}: no model is registered yet; it explores evenly to gather the first data")
        used = np.bincount(found.column, minlength=len(catalog.treatment_ids)) @ found.limited.use
        out += [
            f"arm {arm}: {words}" for words in volumes.binding(found.limited, found.allocation.price, used)
        ]
        floor = found.decider.policy.floor if found.decider.policy else 0.0
        out += [f"arm {arm}: {text}" for text in cut_words(catalog, floor, found.allocation)]
    return tuple(out)


def cut_words(catalog: Catalog, floor: float, cut: Allocation | Cut) -> list[str]:
    """Say which treatments' exploration floor, and which channels' choices, the limits cut."""
    out = [found.words for found in volumes.floors(floor, cut.floor_kept, catalog.treatment_ids)]
    share = {channel: float(cut.kept[catalog.channel == channel].min()) for channel in catalog.channels}
    lost = [f"{channel} {part:.0%}" for channel, part in share.items() if part < 0.99]
    return [*out, *([f"limits leave of its choices: {', '.join(lost)}"] if lost else [])]


def _external_ids(snapshot: Snapshot, ids: pa.Array) -> pa.Array:
    known = snapshot.sql("select customer_id, external_id from customers")
    found = dict(zip(known["customer_id"].to_pylist(), known["external_id"].to_pylist(), strict=True))
    return pa.array([found[name] for name in ids.to_pylist()], pa.string())


def _decision_ids(batch_id: str, ids: Sequence[str]) -> list[str]:
    return [f"{batch_id}.{blake2b(f'{batch_id}|{x}'.encode(), digest_size=8).hexdigest()}" for x in ids]


def _named(number: NDArray[np.integer], names: Sequence[str]) -> pa.Array:
    indices = pa.array(number.astype(np.int32))
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(names), pa.string())).cast(pa.string())


def _same(text: str, n: int) -> pa.Array:
    return _named(np.zeros(n, dtype=np.int32), [text])
