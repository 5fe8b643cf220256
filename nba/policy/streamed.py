"""The same allocation for customers who come in parts: sums of whole numbers in, one small cut per arm out.

A part of the customers is never seen together with the others. What couples them goes through sums that do
not depend on how they were divided: probabilities are added as whole multiples of 2**-32, so that any
partitioning, order or engine gives the same cut, bit for bit, and a customer's probabilities follow from the
cut and the customer alone.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nba.policy import replayed, trimming
from nba.policy.allocate import MARGIN_SD, MARGIN_SHARE, allocate, kept_by_chance
from nba.policy.explore import Estimate, Policy

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Flags = NDArray[np.bool_]

_ONE = 2.0**32
_MICRO = 1e6
TRIM_BITS = 20
# Midpoints of 200 equal parts of the standard normal.
_NORMAL = ndtri((np.arange(200) + 0.5) / 200)


class Cut(NamedTuple):
    """What the limits leave of a policy's probabilities.

    Attributes:
        price: Money per unit of each limit, shape (m,).
        floor_kept: Share of the even floor that each treatment kept, shape (k,).
        kept: Share of the remaining probability that each treatment kept, shape (k,).
        after: Share of draws of each treatment that trimming leaves on average, shape (k,).
        amounts: The part of it that limits on amounts take alike from all customers, shape (k,).
        counts: Share that each limit on contacts leaves to a customer, by bin of the customer's chance of
            using it, shape (m, 256).
        last: First trimming number that is dropped, by limit, shape (m,); 2**20 where nothing is.
        possible: Whether one choice of the treatment fits all limits, shape (k,).
        rows: Probabilities whose draws were replayed (`nba.policy.replayed`), shape (g, k); none where
            formulas do or customers are many.
        shares: What trimming leaves to customers of these rows, shape (g, k).
    """

    price: Array
    floor_kept: Array
    kept: Array
    after: Array
    amounts: Array
    counts: Array
    last: Whole
    possible: Flags
    rows: Array
    shares: Array

    @classmethod
    def none(cls, k: int, m: int) -> "Cut":
        """Cut nothing."""
        ones, counts = np.ones(k), np.ones((m, trimming.BINS))
        last = np.full(m, 1 << TRIM_BITS)
        nobody = np.zeros((0, k))
        return cls(np.zeros(m), ones, ones, ones, ones, counts, last, np.ones(k, dtype=bool), nobody, nobody)


class Totals(NamedTuple):
    """Sums over the customers of an arm, whole numbers of 2**-32, so that parts add up in any order.

    Attributes:
        p: Probability of each treatment, shape (k,).
        variance: Variance of the use of each limit, shape (m,).
        own: Sum of the squares of each customer's expected use, shape (m,).
        customers: Of limits on contacts, customers by bin of their chance of using it, shape (m, 256).
        chances: Sum of these chances, shape (m, 256).
    """

    p: Whole
    variance: Whole
    own: Whole
    customers: Whole
    chances: Whole

    @classmethod
    def of(cls, p: Array, use: Array) -> "Totals":
        """Sum the customers of a part; p has shape (n, k), use (k, m)."""
        use = np.ascontiguousarray(use, dtype=np.float64)
        return cls(*trimming.whole_sums(p, use, counts_contacts(use), _ONE))

    def __add__(self, other: "Totals") -> "Totals":  # type: ignore[override]
        return Totals(*(a + b for a, b in zip(self, other)))

    def use(self, use: Array) -> Array:
        """Give the expected use of each limit, shape (m,)."""
        return np.asarray((self.p / _ONE) @ use)

    def target(self, available: Array) -> Array:
        """Give what expected use aims at, so that draws stay within the limit, shape (m,)."""
        spread = np.sqrt(np.maximum(self.variance / _ONE, 0.0))
        return available - np.minimum(MARGIN_SD * spread, MARGIN_SHARE * available)


def probabilities(policy: Policy, estimate: Estimate, is_eligible: Flags, use: Array, cut: Cut) -> Array:
    """Give each customer's probabilities to draw from, after prices and cuts, shape (n, k)."""
    is_eligible = is_eligible & cut.possible
    p = policy.probabilities(estimate.net_of(use @ cut.price), is_eligible)
    return trimming.cut_rows(p, is_eligible, float(policy.floor), cut.floor_kept, cut.kept)


