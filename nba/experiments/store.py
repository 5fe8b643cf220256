"""The stored cube: sufficient statistics of an experiment by arm, phase, segment, day and metric.

It is built once and then taken forward: a further day reads the facts of that day, and the past of those
customers only who come in with it. Squares of totals do not add up over days, their change does:
``(v + d)**2 - v**2 = 2*v*d + d**2``. Days are the scheduled looks and the last matured moment. Where anything
before the stored day was changed (a late row, a merged customer, another declaration) it is built anew.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.experiments import cube, facts
from nba.experiments.cube import Metric, Sums
from nba.history import Snapshot
from nba.settings import Experiment

Array = NDArray[np.float64]
PARTS = "ydxw"
PRODUCTS = tuple((a, b) for i, a in enumerate(PARTS) for b in PARTS[i:])


class Stored(NamedTuple):
    """What a workspace keeps of an experiment, as the tables of these names.

    Attributes:
        cube: Sums by cell, day and metric.
        cube_units: Totals of each customer as of the last day, which the next one starts from.
        cube_states: What they were made from.
    """

    cube: pa.Table
    cube_units: pa.Table
    cube_states: pa.Table

    @classmethod
    def empty(cls) -> "Stored":
        """Nothing yet."""
        return cls(tables.CUBE.empty(), tables.CUBE_UNITS.empty(), tables.CUBE_STATES.empty())


class Day(NamedTuple):
    """The cube on one day.

    Attributes:
        until: Facts before it count.
        labels: Parts of the customers: `all` first, then `segment=value`.
        sums: Sums of the variables; cell number (label * phases + phase) * arms + arm.
        exposure: Days since their assignment, summed over the customers of each cell.
    """

    until: datetime
    labels: tuple[str, ...]
    sums: Sums
    exposure: Array


class _People(NamedTuple):
    # Customers in the order of `people`: whether they count, seconds of assignment, cells, shape (n, 1 + s).
    counts: NDArray[np.bool_]
    assigned: Array
    cells: NDArray[np.int64]
    labels: tuple[str, ...]


def days(
    snapshot: Snapshot,
    experiment: Experiment,
    people: pa.Table,
    windows: Sequence[facts.Window],
    stored: Stored,
) -> tuple[list[Day], Stored]:
    """Give the cube on each day asked for, going on from what is stored.

    Args:
        snapshot: What was known.
        experiment: Its declaration.
        people: As `facts.assigned` gives them.
        windows: The days, in order of `until`.
        stored: What an earlier run kept; `Stored.empty()` if none did.

    Returns:
        One day for each window, and what to keep.
    """
    who = _people(experiment, people)
    known = _usable(snapshot, experiment, people, windows, stored, who)
    raw, entered = np.zeros((people.num_rows, 4 * len(experiment.metrics))), np.zeros(people.num_rows, bool)
    last: Day | None = None
    if known:
        last = known[max(known)]
        ids = {c: i for i, c in enumerate(people["customer_id"].to_pylist())}
        at = np.array([ids[c] for c in stored.cube_units["customer_id"].to_pylist()], dtype=np.int64)
        place = {m.name: i for i, m in enumerate(experiment.metrics)}
        column = np.array([4 * place[m] for m in stored.cube_units["metric"].to_pylist()], dtype=np.int64)
        for j, part in enumerate(PARTS):
            raw[at, column + j] = stored.cube_units[part].to_numpy()
        entered[at] = True
    out = []
    for window in windows:
        if window.until not in known and last is not None and window.until < last.until:
            # Stored days without a customer have no rows.
            known[window.until] = _nobody(experiment, who, window.until, last.sums.shift)
        if window.until not in known:
            last = _advance(snapshot, experiment, people, who, window, last, raw, entered)
            known[window.until] = last
        out.append(known[window.until])
    return out, _to_store(snapshot, experiment, people, windows, out, raw, entered)


def _advance(
    snapshot: Snapshot,
    experiment: Experiment,
    people: pa.Table,
    who: _People,
    window: facts.Window,
    last: Day | None,
    raw: Array,
    entered: NDArray[np.bool_],
) -> Day:
    # `raw` and `entered` are brought up to the window.
    plain = [metric.model_copy(update={"cap": None}) for metric in experiment.metrics]
    before = capped(raw, experiment)
    fresh = who.counts & ~entered & (who.assigned <= window.entered.timestamp())
    old = np.flatnonzero(entered)
    if len(old) and last is not None:
        since = facts.gained(snapshot, people.take(old), plain, last.until, window.until)
        raw[old] += _matrix(since, experiment, people["customer_id"].take(pa.array(old)))
    new = np.flatnonzero(fresh)
    if len(new):
        rows, _ = facts.totals(snapshot, people.take(new), plain, window)
        raw[new] = _matrix(rows, experiment, people["customer_id"].take(pa.array(new)))
    after = capped(raw, experiment)
    n_cells = _n_cells(experiment, who.labels)
    if last is None or not last.sums.n.any():
        sample = after[new[:2048]] if len(new) else np.zeros((1, after.shape[1]))
        shift = np.where(np.abs(sample.mean(axis=0)) > 10 * sample.std(axis=0), sample.mean(axis=0), 0.0)
        last = _nobody(experiment, who, window.until, shift)
    active = np.flatnonzero(entered & (after != before).any(axis=1))
    passed = (window.until - last.until).total_seconds() / 86_400
    sums, exposure = last.sums, last.exposure + last.sums.n * passed
    seconds = (window.until.timestamp() - who.assigned) / 86_400
    made, connection = metrics_of(experiment), snapshot.connection
    names = cube.variables_of(made)
    outcomes = [name for name in names if name[0] in "yd"]
    for part in range(who.cells.shape[1]):
        if len(active):
            gained = after[active] - before[active]
            connection.register("active", _rows(who.cells[active, part], names, before[active], gained))
            sums = _plus(sums, cube.change(connection, "active", ["cell"], made, outcomes, sums.shift))
        if len(new):
            connection.register("entering", _rows(who.cells[new, part], names, after[new]))
            sums = _plus(sums, cube.build(connection, "entering", ["cell"], made, sums.shift))
            sums = sums._replace(n=sums.n + np.bincount(who.cells[new, part], minlength=n_cells))
        exposure = exposure + np.bincount(who.cells[new, part], seconds[new], n_cells)
    entered |= fresh
    return Day(window.until, who.labels, sums, exposure)


def _nobody(experiment: Experiment, who: _People, until: datetime, shift: Array) -> Day:
    c, m = _n_cells(experiment, who.labels), len(shift)
    sums = Sums(np.zeros(c), shift, np.zeros((c, m)), np.zeros((c, m, m)))
    return Day(until, who.labels, sums, np.zeros(c))


def _plus(sums: Sums, step: cube.Cube) -> Sums:
    # Pairs of variables of different metrics are not summed, and nobody reads them.
    at = np.array(step.keys["cell"].to_pylist(), dtype=np.int64)
    first, second = sums.first.copy(), sums.second.copy()
    first[at] += step.sums.first
    second[at] += np.nan_to_num(step.sums.second, nan=0.0)
    return Sums(sums.n, sums.shift, first, second)


def _rows(
    cell: NDArray[np.int64], names: Sequence[str], values: Array, gained: Array | None = None
) -> pa.Table:
    columns: dict[str, Any] = {"cell": cell} | {name: values[:, i] for i, name in enumerate(names)}
    if gained is not None:
        columns |= {f"d_{name}": gained[:, i] for i, name in enumerate(names)}
    return pa.table(columns)


def metrics_of(experiment: Experiment) -> tuple[Metric, ...]:
    """Give the columns of the experiment's metrics in the cube."""
    return tuple(facts.columns(i, metric) for i, metric in enumerate(experiment.metrics))


