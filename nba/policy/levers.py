"""Business weights on value, explicit and bounded, and what each of them costs in expected value.

A lever multiplies what a response is worth before costs, for an action, or for the customers of a condition
over features (their context, a bit per lever). The product of all that concern a candidate is kept within
bounds and logged with it. Weights rank; money stays money: what a weight costs is the money that the same
policy within the same limits expects without it, less what it expects with it, both valued without any
weight.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba.catalog import NONE, Catalog
from nba.errors import SettingsError
from nba.policy import rules
from nba.policy.allocate import allocate
from nba.policy.explore import Estimate, Policy
from nba.policy.limits import Limited
from nba.settings import Lever

Array = NDArray[np.float64]
Whole = NDArray[np.int32]
Flags = NDArray[np.bool_]
LOW, HIGH = 0.1, 10.0


class Cost(NamedTuple):
    """What one lever costs.

    Attributes:
        lever: Its name; `all` is all of them together.
        value: Money expected with all levers, unweighted.
        without: Money expected without this one, unweighted.
        cost: Their difference; it may be below 0 by what exploration and limits leave to chance.
        moved: Expected number of customers who are given something else.
    """

    lever: str
    value: float
    without: float
    cost: float
    moved: float


def contexts(features: pa.Table, levers: Sequence[Lever]) -> Whole:
    """Say which levers' conditions hold for each customer, as bits: bit j for lever j; shape (n,).

    Args:
        features: Of the customers.
        levers: At most 30; their conditions read `f_...` columns only, so that what was logged tells them.

    Raises:
        SettingsError: naming every condition that cannot be used.

    Example:
        >>> seen = pa.table({"f_x": [1.0, 3.0, None]})
        >>> contexts(seen, [Lever(name="high", when="f_x > 2", weight=2.0)]).tolist()
        [0, 1, 0]
    """
    n = features.num_rows
    if not levers:
        return np.zeros(n, dtype=np.int32)
    columns = [name for name in features.column_names if name.startswith("f_")]
    faults = [
        fault for lever in levers if (fault := rules.fault(f"lever {lever.name!r}", lever.when, columns))
    ]
    if faults:
        raise SettingsError(
            "\n".join(["levers cannot be used:", *(f"- {fault}" for fault in faults)]),
            "Mend [[policy.levers]] in nba.toml; docs/features.md lists the features.",
        )
    asked = [(f"lever {one.name!r}", f"coalesce(({one.when}\n)::boolean, false)") for one in levers]
    shown = ", ".join(f"{sql} as lever_{j}" for j, (_, sql) in enumerate(asked))
    rows = features.select(columns).append_column("asked_row", pa.array(np.arange(n)))
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("asked", rows)
        try:
            found = connection.sql(f"select {shown} from asked order by asked_row").to_arrow_table()
        except duckdb.Error as error:
            raise rules.unanswered(asked, "asked", connection.execute, error) from None
    bits = np.zeros(n, dtype=np.int32)
    for j, name in enumerate(found.column_names):
        bits |= found[name].to_numpy().astype(np.int32) << j
    return bits


def weights(bits: Whole, levers: Sequence[Lever], catalog: Catalog) -> Array:
    """Give the weight of every candidate, shape (n, k); 1 for `none`.

    Args:
        bits: Which levers' conditions hold, shape (n,), of `contexts`.
        levers: In the order of the bits.
        catalog: Gives the actions' own levers.

    Raises:
        SettingsError: when a lever names something that the catalog lacks, or is out of bounds.
    """
    present, row = np.unique(bits, return_inverse=True)
    return np.asarray(together(by_name(present.astype(np.int32), levers, catalog))[row])


def by_name(bits: Whole, levers: Sequence[Lever], catalog: Catalog) -> dict[str, Array]:
    """Give the weights of each lever by name, shapes (1, k) of actions and (n, k) of contexts.

    Raises:
        SettingsError: when a lever names something that the catalog lacks.
    """
    names = {f"{level}s": of for level, of in catalog.levels.items()}
    ones, out, faults = np.ones((1, len(catalog.treatment_ids))), {}, []
    for action in catalog.actions:
        out[f"action {action.action_id}"] = np.where(catalog.action == action.action_id, action.lever, ones)
    for j, lever in enumerate(levers):
        concerned = np.arange(ones.shape[1]) > 0
        for level, of in names.items():
            asked = getattr(lever, level)
            if odd := sorted(set(asked) - set(of.tolist())):
                known = sorted(set(of.tolist()) - {NONE})
                faults.append(f"lever {lever.name!r} names {level} {odd}; the catalog has {known}")
            concerned &= np.isin(of, asked) if asked else True
        holds = (bits >> j & 1).astype(bool)[:, None]
        out[lever.name] = np.where(holds & concerned[None, :], lever.weight, 1.0)
    if faults:
        raise SettingsError(
            "\n".join(["levers cannot be used:", *(f"- {fault}" for fault in faults)]),
            "Mend [[policy.levers]] in nba.toml, or the catalog.",
        )
    return out


def together(weights: Mapping[str, Array]) -> Array:
    """Multiply weights by name, shapes that broadcast to (n, k), and keep the product within 0.1 to 10.

    Raises:
        SettingsError: when a weight is unknown, not above 0, or beyond its bounds.

    Example:
        >>> together({"sale": np.array([[1.0, 2.0]]), "loyal": np.array([[1.0], [8.0]])}).tolist()
        [[1.0, 2.0], [8.0, 10.0]]
    """
    faults = []
    for name, weight in weights.items():
        if not ((weight >= LOW) & (weight <= HIGH)).all():
            faults.append(f"lever {name!r} runs from {np.min(weight):g} to {np.max(weight):g}")
    if faults:
        raise SettingsError(
            "\n".join(["levers cannot be used:", *(f"- {fault}" for fault in faults)]),
            f"Keep every weight within {LOW:g} to {HIGH:g}; to stop an action, end it or write a rule.",
        )
    out = np.ones((1, 1))
    for weight in weights.values():
        out = out * weight
    return np.clip(out, LOW, HIGH)


def weighted(gain: Estimate, spent: Array, weight: Array) -> Estimate:
    """Weigh what treatments gain, before what they cost: `weight * gain - spent`.

    Args:
        gain: Uplift in money before costs, shapes (n, k).
        spent: Cost and the price of an opt-out, shape (k,) or (n, k).
        weight: Shape that broadcasts to (n, k).
    """
    mean, se = weight * gain.mean - spent, weight * gain.se
    mean[:, 0] = se[:, 0] = 0.0
    return Estimate(mean, se)


def costs(
    policy: Policy,
    gain: Estimate,
    spent: Array,
    weights: Mapping[str, Array],
    is_eligible: Flags,
    limited: Limited,
) -> tuple[Cost, ...]:
    """Say what each lever costs in expected value: prices are solved anew without it.

    Args:
        policy: That decides.
        gain: Uplift in money before costs and weights, shapes (n, k).
        spent: Cost and the price of an opt-out, shape (k,) or (n, k).
        weights: Name to weight, shapes that broadcast to (n, k).
        is_eligible: Shape (n, k).
        limited: The limits.

    Returns:
        One record per lever, then one for all of them together.
    """

    def decided(left: Mapping[str, Array]) -> Array:
        belief = weighted(gain, spent, together(left))
        found = allocate(policy, belief, is_eligible, limited.use, limited.available, limited.least)
        return found.final

    plain = weighted(gain, spent, np.ones((1, 1))).mean
    plain = np.where(is_eligible & ~np.isnan(plain), plain, 0.0)
    served = decided(weights)
    value = float((served * plain).sum())
    out = []
    left_out = {name: {k: w for k, w in weights.items() if k != name} for name in weights}
    for name, left in {**left_out, "all": {}}.items():
        other = decided(left)
        without = float((other * plain).sum())
        moved = float(np.abs(other - served).sum() / 2)
        out.append(Cost(name, value, without, without - value, moved))
    return tuple(out)
