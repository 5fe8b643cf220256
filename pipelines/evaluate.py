"""Estimate what policies earned and what the champion would have earned, from closed decisions."""

from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nba import draws, feedback, settings, tables, tracking
from nba.catalog import Catalog
from nba.errors import MissingError
from nba.evaluation import offpolicy
from nba.evaluation.offpolicy import Log, PolicyValue
from nba.history import History
from nba.models.scorer import Scorer
from nba.policy import arbitrate
from nba.policy.allocate import allocate
from nba.policy.explore import Policy
from nba.serving.decide import Limited, belief, limits_of, scaled, strategy
from pipelines.progress import Progress, silent

Array = NDArray[np.float64]
ALL = "all"
# Customers of a batch that the champion is replayed on, at random by hash; limits shrink with them.
MAX_CUSTOMERS = 10_000

_CLOSED = """
    select d.batch_id, coalesce(d.arm, 'policy') as arm, d.customer_id, o.reward, o.closed_at
    from decisions d join ({settled}) o using (decision_id)
    order by d.batch_id, d.customer_id
"""
_LOGGED = """
    select d.customer_id, d.decision_id, coalesce(d.arm, 'policy') as arm, d.treatment_id, o.reward
    from decisions d join ({settled}) o using (decision_id)
    where d.batch_id = $batch and o.closed_at > $after and o.closed_at <= $at order by d.customer_id
"""
_FEATURES = """
    select f.* from features f
    join decisions d on f.customer_id = d.customer_id and f.as_of = d.decided_at
    join outcomes o using (decision_id)
    where d.batch_id = $batch and o.closed_at > $after and o.closed_at <= $at order by f.customer_id
"""
_CHOICES = """
    select c.decision_id, c.treatment_id, c.is_eligible, c.p_action
    from choices c join decisions d using (decision_id) where d.batch_id = $batch
"""


