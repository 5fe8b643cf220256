"""What a batch is while it runs: what is the same for all customers, a scored part of them, its cuts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import settings
from nba.catalog import Catalog
from nba.policy import eligibility
from nba.policy import limits as volumes
from nba.policy.limits import Limited
from nba.policy.streamed import Cut
from nba.serving.deciders import Rule, Scorer, rules_of

Array = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Job:
    """What is the same for all customers of a batch.

    Attributes:
        nuisance: Price of a contact's risk by number of recent contacts, money, shape (levels, k).
        spent: Choices of each treatment earlier on the day, shape (k,); none if absent.
        corrects: The batch that this one takes the place of.
        audience: Condition that the customers fulfil; all are decided for if absent.
        units: Customers whose arms are those of another id, as `nba.experiments.design.units` gives them.
    """

    batch_id: str
    at: datetime
    catalog: Catalog
    config: settings.Settings
    models: Mapping[str, Scorer]
    nuisance: Array
    feature_as_of: datetime
    corrects: str | None = None
    spent: Array | None = None
    audience: str | None = None
    units: Mapping[str, str] = field(default_factory=dict)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Who decides for each arm."""
        return rules_of(self.config, self.at, {alias: m.model_id for alias, m in self.models.items()})

    @property
    def valid_until(self) -> datetime:
        """When its decisions lapse."""
        return self.at + timedelta(days=self.config.policy.valid_days)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The rules that can remove a candidate, by their number."""
        return tuple(name for name, _ in eligibility.reasons(self.config.engagement))

    @property
    def limited(self) -> Limited:
        """The limits of the batch."""
        return volumes.of(self.catalog, self.config.limits, self.spent)


class Scored(NamedTuple):
    """A part of the customers after scoring: shapes (n,), then (n, k).

    Attributes:
        ids, external: Customer ids and the ids by which orchestration knows them.
        arm: Number of the arm in the order of the job's rules.
        experiment: Number of the experiment (0 the standing one, then the trials in their order).
        p_arm: Share of the arm.
        mean, se: Belief in money, of the arm's own model.
        zone: Number of the customer's zone in `nba.policy.windows.ZONES`.
        reason: Number of the rule that removed a candidate; 0 where eligible.
        context: Which levers' conditions hold, as bits, shape (n,).
    """

    ids: pa.Array
    external: pa.Array
    arm: NDArray[np.int16]
    experiment: NDArray[np.int16]
    p_arm: Array
    zone: NDArray[np.int16]
    mean: Array
    se: Array
    reason: NDArray[np.int8]
    context: NDArray[np.int32]

    def take(self, rows: NDArray[Any]) -> "Scored":
        """Keep some customers."""
        index = pa.array(rows)
        return Scored(self.ids.take(index), self.external.take(index), *(part[rows] for part in self[2:]))


@dataclass(frozen=True)
class Drawn:
    """The cuts of all arms, and what the draws use.

    Attributes:
        cuts: By arm, in the order of the rules.
        used: Use of each limit, shape (arms, m), in millionths.
        customers: Customers by arm, shape (arms,).
        available: Limits by arm, shape (arms, m).
    """

    cuts: tuple[Cut, ...]
    used: Whole
    customers: Whole
    available: Array


@dataclass(frozen=True)
class Named:
    """A model of which only the name is needed."""

    model_id: str

    def scores(self, features: pa.Table, catalog: Catalog) -> Any:
        """Refuse to score."""
        raise NotImplementedError(self.model_id)
