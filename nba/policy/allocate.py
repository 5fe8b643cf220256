"""Limits become prices: one shadow price per volume or budget, then each customer is decided alone.

The prices minimise the smooth convex dual of the batch (`nba.policy.prices`), so that the *expected* use of
every limit meets it. Independent draws scatter around that; whatever a draw puts over a limit is trimmed to
`none` in an order hashed independently of the draw, and the logged probabilities hold the share that trimming
takes on average. That share has a formula for a cap on contacts that has its treatments to itself; for other
limits the draws of few customers are replayed (`nba.policy.replayed`). There expected use aims a margin
inside the limit, so that trimming is rare; so it does where there are limits from below, whose price is a
subsidy.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import ndtri

from nba import draws
from nba.policy import explore, prices, replayed, trimming
from nba.policy.explore import Estimate, Policy, Thompson, even

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Where trimming is approximated, expected use aims this many standard deviations of the draw inside a limit,
# but gives up at most this share of it.
MARGIN_SD, MARGIN_SHARE = 2.0, 0.05
# The even floor of a policy that also exploits may use at most this share of any limit.
FLOOR_SHARE = 0.5
# Customers whose probabilities are worked out at a time, so that they stay in the processor's cache.
_CHUNK = 16_384
# Midpoints of 200 equal parts of the standard normal.
_NORMAL = ndtri((np.arange(200) + 0.5) / 200)
# Frequencies of a Poisson binomial beyond which its characteristic function is below e**-100.
_FREQUENCIES = 64


class Allocation(NamedTuple):
    """Probabilities within limits, and what the limits cost.

    Attributes:
        drawn: Probabilities to draw from, shape (n, k).
        final: Probabilities after trimming, which is what is logged, shape (n, k).
        price: Money per unit of each limit, shape (m,); below 0 where a limit from below binds.
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
    policy: Policy,
    estimate: Estimate,
    is_eligible: Flags,
    use: Array,
    available: Array,
    least: Array | None = None,
) -> Allocation:
    """Find the prices at which a policy's expected use meets its limits, and its probabilities there.

    Args:
        policy: Any policy; softmax and SquareCB are priced exactly.
        estimate: Belief in money, shapes (n, k).
        is_eligible: Shape (n, k).
        use: What one choice of each treatment uses of each limit, shape (k, m); row 0 is 0. A treatment of
            which one choice would exceed a limit is not chosen.
        available: The limits from above, shape (m,); infinite where there is none.
        least: The limits from below, shape (m,); 0 where there is none. They hold in expectation, as far as
            eligibility and the limits from above let them (`nba.policy.limits.reachable`).

    Raises:
        DataError: when there is nothing to believe (`nba.policy.explore.check`).

    Example:
        >>> belief = Estimate(np.array([[0.0, 1.0], [0.0, 3.0]] * 500), np.zeros((1000, 2)))
        >>> use, limit = np.array([[0.0], [1.0]]), np.array([500.0])
        >>> found = allocate(explore.Softmax(0.01, 0.0), belief, np.ones((1000, 2), bool), use, limit)
        >>> bool(1 < found.price[0] < 3), round(float(found.expected_use[0]))
        (True, 500)
    """
    explore.check(policy, estimate, is_eligible)
    n, k = is_eligible.shape
    m = len(available)
    least = np.zeros(m) if least is None else least
    if not m or n == 0:
        p = policy.probabilities(estimate, is_eligible)
        return Allocation(p, p, np.zeros(m), p.sum(axis=0) @ use, np.ones(k), np.ones(k))
    is_eligible = is_eligible & (use <= available).all(axis=1)
    exploits = policy.floor < 1
    explored = policy.floor * even(is_eligible).sum(axis=0) if policy.floor else np.zeros(k)
    floor_kept = _fitting(explored, use, available * FLOOR_SHARE) if exploits else np.ones(k)
    case = _Case(policy, estimate, is_eligible, use, floor_kept)
    price, margin = np.zeros(2 * m), np.zeros(m)
    # Trimming a cap would eat into a minimum within it.
    exact = replayed.trims_exactly(use, available) & (not least.any())
    for _ in range(3):
        target = available - margin
        if exploits:
            price = _priced(case, target, np.where(least > 0, least + margin, 0.0), price)
        drawn, kept, price = _served(case, target, price)
        wanted = np.minimum(MARGIN_SD * _spread(drawn, use), MARGIN_SHARE * available)
        wanted = np.where(exact, 0.0, wanted)
        if (drawn.sum(axis=0) @ use <= available * (1 + 1e-9) - 0.98 * wanted).all():
            break
        margin = np.where(np.isfinite(available), wanted, 0.0)
    final = after_trimming(drawn, use, available)
    net = price[:m] - price[m:]
    return Allocation(drawn, final, net, final.sum(axis=0) @ use, floor_kept, kept)


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
    binomial, where a limit counts contacts. Where limits that may be exceeded share treatments, or amounts
    differ, the draws of up to 10,000 customers are replayed (`nba.policy.replayed`), and of up to 200,000 if
    no more than 1,000 contacts are expected. Of others, limits are taken one after the other, U a normal sum
    where amounts differ: off by less than 0.001 there.

    Args:
        p: Probabilities drawn from, shape (n, k).
        use: Shape (k, m); row 0 is 0.
        available: Shape (m,).

    Returns:
        Shape (n, k).
    """
    expected, spread = p.sum(axis=0) @ use, _spread(p, use)
    near = expected + 8 * spread + use.max(axis=0, initial=0.0) > available
    together = replayed.needed(use, available, expected, spread)
    contacts = float(p[:, (use[:, together] > 0).any(axis=1)].sum())
    if together.any() and replayed.pays(len(p), contacts):
        left = replayed.shares(p, use[:, together], available[together])
        return _thin(p, replayed.of_rows(p, left.rows, left.share))
    for j, limit in enumerate(available):
        uses = use[:, j] > 0
        if not near[j] or not uses.any():
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
    bins = np.minimum((q * trimming.BINS).astype(np.int64), trimming.BINS - 1)
    n = np.bincount(bins, minlength=trimming.BINS)
    total = np.asarray(np.bincount(bins, weights=q, minlength=trimming.BINS), dtype=np.float64)
    return kept_by_chance(total, n, limit)[bins]


def kept_by_chance(total: Array, n: NDArray[np.int64], limit: int) -> Array:
    """Give the chance that a draw is kept within a number of contacts, by the chance of being drawn.

    Args:
        total: Sum of the chances of the customers of each bin, shape (b,).
        n: Customers of each bin, shape (b,).
        limit: How many are kept.

    Returns:
        E[min(1, limit / (1 + U))], U the number of others drawn, shape (b,).

    Example:
        >>> kept_by_chance(np.array([1.0]), np.array([2]), 1).tolist()  # the other is drawn half the time
        [0.75]
    """
    chance = np.clip(total / np.maximum(n, 1), 0.0, 1.0)
    mean, spread = float(n @ chance), float(np.sqrt(n @ (chance * (1 - chance))))
    if mean + 8 * spread + 1 < limit or n.sum() <= limit:
        return np.ones(len(n))
    if limit == 0:
        return np.zeros(len(n))
    low, mass = _poisson_binomial(chance, n, mean, spread)
    fits = np.minimum(1.0, limit / (1.0 + low + np.arange(len(mass))))
    return np.asarray(np.clip(trimming.fits_without_one(mass, chance, fits), 0.0, 1.0))


def _poisson_binomial(chance: Array, n: NDArray[np.int64], mean: float, spread: float) -> tuple[int, Array]:
    # Mass of the sum of n draws of each chance, from `low` on, by its characteristic function.
    low = max(int(mean - 10 * spread) - 8, 0)
    size = int(20 * spread) + 32
    step = np.exp(-2j * np.pi * np.arange(min(size // 2 + 1, _FREQUENCIES)) / size)
    log_cf = np.zeros(len(step), dtype=np.complex128)
    with np.errstate(divide="ignore"):
        for share, many in zip(chance[n > 0], n[n > 0], strict=True):
            log_cf += many * np.log(1 + share * (step - 1))
    mass = np.fft.irfft(np.exp(log_cf), size)
    return low, np.clip(np.roll(mass, -(low % size)), 0.0, None)


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


class _Case(NamedTuple):
    # What a batch is decided with; `floor_kept` is the share of the even floor that each treatment keeps.
    policy: Policy
    estimate: Estimate
    is_eligible: Flags
    use: Array
    floor_kept: Array

    def probabilities(self, charge: Array, rows: slice) -> Array:
        # At a charge per treatment, shape (rows, k).
        policy, own = self.policy, self.is_eligible[rows]
        belief = Estimate(self.estimate.mean[rows] - charge, self.estimate.se[rows])
        p = policy.probabilities(belief, own)
        if (self.floor_kept < 1).any():
            explored = policy.floor * even(own)
            p = np.maximum(p - explored, 0.0) + explored * self.floor_kept
            p[:, 0] += 1 - p.sum(axis=1)
        return p

    def totals(self, charge: Array) -> tuple[Array, Array]:
        # Expected choices of each treatment, and what they are worth before prices, shapes (k,).
        chosen, worth = np.zeros(self.use.shape[0]), np.zeros(self.use.shape[0])
        for rows in self.chunks():
            p = self.probabilities(charge, rows)
            chosen += p.sum(axis=0)
            mean = self.estimate.mean[rows]
            worth += np.einsum("ij,ij->j", p, np.where(np.isnan(mean), 0.0, mean))
        return chosen, worth

    def some(self, most: int) -> tuple["_Case", float]:
        # At most so many customers, and their share of all.
        n = len(self.is_eligible)
        if n <= most:
            return self, 1.0
        rows = np.random.default_rng(0).choice(n, most, replace=False)
        estimate = Estimate(self.estimate.mean[rows], self.estimate.se[rows])
        return self._replace(estimate=estimate, is_eligible=self.is_eligible[rows]), most / n

    def chunks(self) -> list[slice]:
        n = len(self.is_eligible)
        return [slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]


def _priced(case: _Case, target: Array, least: Array, price: Array) -> Array:
    # Prices of limits from above and from below, shape (2 m,).
    m, floor = len(target), case.policy.floor
    explored = (floor * even(case.is_eligible).sum(axis=0) * case.floor_kept) @ case.use if floor else 0.0
    both = np.hstack([case.use, -case.use])
    bound = np.append(target - explored, -np.maximum(least - explored, 0.0))
    binding = np.append(np.isfinite(target), least > 0)
    out = np.zeros(2 * m)
    if not binding.any():
        return out
    limits = both[:, binding], bound[binding]
    policy, estimate, is_eligible = case[:3]
    out[binding] = prices.find(policy, estimate, is_eligible, *limits, price[binding])
    if isinstance(policy, Thompson):
        out[binding] = prices.match(policy, estimate, is_eligible, *limits, out[binding])
    return out


def _served(case: _Case, target: Array, price: Array) -> tuple[Array, Array, Array]:
    # A smooth policy meets its prices; others jump there, so try near prices and keep what is worth most.
    both = np.hstack([case.use, -case.use])
    exact = prices.is_exact(case.policy) or case.policy.floor == 1 or not price.any()
    nudged = price
    if not exact:
        few, share = case.some(prices.SAMPLES[-1])
        best = -np.inf
        for nudge in (0.0, 1e-4, 1e-3, 1e-2, -1e-3):
            chosen, worth = few.totals(both @ (price * (1 + nudge)))
            total = float(_fitting(chosen, case.use, target * share) @ worth)
            if total > best:
                best, nudged = total, price * (1 + nudge)
    kept = _fitting(case.totals(both @ nudged)[0], case.use, target)
    drawn = np.empty(case.is_eligible.shape)
    for rows in case.chunks():
        p = case.probabilities(both @ nudged, rows)
        drawn[rows] = p if (kept == 1).all() else _thin(p, kept)
    return drawn, kept, nudged


def _fitting(total: Array, use: Array, available: Array) -> Array:
    """Give the share of each treatment's expected choices, shape (k,), that the limits allow, shape (k,).

    Of all shares that fit it is the nearest in relative entropy (Csiszar 1975), `exp(-use @ price)`: who
    uses most of what is scarce gives way most.
    """
    bounded = np.isfinite(available)
    use, limit = use[:, bounded], np.maximum(available[bounded], 0.0)
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