def evaluate(workspace: Path, at: datetime, *, progress: Progress | None = None) -> pa.Table:
    """Write `policy_values`: the mean of every arm, and off-policy estimates of today's champion.

    Arms are judged on their own decisions. The champion is judged on decisions that were not in its training
    (those whose window closed later; on others it would look better than it is), of the arms that could
    have chosen whatever it would choose. A row's weight rests on the probability of its own arm.

    Args:
        workspace: Folder of the workspace.
        at: Outcomes closed by then count.
        progress: Where to report.

    Raises:
        MissingError: when no decision has been made yet.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    history = History.read(workspace)
    if not history.has("outcomes"):
        raise MissingError(
            f"{workspace} has no outcomes yet", "Run `nba feedback` once a reward window has closed."
        )
    history.check_before("outcomes", "closed_at", at)
    closed = history.sql(_CLOSED.format(settled=_settled(history)), {"at": at})
    champion = _champion(workspace, history, config, at)
    batches = _unseen(closed, champion.trained_at) if champion else []
    step = progress.step("judging policies", total=len(batches) + 1)
    rows = _arm_values(closed, config.experiment.level)
    step(1)
    if champion:
        replays = []
        for batch_id in batches:
            replays.append(_replay(history, champion, batch_id, at))
            step(1)
        rows += _champion_values(replays, champion, config.experiment.level)
    values = tables.POLICY_VALUES.build(rows)
    history.commit(replace={"policy_values": values})
    return values


def _settled(history: History) -> str:
    return feedback.settled(is_corrected=history.has("corrections"))


def _champion(
    workspace: Path, history: History, config: settings.Settings, at: datetime
) -> "_Champion | None":
    tracking.setup(config, workspace)
    name = tracking.policy_name(config)
    try:
        _registered, tags = tracking.find(name, "champion")
    except MissingError:
        return None
    folder, _version = tracking.load_policy(name, "champion")
    catalog = settings.read_catalog(workspace, config)
    with history.as_of(at) as snapshot:
        nuisance = arbitrate.nuisance(snapshot, catalog, config.reward)
    scorer, policy = Scorer.load(folder), strategy(config.policy)
    policy_id = f"{policy.policy_id}@{scorer.model_id}"
    trained_at = datetime.fromisoformat(tags["at"]) if "at" in tags else at
    limited = limits_of(catalog, config.limits)
    return _Champion(scorer, policy, policy_id, trained_at, catalog, limited, nuisance, config.reward)


def _unseen(closed: pa.Table, trained_at: datetime) -> list[str]:
    later = closed.filter(pc.greater(closed["closed_at"], pa.scalar(trained_at, tables.TIME)))
    return sorted(set(later["batch_id"].to_pylist()))


def _arm_values(closed: pa.Table, level: float) -> list[dict[str, Any]]:
    frame = closed.to_pandas()
    frame["unit"] = frame["customer_id"].factorize()[0]
    out = []
    for arm, rows in frame.groupby("arm", sort=True):
        parts: list[tuple[str, Any]] = [(ALL, rows), *rows.groupby("batch_id", sort=True)]
        for batch_id, part in parts:
            value = offpolicy.on_policy(part["reward"].to_numpy(), part["unit"].to_numpy(), level)
            out.append(_row(f"arm:{arm}", "on_policy", str(batch_id), value))
    return out


class _Replay(NamedTuple):
    # Logged rows of a batch with what the champion would do; k columns, treatments since retired last.
    customer_id: list[str]
    arm: NDArray[np.object_]
    column: NDArray[np.int64]
    reward: Array
    p_logged: Array
    p_target: Array
    X: Array
    names: tuple[str, ...]


class _Champion(NamedTuple):
    scorer: Scorer
    policy: Policy
    policy_id: str
    trained_at: datetime
    catalog: Catalog
    limited: Limited
    nuisance: Array
    reward: settings.Reward


def _replay(history: History, champion: _Champion, batch_id: str, at: datetime) -> _Replay:
    catalog = champion.catalog
    asked = {"batch": batch_id, "at": at, "after": champion.trained_at}
    logged = history.sql(_LOGGED.format(settled=_settled(history)), asked)
    n_all = logged.num_rows
    kept = draws.uniform(logged["customer_id"].to_pylist(), "evaluate") < MAX_CUSTOMERS / max(n_all, 1)
    logged = logged.filter(pa.array(kept))
    ids = logged["customer_id"].to_pylist()
    features = history.sql(_FEATURES, asked).filter(pa.array(kept))
    choices = history.sql(_CHOICES, {"batch": batch_id})
    given, candidates = logged["treatment_id"].to_pylist(), choices["treatment_id"].to_pylist()
    known = set(catalog.treatment_ids)
    names = (*catalog.treatment_ids, *sorted({*given, *candidates} - known))
    number = {name: i for i, name in enumerate(names)}
    row_of = {name: i for i, name in enumerate(logged["decision_id"].to_pylist())}
    row = np.array([row_of.get(name, -1) for name in choices["decision_id"].to_pylist()])
    cell = (row[row >= 0], np.array([number[name] for name in candidates])[row >= 0])
    is_eligible, p_logged = np.zeros((len(ids), len(names)), dtype=bool), np.zeros((len(ids), len(names)))
    is_eligible[cell] = choices["is_eligible"].to_numpy()[row >= 0]
    p_logged[cell] = choices["p_action"].to_numpy()[row >= 0]
    k = len(catalog.treatment_ids)
    saved = None
    if champion.reward.clv_actions:
        with history.as_of(at) as snapshot:
            saved = arbitrate.saved(snapshot, catalog, champion.reward, features["customer_id"])
    believed = belief(champion.scorer.scores(features, catalog), catalog, champion.nuisance, saved)
    limited = scaled(champion.limited, len(ids) / max(n_all, 1))
    found = allocate(champion.policy, believed, is_eligible[:, :k], limited.use, limited.available)
    p_target = np.hstack([found.final, np.zeros((len(ids), len(names) - k))])
    inputs = [name for name in features.column_names if name.startswith("f_")]
    X = np.column_stack([features[name].to_numpy() for name in inputs]) if inputs else np.zeros((len(ids), 0))
    column = np.array([number[name] for name in given], dtype=np.int64)
    arm = np.array(logged["arm"].to_pylist(), dtype=object)
    return _Replay(ids, arm, column, logged["reward"].to_numpy(), p_logged, p_target, X, names)


def _champion_values(replays: list[_Replay], champion: _Champion, level: float) -> list[dict[str, Any]]:
    if not replays:
        reason = "all closed decisions were in its training: judge it once later ones have closed"
        return [_row(champion.policy_id, "sndr", ALL, PolicyValue.unknown(reason))]
    names = tuple(dict.fromkeys(name for replay in replays for name in replay.names))
    p_logged, p_target = (_widen(replays, names, field) for field in ("p_logged", "p_target"))
    number = {name: i for i, name in enumerate(names)}
    column = np.concatenate([np.array([number[name] for name in r.names])[r.column] for r in replays])
    arm = np.concatenate([replay.arm for replay in replays])
    reward = np.concatenate([replay.reward for replay in replays])
    ids = np.array([name for replay in replays for name in replay.customer_id])
    unit = np.unique(ids, return_inverse=True)[1]
    X = _features_of(replays)
    missing = np.where(p_logged > 0, 0.0, p_target).sum(axis=1)
    able = [name for name in np.unique(arm) if missing[arm == name].mean() <= offpolicy.MAX_UNSUPPORTED]
    pooled = np.isin(arm, able)
    out = []
    for suffix, rows in (("", pooled), *((f"@{name}", arm == name) for name in able if len(able) > 1)):
        renumbered = np.unique(unit[rows], return_inverse=True)[1]
        log = Log(column[rows], reward[rows], p_logged[rows], renumbered)
        if not rows.any():
            continue
        target = p_target[rows]
        q = offpolicy.outcome_model(X[rows], log, target)
        values: list[tuple[str, PolicyValue]] = [
            ("ips", offpolicy.ips(log, target, level)),
            ("snips", offpolicy.snips(log, target, level)),
            ("dr", offpolicy.dr(log, target, q, level)),
            ("sndr", offpolicy.sndr(log, target, q, level)),
        ]
        out += [_row(champion.policy_id, name + suffix, ALL, value) for name, value in values]
    if not out:
        reason = "no arm of the log could have chosen what the champion would choose"
        out.append(_row(champion.policy_id, "sndr", ALL, PolicyValue.unknown(reason)))
    return out


def _widen(replays: list[_Replay], names: tuple[str, ...], field: str) -> Array:
    parts = []
    for replay in replays:
        wide = np.zeros((len(replay.column), len(names)))
        wide[:, [names.index(name) for name in replay.names]] = getattr(replay, field)
        parts.append(wide)
    return np.vstack(parts)


def _features_of(replays: list[_Replay]) -> Array:
    # Batches logged before a feature existed have fewer: use none then, doubly robust stays right.
    widths = {replay.X.shape[1] for replay in replays}
    if len(widths) > 1:
        return np.zeros((sum(len(replay.X) for replay in replays), 0))
    return np.vstack([replay.X for replay in replays])


def _row(policy_id: str, estimator: str, batch_id: str, value: PolicyValue) -> dict[str, Any]:
    return {"policy_id": policy_id, "estimator": estimator, "batch_id": batch_id, **value._asdict()}
