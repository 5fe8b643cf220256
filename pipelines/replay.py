"""Logged decisions with what came of them, and what other policies would have done on the same rows.

`nba evaluate`, `promote` and `shadow` read the log through this module: rows of one batch with their
features, candidates and logged probabilities, and a player that gives its own probabilities for them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nba import draws, feedback, settings, tables, tracking
from nba.catalog import Catalog
from nba.errors import DataError, MissingError
from nba.evaluation import offpolicy
from nba.evaluation.offpolicy import Log
from nba.history import History
from nba.models.scorer import Scorer
from nba.policy import arbitrate, explore, levers
from nba.policy.allocate import allocate, trim
from nba.policy.explore import Estimate, Policy
from nba.policy.limits import reachable, spent_today
from nba.serving.decide import Limited, Worth, belief, limits_of, scaled, strategy

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
# Customers of a batch that policies are replayed on, at random by hash; limits shrink with them.
MAX_CUSTOMERS = 10_000
_EVER = datetime(1970, 1, 1, tzinfo=UTC)

_LOGGED = """
    select d.customer_id, d.decision_id, coalesce(d.arm, 'policy') as arm, d.treatment_id, d.p_action,
        o.reward, o.is_unsubscribe::double as unsubscribed, d.policy_id = 'none' as is_held
    from decisions d left join ({settled}) o using (decision_id)
    where d.batch_id = $batch and d.policy_id <> 'outside' and {which} order by d.customer_id
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
        n_dropped: Rows left out because their probability was not logged.
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
    n_dropped: int


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
    """What is the same for all players of a workspace.

    Attributes:
        nuisance: Price of fatigue per contact by number of recent contacts, money, shape (levels, k).
    """

    config: settings.Settings
    catalog: Catalog
    history: History
    at: datetime
    nuisance: Array

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
        with history.as_of(at) as snapshot:
            nuisance = arbitrate.nuisance(snapshot, catalog, config.reward)
        return cls(config, catalog, history, at, nuisance)

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
        return limits_of(self.catalog, limits, spent)


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

    made_since: datetime
    closed_after: datetime

    @classmethod
    def by(cls, *models: Model) -> "Unseen":
        """Say what none of some models has learnt from."""
        opened = [model.trained_at for model in models if model.has_open]
        return cls(max(opened, default=_EVER), max(model.trained_at for model in models))


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
    return belief(scores, context.catalog, worth(context, part, weighed=weighed))


def worth(context: Context, part: Part, *, weighed: bool = True) -> Worth:
    """Give money beyond margin and cost, and the weights, of a part's customers."""
    catalog, chosen, saved = context.catalog, context.config.policy.levers, None
    if context.config.reward.clv_actions:
        with context.history.as_of(context.at) as snapshot:
            saved = arbitrate.saved(snapshot, catalog, context.config.reward, part.features["customer_id"])
    tired = arbitrate.fatigue(context.nuisance, part.features)
    weight = np.ones(tired.shape)
    if weighed:
        weight = levers.weights(levers.contexts(part.features, chosen), chosen, catalog)
    return Worth(tired, saved, weight)


def within(context: Context, part: Part, policy: Policy, estimate: Estimate) -> Played:
    """Allocate a part as a batch is decided: each arm within its share of the limits, the holdout nothing."""
    limited = context.limited(part.batch_id)
    may = part.is_eligible[:, : len(context.catalog.treatment_ids)]
    drawn = np.zeros(may.shape)
    drawn[:, 0] = 1.0
    final, limits = drawn.copy(), []
    for arm in np.unique(part.arm[~part.is_held]):
        rows = np.flatnonzero((part.arm == arm) & ~part.is_held)
        own = scaled(limited, part.share * len(rows) / len(part.ids))
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


