"""How far a customer's orders and value may lie from their forecast: prediction intervals, by drawn futures.

A future draws a rate and a dropout from what is believed of the customer, purchases from those, a mean margin
from what is believed of it, and margins from that: so a customer who buys rarely has a wide interval, and one
of whom little is known a wider one. What is not counted is that the models themselves may be wrong, and what
moves all customers together (a season): backtests say how often the intervals held (`clv_scores`).
"""

import numpy as np
from numpy.typing import NDArray

from nba.models.clv_counts import CountModel, Rows
from nba.models.clv_spend import SpendModel

Array = NDArray[np.float64]
LEVEL = 0.9
FEWEST, MOST = 40, 400  # futures of each customer
_DRAWS = 2e7  # futures in all, where that leaves enough of each
_BLOCK = 20_000


def intervals(
    counts: CountModel, spend: SpendModel, rows: Rows, factor: Array, seen: tuple[Array, Array], value: Array,
    horizon: float, seed: int, most: int = MOST,
) -> dict[str, Array]:  # fmt: skip
    """Draw futures and give the ends between which 90% of them lie.

    Args:
        counts: Model of purchases.
        spend: Model of margins.
        rows: Customers in compressed form.
        factor: On the rate of purchases, shape (n,); customers of one row share its mean.
        seen: Purchases behind the mean margin, and that margin, shapes (n,), as `spend` reads them.
        value: Forecast of each customer, money, shape (n,): futures are scaled to it, so that they carry the
            discount and whatever else the forecast knows.
        horizon: In the unit of time of the rows.
        seed: Of the draws.
        most: Futures of each customer, at most.

    Returns:
        orders_lower, orders_upper, clv_lower, clv_upper, shapes (n,).
    """
    u = len(rows.weight)
    by_row = np.bincount(rows.inverse, factor, u) / rows.weight
    size = int(np.clip(_DRAWS / max(u, 1), FEWEST, most))
    low, high = round((1 - LEVEL) / 2 * size), size - 1 - round((1 - LEVEL) / 2 * size)
    rng = np.random.default_rng(seed)
    drawn = counts.draw(rng, rows, horizon, by_row, size)
    ends = np.partition(drawn, (low, high), axis=1)[:, [low, high]].astype(np.float64)[rows.inverse]
    bought, mean = seen
    orders = counts.expected(rows.n_repeat, rows.recency, rows.age, horizon) * by_row
    level = orders[rows.inverse] * spend.expected(bought, mean)
    scale = np.divide(value, level, out=np.ones_like(value), where=level != 0)
    scale = np.where(scale > 0, scale, 1.0)  # opposite signs: there is nothing to scale by
    lower, upper = np.empty(len(value)), np.empty(len(value))
    for begin in range(0, len(value), _BLOCK):
        at = slice(begin, begin + _BLOCK)
        money = spend.draw(rng, bought[at], mean[at], drawn[rows.inverse[at]])
        money = np.partition(money, (low, high), axis=1)[:, [low, high]] * scale[at, None]
        lower[at], upper[at] = money.T
    return {"orders_lower": ends[:, 0], "orders_upper": ends[:, 1], "clv_lower": lower, "clv_upper": upper}
