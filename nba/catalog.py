"""What may be proposed: actions, and treatments that carry an action on a channel at a cost.

The catalog fixes the column order of every (customer x treatment) matrix of the platform: `none`
stands first, at cost 0, and the treatments follow in the order of their table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.errors import listed

NONE = "none"


@dataclass(frozen=True)
class Action:
    """What is proposed, within a group of a business issue.

    Attributes:
        margin: Money earned when a customer responds, where the customer's own is not known.
        lever: Business weight on the value; 1 changes nothing.
        starts_at, ends_at: When it may be proposed; None is always.
    """

    action_id: str
    issue: str
    group: str
    name: str
    margin: float
    lever: float = 1.0
    starts_at: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True)
class Treatment:
    """An action on a channel.

    Attributes:
        cost: Money per delivery.
        cooldown_days: Days after a delivery in which the same action is not proposed again.
    """

    treatment_id: str
    action_id: str
    channel: str
    cost: float
    cooldown_days: int = 0


@dataclass(frozen=True)
class Catalog:
    """All actions and treatments; column 0 of every matrix is `none`.

    Example:
        >>> shop = Catalog(
        ...     (Action("sale", "sales", "promo", "Summer sale", margin=20.0),),
        ...     (Treatment("sale_email", "sale", "email", cost=0.02),),
        ... )
        >>> shop.treatment_ids, shop.cost.tolist()
        (('none', 'sale_email'), [0.0, 0.02])
    """

    actions: tuple[Action, ...]
    treatments: tuple[Treatment, ...]

    def __post_init__(self) -> None:
        faults = []
        action_ids = [action.action_id for action in self.actions]
        faults += [f"action_id {x!r} stands twice" for x in _repeated(action_ids)]
        faults += [
            f"treatment_id {x!r} stands twice" for x in _repeated([t.treatment_id for t in self.treatments])
        ]
        known = set(action_ids)
        for treatment in self.treatments:
            if treatment.action_id not in known:
                faults.append(
                    f"treatment {treatment.treatment_id!r} names action {treatment.action_id!r}; "
                    f"known are {sorted(known)}"
                )
            if treatment.treatment_id == NONE:
                faults.append("treatment_id 'none' is reserved for doing nothing")
            if not treatment.cost >= 0:
                faults.append(f"treatment {treatment.treatment_id!r} costs {treatment.cost}; expected 0 up")
        if faults:
            raise listed(faults, "the catalog cannot be used", "Mend the action and treatment files.")

    @classmethod
    def from_tables(cls, actions: pa.Table, treatments: pa.Table) -> "Catalog":
        """Read the two tables of the contract.

        Raises:
            DataError: when a table breaks its contract or the two disagree.
        """
        tables.ACTIONS.check(actions)
        tables.TREATMENTS.check(treatments)
        return cls(
            tuple(Action(**row) for row in actions.to_pylist()),
            tuple(Treatment(**row) for row in treatments.to_pylist()),
        )

    def to_tables(self) -> tuple[pa.Table, pa.Table]:
        """Return the actions and treatments tables of the contract."""
        return (
            tables.ACTIONS.build([vars(a) for a in self.actions]),
            tables.TREATMENTS.build([vars(t) for t in self.treatments]),
        )

    @cached_property
    def treatment_ids(self) -> tuple[str, ...]:
        """Column names of every matrix, `none` first."""
        return (NONE, *(t.treatment_id for t in self.treatments))

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Channels in order of first appearance."""
        return tuple(dict.fromkeys(t.channel for t in self.treatments))

    @cached_property
    def channel(self) -> NDArray[np.str_]:
        """Channel by column, shape (k,), `none` in column 0."""
        return np.array([NONE, *(t.channel for t in self.treatments)])

    @cached_property
    def action(self) -> NDArray[np.str_]:
        """Action id by column, shape (k,), `none` in column 0."""
        return np.array([NONE, *(t.action_id for t in self.treatments)])

    @cached_property
    def cost(self) -> NDArray[np.float64]:
        """Money per delivery by column, shape (k,)."""
        return np.array([0.0, *(t.cost for t in self.treatments)])

    @cached_property
    def margin(self) -> NDArray[np.float64]:
        """Money per response by column, shape (k,); 0 for `none`."""
        return np.array([0.0, *(self._action(t).margin for t in self.treatments)])

    @cached_property
    def lever(self) -> NDArray[np.float64]:
        """Business weight by column, shape (k,); 1 for `none`."""
        return np.array([1.0, *(self._action(t).lever for t in self.treatments)])

    @cached_property
    def cooldown_days(self) -> NDArray[np.int64]:
        """Cooldown by column, shape (k,); 0 for `none`."""
        return np.array([0, *(t.cooldown_days for t in self.treatments)], dtype=np.int64)

    @cached_property
    def levels(self) -> dict[str, NDArray[np.str_]]:
        """Names by column at the levels treatment, action, group, issue and channel, shapes (k,)."""
        of = [self._action(t) for t in self.treatments]
        return {
            "treatment": np.array(self.treatment_ids),
            "action": self.action,
            "group": np.array([NONE, *(a.group for a in of)]),
            "issue": np.array([NONE, *(a.issue for a in of)]),
            "channel": self.channel,
        }

    def active(self, at: datetime) -> NDArray[np.bool_]:
        """Say which columns may be proposed at a moment, shape (k,); `none` always."""
        return np.array([True, *(_running(self._action(t), at) for t in self.treatments)])

    def columns(self, treatment_ids: Sequence[Any]) -> NDArray[np.int64]:
        """Give the column number of each treatment id; unknown ids are -1."""
        number = {name: i for i, name in enumerate(self.treatment_ids)}
        return np.array([number.get(name, -1) for name in treatment_ids], dtype=np.int64)

    def _action(self, treatment: Treatment) -> Action:
        return self._by_id[treatment.action_id]

    @cached_property
    def _by_id(self) -> dict[str, Action]:
        return {action.action_id: action for action in self.actions}


def _running(action: Action, at: datetime) -> bool:
    after = action.starts_at is None or action.starts_at <= at
    return after and (action.ends_at is None or at < action.ends_at)


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
