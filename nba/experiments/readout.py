"""The readout of one experiment: effects, looks and verdict, as rows of the data contract.

Effects have Welch's interval, for one reading at the planned end, and beside it an interval that is valid
at every look. The verdict reads scheduled looks only (`facts.look_times`), so that it does not depend on
who opened the page when.

Data that accumulate per customer over time are put on the clock of the score's variance
``(n_eff * se)**2``; customers' gains are positively correlated over time, which makes the bounds err on the
safe side (Slepian's inequality).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nba import tables
from nba.experiments import (
    actions,
    anytime,
    decision,
    declared,
    design,
    effects,
    facts,
    sequential,
    srm,
    store,
)
from nba.experiments.decision import Decision, Shown, Verdict
from nba.history import Snapshot
from nba.settings import Experiment, Measured

Array = NDArray[np.float64]
OPEN_DAYS = 28.0
_WAITING = "No reward window has closed yet, so there is nothing to read."


class Readout(NamedTuple):
    """Rows of three tables of the contract.

    Attributes:
        effects, readouts, looks: The tables of those names.
        stored: The cube that they were computed from, to go on from next time.
    """

    effects: pa.Table
    readouts: pa.Table
    looks: pa.Table
    stored: store.Stored


class Path(NamedTuple):
    """What the looks saw of all metrics in one comparison; shapes (k, looks).

    Attributes:
        effect, se: Estimates and standard errors, per customer so far.
        bound: Standard errors on each side: the primary's by its plan, the others' for any look.
        lower, upper: Ends of the look's interval, valid at all looks together.
        scale: What brings a look to the whole horizon, where margins and worth are declared.
    """

    effect: Array
    se: Array
    bound: Array
    lower: Array
    upper: Array
    scale: Array


def read(
    snapshot: Snapshot,
    experiment: Experiment,
    window_days: int,
    standing: Experiment | None = None,
    stored: store.Stored | None = None,
) -> Readout:
    """Read an experiment as it stood at the snapshot's moment.

    Args:
        snapshot: What was known.
        experiment: Its declaration.
        window_days: Length of the reward window.
        standing: The standing experiment, for a trial that compares its arms.
        stored: The cube that an earlier readout left.
    """
    stored = stored or store.Stored.empty()
    quantiles = [metric for metric in experiment.metrics if metric.quantile is not None]
    of_means = tuple(metric for metric in experiment.metrics if metric.quantile is None)
    experiment = facts.following(experiment, standing).model_copy(update={"metrics": of_means})
    people = facts.assigned(snapshot, experiment, standing)
    window = facts.matured(snapshot, window_days, experiment.ends_at)
    check, fault = mismatch(snapshot, experiment, people)
    followed = _traffic(snapshot, experiment, standing)
    fault = declared.changed(snapshot, experiment) or fault or _astray(followed)
    stays = people.filter(pc.invert(people["is_moved"]))["assigned_at"].to_pylist()
    # Windows of other experiments may have closed, and none of this one's.
    if window is None or not stays or min(stays) > window.entered:
        reason = _WAITING if stays else "Nobody is assigned yet."
        waiting = Decision(Verdict.RUNNING, reason)
        if experiment.ends_at and snapshot.at >= experiment.ends_at:
            waiting = decision.unreadable("nobody entered early enough to count by the planned end")
        if fault:
            waiting = decision.unreadable(fault)
        rows = [
            _verdict_row(experiment, arm, waiting, check, 0, None) for arm in effects.treated_arms(experiment)
        ]
        return Readout(tables.EFFECTS.empty(), _with_traffic(rows, followed), tables.LOOKS.empty(), stored)
    first = min(people["assigned_at"].to_pylist())
    looks = facts.look_times(experiment, first, window.until)
    windows = {at: facts.matured_by(at, window_days) for at in looks} | {window.until: window}
    in_order = [windows[at] for at in sorted(windows)]
    days, stored = store.days(snapshot, experiment, people, in_order, stored)
    on = {day.until: day for day in days}
    looked = [on[at] for at in looks]
    paths = _paths(experiment, looked)
    measured = effects.of_means(experiment, looked, on[window.until], window)
    measured += effects.of_quantiles(snapshot, experiment, people, quantiles, window)
    if fault:
        measured = [effects.hidden(row, fault) for row in measured]
    spent = facts.spent(snapshot, people, window)
    readout_rows, look_rows = [], []
    for arm, path in paths.items():
        verdict = judge(experiment, path, looks, fault)
        row = _verdict_row(experiment, arm, verdict, check, len(looks), window)
        readout_rows.append(row | {"cost": spent.get(arm)})
        look_rows += [] if fault else _look_rows(experiment, arm, path, looks)
    tabled = _with_traffic(readout_rows, followed), tables.LOOKS.build(look_rows)
    return Readout(tables.EFFECTS.build(measured), *tabled, stored)


def unreadable(experiment: Experiment, fault: str) -> Readout:
    """Give the readout of an experiment that cannot be read at all, with its reason.

    Args:
        experiment: Its declaration.
        fault: Why it cannot be read.
    """
    verdict = decision.unreadable(fault)
    rows = [
        _verdict_row(experiment, arm, verdict, np.nan, 0, None) for arm in effects.treated_arms(experiment)
    ]
    empty = tables.EFFECTS.empty(), tables.READOUTS.build(rows), tables.LOOKS.empty()
    return Readout(*empty, store.Stored.empty())


def _traffic(
    snapshot: Snapshot, experiment: Experiment, standing: Experiment | None
) -> dict[str, srm.Mismatch]:
    # By arm, the control's too; arms that another system decides have none.
    reads = facts.reads_standing(experiment) and standing is not None
    decided = standing.experiment_id if reads and standing is not None else experiment.experiment_id
    return {arm.name: actions.traffic(snapshot, decided, arm.name) for arm in experiment.arms}


def _astray(followed: dict[str, srm.Mismatch]) -> str:
    astray = [
        f"{arm} (p = {found.p_value:.2g}{found.reason and ': ' + found.reason})"
        for arm, found in followed.items()
        if found.is_alarm
    ]
    if not astray:
        return ""
    return f"treatments were not chosen as their logged probabilities say in {' and '.join(astray)}"


def _with_traffic(rows: list[dict[str, Any]], followed: dict[str, srm.Mismatch]) -> pa.Table:
    return tables.READOUTS.build(
        row | {"p_traffic": effects.known(followed[row["arm"]].p_value)} for row in rows
    )


def mismatch(snapshot: Snapshot, experiment: Experiment, people: pa.Table) -> tuple[float, str]:
    """Check that assignment worked: shares by phase, one arm per customer, no change without a phase.

    Customers who were in two arms before they turned out to be one are no fault: they count as first
    assigned, and what was decided by the other assignment is left out.

    Returns:
        The p-value of the counts, valid at any look, and the fault in words, empty if none.
    """
    names = [arm.name for arm in experiment.arms]
    shares = design.phase_shares(experiment)
    arm = np.array([names.index(a) if a in names else -1 for a in people["arm"].to_pylist()], dtype=np.int64)
    phase = people["phase"].to_numpy()
    if (arm < 0).any():
        found = sorted(set(people["arm"].to_pylist()) - set(names))
        return float("nan"), f"customers are in arms {found}, which are not declared"
    changed = np.abs(people["p_arm"].to_numpy() - shares[phase, arm]) > 1e-9
    if changed.any():
        return float("nan"), f"shares changed without a phase for {int(changed.sum())} customers"
    # A look after each day of assignment: what was seen once stays seen.
    seconds = people["assigned_at"].cast(pa.int64()).to_numpy() // 1_000_000
    entered, day = np.unique(seconds // 86_400, return_inverse=True)
    counts = np.zeros((len(entered), *shares.shape))
    np.add.at(counts, (day, phase, arm), 1.0)
    counts = counts.cumsum(axis=0)
    p_value = float(srm.sequential(counts, shares)[-1]) if people.num_rows else float("nan")
    twice = snapshot.connection.execute(
        "select count(*) from (select customer_id from decisions join people using (customer_id)"
        " anti join decided_apart using (decision_id)"
        " where experiment_id = $id and not is_moved group by 1 having count(distinct decisions.arm) > 1)",
        {"id": experiment.experiment_id},
    ) if _registered(snapshot, people) else None  # fmt: skip
    in_two = int(twice.fetchall()[0][0]) if twice is not None else 0
    if in_two:
        return p_value, f"{in_two} customers were decided in two arms"
    if p_value < srm.SEQUENTIAL_ALARM:
        shown = ", ".join(f"{n} {int(c)}" for n, c in zip(names, counts[-1].sum(axis=0)))
        return p_value, f"the arms do not have the customers that their shares promise ({shown})"
    return p_value, ""


def judge(experiment: Experiment, path: Path, looks: Sequence[datetime], fault: str = "") -> Decision:
    """Apply the decision rule to the looks so far.

    Args:
        experiment: Metrics with their roles and margins, and the planned end.
        path: What the looks saw.
        looks: When they were.
        fault: Why the data cannot be trusted, if they cannot.
    """
    if fault:
        return decision.unreadable(fault)
    if not looks:
        due = f"The first look is due {experiment.look_days} days after the start."
        return Decision(Verdict.RUNNING, due)
    shown = [_shown(metric, path, i) for i, metric in enumerate(experiment.metrics)]
    first = next(i for i, m in enumerate(experiment.metrics) if m.role == "primary")
    guards = [i for i, m in enumerate(experiment.metrics) if m.role == "guardrail"]
    if not np.isfinite(path.lower[first]).any() and np.isnan(path.se[first, -1]):
        return decision.unreadable(f"{experiment.metrics[first].name} does not vary or an arm has nobody")
    out = []
    for k, at in enumerate(looks):
        is_over = experiment.ends_at is not None and at >= experiment.ends_at
        out.append(decision.decide(shown[first][k], tuple(shown[g][k] for g in guards), is_over=is_over))
    return decision.follow(out)


def _shown(metric: Measured, path: Path, i: int) -> list[Shown]:
    margin = metric.planned_effect if metric.role == "primary" else metric.margin
    lower, upper = path.scale[i] * path.lower[i], path.scale[i] * path.upper[i]
    if not metric.is_good:
        lower, upper = -upper, -lower
    return [Shown(metric.name, float(a), float(b), margin) for a, b in zip(lower, upper)]


def _paths(experiment: Experiment, looked: Sequence[store.Day]) -> dict[str, Path]:
    arms = effects.treated_arms(experiment)
    shape = (len(experiment.metrics), len(arms), len(looked))
    effect, se, n, n_control, seen = (np.full(shape, np.nan) for _ in range(5))
    exposure = np.full(len(looked), np.nan)
    whole = (len(experiment.phases) + 1) * len(experiment.arms)
    for number, day in enumerate(looked):
        there = day.sums.n[:whole].sum()
        if there == 0:
            continue
        found, _ = effects.compare(experiment, day, arms)
        effect[:, :, number], se[:, :, number] = found.effect, found.se
        n[:, :, number], n_control[:, :, number] = found.n, found.n_control
        seen[:, :, number] = np.abs(found.mean) + np.abs(found.mean_control)
        exposure[number] = day.exposure[:whole].sum() / there
    scale = np.where(effects.ratios(experiment)[:, None], 1.0, horizon_days(experiment) / exposure[None, :])
    looks = [day.until for day in looked]
    return {
        arm: _path(experiment, looks, scale, effect[:, j], se[:, j], n[:, j], n_control[:, j], seen[:, j])
        for j, arm in enumerate(arms)
    }


def _path(
    experiment: Experiment,
    looks: Sequence[datetime],
    scale: Array,
    effect: Array,
    se: Array,
    n: Array,
    n_control: Array,
    seen: Array,
) -> Path:
    alpha = effects.error(experiment)
    score = anytime.score(se, n, n_control, effects.ratios(experiment))
    bound = np.full(effect.shape, np.inf)
    for i, metric in enumerate(experiment.metrics):
        known = np.flatnonzero(score[i] > 0)
        if len(known) == 0:
            continue
        clock = anytime.clock(score[i, known])
        bound[i, known] = sequential.sequence_bound(clock, 2 * effects.planned_looks(experiment), alpha)
        if metric.role == "primary" and experiment.ends_at and experiment.starts_at:
            whole = (experiment.ends_at - experiment.starts_at).total_seconds()
            passed = [(looks[int(k)] - experiment.starts_at).total_seconds() / whole for k in known]
            bound[i, known] = sequential.spending_bounds(np.minimum(passed, 1.0), alpha, clock)
    lower, upper = np.full(effect.shape, -np.inf), np.full(effect.shape, np.inf)
    known_se = np.isfinite(se) & np.isfinite(bound)
    half = bound[known_se] * se[known_se]
    lower[known_se], upper[known_se] = effect[known_se] - half, effect[known_se] + half
    # No event says how often there is one at most; no sale says nothing of how large it would have been.
    countable = np.array([m.denominator is None and m.numerator in facts.COUNTS for m in experiment.metrics])
    nothing = (seen == 0) & (n > 0) & (n_control > 0) & countable[:, None]
    low, high = sequential.zero_events(n[nothing], n_control[nothing], alpha)
    lower[nothing], upper[nothing] = low, high
    return Path(effect, se, bound, lower, upper, scale)


def horizon_days(experiment: Experiment) -> float:
    """Give the days over which margins and the least effect worth having are declared."""
    if experiment.ends_at and experiment.starts_at:
        return (experiment.ends_at - experiment.starts_at).total_seconds() / 86_400
    return OPEN_DAYS


def _verdict_row(
    experiment: Experiment,
    arm: str,
    verdict: Decision,
    p_srm: float,
    n_looks: int,
    window: facts.Window | None,
) -> dict[str, Any]:
    planned = (
        "planned looks, O'Brien-Fleming spending" if experiment.ends_at else "any look, confidence sequence"
    )
    until = f"{window.until:%Y-%m-%d %H:%M}" if window else "the last matured moment"
    return {
        "experiment_id": experiment.experiment_id, "arm": arm, "control": experiment.control,
        "unit": design.UNIT, "metric": next(m.name for m in experiment.metrics if m.role == "primary"),
        "verdict": verdict.verdict.value, "reason": verdict.reason, "is_early": verdict.is_early,
        "n_looks": n_looks, "p_srm": effects.known(p_srm), "matured_at": window.until if window else None,
        "ends_at": experiment.ends_at, "days_left": _days_left(experiment, window),
        "rule": f"{planned}; guardrails: any look, confidence sequence",
        "estimand": effects.ESTIMAND.format(until=until),
    }  # fmt: skip


def _days_left(experiment: Experiment, window: facts.Window | None) -> float | None:
    if experiment.ends_at is None or window is None:
        return None
    return max((experiment.ends_at - window.until).total_seconds() / 86_400, 0.0)


def _look_rows(
    experiment: Experiment, arm: str, path: Path, looks: Sequence[datetime]
) -> list[dict[str, Any]]:
    out = []
    for i, metric in enumerate(experiment.metrics):
        for k, at in enumerate(looks):
            if np.isfinite(path.lower[i, k]):
                out.append(
                    {
                        "experiment_id": experiment.experiment_id,
                        "metric": metric.name,
                        "arm": arm,
                        "looked_at": at,
                        "effect": effects.known(path.effect[i, k]),
                        "se": effects.known(path.se[i, k]),
                        "bound": effects.known(path.bound[i, k]),
                        "lower": float(path.lower[i, k]),
                        "upper": float(path.upper[i, k]),
                        "scale": float(path.scale[i, k]),
                    }
                )
    return out


def _registered(snapshot: Snapshot, people: pa.Table) -> bool:
    snapshot.connection.register("people", people)
    return people.num_rows > 0
