"""Sufficient statistics: one GROUP BY over customers gives all that a readout needs.

Sums are kept of values less a constant near their mean ("shifted"), so that the variance survives values
that are large against their spread (Chan, Golub and LeVeque 1983). Sums of different cells simply add.
"""

from collections.abc import Sequence
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SAMPLE = 10_000


class Sums(NamedTuple):
    """Shifted sums of m variables in c cells.

    Attributes:
        n: Units in each cell, shape (c,).
        shift: What was subtracted from each variable, shape (m,), in its unit.
        first: Sums of value - shift, shape (c, m).
        second: Sums of products of shifted values, shape (c, m, m).
    """

    n: Array
    shift: Array
    first: Array
    second: Array

    @classmethod
    def of(cls, values: Array, cell: NDArray[np.int64], n_cells: int) -> "Sums":
        """Sum rows held in memory.

        Args:
            values: Shape (n, m).
            cell: Cell of each row, shape (n,).
            n_cells: Number of cells c.

        Example:
            >>> Sums.of(np.array([[1.0], [3.0]]), np.array([0, 0]), 1).covariance().tolist()
            [[[2.0]]]
        """
        shift = values[:_SAMPLE].mean(axis=0) if len(values) else np.zeros(values.shape[1])
        x = values - shift
        m = values.shape[1]
        first = np.zeros((n_cells, m))
        second = np.zeros((n_cells, m, m))
        for i in range(m):
            first[:, i] = np.bincount(cell, x[:, i], n_cells)
            for j in range(i, m):
                second[:, i, j] = second[:, j, i] = np.bincount(cell, x[:, i] * x[:, j], n_cells)
        return cls(np.bincount(cell, minlength=n_cells).astype(np.float64), shift, first, second)

    def mean(self) -> Array:
        """Means, shape (c, m); NaN in an empty cell."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.shift + self.first / self.n[:, None]

    def covariance(self) -> Array:
        """Sample covariances, shape (c, m, m); NaN in a cell of fewer than 2 units."""
        with np.errstate(invalid="ignore", divide="ignore"):
            outer = self.first[:, :, None] * self.first[:, None, :] / self.n[:, None, None]
            out: Array = (self.second - outer) / np.where(self.n > 1, self.n - 1, np.nan)[:, None, None]
            return out

    def gather(self, groups: NDArray[np.int64], n_groups: int) -> "Sums":
        """Add cells up into groups; a group of -1 is left out.

        Args:
            groups: Group of each cell, shape (c,).
            n_groups: Number of groups.
        """
        keep = groups >= 0
        weights = np.zeros((n_groups, len(groups)))
        weights[groups[keep], np.flatnonzero(keep)] = 1.0
        second = np.tensordot(weights, self.second, axes=1)
        return Sums(weights @ self.n, self.shift, weights @ self.first, second)


class Cube(NamedTuple):
    """Cells and their sums.

    Attributes:
        keys: What each cell is, one row per cell.
        variables: Names of the m variables.
        sums: Their sums.
    """

    keys: pa.Table
    variables: tuple[str, ...]
    sums: Sums


def build(
    connection: duckdb.DuckDBPyConnection, query: str, by: Sequence[str], variables: Sequence[str]
) -> Cube:
    """Sum a query of one row per unit into cells, in one pass.

    Args:
        connection: Where the query's tables are.
        query: DuckDB query that gives the columns of `by` and `variables`.
        by: Columns that make the cells (arm, segment, ...).
        variables: Numeric columns, m of them; an unknown value makes its cell unknown (NaN).
    """
    m = len(variables)
    averages = ", ".join(f'coalesce(avg("{v}"), 0)' for v in variables)
    sample = connection.execute(f"select {averages} from (from ({query}) limit {_SAMPLE})").fetchall()
    shift = np.array(sample[0], dtype=np.float64)
    pairs = [(i, j) for i in range(m) for j in range(i, m)]
    x = [f'("{v}" - {s!r}::double)' for v, s in zip(variables, shift.tolist())]
    parts = [f'count("{v}") as k{i}' for i, v in enumerate(variables)]
    parts += [f"sum({x[i]}) as s{i}" for i in range(m)]
    parts += [f"sum({x[i]} * {x[j]}) as q{i}_{j}" for i, j in pairs]
    keys = ", ".join(f'"{name}"' for name in by)
    sql = f"select {keys}, count(*) as n, {', '.join(parts)} from ({query}) group by {keys} order by {keys}"
    table = connection.sql(sql).to_arrow_table()
    n = table["n"].to_numpy().astype(np.float64)
    first = np.full((len(n), m), np.nan)
    second = np.full((len(n), m, m), np.nan)
    known = np.array([table[f"k{i}"].to_numpy() == n for i in range(m)]).reshape(m, len(n))
    for i in range(m):
        first[known[i], i] = table[f"s{i}"].to_numpy()[known[i]]
    for i, j in pairs:
        both = known[i] & known[j]
        second[both, i, j] = second[both, j, i] = table[f"q{i}_{j}"].to_numpy()[both]
    return Cube(table.select(list(by)), tuple(variables), Sums(n, shift, first, second))
