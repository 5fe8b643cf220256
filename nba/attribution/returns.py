"""What contact returned on its cost: ROAS, cost per order caused, marginal return, each with its interval."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.stats import norm

from nba import tables
from nba.attribution.incremental import Caused
from nba.attribution.logged import WHOLE, Estimates

TOTAL = "total"


class Spent(NamedTuple):
    """What an item cost in a period.

    Attributes:
        cost: Money, on the contacts that the estimate speaks of.
        per_contact: Money for one contact; NaN where there was none of a decision.
        whole: Money, on all its contacts.
    """

    cost: float
    per_contact: float
    whole: float = np.nan


class Known(NamedTuple):
    """One number with the ends of its interval; NaN where unknown."""

    value: float
    lower: float
    upper: float


def known(found: Caused, place: int, level: float) -> Known:
    """Read one item of an estimate."""
    half = float(norm.ppf((1 + level) / 2) * found.se[place])
    value = float(found.value[place])
    return Known(value, value - half, value + half)


def per_cost(caused: Known, cost: float) -> Known:
    """Divide what was caused by what it cost, which is known: return on advertising spend.

    Example:
        >>> per_cost(Known(30.0, 20.0, 40.0), 10.0)
        Known(value=3.0, lower=2.0, upper=4.0)
    """
    if not cost > 0:
        return Known(np.nan, np.nan, np.nan)
    return Known(*(end / cost for end in caused))


def cost_per(caused: Known, cost: float) -> Known:
    """Divide the cost by the orders that it caused.

    Returns:
        NaN where no order was caused; the upper end is NaN, that is unbounded, where the interval of
        the orders reaches 0 (the ends are Fieller's, the cost being known).

    Example:
        >>> cost_per(Known(5.0, -1.0, 10.0), 20.0)
        Known(value=4.0, lower=2.0, upper=nan)
    """
    if not (cost >= 0 and caused.value > 0):
        return Known(np.nan, np.nan, np.nan)
    upper = cost / caused.lower if caused.lower > 0 else np.nan
    return Known(cost / caused.value, cost / caused.upper, upper)


def table(
    levels: Mapping[str, tuple[tuple[str, ...], Estimates]],
    spent: Mapping[tuple[str, str, str], Spent],
    level: float,
) -> pa.Table:
    """Write the `incremental` table.

    Args:
        levels: channel and action, each with the names of its items and their estimates; channels also
            hold the period `total`, all contact against the holdout.
        spent: (level, item, period) to what it cost.
        level: Confidence level of the intervals.
    """
    rows: list[dict[str, Any]] = []
    for name, (items, estimates) in levels.items():
        for period in (p for p, measure in estimates if measure == "margin"):
            if period == TOTAL:
                rows.append(_row(WHOLE, WHOLE, WHOLE, estimates, (TOTAL, 0), spent, level))
                continue
            rows += [
                _row(name, item, period, estimates, (period, i), spent, level) for i, item in enumerate(items)
            ]
    return tables.INCREMENTAL.build(rows)


def _row(
    name: str, item: str, period: str, estimates: Estimates, at: tuple[str, int],
    spent: Mapping[tuple[str, str, str], Spent], level: float,
) -> dict[str, Any]:  # fmt: skip
    key, place = at
    money, orders = estimates[key, "margin"], estimates[key, "orders"]
    more = estimates.get((key, "marginal"))
    cost = spent.get((name, item, period), Spent(np.nan, np.nan))
    nothing = Known(np.nan, np.nan, np.nan)
    numbers = {
        "margin": known(money, place, level),
        "conversions": known(orders, place, level),
        "roas": per_cost(known(money, place, level), cost.cost),
        "cost_per_conversion": cost_per(known(orders, place, level), cost.cost),
        "marginal_return": per_cost(known(more, place, level), cost.per_contact) if more else nothing,
    }
    ends = {
        f"{what}{end}": _or_none(number)
        for what, found in numbers.items()
        for end, number in zip(("", "_lower", "_upper"), found)
    }
    reason = money.reason[place]
    if not reason and np.isfinite(money.value[place]) and not cost.cost > 0:
        reason = "no cost is known: no return on it"
    elif not reason and more is None and name != WHOLE:
        reason = "no decision is logged with its probability: the marginal return is unknown"
    return {
        "level": name, "item": item, "period": period, "n": int(money.n[place]), "cost": _or_none(cost.cost),
        "spent": _or_none(cost.whole),
        "source": money.source if np.isfinite(money.value[place]) else "none", "reason": reason, **ends,
    }  # fmt: skip


def _or_none(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
