"""What trimming leaves where limits overlap or count amounts: the batch is drawn again and again.

One limit on contacts leaves a share that has a formula (`nba.policy.allocate`). Where a customer's choice
uses two limits, what is dropped for the first makes room in the second, and where amounts differ it matters
which ones came before: there the draws and their trimming are replayed with random numbers of their own.
Each replay gives chances instead of zeros and ones, since a customer's place in the order of trimming is
even among the others': it is the share of places that fit. Customers with the same use are exchangeable, so
one replay answers for all of them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nba.policy.kernels import compiled

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Customers up to which draws are replayed: the sums of more are so near to normal that a formula will do,
# unless hardly any of them is contacted. Then draws of so many more are replayed.
MOST, RARELY, CONTACTS = 10_000, 200_000, 1_000
# Steps of one batch's replays (a quarter of a second), the fewest, and what is enough for any batch.
STEPS, LEAST, ENOUGH = 100_000_000, 500, 200_000
# Replays below which customers are no longer taken out of their own company one by one.
_FEW = 2_000
_DIGITS = 9
_SEED = np.uint64(0x9E3779B97F4A7C15)


class _Company(NamedTuple):
    # Rows to draw from, sorted; columns with the same use are of one kind, of which 0 uses nothing.
    p: Array
    kind: Whole
    use: Array
    available: Array


def pays(customers: int, contacts: float) -> bool:
    """Say whether draws are replayed rather than summed by a formula.

    Args:
        customers: Who are drawn for.
        contacts: How many are expected to use the limits.
    """
    return customers <= MOST or (customers <= RARELY and contacts <= CONTACTS)


def needed(use: Array, available: Array, expected: Array, spread: Array) -> Flags:
    """Say of which limits draws are to be replayed together, shape (m,); none where formulas will do.

    Args:
        use: What one choice uses of each limit, shape (k, m).
        available: Shape (m,).
        expected: Expected use of each limit, shape (m,).
        spread: Its standard deviation, shape (m,).
    """
    near = np.asarray(expected + 8 * spread + use.max(axis=0, initial=0.0) > available)
    has_formula = trims_exactly(use, np.where(near, available, np.inf))
    return np.zeros_like(near) if has_formula[near].all() else near


def trims_exactly(use: Array, available: Array) -> Flags:
    """Say of which limits the share that trimming takes has a formula, shape (m,).

    Those on contacts (every choice uses as much) whose treatments no other limit on contacts holds.

    Example:
        >>> use = np.array([[0, 0, 0], [1, 0, 0.5], [0, 1, 2.0]])
        >>> trims_exactly(use, np.array([5.0, 5.0, 9.0])).tolist()
        [True, True, False]
    """
    counted = np.isfinite(available) & ((use == 0) | np.isclose(use, use.max(axis=0, initial=0.0))).all(
        axis=0
    )
    holds = (use > 0) & counted
    shared = holds.sum(axis=1) > 1
    return np.asarray(counted & ~(holds & shared[:, None]).any(axis=0))


class Left(NamedTuple):
    """What trimming leaves to customers by their probabilities.

    Attributes:
        rows: Distinct rows of probabilities drawn from, to 9 digits, shape (g, k).
        share: What is left of each column, shape (g, k).
        many: Customers of each row, shape (g,).
    """

    rows: Array
    share: Array
    many: Whole


def shares(p: Array, use: Array, available: Array) -> Left:
    """Give what trimming leaves of every column to customers of each row of probabilities.

    The shares do not depend on the order of the customers, in no bit. Their error is that of the mean of at
    least 500 replays, of which a small batch has 200,000.

    Args:
        p: Probabilities drawn from, shape (n, k).
        use: What one choice uses of each limit, shape (k, m); row 0 is 0.
        available: Shape (m,); no choice that is drawn uses more than this alone.
    """
    unique = np.unique(np.round(p, _DIGITS), axis=0, return_counts=True)
    rows, many = unique[0] + 0.0, unique[1]
    possible = (rows > 0).any(axis=0, keepdims=True).T
    kinds_of = np.unique(np.where(possible, use, 0.0), axis=0, return_inverse=True)
    used, kind = kinds_of[0], kinds_of[1].reshape(-1)
    if len(used) == 1:
        return Left(rows, np.ones_like(rows), many)
    found = _replayed(_Company(np.repeat(rows, many, axis=0), kind, used, available))
    # Customers of the same chances have the same share: what they have in common is not left to chance.
    starts = np.cumsum(many) - many
    share = (np.add.reduceat(found, starts, axis=0) / many[:, None])[:, kind]
    # What is expected to remain lies within the limits; the error of a mean may not say otherwise.
    remains = (many[:, None] * rows * share).sum(axis=0) @ use
    over = np.maximum(remains / np.where(available > 0, available, np.inf), 1.0)
    return Left(rows, share / np.where(use > 0, over, 1.0).max(axis=1), many)


def of_rows(p: Array, rows: Array, share: Array) -> Array:
    """Look up the shares of customers, NaN where a row is none of those replayed; shape (n, k).

    Args:
        p: Probabilities drawn from, shape (n, k).
        rows: From `shares`, shape (g, k).
        share: From `shares`, shape (g, k).
    """
    where = {row.tobytes(): number for number, row in enumerate(rows)}
    number = np.array([where.get(row.tobytes(), -1) for row in np.round(p, _DIGITS) + 0.0], dtype=np.int64)
    return np.where((number >= 0)[:, None], share[number], np.nan)


def _replayed(company: "_Company") -> Array:
    p, kind, used = company[:3]
    contacts, kinds = float(p[:, kind > 0].sum()) + 1, len(used)
    # Work of one replay that takes every customer out of the company met, or only corrects for it.
    apart = len(p) + kinds**2 * used.shape[1] * contacts
    if apart * _FEW <= STEPS:
        return np.asarray(_replay_apart(*company, min(int(STEPS / apart), ENOUGH), _SEED))
    together = len(p) + 2 * kinds * used.shape[1] * contacts
    return np.asarray(_replay_together(*company, max(int(STEPS / together), LEAST), _SEED))


@compiled
def _replay_apart(p: Array, kind: Whole, use: Array, available: Array, times: int, seed: np.uint64) -> Array:
    """Give each customer's chance that a choice of a kind is kept, the own draw taken out of the company.

    Args:
        p: Shape (n, k).
        kind: Of each column, shape (k,).
        use: By kind, shape (kinds, m).
        available: Shape (m,).
        times: Replays.
        seed: Of the random numbers.

    Returns:
        Shape (n, kinds).
    """
    n, kinds = len(p), len(use)
    state = np.full(1, seed, dtype=np.uint64)
    drawn, met, is_in = np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(n, np.bool_)
    order = np.empty((use.shape[1], n), np.int64)
    kept, total = np.ones((kinds, kinds)), np.zeros((n, kinds))
    for _ in range(times):
        count = _draw(p, kind, drawn, met, order, state)
        for out in range(kinds):
            gone = _first(out, drawn, met[:count])
            if out == 0 or gone >= 0:
                for own in range(1, kinds):
                    kept[out, own] = _fits(own, gone, order[:, :count], drawn, use, available, is_in)
        for i in range(n):
            for own in range(1, kinds):
                total[i, own] += kept[drawn[i], own]
    total[:, 0] = times
    return total / times


@compiled
def _replay_together(
    p: Array, kind: Whole, use: Array, available: Array, times: int, seed: np.uint64
) -> Array:
    """Do the same for many customers: all meet one company, less what one of a kind takes, by own chances.

    Args and shapes are those of `_replay_apart`; what is left out is of second order in one customer's part.
    """
    n, kinds = len(p), len(use)
    state = np.full(1, seed, dtype=np.uint64)
    drawn, met, is_in = np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(n, np.bool_)
    order = np.empty((use.shape[1], n), np.int64)
    common, without = np.zeros(kinds), np.zeros((kinds, kinds))
    kept, often = np.ones(kinds), np.zeros(kinds)
    for number in range(times):
        count = _draw(p, kind, drawn, met, order, state)
        out = 1 + number % (kinds - 1)
        gone = _first(out, drawn, met[:count])
        often[out] += gone >= 0
        for own in range(1, kinds):
            kept[own] = _fits(own, -1, order[:, :count], drawn, use, available, is_in)
            common[own] += kept[own]
            if gone >= 0:
                less = _fits(own, gone, order[:, :count], drawn, use, available, is_in)
                without[out, own] += less - kept[own]
    total = np.ones((n, kinds))
    for i in range(n):
        for own in range(1, kinds):
            total[i, own] = common[own] / times
            for j in range(p.shape[1]):
                out = kind[j]
                if out > 0 and often[out] > 0:
                    total[i, own] += p[i, j] * without[out, own] / often[out]
            total[i, own] = min(total[i, own], 1.0)
    return total


@compiled
def _draw(p: Array, kind: Whole, drawn: Whole, met: Whole, order: Whole, state: NDArray[np.uint64]) -> int:
    # Fills what each customer draws, who draws what uses a limit, and an order of these by limit.
    count = 0
    for i in range(len(p)):
        j = 0
        left = _uniform(state) - p[i, 0]
        while left >= 0 and j < p.shape[1] - 1:
            j += 1
            left -= p[i, j]
        drawn[i] = kind[j]
        if drawn[i] > 0:
            met[count] = i
            count += 1
    for limit in range(len(order)):
        _shuffle(met, count, order[limit], state)
    return count


@compiled
def _first(wanted: int, drawn: Whole, met: Whole) -> int:
    # Orders of trimming are independent of who stands where: the first of a kind is as good as any.
    if wanted > 0:
        for i in met:
            if drawn[i] == wanted:
                return int(i)
    return -1


@compiled
def _fits(
    own: int, gone: int, order: Whole, drawn: Whole, use: Array, available: Array, is_in: NDArray[np.bool_]
) -> float:
    # Chance that a choice of kind `own` is kept among the others: at each limit the share of the places
    # between them at which it fits. Others that come later are kept as far as it leaves them room.
    m, count = order.shape
    for at in range(count):
        is_in[order[0, at]] = order[0, at] != gone
    chance = 1.0
    for limit in range(m):
        room = available[limit] * (1 + 1e-12) - use[own, limit]
        before, others, fit = 0.0, 0, 1
        for at in range(count):
            i = order[limit, at]
            if not is_in[i] or use[drawn[i], limit] == 0.0:
                continue
            others += 1
            before += use[drawn[i], limit]
            if before <= room:
                fit += 1
            else:
                is_in[i] = False
        if use[own, limit] > 0:
            chance *= fit / (others + 1)
    return chance


@compiled
def _shuffle(items: Whole, count: int, out: Whole, state: NDArray[np.uint64]) -> None:
    for at in range(count):
        other = int(_uniform(state) * (at + 1))
        out[at] = out[other]
        out[other] = items[at]


@compiled
def _uniform(state: NDArray[np.uint64]) -> float:
    # splitmix64 (Steele, Lea, Flood 2014): the same numbers on every machine and thread.
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * 2.0**-53
