"""Who is in which arm: a salted hash of the customer id, so that nothing need be stored to know it.

The draw is `nba.draws.uniform(customer_ids, salt="arm|" + experiment.salt)`: the leading 53 bits of
BLAKE2b-64 over `salt|customer_id`. Arms take the unit interval in their declared order. It depends on
nothing but the words, so that any engine, order or re-run gives the same arms, and other salts give
independent ones. The unit of randomisation is the customer, everywhere.

The standing experiment goes first: its holdout is the global one, persistent, with new customers at the
same rate. Declared trials (`[[experiments]]`) share out the customers of the arms that run the champion: each
layer draws anew with salt `"layer|" + layer`, and trials of one layer own disjoint slots of that draw.

A customer that another one went into keeps the arms of whoever was assigned first: it is drawn by that id,
its unit (`nba.merged`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nba import draws, tables
from nba.errors import DataError
from nba.history import Snapshot
from nba.settings import Arm, Experiment, Settings, Trial

Array = NDArray[np.float64]
UNIT = "customer"
DECIDES = "policy"
STANDING = "standing"


class Assigned(NamedTuple):
    """The arm of each customer.

    Attributes:
        arm: Name of the arm, shape (n,).
        p_arm: Share of that arm, a probability in 0-1, shape (n,).
    """

    arm: NDArray[np.str_]
    p_arm: NDArray[np.float64]


class Placed(NamedTuple):
    """Which experiment decides for each customer, and in which arm; shapes (n,).

    Attributes:
        experiment_id: The trial, or the standing experiment for those in none.
        arm: Name of the arm in that experiment.
        p_arm: Share of that arm within that experiment.
        standing: The arm in the standing experiment, whatever trial decides.
    """

    experiment_id: NDArray[np.str_]
    arm: NDArray[np.str_]
    p_arm: NDArray[np.float64]
    standing: Assigned


class Piece(NamedTuple):
    """A part of the unit interval and the arm that owns it."""

    low: float
    high: float
    arm: int


def assign(
    experiment: Experiment, customer_ids: Sequence[str] | pa.Array, at: datetime | None = None
) -> Assigned:
    """Put each customer into an arm by the hash of its id.

    Args:
        experiment: Arms, shares and phases.
        customer_ids: n customer ids.
        at: Moment whose phase counts; None is the last phase declared.

    Example:
        >>> assign(Experiment(), ["anna", "ben", "carla"]).arm.tolist()
        ['holdout', 'policy', 'policy']
    """
    number = len(experiment.phases) if at is None else phase(experiment, at)
    drawn = draws.uniform(customer_ids, salt=f"arm|{experiment.salt or experiment.experiment_id}")
    pieces = layouts(experiment)[number]
    column = _arm_of(pieces, drawn)
    names = np.array([arm.name for arm in experiment.arms])
    return Assigned(names[column], phase_shares(experiment)[number][column])


def place(
    config: Settings,
    customer_ids: Sequence[str] | pa.Array,
    at: datetime,
    attributes: Mapping[str, Sequence[object]] | None = None,
    units: Mapping[str, str] | None = None,
) -> Placed:
    """Say which experiment and arm decide for each customer; the global holdout comes before all.

    Args:
        config: The standing experiment and the declared trials.
        customer_ids: n customer ids; an Arrow array is fastest.
        at: Moment of decision.
        attributes: Columns of the customers table, n values each, for trials with an audience.
        units: As `units` gives them; none if absent.

    Raises:
        DataError: when a trial's audience asks for an attribute that is not given.
    """
    customer_ids = drawn_by(customer_ids, units or {})
    standing = assign(config.experiment, customer_ids, at)
    experiment_id = np.full(len(customer_ids), config.experiment.experiment_id, dtype=object)
    arm, p_arm = standing.arm.astype(object), standing.p_arm.copy()
    for trial in running(config, at):
        inside = np.flatnonzero(members(trial, config, customer_ids, at, attributes, standing))
        own = assign(trial, _at(customer_ids, inside), at)
        experiment_id[inside] = trial.experiment_id
        arm[inside], p_arm[inside] = own.arm, own.p_arm
    return Placed(experiment_id.astype(str), arm.astype(str), p_arm, standing)


def units(snapshot: Snapshot) -> dict[str, str]:
    """Give the customers who are drawn by another id, with that id: one that they had when first assigned."""
    found = snapshot.sql("from units where unit_id <> customer_id")
    return dict(zip(found["customer_id"].to_pylist(), found["unit_id"].to_pylist(), strict=True))


def drawn_by(customer_ids: Sequence[str] | pa.Array, units: Mapping[str, str]) -> Sequence[str] | pa.Array:
    """Give what customers are drawn by: their id, or their unit.

    Example:
        >>> drawn_by(["anna", "ben"], {"ben": "visitor"})
        ['anna', 'visitor']
    """
    if not units:
        return customer_ids
    if not isinstance(customer_ids, pa.Array):
        return [units.get(name, name) for name in customer_ids]
    found = pc.index_in(customer_ids, pa.array(list(units), customer_ids.type))
    return pc.coalesce(pa.array(list(units.values()), customer_ids.type).take(found), customer_ids)


def members(
    trial: Trial,
    config: Settings,
    customer_ids: Sequence[str] | pa.Array,
    at: datetime,
    attributes: Mapping[str, Sequence[object]] | None = None,
    standing: Assigned | None = None,
) -> NDArray[np.bool_]:
    """Say who takes part in a trial, shape (n,): in a champion's arm, in its slots, and of its audience.

    Customers are named by what they are drawn by (`drawn_by`).
    """
    standing = standing or assign(config.experiment, customer_ids, at)
    open_arms = [arm.name for arm in config.experiment.arms if arm.policy == "champion"]
    slot = draws.uniform(customer_ids, salt=f"layer|{trial.layer}")
    inside = np.isin(standing.arm, open_arms) & (slot >= trial.slots[0]) & (slot < trial.slots[1])
    for name, values in trial.audience.items():
        if attributes is None or name not in attributes:
            found = sorted(attributes or {})
            raise DataError(
                f"the audience of {trial.experiment_id!r} asks for {name!r}; customers have {found}",
                "Name an attribute of the customers table.",
            )
        inside &= np.array([value in values for value in attributes[name]], dtype=bool)
    return np.asarray(inside, dtype=bool)


def _at(customer_ids: Sequence[str] | pa.Array, rows: NDArray[np.int64]) -> Sequence[str] | pa.Array:
    if isinstance(customer_ids, pa.Array):
        return customer_ids.take(pa.array(rows))
    return [customer_ids[int(i)] for i in rows]


def running(config: Settings, at: datetime) -> tuple[Trial, ...]:
    """Give the trials that decide at a moment."""
    return tuple(
        trial
        for trial in config.experiments
        if trial.layer == DECIDES and trial.starts_at <= at and (trial.ends_at is None or at < trial.ends_at)
    )


def arms(config: Settings, at: datetime) -> tuple[Arm, ...]:
    """Give every arm that may decide at a moment: the standing ones and those of running trials."""
    more = [arm for trial in running(config, at) for arm in trial.arms]
    return (*config.experiment.arms, *more)


def assignments(
    config: Settings,
    customer_ids: Sequence[str],
    at: datetime,
    known: Mapping[str, Sequence[str]],
    attributes: Mapping[str, Sequence[object]] | None = None,
    units: Mapping[str, str] | None = None,
) -> pa.Table:
    """Make the `assignments` rows of customers who come under an experiment for the first time.

    Args:
        config: The experiments.
        customer_ids: n customer ids; an Arrow array is fastest.
        at: Moment of decision.
        known: Experiment id to the customers that it already has.
        attributes: As in `place`.
        units: As in `place`.
    """
    ids = np.asarray(customer_ids, dtype=object)
    drawn = np.asarray(drawn_by(customer_ids, units or {}), dtype=object)
    standing = assign(config.experiment, drawn.tolist(), at)
    parts = [_rows(config.experiment, ids, standing, at, known)]
    for trial in config.experiments:
        if (
            trial.layer != STANDING
            and trial.starts_at <= at
            and (trial.ends_at is None or at < trial.ends_at)
        ):
            inside = members(trial, config, drawn.tolist(), at, attributes, standing)
            own = assign(trial, drawn[inside].tolist(), at)
            parts.append(_rows(trial, ids[inside], own, at, known))
    return tables.ASSIGNMENTS.conform(pa.concat_tables(parts))


def phase(experiment: Experiment, at: datetime) -> int:
    """Give the number of the phase in force, 0 before the first change of shares."""
    return sum(change.starts_at <= at for change in experiment.phases)


def phase_shares(experiment: Experiment) -> Array:
    """Give the shares of each phase, shape (phases, arms), the declared ones first."""
    first = [arm.share for arm in experiment.arms]
    later = [[change.shares[arm.name] for arm in experiment.arms] for change in experiment.phases]
    return np.array([first, *later])


def layouts(experiment: Experiment) -> tuple[tuple[Piece, ...], ...]:
    """Lay the arms out on the unit interval, phase by phase, moving as little as can be.

    A shrinking arm gives up the end of what it has, a growing one takes what was given up: nobody leaves
    an arm whose share grows or stays.
    """
    shares = phase_shares(experiment)
    edges = np.concatenate([[0.0], np.cumsum(shares[0])])
    edges[-1] = 1.0
    out = [[Piece(edges[i], edges[i + 1], i) for i in range(len(shares[0]))]]
    for before, after in pairwise(shares):
        out.append(_shift(out[-1], after - before))
    return tuple(tuple(piece for piece in pieces if piece.high > piece.low) for pieces in out)


def is_moved(experiment: Experiment, customer_ids: Sequence[str], at: datetime) -> NDArray[np.bool_]:
    """Say whose arm changed in any phase up to a moment, shape (n,); by hash alone, so without bias."""
    drawn = draws.uniform(customer_ids, salt=f"arm|{experiment.salt or experiment.experiment_id}")
    every = np.stack([_arm_of(pieces, drawn) for pieces in layouts(experiment)[: phase(experiment, at) + 1]])
    return np.asarray((every != every[0]).any(axis=0), dtype=bool)


def _arm_of(pieces: Sequence[Piece], drawn: Array) -> NDArray[np.int64]:
    ordered = sorted(pieces)
    highs = np.array([piece.high for piece in ordered])
    owner = np.array([piece.arm for piece in ordered])
    found = np.searchsorted(highs, drawn, side="right")
    return np.asarray(owner[np.minimum(found, len(owner) - 1)], dtype=np.int64)


def _shift(pieces: Sequence[Piece], change: Array) -> list[Piece]:
    kept: list[Piece] = []
    free: list[tuple[float, float]] = []
    for arm, delta in enumerate(change):
        give = max(-float(delta), 0.0)
        for piece in sorted((p for p in pieces if p.arm == arm), reverse=True):
            cut = min(give, piece.high - piece.low)
            give -= cut
            kept.append(Piece(piece.low, piece.high - cut, arm))
            if cut > 0:
                free.append((piece.high - cut, piece.high))
    free.sort()
    for arm, delta in enumerate(change):
        take = max(float(delta), 0.0)
        while take > 1e-12 and free:
            low, high = free.pop(0)
            part = min(take, high - low)
            # What is left by rounding goes along, so that the pieces still cover everything.
            end = high if high - low - part < 1e-12 else low + part
            kept.append(Piece(low, end, arm))
            take -= part
            if end < high:
                free.insert(0, (end, high))
    return kept


def _rows(
    experiment: Experiment,
    ids: NDArray[np.object_],
    assigned: Assigned,
    at: datetime,
    known: Mapping[str, Sequence[str]],
) -> pa.Table:
    old = set(known.get(experiment.experiment_id, ()))
    new = np.array([customer not in old for customer in ids], dtype=bool)
    return pa.table(
        {
            "experiment_id": pa.array([experiment.experiment_id] * int(new.sum()), pa.string()),
            "customer_id": pa.array(ids[new], pa.string()),
            "arm": pa.array(assigned.arm[new].tolist(), pa.string()),
            "assigned_at": pa.array([at] * int(new.sum()), tables.TIME),
            "p_arm": assigned.p_arm[new],
        }
    )