def capped(raw: Array, experiment: Experiment) -> Array:
    """Give the cube's variables of units, capped where declared, from their totals.

    Args:
        raw: Totals by metric as numerator, denominator and the same before, shape (n, 4 k).
        experiment: Its declaration.
    """
    made = metrics_of(experiment)
    out = []
    for name in cube.variables_of(made):
        i, part = int(name[1:]), PARTS.index(name[0])
        cap = experiment.metrics[i].cap if name[0] in "yx" else None
        column = raw[:, 4 * i + part]
        out.append(column if cap is None else np.minimum(column, cap))
    return np.stack(out, axis=1)


def _matrix(rows: pa.Table, experiment: Experiment, ids: pa.ChunkedArray) -> Array:
    out = np.zeros((len(ids), 4 * len(experiment.metrics)))
    place = {c: i for i, c in enumerate(ids.to_pylist())}
    at = np.array([place[c] for c in rows["customer_id"].to_pylist()], dtype=np.int64)
    for i in range(len(experiment.metrics)):
        for j, part in enumerate(PARTS):
            if f"{part}{i}" in rows.column_names:
                out[at, 4 * i + j] = rows[f"{part}{i}"].to_numpy()
    return out


def _n_cells(experiment: Experiment, labels: Sequence[str]) -> int:
    return len(labels) * (len(experiment.phases) + 1) * len(experiment.arms)


