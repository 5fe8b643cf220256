"""Logged decisions with what came of them, and what other policies would have done on the same rows.

`nba evaluate`, `promote` and `shadow` read the log through this module: rows of one batch with their
features, candidates and logged probabilities, and a player that gives its own probabilities for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import draws, feedback, settings, tracking
from nba.catalog import Catalog
from nba.errors import DataError, MissingError
from nba.history import History
from nba.models.scorer import Scorer
from nba.policy import arbitrate, explore
from nba.policy import limits as volumes
from nba.policy.allocate import allocate, trim
from nba.policy.explore import Estimate, Policy
from nba.policy.limits import Limited, reachable, scaled, spent_today
from nba.serving.deciders import Worth, belief, strategy, worth_of

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
# Customers of a batch that policies are replayed on, at random by hash; limits shrink with them.
MAX_CUSTOMERS = 10_000
_EVER = datetime(1970, 1, 1, tzinfo=UTC)

# What a policy decided, with its probability, and with the candidates that it chose from.
_IS_LOGGED = "coalesce(d.p_action > 0 and not isnan(d.p_action), false)"
_HAS_CANDIDATES = "d.decision_id in (select decision_id from choices where treatment_id = 'none')"
_UNSEEN = "d.decided_at >= $since and o.closed_at > $after"
_LOGGED = f"""
    select d.customer_id, d.decision_id, coalesce(d.arm, 'policy') as arm, d.treatment_id, d.p_action,
        o.reward, o.is_unsubscribe::double as unsubscribed, d.policy_id = 'none' as is_held
    from decisions d left join ({{settled}}) o using (decision_id)
    where d.batch_id = $batch and d.policy_id <> 'outside' and {_IS_LOGGED} and {_HAS_CANDIDATES}
        and {{which}}
    order by d.customer_id
"""
_LEFT_OUT = f"""
    select count(*) as n, count(*) filter (not {_IS_LOGGED}) as n_unlogged,
        count(*) filter ({_IS_LOGGED} and not {{candidates}}) as n_bare
    from decisions d join ({{settled}}) o using (decision_id)
    where d.policy_id not in ('none', 'outside') and {_UNSEEN}
"""
_FEATURES = """
    select f.* from features f join wanted w on f.customer_id = w.customer_id
    and f.as_of = (select any_value(decided_at) from decisions where batch_id = $batch) order by f.customer_id
"""
_CHOICES = """
    select c.decision_id, c.treatment_id, c.is_eligible, c.p_action
    from choices c semi join wanted using (decision_id)
