"""One feature as data: its name, unit, meaning, and the SQL aggregate that computes it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One column of the features table.

    Attributes:
        name: Column name, with the prefix `f_`.
        unit: Unit of its values.
        doc: What it means, in one phrase.
        source: The table it is computed from: a key of `nba.features.table.SOURCES`.
        sql: DuckDB aggregate over that source's rows of one customer; `age` is the days from the row's
            time to as_of. For the source `customers` it is a plain expression over the one row.
        absent: Value of a customer without rows in the source; NaN means unknown.

    Example:
        >>> Feature("f_orders_7", "orders", "orders in a week", "orders", "count(*) filter (age <= 7)").unit
        'orders'
    """

    name: str
    unit: str
    doc: str
    source: str
    sql: str
    absent: float = math.nan


def smoothed(hits: str, tries: str, usual: float, weight: int) -> str:
    """Write a rate in SQL that few tries leave near the usual one, as if so many more had come out so.

    Example:
        >>> smoothed("clicks", "seen", 0.25, 4)
        '(clicks + 1.0) / (seen + 4)'
    """
    return f"({hits} + {weight * usual}) / ({tries} + {weight})"


def response_rate(decided: str, usual: float, weight: int) -> str:
    """Write the responses per closed decision of those for which a condition holds, smoothed."""
    hits = f"count(*) filter ({decided} and is_response)"
    return smoothed(hits, f"count(*) filter ({decided} and is_response is not null)", usual, weight)