def _people(experiment: Experiment, people: pa.Table) -> _People:
    names = {arm.name: i for i, arm in enumerate(experiment.arms)}
    arm = np.array([names.get(a, -1) for a in people["arm"].to_pylist()], dtype=np.int64)
    columns, labels = [np.zeros(len(arm), dtype=np.int64)], [facts.ALL]
    for segment in experiment.segments:
        found, place = np.unique(np.array(people[segment].to_pylist(), dtype=str), return_inverse=True)
        columns.append(place.astype(np.int64) + len(labels))
        labels += [f"{segment}={value}" for value in found.tolist()]
    phase = people["phase"].to_numpy()[:, None]
    cells = (np.stack(columns, axis=1) * (len(experiment.phases) + 1) + phase) * len(names) + arm[:, None]
    counts = ~people["is_moved"].to_numpy(zero_copy_only=False) & (arm >= 0)
    assigned = people["assigned_at"].cast(pa.int64()).to_numpy() / 1e6
    return _People(counts, assigned, cells, tuple(labels))


def _marks(
    snapshot: Snapshot, experiment: Experiment, people: pa.Table, window: facts.Window
) -> dict[str, str]:
    """Give short texts that change when anything changes that the cube up to a day was made from."""
    declared = hashlib.sha256(experiment.model_dump_json().encode()).hexdigest()[:16]
    snapshot.connection.register("people", people)
    listed = snapshot.connection.execute(
        "select count(*), sum(hash(people)) from people where assigned_at <= $entered",
        {"entered": window.entered},
    ).fetchall()[0]
    seen = facts.mark(snapshot, experiment.metrics, window.until)
    return {"declared": declared, "people": str(listed), "facts": seen}


def _usable(
    snapshot: Snapshot,
    experiment: Experiment,
    people: pa.Table,
    windows: Sequence[facts.Window],
    stored: Stored,
    who: _People,
) -> dict[datetime, Day]:
    states = stored.cube_states.to_pylist()
    if not states:
        return {}
    state = states[0]
    window = facts.Window(state["entered"], state["until"])
    kept = set(stored.cube["until"].to_pylist())
    is_late = any(
        w.until < window.until
        and w.until not in kept
        and (who.counts & (who.assigned <= w.entered.timestamp())).any()
        for w in windows
    )
    is_gone = windows[-1].until < window.until
    marks = {key: state[key] for key in ("declared", "people", "facts")}
    if is_late or is_gone or marks != _marks(snapshot, experiment, people, window):
        return {}
    return _from_table(stored.cube, experiment, who.labels)


