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

from nba.errors import DataError

Array = NDArray[np.float64]

_SAMPLE = 2048


class Metric(NamedTuple):
    """Columns of a metric in the variables of a cube; None stands for the constant 1.

    Attributes:
        numerator: What is averaged.
        denominator: What it is divided by, for a ratio of means.
        covariate, covariate_denominator: The same, from before the assignment, for CUPED.
    """

    numerator: str
    denominator: str | None = None
    covariate: str | None = None
    covariate_denominator: str | None = None


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
    def of(cls, values: Array, cell: NDArray[np.integer], n_cells: int) -> "Sums":
        """Sum rows held in memory.

        Args:
            values: Shape (n, m).
            cell: Cell of each row, shape (n,).
            n_cells: Number of cells c.

        Example:
            >>> Sums.of(np.array([[1.0], [3.0]]), np.array([0, 0]), 1).covariance().tolist()
            [[[2.0]]]
        """
        sample = values[:_SAMPLE] if len(values) else np.zeros((1, values.shape[1]))
        shift = _near(sample.mean(axis=0), sample.std(axis=0))
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
            left = self.second - outer
            # What rounding leaves of equal values is no variance.
            left = np.where(np.abs(left) <= 1e-14 * np.abs(self.second), 0.0, left)
            out: Array = left / np.where(self.n > 1, self.n - 1, np.nan)[:, None, None]
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


