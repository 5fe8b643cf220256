"""What experiments count: measures per customer, from the history's orders, touches and events.

Intention to treat: a customer counts in the arm of its first assignment, from that moment on, whatever it
then received. Margin is net of the cost of contacts. The same measure before the assignment is the
covariate of CUPED.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba.errors import DataError
from nba.experiments import design
from nba.experiments.cube import Metric
from nba.history import Snapshot
from nba.settings import Experiment, Measured, Phase, Trial

Array = NDArray[np.float64]

BEFORE_DAYS = 365
ALL = "all"

# Measure to its expression in each table of facts; the sum of all is the measure.
_ORDERS = {
    "margin": "margin",
    "revenue": "revenue",
    "orders": "(not is_return)::int",
    "items": "case when is_return then 0 else n_items end",
    "returns": "is_return::int",
}
_TOUCHES = {
    "margin": "-cost",
    "cost": "cost",
    "contacts": "(kind = 'sent')::int",
    "clicks": "(kind = 'clicked')::int",
    "unsubscribes": "(kind = 'unsubscribed')::int",
}
_EVENTS = {
    "visits": "(kind = 'visit')::int",
    "tickets": "(kind = 'ticket')::int",
    "complaints": "(kind = 'complaint')::int",
}
_TABLES = (
    ("orders", "ordered_at", _ORDERS),
    ("touches", "touched_at", _TOUCHES),
    ("events", "occurred_at", _EVENTS),
)


# Events of a customer, one by one; the others are money or amounts.
COUNTS = frozenset(
    ("orders", "returns", "contacts", "clicks", "unsubscribes", "visits", "tickets", "complaints")
)


class Window(NamedTuple):
    """What a readout rests on.

    Attributes:
        entered: Customers assigned up to then count: their first reward window has closed.
        until: The last matured moment; facts before it count.
    """

    entered: datetime
    until: datetime


def matured(snapshot: Snapshot, window_days: int, ends_at: datetime | None = None) -> Window | None:
    """Give the last matured moment: the planned end once it has passed, before it the last closed window.

    Args:
        snapshot: What was known.
        window_days: Length of the reward window.
        ends_at: Planned end, after which nothing counts.

    Returns:
        None where no window has closed yet.
    """
    row = snapshot.connection.execute(
        "select max(decided_at), max(decided_at) + to_days($days::integer) from decisions"
        " where decided_at + to_days($days::integer) <= $at",
        {"days": window_days, "at": min(snapshot.at, ends_at) if ends_at else snapshot.at},
    ).fetchall()[0]
    if row[0] is None:
        return None
    # No batch need close its window at the very moment of the planned end, and yet it must be reached.
    return matured_by(ends_at, window_days) if ends_at and snapshot.at >= ends_at else Window(row[0], row[1])


def assigned(snapshot: Snapshot, experiment: Experiment, standing: Experiment | None = None) -> pa.Table:
    """Give the customers of an experiment: arm, moment, phase, whether a later phase moved them, segments.

    Args:
        snapshot: What was known.
        experiment: Its declaration.
        standing: The standing experiment, whose assignments a trial of the layer `standing` reads.

    Raises:
        DataError: when a segment is not an attribute of customers.
    """
    names = [arm.name for arm in experiment.arms]
    source = standing if standing is not None and reads_standing(experiment) else experiment
    check_segments(snapshot, experiment)
    more = "".join(f', coalesce("{name}"::text, \'unknown\') as "{name}"' for name in experiment.segments)
    rows = snapshot.sql(
        f"select customer_id, arm, assigned_at, p_arm{more} from assignments"
        " left join customers using (customer_id) where experiment_id = $id and ($all or arm in $arms)"
        " order by customer_id",
        {"id": source.experiment_id, "all": source is experiment, "arms": names},
    )
    changes = np.array([change.starts_at.timestamp() for change in experiment.phases])
    seconds = rows["assigned_at"].cast(pa.int64()).to_numpy() / 1e6
    phases = np.searchsorted(changes, seconds, side="right")
    if source is not experiment:
        # Its arms are part of the standing experiment: their shares among themselves.
        within = _shares_of(source, names).sum(axis=1)
        p_arm = pa.array(rows["p_arm"].to_numpy() / within[phases])
        rows = rows.set_column(rows.column_names.index("p_arm"), "p_arm", p_arm)
    drawn = design.drawn_by(rows["customer_id"].to_pylist(), design.units(snapshot))
    moved = design.is_moved(source, drawn, snapshot.at)
    rows = rows.append_column("phase", pa.array(phases, pa.int64()))
    return rows.append_column("is_moved", pa.array(moved.tolist(), pa.bool_()))


def following(experiment: Experiment, standing: Experiment | None) -> Experiment:
    """Give a trial that compares arms of the standing experiment the phases of that one, as its own.

    Args:
        experiment: Its declaration; any other experiment is given back as it is.
        standing: The standing experiment.

    Raises:
        DataError: when a phase leaves its arms without customers.
    """
    if standing is None or not reads_standing(experiment):
        return experiment
    names = [arm.name for arm in experiment.arms]
    shares = _shares_of(standing, names)
    if (shares.sum(axis=1) <= 0).any():
        raise DataError(
            f"a phase of [experiment] leaves the arms {names} of {experiment.experiment_id!r} no customers",
            "End the trial before that phase, or keep a share for them.",
        )
    phases = tuple(
        Phase(starts_at=phase.starts_at, shares=dict(zip(names, (part / part.sum()).tolist())))
        for phase, part in zip(standing.phases, shares[1:])
    )
    return experiment.model_copy(update={"phases": phases})


def _shares_of(standing: Experiment, names: Sequence[str]) -> Array:
    # Shares by phase of some arms of the standing experiment, shape (phases, arms).
    place = [arm.name for arm in standing.arms]
    return design.phase_shares(standing)[:, [place.index(name) for name in names]]


def check_segments(snapshot: Snapshot, *experiments: Experiment) -> None:
    """Refuse segments that are not columns of the customers table.

    Raises:
        DataError: when a segment is not an attribute of customers, naming all such.
    """
    columns = snapshot.sql("from customers limit 0").column_names
    absent = {e.experiment_id: [name for name in e.segments if name not in columns] for e in experiments}
    faults = [f"segments {names} of experiment {e!r} do not exist" for e, names in absent.items() if names]
    if faults:
        raise DataError(
            "\n".join([*faults, f"found {columns}"]), "Name columns of the customers table, such as a_city."
        )


def reads_standing(experiment: Experiment) -> bool:
    """Say whether an experiment compares arms of the standing one rather than assigning its own."""
    return isinstance(experiment, Trial) and experiment.layer == design.STANDING


def totals(
    snapshot: Snapshot, people: pa.Table, metrics: Sequence[Measured], window: Window
) -> tuple[pa.Table, tuple[Metric, ...]]:
    """Sum the measures of each customer from its assignment to the last matured moment.

    Args:
        snapshot: What was known.
        people: As `assigned` gives them.
        metrics: What is measured.
        window: Who counts, and until when.

    Returns:
        One row per customer that counts, and the columns of each metric in it.
    """
    made = tuple(columns(i, metric) for i, metric in enumerate(metrics))
    names = _measures(metrics)
    after = ", ".join(f'sum("{m}") filter (happened_at >= assigned_at) as "after_{m}"' for m in names)
    before = ", ".join(f'sum("{m}") filter (happened_at < assigned_at) as "before_{m}"' for m in names)
    parts = ", ".join(_parts(i, metric) for i, metric in enumerate(metrics))
    keys = ", ".join(f'"{name}"' for name in people.column_names)
    sql = f"""
        with a as (from people where assigned_at <= $entered and not is_moved), t as (
            select customer_id, {after}, {before} from ({_facts(names)}) join a using (customer_id)
            where happened_at < $until and happened_at >= assigned_at - to_days({BEFORE_DAYS})
            group by customer_id
        )
        select {keys}, {parts} from a left join t using (customer_id) order by customer_id"""
    snapshot.connection.register("people", people)
    return snapshot.sql(sql, {"entered": window.entered, "until": window.until}), made


def gained(
    snapshot: Snapshot, people: pa.Table, metrics: Sequence[Measured], since: datetime, until: datetime
) -> pa.Table:
    """Sum what customers did in a stretch of time, reading the facts of that stretch alone.

    Args:
        snapshot: What was known.
        people: Customers, assigned before the stretch.
        metrics: What is measured, without caps.
        since: Begin of the stretch.
        until: Its end, left out.

    Returns:
        One row per customer with facts: customer_id, y and d by number of the metric.
    """
    names = _measures(metrics)
    parts = ", ".join(
        f'sum("{measure}") as {part}{i}'
        for i, metric in enumerate(metrics)
        for part, measure in (("y", metric.numerator), ("d", metric.denominator))
        if measure
    )
    sql = f"""
        select customer_id, {parts} from ({_facts(names)}) semi join active_people using (customer_id)
        where happened_at >= $since and happened_at < $until group by customer_id order by customer_id"""
    snapshot.connection.register("active_people", people.select(["customer_id"]))
    return snapshot.sql(sql, {"since": since, "until": until})


def spent(snapshot: Snapshot, people: pa.Table, window: Window) -> dict[str, float]:
    """Sum the cost of contacts, by arm, that margin is net of: of the same customers over the same time.

    Args:
        snapshot: What was known.
        people: As `assigned` gives them.
        window: Who counts, and until when.
    """
    snapshot.connection.register("people", people)
    rows = snapshot.connection.execute(
        f"""
        with a as (from people where assigned_at <= $entered and not is_moved), t as (
            select arm, sum("cost") as cost from ({_facts(("cost",))}) join a using (customer_id)
            where happened_at < $until and happened_at >= assigned_at group by arm
        )
        select arm, coalesce(any_value(cost), 0) from a left join t using (arm) group by arm""",
        {"entered": window.entered, "until": window.until},
    ).fetchall()
    return dict(rows)


def mark(snapshot: Snapshot, metrics: Sequence[Measured], until: datetime) -> str:
    """Give a short text that changes when any fact before a moment changes (one linear pass, no join)."""
    source = f"({_facts(_measures(metrics))}) facts"
    sql = f"select count(*), sum(hash(facts)) from {source} where happened_at < $until"
    return str(snapshot.connection.execute(sql, {"until": until}).fetchall()[0])


def matured_by(at: datetime, window_days: int) -> Window:
    """Give what a scheduled look rests on: customers whose first window had closed by then."""
    return Window(at - timedelta(days=window_days), at)


def look_times(experiment: Experiment, first: datetime, until: datetime) -> list[datetime]:
    """Give the scheduled looks up to a moment: every `look_days` from the start, and the planned end.

    They depend on the declaration alone, so that nobody can look until the result pleases.
    """
    step = timedelta(days=experiment.look_days)
    last = min(until, experiment.ends_at) if experiment.ends_at else until
    out = []
    at = (experiment.starts_at or first) + step
    while at <= last:
        out.append(at)
        at += step
    if experiment.ends_at and last == experiment.ends_at and (not out or out[-1] < last):
        out.append(last)
    return out


def _measures(metrics: Sequence[Measured]) -> tuple[str, ...]:
    wanted = [m for metric in metrics for m in (metric.numerator, metric.denominator) if m]
    return tuple(dict.fromkeys(wanted))


def columns(i: int, metric: Measured) -> Metric:
    """Name the columns of metric number i: y and its denominator d, before the assignment x and w."""
    ratio = metric.denominator is not None
    covariate = f"x{i}" if metric.is_adjusted else None
    return Metric(f"y{i}", f"d{i}" if ratio else None, covariate, f"w{i}" if ratio and covariate else None)


def _parts(i: int, metric: Measured) -> str:
    def total(measure: str, when: str) -> str:
        value = f'coalesce("{when}_{measure}", 0)::double'
        return f"least({value}, {metric.cap!r}::double)" if metric.cap is not None else value

    out = [f"{total(metric.numerator, 'after')} as y{i}", f"{total(metric.numerator, 'before')} as x{i}"]
    if metric.denominator is not None:
        plain = metric.model_copy(update={"cap": None, "numerator": metric.denominator, "denominator": None})
        text = _parts(i, plain)
        out.append(text.replace(f" as y{i}", f" as d{i}").replace(f" as x{i}", f" as w{i}"))
    return ", ".join(out)


def _facts(measures: Sequence[str]) -> str:
    parts = []
    for table, at, known in _TABLES:
        used = [m for m in measures if m in known]
        if used:
            columns = ", ".join(f'({known.get(m, "0")})::double as "{m}"' for m in measures)
            parts.append(f"select customer_id, {at} as happened_at, {columns} from {table}")
    return " union all ".join(parts)
