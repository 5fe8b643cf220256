"""Hashed, repeatable randomness: the same keys and salt give the same draws on any machine.

A draw is the leading 53 bits of BLAKE2b-64 over ``salt + "|" + key`` (UTF-8), divided by 2**53, so it
lies in [0, 1) and depends on nothing but its words: not on order, partitioning, engine or re-run.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_TOP53 = 1.0 / (1 << 53)
_FEW = 2_000  # keys for which the loop in machine code is not worth loading


def uniform(keys: Iterable[str] | pa.Array, salt: str) -> NDArray[np.float64]:
    """Draw one uniform number in [0, 1) for each key.

    Args:
        keys: Strings, n of them (customer ids, for example); an Arrow array is fastest.
        salt: Names the purpose; other salts give independent draws.

    Returns:
        Shape (n,).

    Example:
        >>> uniform(["anna", "ben"], salt="demo").round(6).tolist()
        [0.475929, 0.389858]
    """
    return np.asarray((hashed(keys, salt) >> np.uint64(11)).astype(np.float64) * _TOP53)


def hashed(keys: Iterable[str] | pa.Array, salt: str) -> NDArray[np.uint64]:
    """Hash each key: BLAKE2b-64 over ``salt + "|" + key``, read as a big-endian number, shape (n,).

    Example:
        >>> int(hashed(["anna"], "demo")[0]) == int.from_bytes(
        ...     blake2b(b"demo|anna", digest_size=8).digest(), "big"
        ... )
        True
    """
    prefix = salt.encode() + b"|"
    if not isinstance(keys, pa.Array):
        words = keys if isinstance(keys, Sequence) else list(keys)
        if len(words) < _FEW:
            return _one_by_one(words, prefix)
        keys = pa.array(words, pa.string())
    text = keys.cast(pa.large_string())
    _, places, letters = text.buffers()
    offsets = np.frombuffer(places, np.int64)[text.offset : text.offset + len(text) + 1]
    data = np.frombuffer(letters, np.uint8) if letters is not None and letters.size else np.zeros(1, np.uint8)
    out = np.empty(len(text), np.uint64)
    _blake2b(np.frombuffer(prefix, np.uint8), offsets, data, out)
    return out


def _one_by_one(keys: Sequence[str], prefix: bytes) -> NDArray[np.uint64]:
    seeded = blake2b(prefix, digest_size=8)
    out = []
    for key in keys:
        state = seeded.copy()
        state.update(key.encode())
        out.append(int.from_bytes(state.digest(), "big"))
    return np.array(out, dtype=np.uint64)


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


# RFC 7693: the initial state and the order of the words in each round.
_IV = np.array(
    [
        *(0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1),
        *(0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179),
    ],
    np.uint64,
)
_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    np.uint8,
)


@numba.njit(nogil=True, cache=True)
def _blake2b(prefix: Any, offsets: Any, data: Any, out: Any) -> None:
    block = np.zeros(128, np.uint8)
    h, v, m = np.empty(8, np.uint64), np.empty(16, np.uint64), np.empty(16, np.uint64)
    lead = len(prefix)
    for i in range(len(out)):
        size = lead + offsets[i + 1] - offsets[i]
        h[:] = _IV
        h[0] ^= np.uint64(0x01010000 ^ 8)
        done = 0
        while True:
            here = min(128, size - done)
            block[:] = 0
            for j in range(here):
                at = done + j
                block[j] = prefix[at] if at < lead else data[offsets[i] + at - lead]
            done += here
            _compress(h, v, m, block, done, done == size)
            if done == size:
                break
        first = h[0]
        swapped = np.uint64(0)
        for j in range(8):
            swapped = (swapped << np.uint64(8)) | ((first >> np.uint64(8 * j)) & np.uint64(255))
        out[i] = swapped


@numba.njit(nogil=True, cache=True)
def _compress(h: Any, v: Any, m: Any, block: Any, done: Any, is_last: Any) -> None:
    for j in range(16):
        word = np.uint64(0)
        for b in range(8):
            word |= np.uint64(block[8 * j + b]) << np.uint64(8 * b)
        m[j] = word
    v[:8] = h
    v[8:] = _IV
    v[12] ^= np.uint64(done)
    if is_last:
        v[14] = ~v[14]
    for r in range(12):
        s = _SIGMA[r % 10]
        _mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]])
        _mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]])
        _mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]])
        _mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]])
        _mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]])
        _mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]])
        _mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]])
        _mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]])
    for j in range(8):
        h[j] ^= v[j] ^ v[j + 8]


@numba.njit(nogil=True, cache=True, inline="always")
def _mix(v: Any, a: int, b: int, c: int, d: int, x: Any, y: Any) -> None:
    v[a] = v[a] + v[b] + x
    v[d] = _turned(v[d] ^ v[a], 32)
    v[c] = v[c] + v[d]
    v[b] = _turned(v[b] ^ v[c], 24)
    v[a] = v[a] + v[b] + y
    v[d] = _turned(v[d] ^ v[a], 16)
    v[c] = v[c] + v[d]
    v[b] = _turned(v[b] ^ v[c], 63)


@numba.njit(nogil=True, cache=True, inline="always")
def _turned(word: Any, by: int) -> Any:
    return (word >> np.uint64(by)) | (word << np.uint64(64 - by))