def variables_of(metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Name the columns that metrics need, each once."""
    return tuple(dict.fromkeys(part for metric in metrics for part in metric if part is not None))


def columns_of(metrics: Sequence[Metric], variables: Sequence[str]) -> NDArray[np.int64]:
    """Number the columns of metrics among the variables of a cube, shape (k, 4); -1 is the constant 1.

    Raises:
        DataError: when a metric asks for a column that does not exist.
    """
    number: dict[str | None, int] = {name: i for i, name in enumerate(variables)}
    number[None] = -1
    absent = sorted(set(variables_of(metrics)) - set(variables))
    if absent:
        raise DataError(f"metric columns {absent} do not exist; found {list(variables)}", "Mend the metrics.")
    return np.array([[number[part] for part in metric] for metric in metrics], dtype=np.int64)


def build(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    by: Sequence[str],
    metrics: Sequence[Metric],
    shift: Array | None = None,
) -> Cube:
    """Sum a query of one row per unit into cells, in one pass.

    Args:
        connection: Where the query's tables are.
        query: Name of a table, or DuckDB query, with the columns of `by` and of the metrics.
        by: Columns that make the cells (arm, segment, ...).
        metrics: What will be read; an unknown value (null) makes its cell unknown (NaN).
        shift: What to subtract, as in `Sums`; from the first rows if absent.

    Raises:
        DataError: when a column does not exist.
    """
    source = _source(query)
    variables = variables_of(metrics)
    found = connection.sql(f"from {source} limit 0").columns
    absent = [name for name in (*by, *variables) if name not in found]
    if absent:
        raise DataError(f"columns {absent} do not exist; found {found}", "Mend the metrics or segments.")
    shift = shift_of(connection, query, variables) if shift is None else shift
    value = {v: _shifted(f'"{v}"', s) for v, s in zip(variables, shift.tolist())}
    pairs = pairs_of(metrics, variables)
    parts = [f"count(v{i}) as k{i}" for i in range(len(variables))]
    parts += [f"sum(v{i}) as s{i}" for i in range(len(variables))]
    parts += [f"sum(v{i} * v{j}) as q{i}_{j}" for i, j in pairs]
    keys = ", ".join(f'"{name}"' for name in by)
    inner = ", ".join([keys, *(f"{value[v]} as v{i}" for i, v in enumerate(variables))])
    rows = f"(select {inner} from {source})"
    sql = f"select {keys}, count(*) as n, {', '.join(parts)} from {rows} group by {keys}"
    table = connection.sql(f"from ({sql}) order by {keys}").to_arrow_table()
    return Cube(table.select(list(by)), variables, _read(table, shift, pairs))


def shift_of(connection: duckdb.DuckDBPyConnection, query: str, variables: Sequence[str]) -> Array:
    """Give a number near the mean of each variable, from the first rows; 0 where none is needed.

    Up to ten standard deviations between mean and 0, plain sums lose nothing that matters, and are faster.
    """
    parts = ", ".join(f'avg("{v}")::double, stddev_pop("{v}")::double' for v in variables)
    sql = f"select {parts} from (from {_source(query)} limit {_SAMPLE})"
    row = connection.execute(sql).fetchall()[0]
    found = np.array([np.nan if x is None else x for x in row], dtype=np.float64).reshape(-1, 2)
    mean, sd = found[:, 0], found[:, 1]
    return _near(mean, sd)


def _near(mean: Array, sd: Array) -> Array:
    return np.asarray(np.where(np.abs(mean) > 10 * sd, mean, 0.0), dtype=np.float64)


def pairs_of(metrics: Sequence[Metric], variables: Sequence[str]) -> list[tuple[int, int]]:
    """Give the pairs of variables whose products metrics need."""
    number = {name: i for i, name in enumerate(variables)}
    groups = [sorted({number[part] for part in metric if part is not None}) for metric in metrics]
    return sorted({(i, j) for group in groups for i in group for j in group if i <= j})


def _source(query: str) -> str:
    return f"({query})" if " " in query.strip() else query


def _shifted(column: str, shift: float) -> str:
    return f"{column} - {shift!r}::double" if shift else column


def _whole(query: str) -> str:
    return query if " " in query.strip() else f"from {query}"


def _read(table: pa.Table, shift: Array, pairs: Sequence[tuple[int, int]]) -> Sums:
    n = _numbers(table, "n")
    m = len(shift)
    first = np.full((len(n), m), np.nan)
    second = np.full((len(n), m, m), np.nan)
    known = np.array([_numbers(table, f"k{i}") == n for i in range(m)]).reshape(m, len(n))
    for i in range(m):
        first[known[i], i] = _numbers(table, f"s{i}")[known[i]]
    for i, j in pairs:
        both = known[i] & known[j]
        second[both, i, j] = second[both, j, i] = _numbers(table, f"q{i}_{j}")[both]
    return Sums(n, shift, first, second)


def _numbers(table: pa.Table, name: str) -> Array:
    # Cells are few; Arrow's own way to NumPy would import pandas, 40 MB, for nothing.
    return np.array(table[name].to_pylist(), dtype=np.float64)


def advance(
    connection: duckdb.DuckDBPyConnection,
    cube: Cube,
    totals: str,
    changes: str,
    metrics: Sequence[Metric],
    outcomes: Sequence[str],
) -> Cube:
    """Take one more day into a cube without reading history again, and into the units' totals.

    Squares of totals do not add up over days, but their change does: a unit that goes from v to v + d adds
    ``(v + d)**2 - v**2`` to its cell. Only units active on the day are read.

    Args:
        connection: Where the tables are.
        cube: The cube so far, built from `totals`.
        totals: Table of one row per unit: `unit`, the cube's keys and variables; it is brought up to date.
        changes: Name of a table, or query, of one row per active unit: `unit` and what each outcome gained.
        metrics: What will be read.
        outcomes: Variables that change; the others (covariates) stand still.

    Returns:
        The cube after the day.
    """
    keys = cube.keys.column_names
    shift, variables = cube.sums.shift, cube.variables
    pairs = [p for p in pairs_of(metrics, variables) if {variables[p[0]], variables[p[1]]} & set(outcomes)]
    gained = ", ".join(f'd."{v}" as "d_{v}"' for v in outcomes)
    joined = f"select t.*, {gained} from ({_whole(changes)}) d join {totals} t using (unit)"
    connection.execute(f"create or replace temp table active_units as {joined}").fetchall()
    step = change(connection, "active_units", keys, metrics, outcomes, shift)
    sums = _added(cube, step.keys, step.sums, pairs)
    after = ", ".join(f'"{v}" + "d_{v}" as "{v}"' for v in outcomes)
    gains = ", ".join(f'"d_{v}"' for v in outcomes)
    fresh = f"select * exclude ({gains}) replace ({after}) from active_units"
    # Rows are deleted and written anew: several times faster than updating them in place.
    for statement in (
        "begin",
        f"delete from {totals} where unit in (select unit from active_units)",
        f"insert into {totals} by name {fresh}",
        "commit",
    ):
        connection.execute(statement).fetchall()
    return Cube(cube.keys, variables, sums)


def change(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    by: Sequence[str],
    metrics: Sequence[Metric],
    outcomes: Sequence[str],
    shift: Array,
) -> Cube:
    """Sum what units that are in a cube already change of its sums, in one pass.

    Args:
        connection: Where the query's tables are.
        query: Name of a table, or query, of one row per active unit: the columns of `by`, each variable
            before, and `d_` and its name for what each outcome gained.
        by: Columns that make the cells.
        metrics: What will be read.
        outcomes: Variables that change; the others (covariates) stand still.
        shift: What was subtracted from each variable, as in `Sums`.

    Returns:
        The changes of the first and second sums; `n` counts active units, which changes no cell's number.
    """
    variables = variables_of(metrics)
    pairs = [p for p in pairs_of(metrics, variables) if {variables[p[0]], variables[p[1]]} & set(outcomes)]
    value = [_shifted(f'"{v}"', s) + f" as v{i}" for i, (v, s) in enumerate(zip(variables, shift.tolist()))]
    gain = [(f'"d_{v}"' if v in outcomes else "0") + f" as d{i}" for i, v in enumerate(variables)]
    parts = [f"count(v{i}) as k{i}" for i in range(len(variables))]
    parts += [f"sum(d{i}) as s{i}" for i in range(len(variables))]
    parts += [f"sum(v{i} * d{j} + d{i} * v{j} + d{i} * d{j}) as q{i}_{j}" for i, j in pairs]
    names = ", ".join(f'"{name}"' for name in by)
    inner = f"select {names}, {', '.join([*value, *gain])} from {_source(query)}"
    sql = f"select {names}, count(*) as n, {', '.join(parts)} from ({inner}) group by {names}"
    table = connection.sql(sql).to_arrow_table()
    return Cube(table.select(list(by)), variables, _read(table, shift, pairs))


def _added(cube: Cube, keys: pa.Table, step: Sums, pairs: Sequence[tuple[int, int]]) -> Sums:
    place = {tuple(row.values()): i for i, row in enumerate(cube.keys.to_pylist())}
    rows = [place[tuple(row.values())] for row in keys.to_pylist()]
    first, second = cube.sums.first.copy(), cube.sums.second.copy()
    first[rows] += step.first
    for i, j in pairs:
        second[rows, i, j] += step.second[:, i, j]
        if i != j:
            second[rows, j, i] += step.second[:, j, i]
    return Sums(cube.sums.n, cube.sums.shift, first, second)