"""


class Part(NamedTuple):
    """Rows of one batch; k columns: the catalog's, then treatments that have left it.

    Attributes:
        batch_id: The batch.
        ids: Customers, n of them, in order.
        arm: Arm of each, shape (n,).
        column: Treatment given, shape (n,).
        reward, unsubscribed: What came of it, shape (n,); NaN while the window is open.
        p_logged: Probabilities of its own arm, shape (n, k).
        is_eligible: Shape (n, k).
        features: The features of the moment, n rows.
        names: Treatments by column.
        is_held: Of the holdout, which gets nothing from any policy, shape (n,).
        share: Part of all the batch's decisions that these are, those of other systems counted.
        worth: Price of fatigue, lifetime value saved and weights, as known when the batch was decided.
    """

    batch_id: str
    ids: list[str]
    arm: NDArray[np.object_]
    column: Whole
    reward: Array
    unsubscribed: Array
    p_logged: Array
    is_eligible: NDArray[np.bool_]
    features: pa.Table
    names: tuple[str, ...]
    is_held: NDArray[np.bool_]
    share: float
    worth: Worth


class Played(NamedTuple):
    """What a policy would do on a part, each arm within its own share of the limits.

    Attributes:
        drawn: Probabilities to draw from, shape (n, k).
        final: Probabilities after trimming, shape (n, k).
        limits: Rows of each arm that may be contacted, with its limits.
    """

    drawn: Array
    final: Array
    limits: tuple[tuple[Whole, Limited], ...]

    def column(self, part: Part) -> Whole:
        """Draw as a batch does, trimmed to the limits, shape (n,): its own policy draws what it decided."""
        salt = f"decision|{part.batch_id}"
        out = draws.pick(self.drawn, draws.uniform(part.ids, salt))
        for rows, own in self.limits:
            dropped = trim(out[rows], own.use, own.available, [part.ids[row] for row in rows], salt)
            out[rows] = np.where(dropped >= 0, 0, out[rows])
        return out


@dataclass(frozen=True)
class Context:
    """What is the same for all players of a workspace."""

    config: settings.Settings
    catalog: Catalog
    history: History
    at: datetime

    @classmethod
    def read(cls, workspace: Path, at: datetime) -> "Context":
        """Read a workspace.

        Raises:
            MissingError: when it has no closed outcomes.
        """
        config = settings.read(workspace)
        history = History.read(workspace)
        if not history.has("outcomes"):
            raise MissingError(
                f"{workspace} has no outcomes yet", "Run `nba feedback` once a reward window has closed."
            )
        tracking.setup(config, workspace)
        catalog = settings.read_catalog(workspace, config)
        return cls(config, catalog, history, at)

    def asked(self, unseen: "Unseen") -> dict[str, datetime]:
        """Give what queries of unseen decisions ask."""
        return {"at": self.at, "since": unseen.made_since, "after": unseen.closed_after}

    @property
    def settled(self) -> str:
        """SQL of outcomes as corrected by `$at`."""
        return feedback.settled(is_corrected=self.history.has("corrections"))

    def limited(self, batch_id: str) -> Limited:
        """Give the limits of a whole batch: those per day have what earlier batches of its day left."""
        limits, spent = self.config.limits, None
        if any(volume.per == "day" for volume in limits.volumes):
            moment = "select min(decided_at) as at from decisions where batch_id = $batch"
            at = self.history.sql(moment, {"batch": batch_id})["at"][0].as_py()
            with self.history.as_of(at) as snapshot:
                spent = spent_today(snapshot, self.catalog, self.config.workspace.timezone)
        return volumes.of(self.catalog, limits, spent)


@dataclass(frozen=True)
class Model:
    """A registered version.

    Attributes:
        trained_at: Outcomes closed by then were in its training.
        has_open: Whether decisions made by then that were still open were in its training too.
    """

    scorer: Scorer
    version: int
    trained_at: datetime
    has_open: bool = False

    @classmethod
    def find(cls, context: Context, alias: str) -> "Model | None":
        """Load what an alias names; None if it names nothing."""
        name = tracking.policy_name(context.config)
        try:
            registered, tags = tracking.find(name, alias)
        except MissingError:
            return None
        folder, _ = tracking.load_policy(name, alias)
        trained_at = datetime.fromisoformat(tags["at"]) if "at" in tags else context.at
        return cls(Scorer.load(folder), registered.version, trained_at, tracking.HAS_OPEN in tags)


class Unseen(NamedTuple):
    """What models have not learnt from: decisions made since one moment that closed after another."""

    made_since: datetime = _EVER
    closed_after: datetime = _EVER

    @classmethod
    def by(cls, *models: Model) -> "Unseen":
        """Say what none of some models can have learnt anything of.

        The window of a decision made before may share purchases with those of decisions that were learnt
        from, though it closed later.
        """
        trained_at = max(model.trained_at for model in models)
        return cls(trained_at, trained_at)


class Player(NamedTuple):
    """A policy that can say what it would do on logged rows.

    Attributes:
        policy_id: Its name.
        play: What it would do on a part, columns of the catalog.
    """

    policy_id: str
    play: Callable[[Part], Played]


def champion_player(context: Context, model: Model, policy: Policy | None = None) -> Player:
    """Play a registered model with the workspace's strategy, or another one."""
    chosen = policy or strategy(context.config.policy)

    def play(part: Part) -> Played:
        return within(context, part, chosen, believed(context, model, part))

    return Player(f"{chosen.policy_id}@{model.scorer.model_id}", play)


