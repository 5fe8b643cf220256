"""Limits become prices: one shadow price per capacity or budget, then each customer is decided alone.

The prices minimise the smooth convex dual of the batch (for a softmax exactly: its log-partition is the
dual's smoothing, Nesterov 2005), so that the *expected* use of every limit lies just inside it. Independent
draws scatter around that; whatever a draw still puts over a limit is trimmed to `none` in an order hashed
independently of the draw, and the logged probabilities hold the share that trimming takes on average.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import ndtri

from nba import draws
from nba.policy.explore import Estimate, Policy, Softmax, even

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Expected use aims this many standard deviations of the draw inside a limit, but gives up at most this share
# of it: at small limits trimming costs less than the margin would.
MARGIN_SD, MARGIN_SHARE = 2.0, 0.05
# The even floor of a policy that also exploits may use at most this share of any limit.
FLOOR_SHARE = 0.5
# Policies that are not smooth in belief are priced at this share of the spread of belief as temperature.
_COLD = 1e-3
# Midpoints of 200 equal parts of the standard normal.
_NORMAL = ndtri((np.arange(200) + 0.5) / 200)


class Allocation(NamedTuple):
    """Probabilities within limits, and what the limits cost.

    Attributes:
        drawn: Probabilities to draw from, shape (n, k).
        final: Probabilities after trimming, which is what is logged, shape (n, k).
        price: Money per unit of each limit, shape (m,).
        expected_use: Expected use of each limit by `final`, shape (m,).
        floor_kept: Share of the even floor that each treatment kept, shape (k,); 1 where no limit cut it.
        kept: Share of each treatment's remaining probability that was kept, shape (k,): below 1 where
            prices alone could not meet a limit, as for a policy that ignores them.
    """

    drawn: Array
    final: Array
    price: Array
    expected_use: Array
    floor_kept: Array
    kept: Array


def allocate(
    policy: Policy, estimate: Estimate, is_eligible: Flags, use: Array, available: Array
) -> Allocation:
    """Find the prices at which a policy's expected use meets its limits, and its probabilities there.

    Args:
        policy: Any policy; a softmax is priced exactly.
        estimate: Belief in money, shapes (n, k).
        is_eligible: Shape (n, k).
        use: What one choice of each treatment uses of each limit, shape (k, m); row 0 is 0. A treatment of
            which one choice would exceed a limit is not chosen.
        available: The limits, shape (m,).

    Example:
        >>> belief = Estimate(np.array([[0.0, 1.0], [0.0, 3.0]] * 500), np.zeros((1000, 2)))
        >>> use, limit = np.array([[0.0], [1.0]]), np.array([500.0])
        >>> found = allocate(Softmax(0.01, 0.0), belief, np.ones((1000, 2), bool), use, limit)
        >>> bool(1 < found.price[0] < 3), round(float(found.expected_use[0]))
        (True, 500)
    """
    n, k = is_eligible.shape
    if not len(available) or n == 0:
        p = policy.probabilities(estimate, is_eligible)
        ones = np.ones(k)
        return Allocation(p, p, np.zeros(len(available)), np.zeros(len(available)), ones, ones)
    is_eligible = is_eligible & (use <= available).all(axis=1)
    explored = policy.floor * even(is_eligible)
    exploits = policy.floor < 1
    floor_kept = _fitting(explored, use, available * FLOOR_SHARE) if exploits else np.ones(k)
    explored = _thin(explored, floor_kept)
    price, margin = np.zeros(len(available)), np.zeros(len(available))
    for _ in range(3):
        target = available - margin
        if exploits:
            room = target - explored.sum(axis=0) @ use
            price = _prices(policy, estimate.mean, is_eligible, use, room, start=price)
        drawn, kept, price = _served(policy, estimate, is_eligible, explored, use, target, price)
        wanted = np.minimum(MARGIN_SD * _spread(drawn, use), MARGIN_SHARE * available)
        if (drawn.sum(axis=0) @ use <= available - 0.98 * wanted).all():
            break
        margin = wanted
    final = after_trimming(drawn, use, available)
    return Allocation(drawn, final, price, final.sum(axis=0) @ use, floor_kept, kept)


def trim(
    chosen: NDArray[np.int64], use: Array, available: Array, customer_ids: Sequence[str], salt: str
) -> NDArray[np.int64]:
    """Drop choices beyond a limit, in an order hashed by customer, independent of value and of the draw.

    Args:
        chosen: Column drawn for each customer, shape (n,).
        use: Shape (k, m); row 0 is 0.
        available: Shape (m,).
        customer_ids: Shape (n,).
        salt: Names the batch.

    Returns:
        Number of the limit that a choice was dropped for, or -1, shape (n,).

    Example:
        >>> use, available = np.array([[0.0], [1.0]]), np.array([1.0])
        >>> trim(np.array([1, 1, 0]), use, available, ["a", "b", "c"], "x").tolist()
        [-1, 0, -1]
    """
    dropped = np.full(len(chosen), -1)
    for j, limit in enumerate(available):
        spent = np.where(dropped < 0, use[chosen, j], 0.0)
        if spent.sum() <= limit:
            continue
        rows = np.flatnonzero(spent > 0)
        order = np.argsort(
            draws.uniform([customer_ids[int(i)] for i in rows], f"{salt}|trim|{j}"), kind="stable"
        )
        ranked = rows[order]
        dropped[ranked[np.cumsum(spent[ranked]) > limit * (1 + 1e-12)]] = j
    return dropped


def after_trimming(p: Array, use: Array, available: Array) -> Array:
    """Give the probabilities that remain once draws beyond a limit are trimmed to `none`.

    A customer's chance of being kept is E[min(1, a / (1 + U))] over the number U of others drawn, a Poisson
    binomial, where a limit counts contacts; where amounts differ, U is a normal sum.

    Args:
        p: Probabilities drawn from, shape (n, k).
        use: Shape (k, m); row 0 is 0.
        available: Shape (m,).

    Returns:
        Shape (n, k).
    """
    for j, limit in enumerate(available):
        uses = use[:, j] > 0
        if not uses.any():
            continue
        amounts = use[uses, j]
        if np.allclose(amounts, amounts[0], rtol=1e-9):
            counted = _kept_of_counted(p[:, uses].sum(axis=1), int(limit / amounts[0] * (1 + 1e-12)))
            kept = np.where(uses[None, :], counted[:, None], 1.0)
        else:
            kept = np.broadcast_to(_kept_of_sum(p, use[:, j], limit), p.shape)
        if (kept < 1).any():
            p = _thin(p, kept)
    return p


def _kept_of_counted(q: Array, limit: int) -> Array:
    mean, spread = q.sum(), float(np.sqrt((q * (1 - q)).sum()))
    if mean + 8 * spread + 1 < limit or len(q) <= limit:
        return np.ones(len(q))
    if limit == 0:
        return np.zeros(len(q))
    # Customers of like chance are taken together.
    bins = np.minimum((q * 256).astype(np.int64), 255)
    n = np.bincount(bins, minlength=256)
    chance = np.bincount(bins, weights=q, minlength=256) / np.maximum(n, 1)
    low, mass = _poisson_binomial(chance, n)
    fits = np.minimum(1.0, limit / (1.0 + low + np.arange(len(mass))))
    return np.clip(fits @ _without_one(mass, chance), 0.0, 1.0)[bins]


def _poisson_binomial(chance: Array, n: NDArray[np.int64]) -> tuple[int, Array]:
    # Mass of the sum of n draws of each chance, from `low` on, by its characteristic function.
    mean, spread = float(n @ chance), float(np.sqrt(n @ (chance * (1 - chance))))
    low = max(int(mean - 10 * spread) - 8, 0)
    size = int(20 * spread) + 32
    step = np.exp(2j * np.pi * np.arange(size) / size)
    log_cf = np.zeros(size, dtype=np.complex128)
    with np.errstate(divide="ignore"):
        for share, many in zip(chance[n > 0], n[n > 0], strict=True):
            log_cf += many * np.log(1 + share * (step - 1))
    mass = np.fft.fft(np.exp(log_cf)).real / size
    return low, np.clip(np.roll(mass, -(low % size)), 0.0, None)


def _without_one(mass: Array, chance: Array) -> Array:
    # Mass without one draw of each chance, shape (len(mass), b): the convolution undone, from the end at
    # which errors shrink.
    forward, size = chance <= 0.5, len(mass)
    up, down = chance[forward], chance[~forward]
    out = np.zeros((size, len(chance)))
    left, right = np.zeros(len(up)), np.zeros(len(down))
    for i in range(size):
        left = (mass[i] - up * left) / (1 - up)
        out[i, forward] = left
        last = size - 1 - i
        right = ((mass[last + 1] if i else 0.0) - (1 - down) * right) / down
        out[last, ~forward] = right
    return out


def _kept_of_sum(p: Array, use: Array, limit: float) -> Array:
    # Chance that an amount u still fits: the others' sum U before it is uniform on (0, U + c), so that
    # E min(1, (a - u + c) / (U + c)), c the mean amount met, U normal. Exact where all amounts are one.
    mean = float((p @ use).sum())
    spread = float(_spread(p, use[:, None])[0])
    kept = np.ones(len(use))
    if mean == 0 or mean + 8 * spread + use.max() <= limit:
        return kept
    met = float((p @ use**2).sum() / mean)
    own = float(((p @ use) ** 2).sum() / mean)
    others = np.maximum(mean - own + spread * _NORMAL, 0.0)
    uses = use > 0
    fits = (limit - use[uses, None] + met) / (others + met)
    kept[uses] = np.clip(fits, 0.0, 1.0).mean(axis=1)
    kept[use > limit] = 0.0
    return kept


def _prices(policy: Policy, mean: Array, is_eligible: Flags, use: Array, room: Array, start: Array) -> Array:
    # min over prices >= 0 of sum_i (1 - floor) T logsumexp((mean_i - use price) / T) + price @ room
    masked = np.where(is_eligible, mean, -np.inf)
    spread = float(np.std(mean[is_eligible])) or 1.0
    final = policy.temperature if isinstance(policy, Softmax) else _COLD * spread
    share = 1 - policy.floor
    unit = use.max(axis=0)
    unit[unit == 0] = 1.0
    most = np.maximum(masked, 0.0).max(axis=0)
    price = start
    for temperature in [final] if start.any() else _cooling(spread, final):
        cells = np.where(use > 0, (most[:, None] + 40 * temperature) / np.where(use > 0, use, 1.0), 0.0)
        bound = cells.max(axis=0) * unit / temperature
        dual = _Dual(masked / temperature, use / unit, room / unit / share)
        first = np.clip(price * unit / temperature, 0.0, bound)
        found = minimize(
            dual,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, b) for b in bound],
            options={"maxiter": 200, "ftol": 1e-13, "gtol": 1e-9},
        )
        price = np.asarray(found.x) * temperature / unit
    return price


def _cooling(spread: float, final: float) -> list[float]:
    # A cold dual has kinks: come to it from a warm one.
    steps = max(int(np.log10(spread / final)), 0) if spread > final else 0
    return [final * 10.0**step for step in range(steps, -1, -1)]


class _Dual:
    """Value and gradient of the smooth dual per customer, in units of the temperature."""

    def __init__(self, mean: Array, use: Array, room: Array) -> None:
        self._mean, self._use, self._room = mean, use, room
        self._p = np.empty_like(mean)

    def __call__(self, price: Array) -> tuple[float, Array]:
        n, p = len(self._mean), self._p
        np.subtract(self._mean, self._use @ price, out=p)
        top = p.max(axis=1)
        p -= top[:, None]
        np.exp(p, out=p)
        total = p.sum(axis=1)
        used = ((1 / total) @ p) @ self._use
        value = (top + np.log(total)).sum() + price @ self._room
        return float(value) / n, (self._room - used) / n


def _served(
    policy: Policy,
    estimate: Estimate,
    is_eligible: Flags,
    explored: Array,
    use: Array,
    target: Array,
    price: Array,
) -> tuple[Array, Array, Array]:
    # A smooth policy meets its prices; others jump there, so try near prices and keep what is worth most.
    exact = isinstance(policy, Softmax) or policy.floor == 1 or not price.any()
    best: tuple[float, Array, Array, Array] | None = None
    for nudge in (0.0,) if exact else (0.0, 1e-4, 1e-3, 1e-2, -1e-3):
        nudged = price * (1 + nudge)
        p = policy.probabilities(estimate.net_of(use @ nudged), is_eligible)
        p = np.maximum(p - policy.floor * even(is_eligible), 0.0) + explored
        p[:, 0] += 1 - p.sum(axis=1)
        kept = _fitting(p, use, target)
        p = _thin(p, kept)
        worth = float(np.nansum(p * np.where(is_eligible, estimate.mean, 0.0)))
        if best is None or worth > best[0]:
            best = (worth, p, kept, nudged)
    assert best is not None
    return best[1:]


def _fitting(p: Array, use: Array, available: Array) -> Array:
    """Give the share of each treatment's probability that the limits allow, shape (k,).

    Of all shares that fit it is the nearest in relative entropy (Csiszar 1975), `exp(-use @ price)`: who
    uses most of what is scarce gives way most.
    """
    total = p.sum(axis=0)
    limit = np.maximum(available, 0.0)
    if (total @ use <= limit).all():
        return np.ones(len(total))
    blocked = (use[:, limit == 0] > 0).any(axis=1)
    total = np.where(blocked, 0.0, total)
    live = limit > 0
    scaled = use[:, live] / limit[live]

    def dual(price: Array) -> tuple[float, Array]:
        left = total * np.exp(-scaled @ price)
        return float(left.sum() + price.sum()), 1 - left @ scaled

    found = minimize(
        dual,
        np.zeros(live.sum()),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * int(live.sum()),
        options={"maxiter": 500, "ftol": 1e-14, "gtol": 1e-10},
    )
    kept = np.where(blocked, 0.0, np.exp(-scaled @ found.x))
    over = (total * kept) @ scaled
    return kept * np.where((scaled > 0), 1 / np.maximum(over, 1.0), 1.0).min(axis=1, initial=1.0)


def _thin(p: Array, kept: Array) -> Array:
    out = p * kept
    out[:, 0] = np.maximum(out[:, 0] + (p - out).sum(axis=1), 0.0)
    return out


def _spread(p: Array, use: Array) -> Array:
    # Standard deviation of the use of independent draws, shape (m,).
    variance = (p @ use**2 - (p @ use) ** 2).sum(axis=0)
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)))
