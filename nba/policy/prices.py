"""The prices at which the expected use of every limit meets it: a convex dual of a few variables.

For policies that maximise a smoothed value (softmax: entropy, SquareCB: log-barrier) the dual is exact and
has cheap second derivatives, which are summed over customers in the space of the treatments. Policies
without one are priced as a cold softmax.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from nba.policy import explore, kernels
from nba.policy.explore import Estimate, Policy, Softmax, SquareCB

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
# Sum over customers of the smoothed best at a charge per treatment, its choices (k,), its curvature (k, k).
Dual = Callable[[Array], tuple[float, Array, Array]]

# Policies that are not smooth in belief are priced at this share of the spread of belief as temperature.
COLD = 1e-3
# Prices come from so many customers first, then from a few passes over all.
SAMPLES = (8_000, 60_000)
_STEPS = 30
# Largest share of a limit by which its use may miss it: at the end, and on the way.
_TOLERANCE, _ROUGH = 1e-6, 1e-3


def find(
    policy: Policy, estimate: Estimate, is_eligible: Flags, use: Array, room: Array, start: Array
) -> Array:
    """Minimise over prices of 0 and more: the customers' smoothed best at the prices, plus prices @ room.

    Args:
        policy: Softmax and SquareCB are priced exactly, all others as a cold softmax.
        estimate: Belief in money, shapes (n, k).
        is_eligible: Shape (n, k).
        use: What one choice uses of each limit, shape (k, m); negative for a limit from below.
        room: What belief may use of each limit, shape (m,); negative for a limit from below.
        start: Prices to begin from, shape (m,).

    Returns:
        Money per unit of each limit, shape (m,).
    """
    share, n = 1 - policy.floor, len(is_eligible)
    top, (total, square, low, known), _ = kernels.survey(estimate.mean, is_eligible)
    spread = float(np.sqrt(max(square / max(known, 1) - (total / max(known, 1)) ** 2, 0.0))) or 1.0
    bound = _bound(top + max(-float(low), 0.0) * (use < 0).any() + 40 * spread, use)
    price = np.clip(start, 0.0, bound)
    sizes = [size for size in SAMPLES if 2 * size < n and not start.any()]
    order = np.random.default_rng(0).permutation(n)[: max(sizes)] if sizes else np.zeros(0, dtype=np.int64)
    for level, size in enumerate([*sizes, n]):
        rows = order[:size] if size < n else slice(None)
        part = Estimate(estimate.mean[rows], estimate.se[rows]), is_eligible[rows]
        duals = _duals(policy, *part, spread, cool=level == 0 and not start.any())
        for stage, dual in enumerate(duals):
            tolerance = _TOLERANCE if size == n and stage == len(duals) - 1 else _ROUGH
            price = _solve(dual, use, room * (size / n / share), price, bound, tolerance)
    return price


def match(
    policy: Policy, estimate: Estimate, is_eligible: Flags, use: Array, room: Array, price: Array
) -> Array:
    """Move prices until a policy without a dual of its own meets its limits, shape (m,).

    The steps are Newton's with the curvature of a softmax of the same width, on at most `SAMPLES[0]`
    customers; what they leave is thinned by the caller.
    """
    n, share = len(is_eligible), 1 - policy.floor
    size = min(n, SAMPLES[0])
    rows = np.random.default_rng(0).permutation(n)[:size]
    part, own = Estimate(estimate.mean[rows], estimate.se[rows]), is_eligible[rows]
    limit = room * (size / n / share)
    width = 0.6 * float(np.sqrt(np.nanmean(part.se[own] ** 2))) or COLD
    floor = policy.floor * explore.even(own).sum(axis=0)
    for _ in range(12):
        charge = use @ price
        chosen = policy.probabilities(part.net_of(charge), own).sum(axis=0) - floor
        slope = limit - (chosen / share) @ use
        held = (price <= 0) & (slope >= 0)
        if (np.abs(slope) <= 1e-3 * _reaching(limit))[~held].all():
            break
        curve = use.T @ kernels.softmax_dual(part.mean, own, charge, width)[2] @ use
        curve += (1e-6 * float(np.trace(curve)) + 1e-300) * np.eye(len(price))
        price = price + kernels.boxed_newton(curve, slope, -price, np.full(len(price), np.inf))
    return price


def is_exact(policy: Policy) -> bool:
    """Say whether a policy's choices are the slope of the dual that `find` minimises."""
    return isinstance(policy, Softmax | SquareCB)


