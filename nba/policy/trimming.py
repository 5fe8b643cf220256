"""What limits leave of customers' probabilities, row by row in machine code: cuts, sums, trimming.

As in `nba.policy.kernels` nothing here looks at another row, and sums are whole numbers, so that any
partitioning of the customers gives the same.
"""

import numpy as np
from numpy.typing import NDArray

from nba.policy.kernels import compiled

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]

# Customers whose chance of using a limit on contacts lies in the same part of [0, 1] are taken together.
BINS = 256


@compiled
def cut_rows(p: Array, eligible: Flags, floor: float, floor_kept: Array, kept: Array) -> Array:
    """Keep a share of the even floor and of what remains, in place; the rest goes to `none`.

    Args:
        p: Probabilities, shape (n, k); changed and given back.
        eligible: Shape (n, k); each row has at least one.
        floor: Share of each row that is spread evenly over what is eligible.
        floor_kept: Share of that floor that each column keeps, shape (k,).
        kept: Share of the remaining probability that each column keeps, shape (k,).
    """
    n, k = p.shape
    for i in range(n):
        candidates = 0
        for j in range(k):
            candidates += eligible[i, j]
        even = floor / candidates
        whole, given = 0.0, 0.0
        for j in range(k):
            least = even if eligible[i, j] else 0.0
            p[i, j] = max(p[i, j] - least, 0.0) + least * floor_kept[j]
            whole += p[i, j]
        p[i, 0] += 1.0 - whole
        for j in range(k):
            left = p[i, j] * kept[j]
            given += p[i, j] - left
            p[i, j] = left
        p[i, 0] = max(p[i, 0] + given, 0.0)
    return p


@compiled
def whole_sums(p: Array, use: Array, counted: Flags, one: float) -> tuple[Whole, Whole, Whole, Whole, Whole]:
    """Sum rows as whole numbers of 1 / one, so that parts add up in any order.

    Args:
        p: Probabilities, shape (n, k).
        use: What one choice uses of each limit, shape (k, m).
        counted: Limits on contacts, whose customers are told apart by chance, shape (m,).
        one: Units of the sums.

    Returns:
        Probabilities, shape (k,); by limit the variance of use and the square of its mean, each shape (m,);
        of limits on contacts the customers and the sum of their chances, by bin of chance, shape (m, BINS).
    """
    n, k = p.shape
    m = use.shape[1]
    chosen = np.zeros(k, dtype=np.int64)
    variance, own = np.zeros(m, dtype=np.int64), np.zeros(m, dtype=np.int64)
    customers, chances = np.zeros((m, BINS), dtype=np.int64), np.zeros((m, BINS), dtype=np.int64)
    mean, second = np.empty(m), np.empty(m)
    for i in range(n):
        mean[:] = 0.0
        second[:] = 0.0
        for j in range(k):
            chosen[j] += np.int64(np.rint(p[i, j] * one))
            if p[i, j] != 0.0:
                for limit in range(m):
                    mean[limit] += p[i, j] * use[j, limit]
                    second[limit] += p[i, j] * use[j, limit] * use[j, limit]
        for limit in range(m):
            squared = mean[limit] * mean[limit]
            variance[limit] += np.int64(np.rint((second[limit] - squared) * one))
            own[limit] += np.int64(np.rint(squared * one))
            if counted[limit]:
                q = _chance(p[i], use, limit)
                at = _bin(q)
                customers[limit, at] += 1
                chances[limit, at] += np.int64(np.rint(q * one))
    return chosen, variance, own, customers, chances


@compiled
def _chance(p: Array, use: Array, limit: int) -> float:
    q = 0.0
    for j in range(len(p)):
        if use[j, limit] > 0:
            q += p[j]
    return q


@compiled
def _bin(q: float) -> int:
    return min(int(q * BINS), BINS - 1)


@compiled
def trimmed_rows(p: Array, use: Array, amounts: Array, counts: Array) -> Array:
    """Keep of each row what trimming leaves on average; the rest goes to `none`.

    Args:
        p: Probabilities drawn from, shape (n, k).
        use: What one choice uses of each limit, shape (k, m).
        amounts: Share of each column that limits on amounts leave, shape (k,).
        counts: Share that each limit on contacts leaves, by bin of the chance of using it, shape (m, BINS).
    """
    n, k = p.shape
    m = use.shape[1]
    out, share = np.empty((n, k)), np.empty(k)
    takes = np.zeros(m, dtype=np.bool_)
    for limit in range(m):
        takes[limit] = counts[limit].min() < 1.0
    for i in range(n):
        share[:] = amounts
        for limit in range(m):
            if takes[limit]:
                left = counts[limit, _bin(_chance(p[i], use, limit))]
                for j in range(k):
                    if use[j, limit] > 0:
                        share[j] *= left
        given = 0.0
        for j in range(k):
            out[i, j] = p[i, j] * share[j]
            given += p[i, j] - out[i, j]
        out[i, 0] = max(out[i, 0] + given, 0.0)
    return out


@compiled
def fits_without_one(mass: Array, chance: Array, fits: Array) -> Array:
    """Give what is expected of `fits` over a sum of draws without one draw of each chance, shape (b,).

    The convolution is undone from the end at which errors shrink.

    Args:
        mass: Of the sum of all draws, shape (s,).
        chance: Of the draw that is left out, shape (b,).
        fits: By the sum, shape (s,).
    """
    size = len(mass)
    out = np.zeros(len(chance))
    for b in range(len(chance)):
        q, left, total = chance[b], 0.0, 0.0
        if q <= 0.5:
            for i in range(size):
                left = (mass[i] - q * left) / (1 - q)
                total += left * fits[i]
        else:
            for i in range(size - 1, -1, -1):
                left = ((mass[i + 1] if i + 1 < size else 0.0) - (1 - q) * left) / q
                total += left * fits[i]
        out[b] = total
    return out
