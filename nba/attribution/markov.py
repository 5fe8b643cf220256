"""Markov attribution, exact: what share of conversions is lost when a channel leads nowhere.

Journeys are walks through states, the last `order` channels; every walk ends in `conversion` or `null`.
The removal effect of a channel is the fall of the chance of conversion when every step into that channel
goes to `null`. Absorption is solved, not simulated, so the same journeys give the same bits. Source:
Anderl, Becker, von Wangenheim and Schumann (2016), "Mapping the customer journey".
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


class Walks(NamedTuple):
    """Journeys as flat arrays.

    Attributes:
        channels: Names, shape (k,).
        code: Channel of every touch, journey after journey, shape (touches,).
        length: Touches of each journey, shape (n,); journeys without touches are left out.
        conversions: Weight of the journey ending with an order, shape (n,).
        nulls: Weight of it ending without, shape (n,).
    """

    channels: tuple[str, ...]
    code: Codes
    length: Codes
    conversions: Array
    nulls: Array


@dataclass(frozen=True)
class Chain:
    """A fitted chain.

    Attributes:
        order: Channels that a state remembers.
        channels: Names, shape (k,).
        states: Codes of the states, newest channel last; state 0 is the start, shape (m,).
        newest: Channel of each state, -1 for the start, shape (m,).
        probability: Transitions between states, shape (m, m).
        to_conversion, to_null: Chance of ending right after a state, shape (m,).
        weight: Journeys that pass each state, shape (m,).
        p_conversion: Chance that a journey converts.
        removal: Removal effect by channel, share of conversions lost, shape (k,); NaN without conversions.
        reason: Why it is unknown, where it is; else empty.
    """

    order: int
    channels: tuple[str, ...]
    states: Codes
    newest: Codes
    probability: sparse.csr_matrix
    to_conversion: Array
    to_null: Array
    weight: Array
    p_conversion: float
    removal: Array
    reason: str

    @property
    def credit(self) -> Array:
        """Share of the conversions credited to each channel, summing to 1, shape (k,)."""
        total = self.removal.sum()
        return self.removal / total if total > 0 else np.full(len(self.channels), np.nan)

    def table(self) -> pa.Table:
        """List every transition: from_state, to_state, weight (journeys), probability."""
        names = [self._name(s) for s in self.states]
        inner = self.probability.tocoo()
        rows = [np.asarray(inner.row), *(np.flatnonzero(p) for p in (self.to_conversion, self.to_null))]
        source = np.concatenate(rows)
        ends = ["(conversion)"] * len(rows[1]) + ["(null)"] * len(rows[2])
        p = np.concatenate([inner.data, self.to_conversion[rows[1]], self.to_null[rows[2]]])
        return pa.table(
            {
                "from_state": [names[i] for i in source],
                "to_state": [names[i] for i in inner.col] + ends,
                "weight": p * self.weight[source],
                "probability": p,
            }
        )

    def _name(self, state: int) -> str:
        parts = []
        while state:
            state, last = divmod(int(state), len(self.channels) + 1)
            parts.append(self.channels[last - 1])
        return " > ".join(reversed(parts)) or "(start)"


def walks(
    path: pa.Array | pa.ChunkedArray, conversions: Array, nulls: Array, separator: str = " > "
) -> Walks:
    """Read journeys from lists of channels, or from text with a separator.

    Args:
        path: Lists of strings, or strings, shape (n,).
        conversions: Weight of each journey ending with an order, shape (n,).
        nulls: Weight of each ending without, shape (n,).
        separator: Between channels in text.

    Example:
        >>> walks(pa.array(["a > b", "b"]), np.array([1.0, 0]), np.array([0.0, 2])).code.tolist()
        [0, 1, 1]
    """
    if isinstance(path, pa.ChunkedArray):
        path = path.combine_chunks()
        if isinstance(path, pa.ChunkedArray):
            path = pa.concat_arrays(path.chunks) if path.num_chunks else pa.array([], path.type)
    if pa.types.is_string(path.type) or pa.types.is_large_string(path.type):
        path = pc.split_pattern(path, separator)
    length = pc.fill_null(pc.list_value_length(path), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    encoded = path.flatten().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    code = encoded.indices.to_numpy(zero_copy_only=False)
    if names != sorted(names):
        code = np.argsort(np.argsort(names))[code]
    won, lost = np.asarray(conversions, dtype=float), np.asarray(nulls, dtype=float)
    has = length > 0
    if not has.all():
        length, won, lost = length[has], won[has], lost[has]
    return Walks(tuple(sorted(names)), code.astype(np.int64), length, won, lost)


def fit(given: Walks, order: int = 1) -> Chain:
    """Fit the chain and solve it for every channel's removal effect.

    Args:
        given: Journeys.
        order: 1, 2 or 3: channels that a state remembers.
    """
    k = len(given.channels)
    base = k + 1
    begin = np.cumsum(given.length) - given.length
    state = given.code + 1
    for back in range(1, order):
        older = np.zeros(len(state), dtype=np.int64)
        older[back:] = given.code[:-back] + 1
        for place in range(back):  # nothing stands before a journey's first touches
            older[begin[given.length > place] + place] = 0
        state += older * base**back
    both = given.conversions + given.nulls
    pair = np.empty(len(state), dtype=np.int64)
    pair[1:] = state[:-1] * base**order
    pair[begin] = 0
    pair += state
    alike = len(both) > 0 and bool((both == both[0]).all())
    weight = None if alike else np.repeat(both, given.length)
    steps = _sum_by(pair, weight, base ** (2 * order))
    if alike:
        steps = (steps[0], steps[1] * both[0])
    source, target = np.divmod(steps[0], base**order)
    last = state[begin + given.length - 1]
    states = np.unique(np.concatenate([[0], target, last]))
    m = len(states)
    rows, columns, ends = (np.searchsorted(states, codes) for codes in (source, target, last))
    won = np.bincount(ends, given.conversions, m)
    lost = np.bincount(ends, given.nulls, m)
    out = (np.bincount(rows, steps[1], m) + won + lost).astype(np.float64)
    safe = np.where(out > 0, out, 1)
    inner = sparse.csr_matrix((steps[1] / safe[rows], (rows, columns)), shape=(m, m))
    newest = np.where(states > 0, states % base - 1, -1)
    p_conversion, removal, reason = _removal(inner, won / safe, newest, k)
    return Chain(
        order, given.channels, states, newest, inner, won / safe, lost / safe, out,
        p_conversion, removal, reason,
    )  # fmt: skip


def _sum_by(key: Codes, weight: Array | None, size: int) -> tuple[Codes, Array]:
    if size <= 1 << 24:
        total = np.bincount(key, weight, size).astype(np.float64)
        found = np.flatnonzero(total).astype(np.int64)
        return found, total[found]
    found, inverse = np.unique(key, return_inverse=True)
    total = np.bincount(inverse, weight, len(found)).astype(np.float64)
    return found[total > 0], total[total > 0]


def _removal(inner: sparse.csr_matrix, won: Array, newest: Codes, k: int) -> tuple[float, Array, str]:
    m = len(won)
    if not won.sum() > 0:
        return (0.0 if m > 1 else np.nan), np.full(k, np.nan), "no journey ends with an order"
    whole = _absorbed(inner, won, np.arange(m))
    removal = np.empty(k)
    for channel in range(k):
        removal[channel] = 1 - _absorbed(inner, won, np.flatnonzero(newest != channel)) / whole
    return float(whole), removal, ""


def _absorbed(inner: sparse.csr_matrix, won: Array, kept: Codes) -> float:
    # Chance of conversion from the start; states that are not kept lead to null.
    system = sparse.identity(len(kept), format="csc") - inner[kept][:, kept].tocsc()
    return float(splu(system).solve(won[kept])[0])