def _duals(policy: Policy, estimate: Estimate, is_eligible: Flags, spread: float, cool: bool) -> list[Dual]:
    # The last is the policy's own. A cold dual has kinks: come to it from warm ones.
    mean = estimate.mean
    final = policy.temperature if isinstance(policy, Softmax) else COLD * spread
    own: list[Dual] = []
    if isinstance(policy, SquareCB):
        gamma = policy.gamma(estimate, is_eligible)
        finite = gamma[np.isfinite(gamma)]
        final = 1 / float(np.median(finite)) if len(finite) else final
        gamma = np.minimum(gamma, 1e4 / spread)  # a certain belief would be a kink
        own = [lambda charge: kernels.barrier_dual(mean, is_eligible, charge, gamma)]

    def at(temperature: float) -> Dual:
        return lambda charge: kernels.softmax_dual(mean, is_eligible, charge, temperature)

    return [at(t) for t in (_cooling(spread, final) if cool else [final] if not own else [])] + own


def _cooling(spread: float, final: float) -> list[float]:
    steps = max(int(np.ceil(np.log(spread / final) / np.log(6))), 0) if spread > final else 0
    return [final * 6.0**step for step in range(steps, -1, -1)]


def _bound(width: Array, use: Array) -> Array:
    # Above these prices nobody would choose what uses a limit (or all would, for one from below).
    with np.errstate(divide="ignore", invalid="ignore"):
        cells = np.where(use != 0, width[:, None] / np.abs(use), 0.0)
    return np.asarray(cells.max(axis=0))


def _solve(dual: Dual, use: Array, room: Array, price: Array, bound: Array, tolerance: float) -> Array:
    # Newton steps within the box, in units in which every price is about one; L-BFGS-B where it stalls.
    unit = np.where(bound > 0, bound, 1.0)
    scaled, limit = use * unit, room * unit
    worth = _reaching(limit)
    x = price / unit

    def at(x: Array) -> tuple[float, Array, Array]:
        value, chosen, curve = dual(scaled @ x)
        return value + float(x @ limit), limit - chosen @ scaled, scaled.T @ curve @ scaled

    value, slope, curve = at(x)
    for _ in range(_STEPS):
        held = (x <= 0) & (slope >= 0) | (x >= 1) & (slope <= 0)
        if (np.abs(slope) <= tolerance * worth)[~held].all():
            return x * unit
        ridge = 1e-9 * float(np.trace(curve)) / len(x) + 1e-300
        step = kernels.boxed_newton(curve + ridge * np.eye(len(x)), slope, -x, 1 - x)
        moved = _descend(at, x, value, slope, step)
        if moved is None:
            break
        x, value, slope, curve = moved
    found = minimize(
        lambda y: at(y)[:2],
        x,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * len(x),
        options={"maxiter": 200, "ftol": 1e-13, "gtol": tolerance * float(worth.min())},
    )
    return np.asarray(found.x) * unit


def _reaching(limit: Array) -> Array:
    return np.maximum(np.abs(limit), 1e-9 * max(float(np.abs(limit).max()), 1e-300))


def _descend(
    at: Callable[[Array], tuple[float, Array, Array]], x: Array, value: float, slope: Array, step: Array
) -> tuple[Array, float, Array, Array] | None:
    for halving in range(12):
        part = 0.5**halving
        y = np.clip(x + part * step, 0.0, 1.0)
        found = at(y)
        if found[0] <= value + 1e-4 * part * min(float(slope @ step), 0.0) + 1e-13 * abs(value):
            return y, *found
    return None
