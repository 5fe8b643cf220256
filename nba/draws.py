"""Hashed, repeatable randomness: the same keys and salt give the same draws on any machine.

A draw is the leading 53 bits of BLAKE2b-64 over ``salt + "|" + key`` (UTF-8), divided by 2**53, so it
lies in [0, 1) and depends on nothing but its words: not on order, partitioning, engine or re-run.
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_TOP53 = 1.0 / (1 << 53)


def uniform(keys: Iterable[str], salt: str) -> NDArray[np.float64]:
    """Draw one uniform number in [0, 1) for each key.

    Args:
        keys: Strings, n of them (customer ids, for example).
        salt: Names the purpose; other salts give independent draws.

    Returns:
        Shape (n,).

    Example:
        >>> uniform(["anna", "ben"], salt="demo").round(6).tolist()
        [0.475929, 0.389858]
    """
    seeded = blake2b(salt.encode() + b"|", digest_size=8)
    out = []
    for key in keys:
        state = seeded.copy()
        state.update(key.encode())
        out.append(int.from_bytes(state.digest(), "big") >> 11)
    return np.asarray(out, dtype=np.float64) * _TOP53


def pick(probabilities: NDArray[np.float64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """Choose a column for each row by inverting its cumulative probabilities.

    Args:
        probabilities: Shape (n, k), rows sum to 1.
        draws: Shape (n,), in [0, 1).

    Returns:
        Shape (n,), column numbers; a column of probability 0 is never chosen.

    Example:
        >>> pick(np.array([[0.5, 0.0, 0.5]] * 2), np.array([0.49, 0.5])).tolist()
        [0, 2]
    """
    total = np.cumsum(probabilities, axis=1)
    chosen = (draws[:, None] * total[:, -1:] >= total).sum(axis=1)
    return np.minimum(chosen, probabilities.shape[1] - 1).astype(np.int64)


def bucket(keys: Iterable[str], shares: Iterable[float], salt: str) -> NDArray[np.int64]:
    """Put each key into one of the shares by its hash; growing the last share moves nobody else.

    Args:
        keys: Strings, n of them.
        shares: Share of each bucket, summing to at most 1; the rest falls into bucket ``len(shares)``.
        salt: Names the purpose.

    Returns:
        Shape (n,), bucket numbers.

    Example:
        >>> bucket(["anna", "ben"], [0.5, 0.5], salt="demo").tolist()
        [0, 0]
    """
    edges = np.cumsum(np.fromiter(shares, dtype=np.float64))
    if len(edges) and abs(edges[-1] - 1) < 1e-9:
        edges[-1] = 1.0
    return np.searchsorted(edges, uniform(keys, salt), side="right").astype(np.int64)
