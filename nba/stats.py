"""Estimates with their intervals: arrays in, records out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nba.errors import listed

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and its confidence interval; NaN where it cannot be known.

    Attributes:
        value: Point estimate, in the unit of the data.
        se: Standard error, same unit.
        lower, upper: Ends of the two-sided interval.
        n: Independent units it rests on.
        reason: Why it is unknown, where it is; else empty.
    """

    value: float
    se: float
    lower: float
    upper: float
    n: int
    reason: str = ""

    @classmethod
    def unknown(cls, reason: str, n: int = 0) -> "Interval":
        """Make the record of an estimate that cannot be known."""
        return cls(np.nan, np.nan, np.nan, np.nan, n, reason)


def check(
    what: str,
    *,
    numbers: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
    chances: Mapping[str, Any] | None = None,
    weight: Any = None,
) -> None:
    """Refuse arrays by row of which a measure would be a plausible number that means nothing.

    Args:
        what: What they are for.
        numbers: By name, anything finite.
        flags: By name, 0 or 1.
        chances: By name, from 0 to 1.
        weight: 0 or more.

    Raises:
        DataError: naming every fault at once.

    Example:
        >>> check("a mean", flags={"y": [0, 2]}, weight=[1.0, 1.0])
        Traceback (most recent call last):
        nba.errors.DataError: a mean cannot be measured:
        - y: 1 values are neither 0 nor 1
    """
    kinds = {"numbers": numbers or {}, "flags": flags or {}, "chances": chances or {}}
    kinds["weight"] = {} if weight is None else {"weight": weight}
    parts = {name: (kind, np.asarray(part)) for kind, named in kinds.items() for name, part in named.items()}
    faults = [found for name, (kind, part) in parts.items() if (found := _fault(kind, part, name))]
    if len({len(part) for _, part in parts.values()}) > 1:
        faults.append("lengths differ: " + ", ".join(f"{name} {len(p)}" for name, (_, p) in parts.items()))
    if faults:
        raise listed(faults, f"{what} cannot be measured")


def _fault(kind: str, part: NDArray[Any], name: str) -> str:
    if part.dtype.kind not in "biuf":
        return f"{name} holds {part.dtype}; expected numbers"
    if bad := int((~np.isfinite(part)).sum()):
        return f"{name}: {bad} values are missing or infinite"
    if kind == "flags" and (bad := int(((part != 0) & (part != 1)).sum())):
        return f"{name}: {bad} values are neither 0 nor 1"
    if kind == "chances" and (bad := int(((part < 0) | (part > 1)).sum())):
        return f"{name}: {bad} values are not from 0 to 1"
    if kind == "weight" and (bad := int((part < 0).sum())):
        return f"{name}: {bad} values are negative"
    return ""


def check_ranking(
    y: Array, uplift: Array, treated: Array, weight: Array | None = None, is_binary: bool = False
) -> None:
    """Refuse what no ranking by uplift can be measured on.

    Args:
        y: Response, 0 or 1 if it must be binary, or money, shape (n,).
        uplift: Shape (n,).
        treated: 0 or 1, shape (n,).
        weight: Shape (n,).
        is_binary: Whether the measure is for binary responses only.

    Raises:
        DataError: naming every fault at once.
    """
    flags = {"treated": treated, "y": y} if is_binary else {"treated": treated}
    numbers = {"uplift": uplift} if is_binary else {"uplift": uplift, "y": y}
    check("a ranking", numbers=numbers, flags=flags, weight=weight)


def mean(values: Array, level: float = 0.95, unit: NDArray[np.int64] | None = None) -> Interval:
    """Estimate a mean with Student's interval.

    Args:
        values: Shape (n,), one per independent unit, or several where `unit` says whose they are.
        level: Confidence level.
        unit: Code of the independent unit (customer) of each value, from 0, shape (n,): what a unit's values
            differ from the mean by is summed before it is squared (Liang, Zeger 1986).

    Example:
        >>> mean(np.array([1.0, 2.0, 3.0])).value
        2.0
        >>> twice = mean(np.array([1.0, 2.0, 3.0, 1.0, 2.0, 3.0]), unit=np.array([0, 1, 2, 0, 1, 2]))
        >>> twice.n, bool(np.isclose(twice.se, mean(np.array([1.0, 2.0, 3.0])).se))
        (3, True)
    """
    n = len(values)
    if unit is not None and n:
        value = float(np.mean(values))
        error, found = clustered(values - value, unit)
        if found < 2:
            return Interval.unknown(f"{found} independent units; an interval needs 2 or more", found)
        se = error / n
        half = float(special.stdtrit(found - 1, (1 + level) / 2)) * se
        return Interval(value, se, value - half, value + half, found)
    if n < 2:
        return Interval.unknown(f"{n} values; an interval needs 2 or more", n)
    se = float(np.std(values, ddof=1) / np.sqrt(n))
    value = float(np.mean(values))
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * se
    return Interval(value, se, value - half, value + half, n)