def closed_batches(context: Context, unseen: Unseen | None = None) -> list[str]:
    """Name the batches with closed outcomes, or with unseen ones, in the order of their decisions."""
    query = (
        f"select batch_id, min(decided_at) as decided_at from decisions d join ({context.settled}) o"
        " using (decision_id) where o.closed_at > $after and d.decided_at >= $since"
        " group by 1 order by 2, 1"
    )
    since, after = unseen or Unseen(_EVER, _EVER)
    asked = {"at": context.at, "after": after, "since": since}
    return context.history.sql(query, asked)["batch_id"].to_pylist()


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
        The rows, or None where there are none whose probability was logged.
    """
    asked: dict[str, Any] = {"batch": batch_id, "at": context.at}
    which = "o.decision_id is not null" if closed else "true"
    if not held:
        which += " and d.policy_id <> 'none'"
    if unseen is not None:
        which += " and d.decided_at >= $since and o.closed_at > $after"
        asked["since"], asked["after"] = unseen
    history = context.history
    logged = history.sql(_LOGGED.format(settled=context.settled, which=which), asked)
    n_all = logged.num_rows
    kept = draws.uniform(logged["customer_id"].to_pylist(), "evaluate") < most / max(n_all, 1)
    logged = logged.filter(pa.array(kept))
    known = pc.and_(pc.is_valid(logged["p_action"]), pc.greater(logged["p_action"], 0.0))
    n_thinned = logged.num_rows
    logged = logged.filter(known)
    if not logged.num_rows:
        return None
    with history.connection() as connection:
        connection.register("wanted", logged.select(["decision_id", "customer_id"]))
        found = connection.sql(_FEATURES, params={"batch": batch_id}).to_arrow_table()
        choices = (
            connection.sql(_CHOICES).to_arrow_table()
            if history.has("choices")
            else tables.CHOICES.empty().select(["decision_id", "treatment_id", "is_eligible", "p_action"])
        )
    if found.num_rows != logged.num_rows:
        raise DataError(
            f"batch {batch_id} has {logged.num_rows} decisions but {found.num_rows} rows of features",
            "The features of its moment are missing: the log cannot be replayed.",
        )
    # Limits are shared out over everybody in the batch: other arms, open windows and other systems' too.
    whole = history.sql("select count(*) as n from decisions where batch_id = $batch", {"batch": batch_id})
    share = logged.num_rows / whole["n"][0].as_py()
    return _part(context.catalog, batch_id, logged, found, choices, share, n_thinned - logged.num_rows)


def _part(
    catalog: Catalog,
    batch_id: str,
    logged: pa.Table,
    features: pa.Table,
    choices: pa.Table,
    share: float,
    n_dropped: int,
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
    own = logged["p_action"].to_numpy()
    bare = np.setdiff1d(np.arange(n), row)
    # Logged without candidates: only the chosen one's probability is known, which is all that weights need.
    k = len(catalog.treatment_ids)
    is_eligible[bare, :k] = True
    p_logged[bare, :k] = ((1 - own[bare]) / max(k - 1, 1))[:, None]
    p_logged[np.arange(n), column] = own
    return Part(
        batch_id,
        logged["customer_id"].to_pylist(),
        np.array(logged["arm"].to_pylist(), dtype=object),
        column,
        _numbers(logged["reward"]),
        _numbers(logged["unsubscribed"]),
        p_logged,
        is_eligible,
        features,
        names,
        np.array(logged["is_held"].to_pylist(), dtype=bool),
        share,
        n_dropped,
    )


class Pooled(NamedTuple):
    """Parts together, on the columns of all of them.

    Attributes:
        log: Rows of arms that could have chosen what is judged.
        unsubscribed: Shape (n,).
        X: Features, shape (n, d).
        batch: Number of the batch, not decreasing, shape (n,).
        target: Probabilities by player, each of shape (n, k).
        arm: Shape (n,).
    """

    log: Log
    unsubscribed: Array
    X: Array
    batch: Whole
    target: Mapping[str, Array]
    arm: NDArray[np.object_]

    def only(self, rows: NDArray[np.bool_]) -> "Pooled":
        """Keep some rows; customers are numbered anew."""
        log = self.log
        unit = np.unique(log.unit[rows], return_inverse=True)[1]
        kept = Log(log.column[rows], log.reward[rows], log.p_logged[rows], unit)
        target = {name: p[rows] for name, p in self.target.items()}
        return Pooled(kept, self.unsubscribed[rows], self.X[rows], self.batch[rows], target, self.arm[rows])


def pool(parts: Sequence[Part], played: Mapping[str, Sequence[Array]]) -> Pooled:
    """Put parts together.

    Args:
        parts: In the order of their batches.
        played: Player to its probabilities on each part, columns of the catalog.
    """
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    number = {name: i for i, name in enumerate(names)}

    def widened(part: Part, p: Array) -> Array:
        wide = np.zeros((len(part.ids), len(names)))
        wide[:, [number[name] for name in part.names[: p.shape[1]]]] = p
        return wide

    ids = np.array([name for part in parts for name in part.ids])
    column = np.concatenate([np.array([number[x] for x in part.names])[part.column] for part in parts])
    log = Log(
        column,
        np.concatenate([part.reward for part in parts]),
        np.vstack([widened(part, part.p_logged) for part in parts]),
        np.unique(ids, return_inverse=True)[1],
    )
    batch = np.concatenate([np.full(len(part.ids), i) for i, part in enumerate(parts)])
    target = {
        name: np.vstack([widened(part, p) for part, p in zip(parts, found, strict=True)])
        for name, found in played.items()
    }
    unsubscribed = np.concatenate([part.unsubscribed for part in parts])
    arm = np.concatenate([part.arm for part in parts])
    return Pooled(log, unsubscribed, _features(parts), batch, target, arm)


def supported(pooled: Pooled, names: Sequence[str]) -> Pooled:
    """Keep the arms that could have chosen whatever the players named would choose."""
    able = []
    for arm in np.unique(pooled.arm):
        rows = pooled.arm == arm
        p = pooled.log.p_logged[rows]
        missing = max(
            float(np.where(p > 0, 0.0, pooled.target[name][rows]).sum(axis=1).mean()) for name in names
        )
        if missing <= offpolicy.MAX_UNSUPPORTED:
            able.append(arm)
    return pooled.only(np.isin(pooled.arm, able))


def _features(parts: Sequence[Part]) -> Array:
    # Batches logged before a feature existed have fewer: it is unknown there.
    names = sorted({x for part in parts for x in part.features.column_names if x.startswith("f_")})
    blocks = []
    for part in parts:
        block = np.full((len(part.ids), len(names)), np.nan)
        for j, name in enumerate(names):
            if name in part.features.column_names:
                block[:, j] = _numbers(part.features[name])
        blocks.append(block)
    return np.vstack(blocks)


def _numbers(column: pa.ChunkedArray) -> Array:
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
