"""How well lifetime value was forecast, on a period that the models had not seen."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Score(NamedTuple):
    """Measures of a forecast against what followed.

    Attributes:
        n: Customers.
        mae, rmse: Of one customer's forecast, in its unit.
        ratio: Total forecast over total observed.
        ngini: Normalised Gini: how well the forecast ranks, 1 being perfect and 0 chance.
        top_decile: Part of the observed total that the tenth forecast highest brought.
        decile_mape: Mean relative error over ten groups by forecast; NaN where a group had nothing.
    """

    n: int
    mae: float
    rmse: float
    ratio: float
    ngini: float
    top_decile: float
    decile_mape: float


def score(observed: Array, forecast: Array) -> Score:
    """Score one forecast.

    Args:
        observed: What followed, orders or money, shape (n,).
        forecast: What was expected, same unit, shape (n,).

    Example:
        >>> score(np.array([0.0, 1.0, 3.0]), np.array([0.0, 1.0, 3.0])).ngini
        1.0
    """
    n, total = len(observed), float(observed.sum())
    if not n or not total > 0:
        nan = float("nan")
        return Score(n, nan, nan, nan, nan, nan, nan)
    rest = observed - forecast
    deciles = by_decile(observed, forecast)
    seen, expected = deciles["observed"].to_numpy(), deciles["forecast"].to_numpy()
    mape = float(np.mean(np.abs(expected - seen) / seen)) if (seen > 0).all() else float("nan")
    best = np.argsort(-forecast, kind="stable")[: max(n // 10, 1)]
    return Score(
        n, float(np.abs(rest).mean()), float(np.sqrt((rest**2).mean())), float(forecast.sum() / total),
        normalised_gini(observed, forecast), float(observed[best].sum() / total), mape,
    )  # fmt: skip


def normalised_gini(observed: Array, forecast: Array) -> float:
    """Area under the Lorenz curve by forecast, over that by the observed itself."""

    def area(order: NDArray[np.int64]) -> float:
        return float(np.cumsum(observed[order]).mean() / observed.sum() - 0.5 - 0.5 / len(observed))

    return area(np.argsort(-forecast, kind="stable")) / area(np.argsort(-observed, kind="stable"))


def held(observed: Array, lower: Array, upper: Array) -> dict[str, float]:
    """Count how often intervals held what followed, and how often it lay above.

    Args:
        observed: What followed, shape (n,).
        lower: Lower ends of the intervals, shape (n,).
        upper: Upper ends, shape (n,).

    Example:
        >>> held(np.array([0.0, 1.0, 3.0, 4.0]), np.zeros(4), np.full(4, 3.0))
        {'cover': 0.75, 'above': 0.25}
    """
    near = 1e-9 * np.abs(observed)  # sums of money are rounded
    is_above = observed > upper + near
    is_in = (observed >= lower - near) & ~is_above
    return {"cover": float(is_in.mean()), "above": float(is_above.mean())}


def by_decile(observed: Array, forecast: Array, bins: int = 10) -> pa.Table:
    """Compare means in groups of equal size by forecast, lowest first: forecast, observed, n."""
    groups = [g for g in np.array_split(np.argsort(forecast, kind="stable"), bins) if len(g)]
    return pa.table(
        {
            "forecast": [float(forecast[g].mean()) for g in groups],
            "observed": [float(observed[g].mean()) for g in groups],
            "n": [len(g) for g in groups],
        }
    )