def weighed(values: Array, weight: Array) -> Array:
    """Give one number per row whose plain mean is the weighted mean, and whose spread is that mean's error.

    Rows without weight have the mean itself: they say nothing (the linearised ratio; Särndal 1992).

    Args:
        values: Shape (n,).
        weight: Shape (n,), 0 or more, some above.

    Example:
        >>> weighed(np.array([1.0, 4.0, 9.0]), np.array([2.0, 1.0, 0.0])).tolist()
        [0.0, 4.0, 2.0]
    """
    total = weight.sum()
    value = weight @ values / total
    return np.asarray(value + weight * (values - value) * (len(values) / total))


def sums(values: Array, unit: NDArray[np.int64]) -> tuple[Array, int]:
    """Sum values by unit.

    Args:
        values: Shape (n,) or (n, m).
        unit: Code of each row's unit, from 0; codes may have gaps, shape (n,).

    Returns:
        Sums, shape (units, ...), zero where a code is not there, and the number of different units.

    Example:
        >>> found, n = sums(np.array([1.0, 2.0, 3.0]), np.array([0, 2, 0]))
        >>> found.tolist(), n
        ([4.0, 0.0, 2.0], 2)
    """
    many = values.reshape(len(values), -1)
    found = np.column_stack([np.bincount(unit, part) for part in many.T]).astype(np.float64)
    return found.reshape(-1, *values.shape[1:]), int(np.count_nonzero(np.bincount(unit)))


def clustered(
    values: Array, unit: NDArray[np.int64] | None = None, *, corrected: bool = True
) -> tuple[float, int]:
    """Give the standard error of a sum whose rows may be of the same units (Liang, Zeger 1986).

    Args:
        values: What each row adds to the sum, less its expectation (its influence), shape (n,).
        unit: Code of the independent unit (customer) of each row, from 0; codes may have gaps, shape (n,).
            None where every row is another unit's.
        corrected: Whether to allow for few units, m / (m - 1); NaN then where there are fewer than 2.

    Returns:
        The error of the sum (of a mean it is that over the rows), and the number m of units.

    Example:
        >>> clustered(np.array([3.0, -1.0, -2.0]), np.array([0, 1, 1]))
        (6.0, 2)
        >>> clustered(np.array([3.0, -3.0]), corrected=False)[0].__round__(3)
        4.243
    """
    n = len(values) if unit is None else int(np.count_nonzero(np.bincount(unit)))
    square = float(((values if unit is None else np.bincount(unit, values)) ** 2).sum())
    if not corrected:
        return float(np.sqrt(square)), n
    return (float(np.sqrt(square * n / (n - 1))) if n > 1 else float("nan")), n


def effective(weight: Array) -> float:
    """Give how many equal rows weighted rows are worth (Kish 1965), 0 of none.

    Example:
        >>> effective(np.array([1.0, 1.0, 2.0]))
        2.6666666666666665
    """
    square = float((weight**2).sum())
    return float(weight.sum()) ** 2 / square if square > 0 else 0.0


def difference(treated: Array, control: Array, level: float = 0.95) -> Interval:
    """Estimate the difference of two means with Welch's interval (Welch 1947).

    Args:
        treated: Shape (n,), one value per independent unit.
        control: Shape (m,), the same.
        level: Confidence level.

    Example:
        >>> difference(np.array([2.0, 4.0]), np.array([1.0, 1.0, 1.0])).value
        2.0
    """
    if min(len(treated), len(control)) < 2:
        found = f"{len(treated)} treated and {len(control)} control units"
        return Interval.unknown(f"{found}; an interval needs 2 of each", len(treated) + len(control))
    parts = np.array([np.var(x, ddof=1) / len(x) for x in (treated, control)])
    se = float(np.sqrt(parts.sum()))
    value = float(np.mean(treated) - np.mean(control))
    n = len(treated) + len(control)
    if se == 0:
        return Interval(value, np.nan, np.nan, np.nan, n, "no variance in either group")
    sizes = np.array([len(treated), len(control)]) - 1
    freedom = parts.sum() ** 2 / (parts**2 / sizes).sum()
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * se
    return Interval(value, se, value - half, value + half, n)


