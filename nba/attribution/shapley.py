"""Shapley attribution over the sets of channels that journeys touched.

Two games, and which one is played is said. `count`: a set is worth the conversions of the journeys that
touched nothing outside it; the value is then each conversion split evenly over its channels, exactly, and
never negative. `rate`: a set is worth the best conversion rate of the observed sets within it, where the
rate of a set is that of all journeys within it, at the lower end of its 95% interval (Wilson 1927), so that a
set seen on a handful of journeys is not worth everything. Adding a channel never lowers the best, so no
value is negative (the raw rate game is not monotone, which is where other tools' negative credits come
from). Sources: Shapley (1953); for the rate game Zhao, Mahboobi and Bagheri (2018).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Game = Literal["count", "rate"]
MOST_EXACT = 16
SURE = 1.96  # standard errors below which a rate is hardly
_BLOCK = 1024


@dataclass(frozen=True)
class Shapley:
    """Shapley values of channels.

    Attributes:
        game: Which game was played.
        value: Worth of each channel, in the game's unit (conversions, or rate), shape (k,).
        se: Monte-Carlo standard error where permutations were drawn; 0 where exact, shape (k,).
        credit: Part of all conversions, summing to 1, shape (k,); NaN where unknown.
        reason: Why it is unknown, where it is; else empty.
    """

    game: Game
    value: Array
    se: Array
    credit: Array
    reason: str


def fit(
    member: NDArray[np.bool_], conversions: Array, nulls: Array, game: Game = "rate",
    permutations: int = 2000, seed: int = 0, sure: float = SURE,
) -> Shapley:  # fmt: skip
    """Compute the Shapley value of every channel.

    Args:
        member: Whether a journey touched a channel, shape (n, k).
        conversions: Weight of each journey ending with an order, shape (n,).
        nulls: Weight of each ending without, shape (n,).
        game: Which game is played.
        permutations: Orders of arrival drawn for the rate game of more than `MOST_EXACT` channels.
        seed: Of those draws.
        sure: Standard errors between a rate and what it is taken for; 0 takes rates as they are.

    Example:
        >>> both = np.array([[True, True], [True, False]])
        >>> fit(both, np.array([1.0, 2.0]), np.zeros(2), "count").value.tolist()
        [2.5, 0.5]
    """
    n, k = member.shape
    if not conversions.sum() > 0 or k == 0:
        nan = np.full(k, np.nan)
        return Shapley(game, nan, nan, nan, "no journey ends with an order")
    size = member.sum(axis=1)
    if game == "count":
        part = np.divide(conversions, size, out=np.zeros(n), where=size > 0)
        value = member.T.astype(float) @ part
        return Shapley(game, value, np.zeros(k), value / value.sum(), "")
    sets, worth = _rates(member, conversions, nulls, sure)
    if k <= MOST_EXACT:
        value, se = _exact(_rate_game(sets, worth)), np.zeros(k)
    else:
        value, se = _drawn(sets, worth, permutations, seed)
    total = value.sum()
    credit = value / total if total > 0 else np.full(k, np.nan)
    return Shapley(game, value, se, credit, "" if total > 0 else "no set of channels converts")


def _rates(
    member: NDArray[np.bool_], conversions: Array, nulls: Array, sure: float
) -> tuple[NDArray[np.bool_], Array]:
    # Observed sets, and the conversion rate of all journeys within each.
    sets, inverse = np.unique(member, axis=0, return_inverse=True)
    mine = np.bincount(inverse.ravel(), conversions, len(sets)) * sets.any(axis=1)
    all_ = mine + np.bincount(inverse.ravel(), nulls, len(sets)) * sets.any(axis=1)
    part = sets.astype(np.float32)
    won, seen = np.empty(len(sets)), np.empty(len(sets))
    for begin in range(0, len(sets), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        within = (1 - part[block]) @ part.T == 0  # nothing of the other set lies outside
        won[block], seen[block] = within @ mine, within @ all_
    n = np.where(seen > 0, seen, 1)
    rate = won / n
    half = sure * np.sqrt(rate * (1 - rate) / n + sure**2 / (4 * n**2))
    lower = (rate + sure**2 / (2 * n) - half) / (1 + sure**2 / n)
    return sets, np.where((won > 0) & sets.any(axis=1), np.maximum(lower, 0), 0.0)


def _rate_game(sets: NDArray[np.bool_], rate: Array) -> Array:
    k = sets.shape[1]
    worth = np.zeros(1 << k)
    worth[sets @ (1 << np.arange(k))] = rate
    for j in range(k):  # the best over subsets, one channel at a time
        view = worth.reshape(-1, 2, 1 << j)
        np.maximum(view[:, 1], view[:, 0], out=view[:, 1])
    return worth


def _exact(worth: Array) -> Array:
    k = int(np.log2(len(worth)))
    size = np.array([bin(s).count("1") for s in range(len(worth))])
    # Weight of a set of size s that does not hold the channel: s! (k - s - 1)! / k!
    weight = np.ones(k)
    for s in range(1, k):
        weight[s] = weight[s - 1] * s / (k - s)
    weight /= k
    out = np.empty(k)
    for j in range(k):
        view = worth.reshape(-1, 2, 1 << j)
        sizes = size.reshape(-1, 2, 1 << j)[:, 0]
        out[j] = (weight[sizes] * (view[:, 1] - view[:, 0])).sum()
    return out


def _drawn(sets: NDArray[np.bool_], rate: Array, permutations: int, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    k = sets.shape[1]
    able = rate > 0
    sets, rate = sets[able], rate[able]
    gain = np.empty((permutations, k))
    place = np.empty(k, dtype=np.int64)
    for i in range(permutations):
        order = rng.permutation(k)
        place[order] = np.arange(k)
        done = np.where(sets, place, -1).max(axis=1, initial=-1)  # arrival that completes the set
        worth = np.zeros(k)
        np.maximum.at(worth, done, rate)
        gain[i, order] = np.diff(np.maximum.accumulate(worth), prepend=0.0)
    return gain.mean(axis=0), gain.std(axis=0, ddof=1) / np.sqrt(permutations)