def believed(context: Context, model: Model, part: Part, *, weighed: bool = True) -> Estimate:
    """Give a model's belief in money of a part's customers, shapes (n, k of the catalog).

    Args:
        context: The workspace.
        model: Whose belief.
        part: The customers.
        weighed: Whether business weights count.
    """
    scores = model.scorer.scores(part.features, context.catalog)
    worth = part.worth if weighed else part.worth._replace(weight=np.ones_like(part.worth.weight))
    return belief(scores, context.catalog, worth)


def within(context: Context, part: Part, policy: Policy, estimate: Estimate) -> Played:
    """Allocate a part as a batch is decided: each arm within its share of the limits, the holdout nothing."""
    limited = context.limited(part.batch_id)
    may = part.is_eligible[:, : len(context.catalog.treatment_ids)]
    drawn = np.zeros(may.shape)
    drawn[:, 0] = 1.0
    final, limits = drawn.copy(), []
    active = float((~part.is_held).mean()) or 1.0
    for arm in np.unique(part.arm[~part.is_held]):
        rows = np.flatnonzero((part.arm == arm) & ~part.is_held)
        own = scaled(limited, part.share * len(rows) / len(part.ids), active)
        mine = Estimate(estimate.mean[rows], estimate.se[rows])
        least = reachable(own, may[rows])[0].least
        found = allocate(policy, mine, may[rows], own.use, own.available, least)
        drawn[rows], final[rows] = found.drawn, found.final
        limits.append((rows, own))
    return Played(drawn, final, tuple(limits))


def features_of(history: History, batch_id: str, ids: Sequence[str]) -> pa.Table:
    """Give the logged features of some customers of a batch, in the order of their ids.

    Raises:
        DataError: when some are missing.
    """
    with history.connection() as connection:
        connection.register("wanted", pa.table({"customer_id": pa.array(ids, pa.string())}))
        found = connection.sql(_FEATURES, params={"batch": batch_id}).to_arrow_table()
    if found.num_rows != len(ids):
        raise DataError(
            f"batch {batch_id} has {len(ids)} of these customers but {found.num_rows} rows of features",
            "The features of its moment are missing: name a later batch.",
        )
    return found


def fatigue_of(nuisance: Array, history: History, batch_id: str, ids: Sequence[str]) -> Array:
    """Give the price of a contact of some customers of a batch, shape (n, k), by its logged features.

    Args:
        nuisance: Price by number of recent contacts, shape (levels, k).
        history: With features, where the price depends on recent contacts.
        batch_id: The batch.
        ids: Customers, in order.
    """
    if (nuisance == nuisance[0]).all():
        return np.broadcast_to(nuisance[0], (len(ids), nuisance.shape[1]))
    return arbitrate.fatigue(nuisance, features_of(history, batch_id, ids))


def random_player(context: Context) -> Player:
    """Play evenly over what is eligible, within limits."""

    def play(part: Part) -> Played:
        k = len(context.catalog.treatment_ids)
        return within(context, part, explore.Uniform(), arbitrate.unknown(len(part.ids), k))

    return Player("random", play)


def closed_batches(context: Context, unseen: Unseen = Unseen()) -> list[str]:  # noqa: B008 it is immutable
    """Name the batches with closed outcomes, of unseen decisions where asked, in the order of decisions."""
    query = (
        f"select batch_id, min(decided_at) as decided_at from decisions d join ({context.settled}) o"
        f" using (decision_id) where {_UNSEEN} group by 1 order by 2, 1"
    )
    return context.history.sql(query, context.asked(unseen))["batch_id"].to_pylist()