def _from_table(rows: pa.Table, experiment: Experiment, labels: tuple[str, ...]) -> dict[datetime, Day]:
    variables = cube.variables_of(metrics_of(experiment))
    column = {name: i for i, name in enumerate(variables)}
    arms = {arm.name: i for i, arm in enumerate(experiment.arms)}
    place = {label: i for i, label in enumerate(labels)}
    metrics = {metric.name: i for i, metric in enumerate(experiment.metrics)}
    n_cells, m = _n_cells(experiment, labels), len(variables)
    out: dict[datetime, Day] = {}
    for row in rows.to_pylist():
        if row["until"] not in out:
            sums = Sums(np.zeros(n_cells), np.zeros(m), np.zeros((n_cells, m)), np.zeros((n_cells, m, m)))
            out[row["until"]] = Day(row["until"], labels, sums, np.zeros(n_cells))
        day, i = out[row["until"]], metrics[row["metric"]]
        cell = place[row["segment"]] * (len(experiment.phases) + 1) + row["phase"]
        cell = cell * len(arms) + arms[row["arm"]]
        day.sums.n[cell], day.exposure[cell] = row["n"], row["exposure_days"]
        at = {part: column[f"{part}{i}"] for part in PARTS if f"{part}{i}" in column}
        for part, j in at.items():
            day.sums.shift[j], day.sums.first[cell, j] = row[f"shift_{part}"], row[f"sum_{part}"]
        for a, b in PRODUCTS:
            if a in at and b in at:
                value = row[f"sum_{a}{b}"]
                day.sums.second[cell, at[a], at[b]] = day.sums.second[cell, at[b], at[a]] = value
    return out


def _to_store(
    snapshot: Snapshot,
    experiment: Experiment,
    people: pa.Table,
    windows: Sequence[facts.Window],
    found: Sequence[Day],
    raw: Array,
    entered: NDArray[np.bool_],
) -> Stored:
    name = experiment.experiment_id
    rows = [row for day in found for row in _cells(experiment, day)]
    at = np.flatnonzero(entered)
    ids = people["customer_id"].take(pa.array(at))
    units = [
        pa.table(
            {"experiment_id": [name] * len(at), "customer_id": ids, "metric": [metric.name] * len(at)}
            | {part: raw[at, 4 * i + j] for j, part in enumerate(PARTS)}
        )
        for i, metric in enumerate(experiment.metrics)
    ]
    marks = _marks(snapshot, experiment, people, windows[-1])
    state = {"experiment_id": name, "until": windows[-1].until, "entered": windows[-1].entered} | marks
    return Stored(
        tables.CUBE.build(_once(rows)),
        tables.CUBE_UNITS.conform(pa.concat_tables(units)),
        tables.CUBE_STATES.build([state]),
    )


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # The last matured moment may be a scheduled look too.
    keys = ("until", "arm", "phase", "segment", "metric")
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def _cells(experiment: Experiment, day: Day) -> list[dict[str, Any]]:
    variables = cube.variables_of(metrics_of(experiment))
    column = {name: i for i, name in enumerate(variables)}
    n_phases, n_arms = len(experiment.phases) + 1, len(experiment.arms)
    out = []
    for cell in np.flatnonzero(day.sums.n > 0).tolist():
        label, rest = divmod(cell, n_phases * n_arms)
        phase, arm = divmod(rest, n_arms)
        for i, metric in enumerate(experiment.metrics):
            at = {part: column[f"{part}{i}"] for part in PARTS if f"{part}{i}" in column}
            row: dict[str, Any] = {
                "experiment_id": experiment.experiment_id, "until": day.until,
                "arm": experiment.arms[arm].name, "phase": phase, "segment": day.labels[label],
                "metric": metric.name, "n": int(day.sums.n[cell]), "exposure_days": float(day.exposure[cell]),
            }  # fmt: skip
            for part, j in at.items():
                row[f"shift_{part}"] = float(day.sums.shift[j])
                row[f"sum_{part}"] = float(day.sums.first[cell, j])
            for a, b in PRODUCTS:
                if a in at and b in at:
                    row[f"sum_{a}{b}"] = float(day.sums.second[cell, at[a], at[b]])
            out.append(row)
    return out
