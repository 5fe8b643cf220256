"""Credits of every method: the rules as they are, and the models' channel totals spread over orders.

A model (Markov, Shapley) credits channels. Within an order each touch earns a share in proportion to its
channel's worth, and the worths are raked until the orders' shares add up to the model's channel totals,
as far as orders that only one channel touched allow it.
"""

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.attribution import markov, paths, rules, shapley
from nba.settings import Attribution

Array = NDArray[np.float64]


def credits(connection: duckdb.DuckDBPyConnection, given: Attribution) -> pa.Table:  # noqa: A001
    """Share every order among its touches by every method of the settings.

    Args:
        connection: Holds `steps` (`nba.attribution.paths.build`).
        given: Names the methods.

    Returns:
        Rows of the `credits` table.
    """
    parts = []
    ruled = tuple(method for method in given.methods if method in rules.RULES)
    if ruled:
        parts.append(rules.credits(connection, ruled, given.half_life_days))
    for is_ads in (False, True):
        chosen = [m for m in given.methods if m not in rules.RULES and m.endswith("_ads") is is_ads]
        if chosen:
            ways = paths.sequences(connection, only_ads=is_ads)
            parts += [_modelled(connection, method, ways) for method in chosen]
    parts = [part for part in parts if part.num_rows]
    if not parts:
        return tables.CREDITS.empty()
    return pa.concat_tables([part.select(tables.CREDITS.columns) for part in parts])


def totals(method: str, ways: pa.Table) -> tuple[tuple[str, ...], Array]:
    """Give the share of conversions that a model credits to each channel; NaN where unknown."""
    walks = markov.walks(ways["path"], _array(ways, "conversions"), _array(ways, "nulls"))
    model, kind = method.removesuffix("_ads").split("_")
    if model == "markov":
        return walks.channels, markov.fit(walks, int(kind)).credit
    game: shapley.Game = "count" if kind == "count" else "rate"
    member = _counted(walks) > 0
    return walks.channels, shapley.fit(member, walks.conversions, walks.nulls, game).credit


def rake(counts: Array, weight: Array, share: Array, rounds: int = 200) -> Array:
    """Find channel worths whose proportional shares add up to given totals.

    Args:
        counts: Touches by path and channel, shape (n, k).
        weight: Orders on each path, shape (n,).
        share: Wanted part of all orders by channel, summing to 1, shape (k,).
        rounds: Most passes of iterative proportional fitting.

    Returns:
        Worth by channel, shape (k,), summing to 1; a channel's share of an order is worth times touches
        over the sum of that.
    """
    worth = np.maximum(share, 0.0)
    wanted = share * weight.sum()
    for _ in range(rounds):
        mass = counts * worth
        total = mass.sum(axis=1, keepdims=True)
        got = weight @ np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
        if np.abs(got - wanted).max() <= 1e-6 * weight.sum():
            break
        worth = worth * np.divide(wanted, got, out=np.ones_like(wanted), where=got > 0)
        worth = np.maximum(worth / worth.sum(), np.where(share > 0, 1e-12, 0))
    return worth


def _modelled(connection: duckdb.DuckDBPyConnection, method: str, ways: pa.Table) -> pa.Table:
    channels, share = totals(method, ways)
    if not np.isfinite(share).all() or not len(share):
        return tables.CREDITS.empty()
    walks = markov.walks(ways["path"], _array(ways, "conversions"), _array(ways, "nulls"))
    used = walks.conversions > 0
    worth = rake(_counted(walks)[used], walks.conversions[used], share)
    connection.register("worths", pa.table({"channel": channels, "worth": worth}))
    where = "and is_ad" if method.endswith("_ads") else ""
    # A path on which every channel is worth nothing is shared evenly.
    return connection.sql(
        f"""
        with raw as (select s.*, worth, sum(worth) over (partition by order_id) as total,
            count(*) over (partition by order_id) as k
            from steps s join worths using (channel) where is_conversion {where}),
        shared as (select *, if(total > 0, worth / total, 1.0 / k) as share from raw)
        select '{method}' as method, order_id, touch_id, customer_id, channel, treatment_id, share,
            share * margin as credit, share * revenue as revenue_credit
        from shared where share > 0
        """
    ).to_arrow_table()


def _counted(walks: markov.Walks) -> Array:
    k = len(walks.channels)
    row = np.repeat(np.arange(len(walks.length)), walks.length)
    return (
        np.bincount(row * k + walks.code, minlength=len(walks.length) * k)
        .reshape(len(walks.length), k)
        .astype(float)
    )


def _array(table: pa.Table, name: str) -> Array:
    return np.asarray(table[name].to_numpy(), dtype=float)
