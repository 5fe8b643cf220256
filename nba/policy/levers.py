"""Business weights on value, explicit and bounded, and what each of them costs in expected value.

A lever multiplies what a response is worth before costs, for an action, or for the customers of a condition
(context). Weights rank; money stays money: what a weight costs is the money that the same policy within the
same limits expects without it, less what it expects with it, both valued without any weight.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nba.errors import SettingsError
from nba.policy.allocate import allocate
from nba.policy.explore import Estimate, Policy
from nba.policy.limits import Limited

Array = NDArray[np.float64]
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
