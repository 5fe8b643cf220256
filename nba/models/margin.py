"""What a response earns: a customer's mean margin per order, shrunk to the population's."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba.catalog import Catalog
from nba.models import inputs
from nba.models.inputs import Coding

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_WEIGHT = 3.0  # orders that the population's margin counts for in a customer's


@dataclass(frozen=True)
class Margin:
    """Expected margin of a response: a customer's mean margin per order, shrunk to the population's.

    Attributes:
        population: Mean margin per order, money.
        factor: Margin of a response within the window over the margin of an order (a response may hold
            several orders).
        by_action: What a response to an action earns over the usual one, by the catalog's margins; an action
            that is not named earns the usual.
    """

    population: float
    factor: float
    by_action: Mapping[str, float] = field(default_factory=dict)

    def predict(self, features: pa.Table) -> Array:
        """Give the expected margin of a response, money, shape (n,), at least 0."""
        return np.maximum(self.factor * shrunk(features, self.population), 0.0)

    def of(self, features: pa.Table, treatments: Coding) -> Array:
        """Give it for `none` and each of T treatments, money, shape (n, 1 + T)."""
        ratio = [1.0, *(self.by_action.get(action, 1.0) for action in treatments.action_ids)]
        return np.outer(self.predict(features), ratio)


def shrunk(features: pa.Table, population: float) -> Array:
    """Shrink customers' mean margin per order to the population's, by the number of their orders."""
    mean, n = inputs.matrix(features, ("f_margin_per_order", "f_orders_total")).T
    n = np.where(np.isfinite(mean), np.nan_to_num(n), 0.0)
    total = n * np.nan_to_num(mean) + _WEIGHT * population
    return np.asarray(total / (n + _WEIGHT))


def margin_by_action(catalog: Catalog, column: Whole) -> dict[str, float]:
    """Give the catalog's margin of each action over the mean of what was given.

    Args:
        catalog: An action without a margin is not named.
        column: Treatment of each row, 0 is `none`, shape (n,).

    Example:
        >>> from nba.catalog import Action, Treatment
        >>> actions = Action("sale", "s", "s", "Sale", 10.0), Action("club", "s", "s", "Club", 30.0)
        >>> treatments = Treatment("a", "sale", "email", 0.0), Treatment("b", "club", "email", 0.0)
        >>> shop = Catalog(actions, treatments)
        >>> margin_by_action(shop, np.array([0, 1, 2]))
        {'sale': 0.5, 'club': 1.5}
    """
    given = catalog.margin[column[column > 0]]
    given = given[given > 0]
    if not len(given):
        return {}
    usual = float(given.mean())
    names = zip(catalog.action[1:].tolist(), catalog.margin[1:].tolist())
    return {str(action): margin / usual for action, margin in names if margin > 0}


def fit_margin(examples: pa.Table, cost: Array) -> Margin:
    """Learn the population's margin per order, and what a response is worth in orders.

    Args:
        examples: The `examples` table, n rows.
        cost: Cost of each row's treatment, which its reward is net of; money, shape (n,).
    """
    mean, n = inputs.matrix(examples, ("f_margin_per_order", "f_orders_total")).T
    known = np.isfinite(mean) & (n > 0)
    responded = examples["is_response"].to_numpy()
    gross = examples["reward"].to_numpy() + cost
    if not known.any():
        return Margin(float(gross[responded].mean()) if responded.any() else 0.0, 1.0)
    population = float(np.average(mean[known], weights=n[known]))
    expected = shrunk(examples.filter(pa.array(responded)), population)
    if expected.sum() <= 0:
        return Margin(max(population, 0.0), 1.0)
    # As if 20 responses had been worth exactly one order each: a guard while responses are few.
    usual = 20 * max(population, 0.0)
    factor = (gross[responded].sum() + usual) / (expected.sum() + usual)
    return Margin(population, float(np.clip(factor, 0.25, 4.0)))
