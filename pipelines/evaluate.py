"""Estimate what policies earned and what the champion would have earned, from closed decisions."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import settings, tables, tracking
from nba.errors import MissingError
from nba.evaluation import diagnostics, intervals, offpolicy, segments
from nba.evaluation.offpolicy import Log, PolicyValue
from nba.history import History
from nba.policy import arbitrate, explore
from nba.policy.explore import Estimate
from nba.serving.deciders import strategy
from pipelines import pooled as pooling
from pipelines import replay
from pipelines.pooled import Pooled
from pipelines.progress import Progress, silent
from pipelines.replay import Context, LeftOut, Model, Part, Player, Unseen

Array = NDArray[np.float64]
ALL, JUDGED = "all", "judged"
BESIDE = (tables.DIAGNOSTICS, tables.ABLATIONS, tables.VALUE_FINDER)
FULL, CHALLENGER = "full policy", tracking.CHALLENGER
_LEARNT = {
    FULL: "all closed decisions were in its training: judge it once later ones have closed",
    CHALLENGER: "all closed decisions were in its training or the champion's: judge it once later ones"
    " have closed",
}
_UNABLE = {
    FULL: "no arm of the log could have chosen what the champion would choose",
    CHALLENGER: "no arm of the log could have chosen what both would choose",
}
_OVERLAP = "decided before its training and closed later: what was bought between may have been learnt from"
NO_CHAMPION = (
    "No model is champion yet: arms are judged by what they got; `nba train` or `nba learn` makes one"
)
_UNREAD = "no decision closed since its training has a logged probability and stored candidates"
_REPEATS = 400

_CLOSED = """
    select d.batch_id, coalesce(d.arm, 'policy') as arm, d.customer_id, d.policy_id, d.decided_at, o.reward
    from decisions d join ({settled}) o using (decision_id)
    order by d.batch_id, d.customer_id
