"""Shapley attribution over the sets of channels that journeys touched.

Two games, and which one is played is said. `count`: a set is worth the conversions of the journeys that
touched nothing outside it; the value is then each conversion split evenly over its channels, exactly, and
never negative. `rate`: a set is worth the best conversion rate that any of its subsets reached on the
journeys within that subset, so that adding a channel never lowers it and no value is negative (the raw
rate game is not monotone, which is where other tools' negative credits come from). Source: Shapley (1953);
for the rate game Zhao, Mahboobi and Bagheri (2018).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Game = Literal["count", "rate"]
MOST_EXACT = 16


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
    permutations: int = 2000, seed: int = 0,
) -> Shapley:  # fmt: skip
    """Compute the Shapley value of every channel.

    Args:
        member: Whether a journey touched a channel, shape (n, k).
        conversions: Weight of each journey ending with an order, shape (n,).
        nulls: Weight of each ending without, shape (n,).
        game: Which game is played.
        permutations: Orders of arrival drawn for the rate game of more than `MOST_EXACT` channels.
        seed: Of those draws.

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
    if k <= MOST_EXACT:
        value, se = _exact(_rate_game(member, conversions, nulls)), np.zeros(k)
    else:
        value, se = _drawn(member, conversions, nulls, permutations, seed)
    total = value.sum()
    credit = value / total if total > 0 else np.full(k, np.nan)
    return Shapley(game, value, se, credit, "" if total > 0 else "no set of channels converts")


def _rate_game(member: NDArray[np.bool_], conversions: Array, nulls: Array) -> Array:
    k = member.shape[1]
    code = member @ (1 << np.arange(k))
    won = np.bincount(code, conversions, 1 << k).astype(float)
    seen = won + np.bincount(code, nulls, 1 << k)
    won[0] = seen[0] = 0.0
    for j in range(k):  # sums over subsets, one channel at a time
        for table in (won, seen):
            view = table.reshape(-1, 2, 1 << j)
            view[:, 1] += view[:, 0]
    worth = np.divide(won, seen, out=np.zeros_like(won), where=seen > 0)
    for j in range(k):  # the best over subsets makes the game monotone
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


def _drawn(
    member: NDArray[np.bool_], conversions: Array, nulls: Array, permutations: int, seed: int
) -> tuple[Array, Array]:
    # The best rate among the sets met on the way stands in for the best over all subsets.
    rng = np.random.default_rng(seed)
    k = member.shape[1]
    sets, inverse = np.unique(member, axis=0, return_inverse=True)
    won = np.bincount(inverse.ravel(), conversions, len(sets))
    seen = won + np.bincount(inverse.ravel(), nulls, len(sets))
    touched = sets.any(axis=1)
    gain = np.empty((permutations, k))
    for i in range(permutations):
        order = rng.permutation(k)
        place = np.empty(k, dtype=np.int64)
        place[order] = np.arange(k)
        whole = np.where(sets, place, -1).max(axis=1)  # arrival that completes the set
        done = np.where(touched, whole, 0)
        w = np.cumsum(np.bincount(done, won * touched, k))
        s = np.cumsum(np.bincount(done, seen * touched, k))
        worth = np.maximum.accumulate(np.divide(w, s, out=np.zeros(k), where=s > 0))
        gain[i, order] = np.diff(worth, prepend=0.0)
    return gain.mean(axis=0), gain.std(axis=0, ddof=1) / np.sqrt(permutations)