def logged(p: Array, use: Array, cut: Cut) -> Array:
    """Give the probabilities that trimming leaves of those drawn from, which are logged, shape (n, k)."""
    use = np.ascontiguousarray(use, dtype=np.float64)
    out = trimming.trimmed_rows(np.ascontiguousarray(p), use, cut.amounts, cut.counts)
    if not len(cut.rows):
        return out
    left = p * replayed.of_rows(p, cut.rows, cut.shares)
    left[:, 0] = np.maximum(left[:, 0] + (p - left).sum(axis=1), 0.0)
    return np.where(np.isnan(left), out, left)


def first_cut(
    policy: Policy,
    estimate: Estimate,
    is_eligible: Flags,
    use: Array,
    available: Array,
    share: Array,
    least: Array | None = None,
) -> Cut:
    """Solve the prices on a sample.

    Args:
        policy: Any policy.
        estimate: Belief of the sample, shapes (n, k).
        is_eligible: Shape (n, k).
        use: Shape (k, m).
        available: Limits of all customers, shape (m,).
        share: How much of each limit the sample has, shape (m,).
        least: The sample's part of the limits from below, shape (m,); none if absent.
    """
    possible = (use <= available).all(axis=1)
    found = allocate(policy, estimate, is_eligible & possible, use, available * share, least)
    none = Cut.none(len(use), len(available))
    return none._replace(
        price=found.price, floor_kept=found.floor_kept, kept=found.kept, possible=np.asarray(possible)
    )


def corrected(scale: Array, totals: Totals, use: Array, available: Array) -> Array:
    """Correct the sample's limits by what all customers would use at its prices, shape (m,).

    Args:
        scale: Factors of the sample's limits so far, shape (m,).
        totals: Sums over all customers at the cut that those limits gave.
        use: Shape (k, m).
        available: Limits of all customers, shape (m,).
    """
    found, target = totals.use(use), totals.target(available)
    ratio = np.where(found > 0, target / np.maximum(found, 1e-300), 1.0)
    # A limit that is far from used binds nobody: it stays as it is.
    return scale * np.where((found > 0.85 * target), np.clip(ratio, 0.8, 1.25), 1.0)


def fitted(cut: Cut, totals: Totals, use: Array, available: Array) -> Cut:
    """Thin what still lies over a limit in expectation, limit by limit until all are met."""
    target = np.maximum(totals.target(available), 0.0)
    factor = np.ones(len(cut.kept))
    for _ in range(100):
        found = (totals.p / _ONE * factor) @ use
        over = found > target * (1 + 1e-12)
        if not over.any():
            break
        for j in np.flatnonzero(over):
            found_j = float((totals.p / _ONE * factor) @ use[:, j])
            if found_j > target[j]:
                factor = np.where(use[:, j] > 0, factor * (target[j] / found_j), factor)
    return cut._replace(kept=cut.kept * factor)


def trimmed(cut: Cut, totals: Totals, use: Array, available: Array) -> Cut:
    """Find what trimming leaves of the draws on average, limit by limit; each meets what those before left.

    Of limits on contacts the share is that of `nba.policy.allocate`, a Poisson binomial. Where amounts
    differ, the chance that an amount u still fits is that of the others' sum U before it, in an order
    independent of everything, U normal: E min(1, (a - u + c) / (U + c)), c the mean amount met.

    Args:
        cut: What probabilities are drawn from.
        totals: Sums over all customers at that cut.
        use: Shape (k, m).
        available: Limits of all customers, shape (m,).
    """
    after, amounts, counts = np.ones(len(use)), np.ones(len(use)), np.ones((len(available), trimming.BINS))
    contacts = counts_contacts(use)
    for j, limit in enumerate(available):
        uses = use[:, j] > 0
        before = float(totals.p[uses].sum())
        if before == 0 or np.isinf(limit):
            continue
        if contacts[j]:
            still = float(totals.p[uses] @ after[uses]) / before
            chances = totals.chances[j] / _ONE * still
            most = int(limit / use[:, j].max() * (1 + 1e-12))
            counts[j] = kept_by_chance(chances, totals.customers[j], most)
            kept = np.full(int(uses.sum()), float(chances @ counts[j]) / float(chances.sum() or 1.0))
        else:
            kept = _kept_of_sum(totals, after, use, j, limit)
            amounts[uses] *= kept
        after[uses] *= kept
    return cut._replace(after=after, amounts=amounts, counts=counts)


