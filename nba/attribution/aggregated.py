"""Attribution of path counts: a file of paths with conversions and nulls, without customers or times."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba.attribution import markov, shapley
from nba.attribution.markov import Walks

Array = NDArray[np.float64]


def credits(walks: Walks, value: Array | None = None, intent: Sequence[str] = ()) -> pa.Table:  # noqa: A001
    """Credit conversions and their value to channels by every method that needs no times.

    Args:
        walks: Journeys with the number of conversions and nulls of each.
        value: Money of each journey's conversions, shape (n,); absent, only conversions are credited.
            Models credit it in proportion to conversions, rules path by path.
        intent: Channels that only follow intent. With any, every method is also run on the others alone, as
            if these were not there, under its name with `_ads`; conversions that only intent channels touched
            are then nobody's.

    Returns:
        method, channel, conversions, value (null where not given), reason.

    Example:
        >>> two = markov.walks(pa.array(["a > b", "b"]), np.array([1.0, 1.0]), np.zeros(2))
        >>> credits(two).filter(pa.compute.field("method") == "linear")["conversions"].to_pylist()
        [0.5, 1.5]
    """
    parts = [_table(walks, value, "")]
    if set(intent) & set(walks.channels):
        parts.append(_table(*_only_ads(walks, value, intent), "_ads"))
    return pa.concat_tables(parts)


def _only_ads(walks: Walks, value: Array | None, intent: Sequence[str]) -> tuple[Walks, Array | None]:
    is_ad = ~np.isin(walks.channels, list(intent))
    stays = is_ad[walks.code]
    n = len(walks.length)
    length = np.bincount(np.repeat(np.arange(n), walks.length)[stays], minlength=n)
    has = length > 0
    names = tuple(name for name, ad in zip(walks.channels, is_ad) if ad)
    code = (np.cumsum(is_ad) - 1)[walks.code[stays]]
    kept = Walks(names, code, length[has], walks.conversions[has], walks.nulls[has])
    return kept, None if value is None else value[has]


def _table(walks: Walks, value: Array | None, suffix: str) -> pa.Table:
    k = len(walks.channels)
    end = np.cumsum(walks.length)
    begin = end - walks.length
    journey = np.repeat(np.arange(len(end)), walks.length)
    share = {
        "first": _one(begin, len(walks.code)),
        "last": _one(end - 1, len(walks.code)),
        "linear": 1 / walks.length[journey],
        "position": _position(walks, begin, end, journey),
    }
    rows: list[tuple[str, Array, Array | None, str]] = []
    for name, part in share.items():
        won = np.bincount(walks.code, part * walks.conversions[journey], k).astype(float)
        money = None if value is None else np.bincount(walks.code, part * value[journey], k).astype(float)
        rows.append((name, won, money, ""))
    member = np.bincount(journey * k + walks.code, minlength=len(end) * k).reshape(len(end), k) > 0
    models = [(f"markov_{i}", (c := markov.fit(walks, i)).credit, c.reason) for i in (1, 2, 3)]
    for game in ("count", "rate"):
        found = shapley.fit(member, walks.conversions, walks.nulls, "count" if game == "count" else "rate")
        models.append((f"shapley_{game}", found.credit, found.reason))
    for name, credit, reason in models:
        money = None if value is None else credit * value.sum()
        rows.append((name, credit * walks.conversions.sum(), money, reason))
    return pa.table(
        {
            "method": pa.array([name + suffix for name, *_ in rows for _ in range(k)], pa.string()),
            "channel": pa.array(list(walks.channels) * len(rows), pa.string()),
            "conversions": pa.array(np.concatenate([won for _, won, _, _ in rows]), from_pandas=True),
            "value": pa.array(
                np.concatenate([np.full(k, np.nan) if m is None else m for _, _, m, _ in rows]),
                from_pandas=True,
            ),
            "reason": pa.array([reason for *_, reason in rows for _ in range(k)], pa.string()),
        }
    )


def _one(at: NDArray[np.int64], size: int) -> Array:
    out = np.zeros(size)
    out[at] = 1.0
    return out


def _position(
    walks: Walks, begin: NDArray[np.int64], end: NDArray[np.int64], journey: NDArray[np.int64]
) -> Array:
    n = walks.length[journey]
    out = np.where(n > 2, 0.2 / np.maximum(n - 2, 1), 0.5)
    ends = np.where(walks.length > 2, 0.4, np.where(walks.length == 2, 0.5, 1.0))
    out[begin] = ends
    out[end - 1] = ends
    return out