def contrast(
    values: Array,
    is_control: NDArray[np.bool_],
    level: float = 0.95,
    unit: NDArray[np.int64] | None = None,
    weight: Array | None = None,
) -> Interval:
    """Estimate a mean less that of a control whose rows may be of the same units.

    Args:
        values: Shape (n,).
        is_control: Whose mean is subtracted, shape (n,).
        level: Confidence level.
        unit: Code of the independent unit (customer) of each value, from 0, shape (n,): what its values on
            both sides add to the difference is summed before it is squared (Liang, Zeger 1986). None where
            every value is another unit's (Welch).
        weight: Of each value, above 0, shape (n,), for weighted (self-normalised) means; None counts all
            alike.

    Returns:
        The estimate; its n counts independent units.

    Example:
        >>> values, is_control = np.array([2.0, 4.0, 1.0, 3.0]), np.array([False, False, True, True])
        >>> contrast(values, is_control).value
        1.0
        >>> same = contrast(values, is_control, unit=np.array([0, 1, 0, 1]))
        >>> same.value, same.se  # the units differ from each other as much on both sides
        (1.0, 0.0)
    """
    if unit is None and weight is None:
        return difference(values[~is_control], values[is_control], level)
    unit = np.arange(len(values)) if unit is None else unit
    weight = np.ones(len(values)) if weight is None else weight
    units = np.unique(unit[~is_control]), np.unique(unit[is_control])
    if min(len(side) for side in units) < 2:
        found = " and ".join(f"{len(side)} {name}" for side, name in zip(units, ("treated", "control")))
        return Interval.unknown(f"{found} units; an interval needs 2 of each", len(np.union1d(*units)))
    side = is_control.astype(int)
    sizes = np.bincount(side, weight, minlength=2)
    means = np.bincount(side, weight * values, minlength=2) / sizes
    se, n = clustered((1 - 2 * side) * weight * (values - means[side]) / sizes[side], unit)
    value, half = float(means[0] - means[1]), float(special.stdtrit(n - 1, (1 + level) / 2)) * se
    return Interval(value, se, value - half, value + half, n)


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Estimate a share with Wilson's interval (Wilson 1927).

    Args:
        successes: How many of the n.
        n: Independent units.
        level: Confidence level.

    Example:
        >>> wilson(5, 100).lower.__round__(4)
        0.0215
    """
    if n < 1:
        return Interval.unknown("0 values; a share needs 1 or more")
    z = float(special.ndtri((1 + level) / 2))
    share = successes / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
    se = float(np.sqrt(share * (1 - share) / n))
    return Interval(share, se, max(middle - half, 0.0), min(middle + half, 1.0), n)


def p_value(estimate: Interval) -> float:
    """Give the two-sided p-value of an estimate against zero (normal approximation)."""
    if not estimate.se > 0:
        return float("nan")
    return float(2 * special.ndtr(-abs(estimate.value) / estimate.se))


def sequence_bound(n: Array, planned: float, alpha: float = 0.05) -> Array:
    """Give the critical values of the asymptotic confidence sequence.

    Args:
        n: Units so far, of both arms together; any looks, as many as wanted.
        planned: Units at which the interval is narrowest; fixed before the start, it never costs validity.
        alpha: Two-sided error over all looks together.

    Returns:
        Critical values of |estimate| / se, shape of `n`; infinite below 2 units.

    Example:
        >>> sequence_bound(np.array([1000.0, 10_000.0]), planned=10_000).round(2).tolist()
        [3.86, 3.04]
    """
    n = np.asarray(n, dtype=np.float64)
    mixed = _mixed(n, planned, alpha)
    out = np.sqrt((1 + 1 / mixed) * np.log((mixed + 1) / alpha**2))
    return np.asarray(np.where(np.isnan(out), np.inf, out), dtype=np.float64)


def sequence_p_value(z: Array, n: Array, planned: float, alpha: float = 0.05) -> Array:
    """Give the p-value that is valid at every look: below `alpha` where `sequence_bound` is passed.

    Args:
        z: Estimate over its standard error.
        n: Units so far, of both arms together, shape of `z`.
        planned: Units at which the interval is narrowest.
        alpha: Error at which it is narrowest; the p-value is valid at any.

    Returns:
        Inverse of the largest evidence of the normal mixture, at most 1; NaN below 2 units.

    Example:
        >>> edge = sequence_bound(np.array([1000.0, 10_000.0]), planned=10_000)
        >>> sequence_p_value(edge, np.array([1000.0, 10_000.0]), planned=10_000).round(6).tolist()
        [0.05, 0.05]
    """
    mixed = _mixed(np.asarray(n, dtype=np.float64), planned, alpha)
    log_p = 0.5 * np.log1p(mixed) - 0.5 * np.square(z) * mixed / (1 + mixed)
    return np.asarray(np.exp(np.minimum(log_p, 0.0)), dtype=np.float64)


def _mixed(n: Array, planned: float, alpha: float) -> Array:
    scale = (-2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha))) / planned
    return np.asarray(np.where(n >= 2, n, np.nan) * scale, dtype=np.float64)