def together(totals: Totals, use: Array, available: Array, customers: int) -> Flags:
    """Say for which limits draws are to be replayed, shape (m,); of none where customers are many."""
    spread = np.sqrt(np.maximum(totals.variance / _ONE, 0.0))
    limits = replayed.needed(use, available, totals.use(use), spread)
    contacts = float(totals.p[(use[:, limits] > 0).any(axis=1)].sum()) / _ONE
    return limits & replayed.pays(customers, contacts)


def replay(cut: Cut, p: Array, use: Array, available: Array, limits: Flags) -> Cut:
    """Replay the draws of few customers, who are brought together for it.

    Args:
        cut: What probabilities are drawn from.
        p: Probabilities to draw from of all customers, in any order, shape (n, k).
        use: Shape (k, m).
        available: Limits of all customers, shape (m,).
        limits: Which are replayed (`together`), shape (m,).
    """
    left = replayed.shares(p, use[:, limits], available[limits])
    expected = left.many[:, None] * left.rows
    drawn, kept = expected.sum(axis=0), (expected * left.share).sum(axis=0)
    after = np.where(drawn > 0, kept / np.maximum(drawn, 1e-300), 1.0)
    return cut._replace(after=after, rows=left.rows, shares=left.share)


def _kept_of_sum(totals: Totals, after: Array, use: Array, j: int, limit: float) -> Array:
    left, uses = totals.p / _ONE * after, use[:, j] > 0
    mean, square = float(left @ use[:, j]), float(left @ use[:, j] ** 2)
    own = totals.own[j] / _ONE * (mean / float((totals.p / _ONE) @ use[:, j])) ** 2
    spread = float(np.sqrt(max(square - own, 0.0)))
    if mean == 0 or mean + 8 * spread + use[:, j].max() <= limit:
        return np.ones(int(uses.sum()))
    met, own = square / mean, own / mean
    others = np.maximum(mean - own + spread * _NORMAL, 0.0)
    fits = (limit - use[uses, j][:, None] + met) / (others + met)
    return np.where(use[uses, j] > limit, 0.0, np.clip(fits, 0.0, 1.0).mean(axis=1))


def counts_contacts(use: Array) -> Flags:
    """Say of which limits every choice that uses them uses as much, shape (m,)."""
    most = use.max(axis=0, initial=0.0)
    return np.asarray(((use == 0) | np.isclose(use, most, rtol=1e-9, atol=0.0)).all(axis=0) & (most > 0))


def micro(use: Array) -> Whole:
    """Give amounts in millionths, whole, so that sums do not depend on their order."""
    return np.rint(use * _MICRO).astype(np.int64)


def trim_counts(number: NDArray[np.uint64], amount: Whole) -> Whole:
    """Sum amounts by trimming number, shape (2**20,); number is a hash, its leading bits count."""
    bins = (number >> np.uint64(64 - TRIM_BITS)).astype(np.int64)
    out = np.zeros(1 << TRIM_BITS, dtype=np.int64)
    np.add.at(out, bins, amount)
    return out


def trim_from(counts: Whole, limit: float) -> int:
    """Give the first trimming number that no longer fits a limit."""
    if np.isinf(limit):
        return 1 << TRIM_BITS
    fits = np.cumsum(counts) <= int(np.floor(limit * _MICRO * (1 + 1e-12)))
    return int(fits.sum()) if not fits.all() else 1 << TRIM_BITS
