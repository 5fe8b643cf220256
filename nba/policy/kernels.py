"""Loops over customers in machine code: probabilities of one row, the dual of a batch, a draw.

Numba compiles them once per machine. A row's candidates are columns that are eligible and whose mean is
known; `none` stands first and is always one. Nothing here looks at another row, so that any partitioning
of the customers gives the same numbers.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]

_TINY = 1e-300
compiled = numba.njit(cache=True, nogil=True, error_model="numpy")


@compiled
def _net(mean: Array, eligible: Flags, charge: Array, worth: Array) -> float:
    # Worth of each column after its charge, -inf where it is no candidate; returns the best.
    best = -np.inf
    for j in range(len(mean)):
        w = mean[j] - charge[j]
        if not eligible[j] or math.isnan(w):
            w = -np.inf
        worth[j] = w
        best = max(best, w)
    return best


@compiled
def _softmax(worth: Array, best: float, temperature: float, p: Array) -> float:
    # Fills p; returns the log-partition, temperature times which is the smoothed best.
    total = 0.0
    for j in range(len(worth)):
        z = (worth[j] - best) / temperature
        e = math.exp(z) if z > -700.0 else 0.0
        p[j] = e
        total += e
    for j in range(len(worth)):
        p[j] /= total
    return best / temperature + math.log(total)


@compiled
def _barrier(worth: Array, best: float, gamma: float, p: Array) -> float:
    # p = 1 / (gamma (nu - worth)), nu such that p sums to 1: the maximum of p @ worth + sum(log p) / gamma.
    # Newton from the left on a convex falling function never overshoots. Returns that maximum.
    # Everything in units of 1 / gamma from the best, so that a large gamma loses no digits.
    if math.isinf(gamma):
        return _even_best(worth, best, p)
    s = 1.0
    for _ in range(60):
        total, slope = 0.0, 0.0
        for j in range(len(worth)):
            q = 1.0 / (s + gamma * (best - worth[j]))
            total += q
            slope += q * q
        s += (total - 1.0) / slope
        if total - 1.0 < 1e-13:
            break
    total, value = 0.0, 0.0
    for j in range(len(worth)):
        p[j] = 1.0 / (s + gamma * (best - worth[j]))
        total += p[j]
    for j in range(len(worth)):
        p[j] /= total
        if p[j] > 0:
            value += p[j] * worth[j] + math.log(p[j]) / gamma
    return value


@compiled
def _even_best(worth: Array, best: float, p: Array) -> float:
    ties = 0
    for j in range(len(worth)):
        ties += worth[j] == best
    for j in range(len(worth)):
        p[j] = 1.0 / ties if worth[j] == best else 0.0
    return best


@compiled
def softmax_rows(mean: Array, eligible: Flags, charge: Array, temperature: float) -> Array:
    """Weigh candidates by exp(net worth / temperature), shape (n, k); temperature 0 shares the best."""
    n, k = mean.shape
    out, worth = np.empty((n, k)), np.empty(k)
    for i in range(n):
        best = _net(mean[i], eligible[i], charge, worth)
        if temperature > 0:
            _softmax(worth, best, temperature, out[i])
        else:
            _even_best(worth, best, out[i])
    return out


@compiled
def barrier_rows(mean: Array, eligible: Flags, charge: Array, gamma: Array) -> Array:
    """Weigh candidates by the inverse of their gap, shape (n, k); gamma per row, shape (n,)."""
    n, k = mean.shape
    out, worth = np.empty((n, k)), np.empty(k)
    for i in range(n):
        best = _net(mean[i], eligible[i], charge, worth)
        _barrier(worth, best, gamma[i], out[i])
    return out


@compiled
def softmax_dual(
    mean: Array, eligible: Flags, charge: Array, temperature: float
) -> tuple[float, Array, Array]:
    """Sum the smoothed best of all rows, with its derivatives by the charge of each column.

    Returns:
        The sum in money, the choices of each column (minus the gradient, shape (k,)), and the second
        derivative, shape (k, k).
    """
    n, k = mean.shape
    value, chosen, curve = 0.0, np.zeros(k), np.zeros((k, k))
    worth, p, live = np.empty(k), np.empty(k), np.empty(k, dtype=np.int64)
    for i in range(n):
        best = _net(mean[i], eligible[i], charge, worth)
        value += _softmax(worth, best, temperature, p)
        m = 0
        for j in range(k):
            if p[j] > 1e-14:
                live[m] = j
                m += 1
                chosen[j] += p[j]
        if m > 1:
            for a in range(m):
                curve[live[a], live[a]] += p[live[a]]
                for b in range(a + 1):
                    curve[live[a], live[b]] -= p[live[a]] * p[live[b]]
    return value * temperature, chosen, _mirrored(curve) / temperature


@compiled
def barrier_dual(mean: Array, eligible: Flags, charge: Array, gamma: Array) -> tuple[float, Array, Array]:
    """Do the same as `softmax_dual` for the log-barrier, gamma of shape (n,)."""
    n, k = mean.shape
    value, chosen, curve = 0.0, np.zeros(k), np.zeros((k, k))
    worth, p = np.empty(k), np.empty(k)
    for i in range(n):
        best = _net(mean[i], eligible[i], charge, worth)
        value += _barrier(worth, best, gamma[i], p)
        if math.isinf(gamma[i]):
            for j in range(k):
                chosen[j] += p[j]
            continue
        square = 0.0
        for j in range(k):
            square += p[j] * p[j]
        for a in range(k):
            chosen[a] += p[a]
            pa = gamma[i] * p[a] * p[a]
            curve[a, a] += pa
            for b in range(a + 1):
                curve[a, b] -= pa * p[b] * p[b] / square
    return value, chosen, _mirrored(curve)


@compiled
def _mirrored(curve: Array) -> Array:
    for a in range(len(curve)):
        for b in range(a):
            curve[b, a] = curve[a, b]
    return curve


@compiled
def softmax_choose(
    mean: Array, eligible: Flags, charge: Array, temperature: float, floor: float, draw: Array
) -> tuple[Whole, Array]:
    """Draw each row's column in one pass: softmax mixed with an even floor.

    Args:
        mean: Shape (n, k).
        eligible: Shape (n, k).
        charge: Price of each column, shape (k,).
        temperature: Money; 0 takes the best.
        floor: Share spread evenly over all eligible columns.
        draw: In [0, 1), shape (n,).

    Returns:
        The columns and their probabilities, shapes (n,).
    """
    n, k = mean.shape
    column, chance = np.empty(n, dtype=np.int64), np.empty(n)
    worth, p = np.empty(k), np.empty(k)
    for i in range(n):
        best = _net(mean[i], eligible[i], charge, worth)
        if temperature > 0:
            _softmax(worth, best, temperature, p)
        else:
            _even_best(worth, best, p)
        column[i], chance[i] = _drawn(p, eligible[i], floor, draw[i])
    return column, chance


@compiled
def barrier_choose(
    mean: Array, eligible: Flags, charge: Array, gamma: Array, floor: float, draw: Array
) -> tuple[Whole, Array]:
    """Do the same as `softmax_choose` for the log-barrier, gamma of shape (n,)."""
    n, k = mean.shape
    column, chance = np.empty(n, dtype=np.int64), np.empty(n)
    worth, p = np.empty(k), np.empty(k)
    for i in range(n):
        best = _net(mean[i], eligible[i], charge, worth)
        _barrier(worth, best, gamma[i], p)
        column[i], chance[i] = _drawn(p, eligible[i], floor, draw[i])
    return column, chance


@compiled
def _drawn(p: Array, eligible: Flags, floor: float, draw: float) -> tuple[int, float]:
    # Mixes in the floor and inverts the cumulative sum, as `nba.draws.pick` does.
    n_eligible = 0
    for j in range(len(p)):
        n_eligible += eligible[j]
    total = 0.0
    for j in range(len(p)):
        p[j] = (1.0 - floor) * p[j] + (floor / n_eligible if eligible[j] else 0.0)
        total += p[j]
    left, last = draw * total, 0
    for j in range(len(p)):
        if p[j] > 0:
            last = j
            if left < p[j]:
                break
        left -= p[j]
    return last, p[last]


@compiled
def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z * 0.7071067811865476)


@compiled
def _is_best(worth: Array, se: Array, nodes: Array, weights: Array, p: Array) -> float:
    # Chance that each of independent normals is the largest. What is narrower than a 200th of the range
    # counts as certain. Returns the sum before it is set to 1.
    top, low = -np.inf, -np.inf
    for j in range(len(worth)):
        p[j] = 0.0
        top = max(top, worth[j] + 8.0 * se[j])
        low = max(low, worth[j] - 8.0 * se[j])
    least = max((top - low) / 200.0, 1e-12 * max(abs(top), abs(low)), 1e-300)
    low = max(low, _certain(worth, se, least, p))
    narrow = np.inf
    for j in range(len(worth)):
        if se[j] > least and worth[j] + 8.0 * se[j] > low:
            narrow = min(narrow, se[j])
    if narrow < np.inf and low < top:
        _integrate(worth, se, least, (low, top, narrow), nodes, weights, p)
    return _scaled(p)


@compiled
def _certain(worth: Array, se: Array, least: float, p: Array) -> float:
    # Shares among the best of the certain ones the chance that all others lie below; returns its worth.
    sure, ties, below = -np.inf, 0, 1.0
    for j in range(len(worth)):
        if se[j] <= least:
            sure = max(sure, worth[j])
    if sure == -np.inf:
        return sure
    for j in range(len(worth)):
        if se[j] > least and worth[j] > -np.inf:
            below *= _normal((sure - worth[j]) / se[j])
        elif worth[j] == sure:
            ties += 1
    for j in range(len(worth)):
        if se[j] <= least and worth[j] == sure:
            p[j] = below / ties
    return sure


@compiled
def _integrate(
    worth: Array,
    se: Array,
    least: float,
    span: tuple[float, float, float],
    nodes: Array,
    weights: Array,
    p: Array,
) -> None:
    # Adds the integral of each density times the others' distributions, in Gauss-Legendre panels that are
    # as narrow as the narrowest density.
    low, top, narrow = span
    live = np.empty(len(worth), dtype=np.int64)
    m = 0
    for j in range(len(worth)):
        if se[j] > least and worth[j] + 8.0 * se[j] > low:
            live[m] = j
            m += 1
    panels = np.int64(np.ceil((top - low) / (2.5 * narrow)))
    width = (top - low) / panels
    under, z = np.empty(m), np.empty(m)
    for point in range(panels * len(nodes)):
        x = low + width * (point // len(nodes) + nodes[point % len(nodes)])
        every = weights[point % len(nodes)] * width
        for i in range(m):
            z[i] = (x - worth[live[i]]) / se[live[i]]
            under[i] = max(_normal(z[i]), _TINY)
            every *= under[i]
        if every < 1e-30:
            continue
        for i in range(m):
            if abs(z[i]) < 8.5:
                density = math.exp(-0.5 * z[i] * z[i]) * 0.3989422804014327 / se[live[i]]
                p[live[i]] += density * every / under[i]


@compiled
def _scaled(p: Array) -> float:
    total = p.sum()
    for j in range(len(p)):
        p[j] /= total
    return total


@compiled
def thompson_rows(
    mean: Array, se: Array, eligible: Flags, charge: Array, nodes: Array, weights: Array
) -> tuple[Array, float]:
    """Give the chance that each column is the best of independent normals, shape (n, k).

    Returns:
        The probabilities, and the largest error of their sum before it was set to 1: a bound on how far
        the quadrature was off.
    """
    n, k = mean.shape
    out, worth, spread = np.empty((n, k)), np.empty(k), np.empty(k)
    error = 0.0
    for i in range(n):
        _net(mean[i], eligible[i], charge, worth)
        for j in range(k):
            spread[j] = se[i, j]
            if math.isnan(se[i, j]) or worth[j] == -np.inf:
                worth[j], spread[j] = -np.inf, 0.0
        total = _is_best(worth, spread, nodes, weights, out[i])
        error = max(error, abs(total - 1.0))
    return out, error


@compiled
def boxed_newton(curve: Array, slope: Array, low: Array, high: Array) -> Array:
    """Minimise `slope @ d + d @ curve @ d / 2` over low <= d <= high by coordinates, shape (m,)."""
    m = len(slope)
    d, left = np.zeros(m), slope.copy()
    for _ in range(2000):
        largest = 0.0
        for j in range(m):
            target = min(max(d[j] - left[j] / curve[j, j], low[j]), high[j])
            change = target - d[j]
            if change != 0.0:
                d[j] = target
                for i in range(m):
                    left[i] += curve[i, j] * change
                largest = max(largest, abs(change))
        if largest <= 1e-12:
            break
    return d


@compiled
def survey(values: Array, eligible: Flags) -> tuple[Array, Array, Whole]:
    """Look once over what is eligible beside `none`.

    Returns:
        Largest known value of each column or 0, shape (k,); sum, sum of squares, smallest (or 0) and number
        of the known values, `none` being one of 0 in each row; counts of eligible, unknown, infinite and
        negative values.
    """
    n, k = values.shape
    top, moments, counts = np.zeros(k), np.zeros(4), np.zeros(4, dtype=np.int64)
    moments[3] = n
    for i in range(n):
        for j in range(1, k):
            if not eligible[i, j]:
                continue
            v = values[i, j]
            counts[0] += 1
            if math.isnan(v):
                counts[1] += 1
            elif math.isinf(v):
                counts[2] += 1
            else:
                top[j] = max(top[j], v)
                moments[0] += v
                moments[1] += v * v
                moments[2] = min(moments[2], v)
                moments[3] += 1
            counts[3] += v < 0
    return top, moments, counts
