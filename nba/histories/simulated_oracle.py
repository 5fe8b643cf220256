"""The best assignment of treatments under hard limits: the yardstick of the simulated world.

The linear programme has one row per customer and one per limit. Its dual in the few limits is convex
and piecewise linear and is solved by Kelley's cutting planes (Kelley 1960). Customers whose choice the
prices leave open then go to an exact linear programme of a few thousand variables (HiGHS), in which no
more customers than limits can be fractional; these get what room is left. The dual bounds what any
assignment can reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

from nba.histories import simulated_truth as t
from nba.histories.simulated_play import Moment, State
from nba.histories.simulated_truth import Bools, Floats, Ints


@dataclass(frozen=True)
class Batch:
    """What a chooser with the truth at hand sees of a batch.

    Attributes:
        number: Batch number, from 0.
        value: True expected incremental value, shape (n, k), money.
        p_response: True chance of a purchase in the two weeks of and after the contact, shape (n, k).
        is_eligible: Consent, cooldown and contact cap kept, shape (n, k).
        use, available: What each column uses of each limit, shape (k, m), and what there is, shape (m,).
    """

    number: int
    value: Floats
    p_response: Floats
    is_eligible: Bools
    use: Floats
    available: Floats


def choose_oracle(batch: Batch) -> Ints:
    """Choose the assignment of largest true value within the limits; shape (n,)."""
    value = np.where(batch.is_eligible, batch.value, -np.inf)
    value[:, 0] = 0.0
    return best_within(value, batch.use, batch.available).column


def allowed(moment: Moment, state: State, contact_days: int, max_contacts: int | None) -> Bools:
    """Say who may have what: consent, cooldown, contact cap and joining kept, shape (n, k)."""
    n = len(moment.gone)
    may = np.ones((n, t.N_COLUMNS), dtype=bool)
    now = moment.week - state.first
    recent = state.chosen[max(now - contact_days // 7, 0) : now]
    rested = np.ones(n, dtype=bool)
    if max_contacts is not None and recent:
        rested = (np.stack(recent) > 0).sum(axis=0) < max_contacts
    for j in range(1, t.N_COLUMNS):
        cool = moment.week - moment.action_week[:, t.COLUMN_ACTION[j]] > t.COOLDOWN_WEEKS[j]
        may[:, j] = moment.consent[:, t.COLUMN_CHANNEL[j]] & moment.joined & rested & cool
    return may


def limit_matrix(capacity: Mapping[str, int], budget: float | None) -> tuple[Floats, Floats]:
    """Give what each column uses of each limit, shape (k, m), and what there is of it, shape (m,)."""
    cost = t.CATALOG.cost
    use = [(t.CATALOG.channel == channel).astype(np.float64) for channel in capacity]
    available = [float(x) for x in capacity.values()]
    if budget is not None:
        use, available = [*use, cost], [*available, budget]
    if not use:
        return np.zeros((len(cost), 1)), np.ones(1)
    return np.stack(use, axis=1), np.array(available)


@dataclass(frozen=True)
class Assignment:
    """One column per customer within the limits.

    Attributes:
        column: Shape (n,), 0 for none.
        value: Its total value, money.
        bound: No assignment is worth more, money.
        price: Money per unit of each limit, shape (m,).
    """

    column: Ints
    value: float
    bound: float
    price: Floats


def best_within(value: Floats, use: Floats, available: Floats, tolerance: float = 1e-5) -> Assignment:
    """Choose the column of each customer that makes the total value largest within hard limits.

    Args:
        value: Shape (n, k), money; column 0 is none, at 0; `-inf` where not eligible.
        use: What each column uses of each limit, shape (k, m), 0 up.
        available: What each limit allows, shape (m,).
        tolerance: Relative gap at which the search for prices ends.

    Returns:
        The assignment; `value` lies within the gap of `bound`.

    Example:
        >>> got = best_within(np.array([[0.0, 3.0], [0.0, 2.0]]), np.array([[0.0], [1.0]]), np.array([1.0]))
        >>> got.column.tolist(), got.value
        ([1, 0], 3.0)
    """
    rows, worth, first = _candidates(value, use)
    price, bound = _prices(worth, first.use, available, tolerance)
    chosen = _fill(worth, first.use, available, price)
    column = np.zeros(len(value), dtype=np.int64)
    column[rows] = first.column[np.arange(len(rows)), chosen]
    total = float(value[np.arange(len(value)), column].sum())
    return Assignment(column, total, bound, price)


@dataclass(frozen=True)
class _Groups:
    # Columns that use the limits alike: only the best of them can be chosen.
    use: Floats
    column: Ints


def _candidates(value: Floats, use: Floats) -> tuple[Ints, Floats, _Groups]:
    # Customers with something to gain, and the best column of each group of like use; group 0 is none.
    rows = np.flatnonzero((value[:, 1:] > 0).any(axis=1))
    kinds, group = np.unique(use[1:], axis=0, return_inverse=True)
    group = np.asarray(group).ravel()
    worth = np.zeros((len(rows), len(kinds) + 1))
    column = np.zeros((len(rows), len(kinds) + 1), dtype=np.int64)
    for g in range(len(kinds)):
        members = 1 + np.flatnonzero(group == g)
        part = value[np.ix_(rows, members)]
        best = part.argmax(axis=1)
        worth[:, g + 1] = part[np.arange(len(rows)), best]
        column[:, g + 1] = members[best]
    return rows, worth, _Groups(np.vstack([np.zeros(use.shape[1]), kinds]), column)


def _respond(worth: Floats, use: Floats, price: Floats) -> tuple[float, Floats]:
    # Largest total net of prices, and what it uses.
    net = worth - use @ price
    best = net.argmax(axis=1)
    used = np.bincount(best, minlength=len(use)) @ use
    return float(np.take_along_axis(net, best[:, None], axis=1).sum()), used


def _prices(worth: Floats, use: Floats, available: Floats, tolerance: float) -> tuple[Floats, float]:
    m = len(available)
    free, used = _respond(worth, use, np.zeros(m))
    if (used <= available).all():
        return np.zeros(m), free
    scale = np.maximum(available, 1e-9)
    top = np.max([np.where(u > 0, worth.max() / np.maximum(u, 1e-12), 0.0) for u in use], axis=0)
    cuts, heights = [(available - used) / scale], [free]
    best, best_price = free, np.zeros(m)
    box = [*((0.0, float(h * s)) for h, s in zip(top, scale)), (None, None)]
    for _ in range(300):
        rows = np.column_stack([np.array(cuts), -np.ones(len(cuts))])
        master = linprog(np.append(np.zeros(m), 1.0), A_ub=rows, b_ub=-np.array(heights), bounds=box)
        # Half way to the best point so far: cutting planes alone swing from corner to corner.
        for point in (0.5 * (master.x[:m] / scale + best_price), master.x[:m] / scale):
            total, used = _respond(worth, use, point)
            height = total + point @ available
            slope = (available - used) / scale
            cuts.append(slope)
            heights.append(height - slope @ (point * scale))
            if height < best:
                best, best_price = height, point
        if best - master.fun <= tolerance * abs(best):
            break
    return best_price, best


def _fill(worth: Floats, use: Floats, available: Floats, price: Floats, most_open: int = 1500) -> Ints:
    # At the prices; by the linear programme where they leave it open; the last room by value.
    net = worth - use @ price
    order = np.sort(net, axis=1)
    nearest = np.argsort(order[:, -1] - order[:, -2], kind="stable")
    chosen = net.argmax(axis=1).astype(np.int64)
    used = np.bincount(chosen, minlength=len(use)) @ use
    if (used <= available).all() and not price.any():
        return chosen
    is_open = np.zeros(len(worth), dtype=bool)
    is_open[nearest[:most_open]] = True
    left = available - np.bincount(chosen[~is_open], minlength=len(use)) @ use
    chosen[is_open] = _solve(worth[is_open], use, np.maximum(left, 0.0))
    left = available - np.bincount(chosen, minlength=len(use)) @ use + 1e-9
    while True:
        gain = np.where((use <= left).all(axis=1) & (chosen == 0)[:, None], worth, 0.0)
        row, column = np.unravel_index(gain.argmax(), gain.shape)
        if gain[row, column] <= 0:
            return chosen
        chosen[row] = column
        left = left - use[column]


def _solve(worth: Floats, use: Floats, available: Floats) -> Ints:
    # The linear programme; the few customers that it splits get none.
    n = len(worth)
    row, column = np.nonzero(np.isfinite(worth[:, 1:]) & (worth[:, 1:] > 0))
    column = column + 1
    once = csr_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(n, len(row)))
    solved = linprog(
        -worth[row, column],
        A_ub=vstack([once, csr_array(use[column].T)]),
        b_ub=np.append(np.ones(n), available),
        bounds=(0, 1),
    )
    chosen = np.zeros(n, dtype=np.int64)
    whole = solved.x > 1 - 1e-6
    chosen[row[whole]] = column[whole]
    return chosen