"""


def evaluate(workspace: Path, at: datetime, *, progress: Progress | None = None) -> pa.Table:
    """Write `policy_values`, and beside it `diagnostics`, `ablations` and `value_finder`.

    Arms are judged on their own decisions. The champion is judged on decisions that were made since its
    training (on earlier ones it would look better than it is); while none of these has closed, on those made
    before that closed later, and `diagnostics` and each reason say so. It is judged on the arms that could
    have chosen whatever it would choose. A row's weight rests on the probability of its own arm. A challenger
    is judged on decisions that neither of the two has learnt from, with its gain on the champion there.
    Without a champion the other three are empty.

    Args:
        workspace: Folder of the workspace.
        at: Outcomes closed by then count.
        progress: Where to report.

    Raises:
        MissingError: when no decision has been made yet.
    """
    progress = progress or silent()
    history = History.read(workspace)
    if not history.has("outcomes"):
        raise MissingError(
            f"{workspace} has no outcomes yet", "Run `nba feedback` once a reward window has closed."
        )
    history.check_before("outcomes", "closed_at", at)
    context = Context.read(workspace, at)
    closed = history.sql(_CLOSED.format(settled=context.settled), {"at": at})
    level = context.config.experiment.level
    champion = Model.find(context, "champion")
    asked = _asked(context, champion) if champion else []
    step = progress.step("judging policies", total=sum(len(one.batches) for one in asked) + 2)
    rows = _arm_values(closed, level, asked[0].batches if asked else [])
    step(1)
    written = {table.name: table.empty() for table in BESIDE}
    checks: list[dict[str, Any]] = []
    for one in asked:
        pooled = pooling.replayed(context, one.players, one.unseen, one.batches, step)
        found, looked_at = _model_values(pooled, one, context)
        rows += found
        checks += looked_at
        if one.name == FULL:
            written["ablations"] = tables.ABLATIONS.build(_ablations(closed, pooled, one, context))
    if champion:
        written["diagnostics"] = tables.DIAGNOSTICS.build(checks)
        written["value_finder"] = _value_finder(context, champion)
    values = tables.POLICY_VALUES.build(rows)
    history.commit(replace={"policy_values": values, **written})
    step(1)
    return values


class _Asked(NamedTuple):
    # A model that is judged: by which of the players, beside which others, on what.
    name: str
    players: dict[str, Player]
    unseen: Unseen
    batches: list[str]

    @property
    def policy_id(self) -> str:
        return self.players[self.name].policy_id

    @property
    def remark(self) -> str:
        # What must be known of every number that rests on these decisions.
        is_overlapping = self.batches and self.unseen.made_since < self.unseen.closed_after
        return _OVERLAP if is_overlapping else ""


def _asked(context: Context, champion: Model) -> list[_Asked]:
    # A challenger stands beside the champion, where neither has learnt from what both are judged on.
    full = _players(context, champion)
    out = [_Asked(FULL, full, *_unseen(context, champion))]
    challenger = Model.find(context, CHALLENGER)
    if challenger is not None and challenger.scorer.model_id != champion.scorer.model_id:
        both = {FULL: full[FULL], CHALLENGER: replay.champion_player(context, challenger)}
        out.append(_Asked(CHALLENGER, both, *_unseen(context, champion, challenger)))
    return out


def _players(context: Context, champion: Model) -> dict[str, Player]:
    catalog, policy = context.catalog, strategy(context.config.policy)

    def by(estimate: Any, policy: Any = policy) -> Any:
        return lambda part: replay.within(context, part, policy, estimate(part))

    def responses(part: Part) -> Estimate:
        found = champion.scorer.scores(part.features, catalog)
        return arbitrate.by_response(found.p_response, found.margin_per_response, catalog, part.worth.weight)

    def without_levers(part: Part) -> Estimate:
        return replay.believed(context, champion, part, weighed=False)

    def shuffled(part: Part) -> Estimate:
        # The same scores, each given to another customer: what is left is the policy without a model.
        found = replay.believed(context, champion, part)
        order = np.random.default_rng(context.config.workspace.seed).permutation(len(part.ids))
        return Estimate(found.mean[order], found.se[order])

    def contact(part: Part) -> Estimate:
        mean = np.ones((len(part.ids), len(catalog.treatment_ids)))
        mean[:, 0] = 0.0
        return Estimate(mean, np.zeros_like(mean))

    floor = explore.EpsilonGreedy(max(policy.floor, 0.01))
    return {
        FULL: replay.champion_player(context, champion),
        "random": replay.random_player(context),
        # Greedy, as the arm `response_greedy` decides: both methods speak of the same policy.
        "response only": Player("response_only", by(responses, explore.Greedy())),
        "no levers": Player("no_levers", by(without_levers)),
        "eligibility only": Player("eligibility_only", by(contact, floor)),
        "random scores": Player("random_scores", by(shuffled)),
    }


def _arm_values(closed: pa.Table, level: float, judged: list[str]) -> list[dict[str, Any]]:
    # Also of the champion's batches alone: what it is worth there is not to be set beside another time's.
    frame = closed.to_pandas()
    frame["unit"] = frame["customer_id"].factorize()[0]
    out = []
    for arm, rows in frame.groupby("arm", sort=True):
        parts: list[tuple[str, Any]] = [(ALL, rows), *rows.groupby("batch_id", sort=True)]
        parts.append((JUDGED, rows[rows["batch_id"].isin(judged)]))
        for batch_id, part in parts:
            if part.empty:
                continue
            value = offpolicy.on_policy(part["reward"].to_numpy(), part["unit"].to_numpy(), level)
            row = _row(f"arm:{arm}", "on_policy", str(batch_id), value)
            out.append(row | {"n_batches": part["batch_id"].nunique()})
    return out


def _unseen(context: Context, *models: Model) -> tuple[Unseen, list[str]]:
    # What has read open windows has read decisions that closed later, too.
    unseen = Unseen.by(*models)
    batches = replay.closed_batches(context, unseen)
    if not batches and not any(model.has_open for model in models):
        unseen = Unseen(closed_after=unseen.closed_after)
        batches = replay.closed_batches(context, unseen)
    return unseen, batches


def _overlapping(policy_id: str) -> dict[str, Any]:
    return {"policy_id": policy_id, "check": "made since training", "value": 0.0, "limit": 1.0,
            "status": "warning", "note": _OVERLAP, "side": "at_least", "is_count": False}  # fmt: skip


def _readable(left: LeftOut, policy_id: str) -> list[dict[str, Any]]:
    # A batch may log the candidates of some customers only, by hash: they stand for the others.
    told = (
        ("logged", left.n_unlogged, "a logged probability", "warning" if left.n_unlogged else "ok"),
        ("candidates", left.n_bare, "stored candidates", "ok"),
    )
    return [
        {"policy_id": policy_id, "check": check, "value": float(n), "limit": float(left.n),
         "status": "refused" if n and n == left.n else status,
         "note": f"{n} decisions without {what} are left out", "side": "below", "is_count": True}
        for check, n, what, status in told
    ]  # fmt: skip


def _model_values(
    pooled: Pooled | None, asked: _Asked, context: Context
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    level, policy_id, of = context.config.experiment.level, asked.policy_id, asked.name
    checks = []
    if asked.batches:
        checks += _readable(replay.left_out(context, asked.unseen), policy_id)
        if asked.remark:
            checks.append(_overlapping(policy_id))
    compared = [FULL, CHALLENGER] if of == CHALLENGER else [of]
    able = pooling.supported(pooled, compared) if pooled else None
    if able is None or not len(able.arm):
        why = _UNABLE[of] if able else _UNREAD if asked.batches else _LEARNT[of]
        return [_row(policy_id, "dros", ALL, PolicyValue.unknown(why))], checks
    out = []
    arms = np.unique(able.arm)
    for suffix, part in (("", able), *((f"@{x}", able.only(able.arm == x)) for x in arms if len(arms) > 1)):
        q = offpolicy.outcome_model(part.X, part.log, part.target[of])
        for name, value in _estimates(part.log, part.target[of], q, level):
            out.append(_row(policy_id, name + suffix, ALL, value))
        if not suffix:
            others = _other_intervals(part, part.target[of], q, context)
            out += [_row(policy_id, name, ALL, value) for name, value in others]
    for row in out:
        row["n_batches"] = len(np.unique(able.batch))
    if of == CHALLENGER:
        gain = _paired(able, CHALLENGER, FULL, level)
        out[0] |= {"gain": gain.value, "gain_lower": gain.lower, "gain_upper": gain.upper}
        if not out[0]["reason"] and gain.reason:
            out[0]["reason"] = f"gain on the champion unknown: {gain.reason}"
    out = [row | {"reason": _joined(row["reason"], asked.remark)} for row in out]
    looked_at = diagnostics.examine(able.log.column, able.log.p_logged, able.target[of])
    return out, [{"policy_id": policy_id, **found._asdict()} for found in looked_at] + checks


def _estimates(log: Log, target: Array, q: Array, level: float) -> list[tuple[str, PolicyValue]]:
    return [
        ("dros", offpolicy.dros(log, target, q, level)),
        ("sndr", offpolicy.sndr(log, target, q, level)),
        ("dr", offpolicy.dr(log, target, q, level)),
        ("switch_dr", offpolicy.switch_dr(log, target, q, level)),
        ("snips", offpolicy.snips(log, target, level)),
        ("ips", offpolicy.ips(log, target, level)),
        ("clipped_ips", offpolicy.clipped_ips(log, target, level)),
        ("dm", offpolicy.dm(log, target, q, level)),
    ]


def _other_intervals(
    part: Pooled, target: Array, q: Array, context: Context
) -> list[tuple[str, PolicyValue]]:
    # The same value with the bootstrap by customer, and with ends that hold at all looks together.
    level = context.config.experiment.level
    value = offpolicy.sndr(part.log, target, q, level)
    if value.reason:
        return []
    rng = np.random.default_rng(context.config.workspace.seed)
    lower, upper = intervals.bootstrap(part.log, target, q, rng, repeats=_REPEATS, level=level)
    _, influence = offpolicy.influences(part.log, target, q)
    planned = float(context.config.promotion.planned)
    look = intervals.sequence(
        influence, influence + value.value, part.batch * 0, part.log.unit, planned, level
    )[-1]
    always = value._replace(lower=look.lower, upper=look.upper)
    if not np.isfinite(look.lower):
        always = PolicyValue.unknown("nothing varies, or too few decisions, for ends at all looks", value.n)
    return [("sndr_bootstrap", value._replace(lower=lower, upper=upper)), ("sndr_always", always)]


def _ablations(
    closed: pa.Table, pooled: Pooled | None, asked: _Asked, context: Context
) -> list[dict[str, Any]]:
    level, policy_id = context.config.experiment.level, asked.policy_id
    out = [
        _ablation(versus, "randomised arms", named or policy_id, level, value)
        for versus, named, value in _by_arms(closed, context.config, level)
    ]
    weighted = bool((context.catalog.lever != 1).any() or context.config.policy.levers)
    for versus in asked.players:
        if versus == FULL:
            continue
        remark = _joined("" if weighted or versus != "no levers" else "all levers are 1", asked.remark)
        doubt = ""
        if pooled is None:
            value = PolicyValue.unknown("no closed decision that is new to the champion can be replayed")
        else:
            able = pooling.supported(pooled, [FULL, versus])
            value = _paired(able, FULL, versus, level)
            # Where both would do the same, nothing is estimated.
            doubt = _doubt(able, FULL, versus) if value.se > 0 else ""
        out.append(_ablation(versus, "off-policy", policy_id, level, value, remark) | {"doubt": doubt})
    return out


def _paired(able: Pooled, one: str, versus: str, level: float) -> PolicyValue:
    if not len(able.arm):
        return PolicyValue.unknown(_UNABLE[CHALLENGER])
    q = offpolicy.outcome_model(able.X, able.log, 0.5 * (able.target[one] + able.target[versus]))
    return offpolicy.difference(able.log, able.target[one], able.target[versus], q, level)


def _doubt(able: Pooled, *names: str) -> str:
    # What the log fails of either policy: an interval counts only the errors of a log that is in order.
    column, p_logged = able.log.column, able.log.p_logged
    found = [f for name in names for f in diagnostics.examine(column, p_logged, able.target[name])]
    # Where the note has numbers they are the ones to read: a check's own may be in standard errors.
    failed = [
        f"{f.check} ({f.note})" if any(map(str.isdigit, f.note)) else f"{f.check} {f.value:,.3g} ({f.note})"
        for f in found
        if f.status != "ok"
    ]
    return _joined(*dict.fromkeys(failed))


def _by_arms(closed: pa.Table, config: settings.Settings, level: float) -> list[tuple[str, str, PolicyValue]]:
    # Arms of the standing experiment that run the champion, against those that run a named baseline, with
    # the versions that ran. A batch counts where both arms ran what they are named for: not evenly, for want
    # of a model, and not what an arm of that name ran under earlier settings.
    runs = {arm.policy: arm.name for arm in config.experiment.arms}
    if "champion" not in runs:
        return []
    frame = closed.to_pandas()
    kind = frame["policy_id"].map(_kind)
    is_full = frame["arm"] == runs["champion"]
    named = {"random": "random", "response_greedy": "response only"}
    out = []
    for policy, versus in named.items():
        if policy not in runs:
            continue
        of = frame[is_full | (frame["arm"] == runs[policy])]
        fits = kind[of.index] == np.where(is_full[of.index], "champion", policy)
        arms = of.groupby("batch_id")["arm"].transform("nunique")
        of = of[fits.groupby(of["batch_id"]).transform("all") & (arms == 2)].sort_values("decided_at")
        first = (of["arm"] == runs["champion"]).to_numpy(dtype=bool)
        batch, unit = (of[name].factorize()[0].astype(np.int64) for name in ("batch_id", "customer_id"))
        value = offpolicy.between_arms(of["reward"].to_numpy(), first, batch, unit, level)
        versions = list(dict.fromkeys(of["policy_id"][first]))
        out.append((versus, " to ".join(dict.fromkeys([*versions[:1], *versions[-1:]])), value))
    return out


def _kind(policy_id: str) -> str:
    # What ran, by the name that it is logged under: a version of a model stands behind an @.
    if "@" not in policy_id:
        return policy_id
    return "response_greedy" if policy_id.startswith("response_greedy@") else "champion"


def _ablation(
    versus: str, method: str, policy_id: str, level: float, value: PolicyValue, remark: str = ""
) -> dict[str, Any]:
    ends = {"value": value.value, "lower": value.lower, "upper": value.upper}
    rests = {"n": value.n, "ess": value.ess, "max_weight": value.max_weight}
    said = {"reason": _joined(value.reason, remark), "doubt": ""}
    return {"versus": versus, "method": method, "policy_id": policy_id, "level": level} | ends | rests | said


def _joined(*reasons: str) -> str:
    return "; ".join(reason for reason in reasons if reason)


def _value_finder(context: Context, champion: Model) -> pa.Table:
    history = context.history
    last = history.sql(
        "select batch_id from decisions d join choices c using (decision_id) where decided_at < $at"
        " group by 1 order by max(decided_at) desc limit 1",
        {"at": context.at},
    ) if history.has("choices") else None  # fmt: skip
    if last is None or not last.num_rows:
        return tables.VALUE_FINDER.empty()
    batch_id = last["batch_id"][0].as_py()
    part = replay.read(context, batch_id, closed=False, most=replay.MAX_CUSTOMERS)
    if part is None:
        return tables.VALUE_FINDER.empty()
    # Those looked at stand for everybody for whom something could have been chosen.
    whole = history.sql(
        "select count(*) as n from decisions where batch_id = $batch"
        " and policy_id not in ('none', 'outside')",
        {"batch": batch_id},
    )
    stands_for = whole["n"][0].as_py() / len(part.ids)
    k = len(context.catalog.treatment_ids)
    mean = replay.believed(context, champion, part).mean
    flags, best, blocked = segments.nothing_good(mean, part.is_eligible[:, :k])
    names = [name for name in part.features.column_names if name.startswith("f_")]
    X = np.column_stack([part.features[name].cast(pa.float64()).to_numpy() for name in names])
    reasons = _reasons(context, part, mean, blocked)
    rows = []
    for segment, inside in segments.find(X, names, flags, best, blocked):
        why = [reason for reason, is_in in zip(reasons, inside) if reason and is_in]
        rows.append(
            {
                "batch_id": batch_id, "segment": segment.rule, "n": round(segment.n * stands_for),
                "n_nothing": round(segment.n_nothing * stands_for),
                "best": segment.best, "blocked": segment.blocked,
                "blocked_total": segment.blocked * segment.n * stands_for,
                "reason": max(sorted(set(why)), key=why.count) if why else "",
            }
        )  # fmt: skip
    return tables.VALUE_FINDER.build(rows)


def _reasons(context: Context, part: Part, mean: Array, blocked: Array) -> Sequence[str]:
    # The rule that removed the treatment which would have added most; empty where none would have added.
    found = context.history.sql(
        "select d.customer_id, c.treatment_id, c.reason from choices c join decisions d using (decision_id)"
        " where d.batch_id = $batch and not c.is_eligible",
        {"batch": part.batch_id},
    )
    cells = zip(found["customer_id"].to_pylist(), found["treatment_id"].to_pylist(), strict=True)
    known = dict(zip(cells, found["reason"].to_pylist(), strict=True))
    removed = np.where(part.is_eligible[:, : mean.shape[1]], -np.inf, np.nan_to_num(mean, nan=-np.inf))
    best = removed[:, 1:].argmax(axis=1) + 1
    return [
        known.get((name, part.names[j]), "") or "" if adds > 0 else ""
        for name, j, adds in zip(part.ids, best, blocked, strict=True)
    ]


def _row(policy_id: str, estimator: str, batch_id: str, value: PolicyValue) -> dict[str, Any]:
    return {"policy_id": policy_id, "estimator": estimator, "batch_id": batch_id, **value._asdict()}