def read(
    context: Context,
    batch_id: str,
    *,
    unseen: Unseen | None = None,
    closed: bool = True,
    most: int = MAX_CUSTOMERS,
    held: bool = False,
) -> Part | None:
    """Read the rows of a batch, thinned by hash to about `most`.

    Args:
        context: The workspace.
        batch_id: The batch.
        unseen: Only these.
        closed: Only rows whose outcome has closed; else all.
        most: Customers; limits shrink with them.
        held: Whether the holdout is read, too.

    Returns:
        The rows, or None where there are none whose probability and candidates were logged: what a policy
        would do is not known of others. Where a batch logs candidates of a share of its customers
        (`log_choices`), it is one by hash, which stands for all of them.
    """
    history = context.history
    if not history.has("choices"):
        return None
    which = "o.decision_id is not null" if closed else "true"
    if not held:
        which += " and d.policy_id <> 'none'"
    asked: dict[str, Any] = {"batch": batch_id, "at": context.at}
    if unseen is not None:
        which += f" and {_UNSEEN}"
        asked |= context.asked(unseen)
    logged = history.sql(_LOGGED.format(settled=context.settled, which=which), asked)
    kept = draws.uniform(logged["customer_id"].to_pylist(), "evaluate") < most / max(logged.num_rows, 1)
    logged = logged.filter(pa.array(kept))
    if not logged.num_rows:
        return None
    with history.connection() as connection:
        connection.register("wanted", logged.select(["decision_id", "customer_id"]))
        found = connection.sql(_FEATURES, params={"batch": batch_id}).to_arrow_table()
        choices = connection.sql(_CHOICES).to_arrow_table()
    if found.num_rows != logged.num_rows:
        raise DataError(
            f"batch {batch_id} has {logged.num_rows} decisions but {found.num_rows} rows of features",
            "The features of its moment are missing: the log cannot be replayed.",
        )
    # Limits are shared out over everybody in the batch: other arms, open windows and other systems' too.
    whole = history.sql("select count(*) as n from decisions where batch_id = $batch", {"batch": batch_id})
    share = logged.num_rows / whole["n"][0].as_py()
    with history.as_of(found["as_of"][0].as_py()) as snapshot:
        worth = worth_of(snapshot, found, context.catalog, context.config)
    return _part(context.catalog, batch_id, logged, found, choices, share, worth)


class LeftOut(NamedTuple):
    """Decisions that no replay can judge by.

    Attributes:
        n: Closed decisions of policies, these among them.
        n_unlogged: Without a logged probability.
        n_bare: With one, but without stored candidates.
    """

    n: int
    n_unlogged: int
    n_bare: int


def left_out(context: Context, unseen: Unseen) -> LeftOut:
    """Count the unseen closed decisions that `read` leaves out."""
    candidates = _HAS_CANDIDATES if context.history.has("choices") else "false"
    query = _LEFT_OUT.format(settled=context.settled, candidates=candidates)
    (found,) = context.history.sql(query, context.asked(unseen)).to_pylist()
    return LeftOut(**found)


def _part(
    catalog: Catalog,
    batch_id: str,
    logged: pa.Table,
    features: pa.Table,
    choices: pa.Table,
    share: float,
    worth: Worth,
) -> Part:
    n = logged.num_rows
    given, candidates = logged["treatment_id"].to_pylist(), choices["treatment_id"].to_pylist()
    names = (*catalog.treatment_ids, *sorted({*given, *candidates} - set(catalog.treatment_ids)))
    number = {name: i for i, name in enumerate(names)}
    column = np.array([number[name] for name in given], dtype=np.int64)
    row_of = {name: i for i, name in enumerate(logged["decision_id"].to_pylist())}
    row = np.array([row_of[name] for name in choices["decision_id"].to_pylist()], dtype=np.int64)
    cell = (row, np.array([number[name] for name in candidates], dtype=np.int64))
    is_eligible, p_logged = np.zeros((n, len(names)), dtype=bool), np.zeros((n, len(names)))
    is_eligible[cell] = choices["is_eligible"].to_numpy(zero_copy_only=False)
    p_logged[cell] = choices["p_action"].to_numpy()
    p_logged[np.arange(n), column] = logged["p_action"].to_numpy()
    return Part(
        batch_id,
        logged["customer_id"].to_pylist(),
        np.array(logged["arm"].to_pylist(), dtype=object),
        column,
        numbers(logged["reward"]),
        numbers(logged["unsubscribed"]),
        p_logged,
        is_eligible,
        features,
        names,
        np.array(logged["is_held"].to_pylist(), dtype=bool),
        share,
        worth,
    )


def numbers(column: pa.ChunkedArray) -> Array:
    """Give a column as numbers, shape (n,); NaN where it is not known."""
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
