"""Effects of one experiment as rows of the data contract: of all customers and of each segment, corrected.

Each effect has Welch's interval, for one reading at the planned end, and beside it an interval and a p-value
that hold at every look (`anytime`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba.experiments import analyze, anytime, cube, facts, store
from nba.history import Snapshot
from nba.settings import Experiment, Measured
from nba.stats import Interval

ESTIMAND = (
    "what was run: effect of being assigned to the arm rather than the control, per customer as assigned"
    " (intention to treat), from assignment to {until}; not which algorithm is better in general"
)
OPEN_LOOKS = 13
_NUMBERS = (
    *("mean", "mean_control", "effect", "lower", "upper", "p_value"),
    *("relative_effect", "relative_lower", "relative_upper"),
)


def treated_arms(experiment: Experiment) -> list[str]:
    """Name the arms that are compared with the control."""
    return [arm.name for arm in experiment.arms if arm.name != experiment.control]


def ratios(experiment: Experiment) -> NDArray[np.bool_]:
    """Say which metrics are ratios of totals, shape (metrics,)."""
    return np.array([m.denominator is not None for m in experiment.metrics])


def error(experiment: Experiment) -> float:
    """Give the two-sided error of each arm over all looks together."""
    return (1 - experiment.level) / max(len(experiment.arms) - 1, 1)


def planned_looks(experiment: Experiment) -> float:
    """Give the number of looks of the plan; a quarter of a year of weeks where there is no end."""
    if experiment.ends_at and experiment.starts_at:
        return max((experiment.ends_at - experiment.starts_at).days / experiment.look_days, 1.0)
    return float(OPEN_LOOKS)


def compare(
    experiment: Experiment, day: store.Day, arms: Sequence[str], segment: str = ""
) -> tuple[analyze.Effects, list[str]]:
    """Compare arms with the control at one moment, from the cube.

    Args:
        experiment: Names the arms, the control and the metrics.
        day: The sums.
        arms: Arms that are compared.
        segment: Attribute of customers whose values are parts; all customers together if empty.

    Returns:
        Effects of shape (metrics, parts x arms), and the parts.
    """
    # Cells are value of the segment x phase of entry (strata) x arm.
    names = [arm.name for arm in experiment.arms]
    n_phases = len(experiment.phases) + 1
    by_label = day.sums.n.reshape(len(day.labels), -1).sum(axis=1)
    parts = [
        i
        for i, label in enumerate(day.labels)
        if (label.startswith(f"{segment}=") and by_label[i] > 0 if segment else label == facts.ALL)
    ]
    base = (np.array(parts, dtype=np.int64)[:, None, None] * n_phases + np.arange(n_phases)) * len(names)
    treated = base + np.array([names.index(a) for a in arms])[None, :, None]
    control = np.broadcast_to(base + names.index(experiment.control), treated.shape)
    flat = (len(parts) * len(arms), n_phases)
    made = store.metrics_of(experiment)
    columns = cube.columns_of(made, cube.variables_of(made))
    found = analyze.compare(day.sums, columns, treated.reshape(flat), control.reshape(flat), experiment.level)
    return found, [day.labels[i] for i in parts]


def of_quantiles(
    snapshot: Snapshot,
    experiment: Experiment,
    people: pa.Table,
    metrics: Sequence[Measured],
    window: facts.Window,
) -> list[dict[str, Any]]:
    """Give the rows of quantiles, which do not follow from sums: they alone go back to the customers.

    Args:
        snapshot: What was known.
        experiment: Names the arms and the control.
        people: As `facts.assigned` gives them.
        metrics: Metrics that are quantiles.
        window: Who counts, and until when.
    """
    if not metrics:
        return []
    rows, _ = facts.totals(snapshot, people, metrics, window)
    in_arm = np.array(rows["arm"].to_pylist(), dtype=str)
    out = []
    for i, metric in enumerate(metrics):
        assert metric.quantile is not None
        values = rows[f"y{i}"].to_numpy()
        control = values[in_arm == experiment.control]
        for arm in treated_arms(experiment):
            treated = values[in_arm == arm]
            rng = np.random.default_rng(list(f"{experiment.experiment_id}|{metric.name}|{arm}".encode()))
            if experiment.phases:
                found = Interval.unknown("quantiles are not compared across phases", len(treated))
            else:
                found = analyze.quantile_effect(treated, control, metric.quantile, rng, experiment.level)
            at = [np.quantile(x, metric.quantile) if len(x) else np.nan for x in (treated, control)]
            out.append(
                {
                    "experiment_id": experiment.experiment_id, "metric": metric.name, "arm": arm,
                    "control": experiment.control, "segment": facts.ALL, "n": len(treated),
                    "n_control": len(control), "mean": known(at[0]), "mean_control": known(at[1]),
                    "effect": known(found.value), "lower": known(found.lower),
                    "upper": known(found.upper), "level": experiment.level, "reason": found.reason,
                    "method": f"quantile {metric.quantile:g} of the totals, percentile bootstrap",
                    "estimand": ESTIMAND.format(until=f"{window.until:%Y-%m-%d %H:%M}"),
                }
            )  # fmt: skip
    return out


def of_means(
    experiment: Experiment, looked: Sequence[store.Day], day: store.Day, window: facts.Window
) -> list[dict[str, Any]]:
    """Give the rows of means and ratios, of all customers and by segment, corrected.

    Args:
        experiment: Names arms, metrics and segments.
        looked: The sums at the looks so far, which set the clocks of what holds at every look.
        day: The sums of the readout.
        window: Who counts, and until when.
    """
    arms = treated_arms(experiment)
    out = []
    for segment in ("", *experiment.segments):
        found, values = compare(experiment, day, arms, segment)
        always = _always(experiment, looked, found, values, segment)
        for i, metric in enumerate(experiment.metrics):
            if segment and metric.role == "guardrail":
                continue
            for j, arm in enumerate(arms):
                same = [v * len(arms) + j for v in range(len(values))]
                spread = (
                    analyze.heterogeneity(found.effect[i, same], found.se[i, same]) if segment else np.nan
                )
                for v, name in enumerate(values):
                    at = i, v * len(arms) + j
                    row = _effect_row(experiment, metric, arm, found, at, window)
                    row |= {"segment": name, "p_heterogeneity": known(spread)}
                    row |= {f"always_{end}": known(getattr(always, end)[at]) for end in ("lower", "upper")}
                    out.append(row | {"p_always": known(always.p_value[at])})
    is_over = experiment.ends_at is not None and window.until >= experiment.ends_at
    return corrected(experiment, out, is_over=is_over)


def _effect_row(
    experiment: Experiment,
    metric: Measured,
    arm: str,
    found: analyze.Effects,
    at: tuple[int, int],
    window: facts.Window,
) -> dict[str, Any]:
    method = ("ratio of totals (delta method), " if metric.denominator else "") + "Welch"
    if metric.is_adjusted:
        method += ", not adjusted (nothing varies before)" if found.explained[at] == 0 else ", CUPED"
    method += f", capped at {metric.cap:g}" if metric.cap is not None else ""
    method += ", by phase of entry" if experiment.phases else ""
    return {
        "experiment_id": experiment.experiment_id, "metric": metric.name, "arm": arm,
        "control": experiment.control, "n": int(found.n[at]), "n_control": int(found.n_control[at]),
        "level": experiment.level, "method": method,
        "estimand": ESTIMAND.format(until=f"{window.until:%Y-%m-%d %H:%M}"),
        "reason": analyze.REASONS[int(found.reason[at])],
    } | {name: known(getattr(found, name)[at]) for name in _NUMBERS}  # fmt: skip


def hidden(row: dict[str, Any], fault: str) -> dict[str, Any]:
    """Take the numbers out of a row that cannot be trusted, since a plausible one would be believed.

    Args:
        row: A row of `effects`.
        fault: Why it cannot be trusted.
    """
    numbers = (*_NUMBERS, "always_lower", "always_upper", "p_always", "p_corrected", "p_heterogeneity")
    return row | dict.fromkeys(numbers) | {"reason": fault}


def _always(
    experiment: Experiment,
    looked: Sequence[store.Day],
    found: analyze.Effects,
    values: Sequence[str],
    segment: str,
) -> anytime.Watched:
    # A part of the customers may be there at some looks only: its clock starts where it is first known.
    ratio, arms = ratios(experiment), treated_arms(experiment)
    place = {name: v for v, name in enumerate(values)}
    at_looks = np.full((*found.effect.shape, len(looked)), np.nan)
    for number, day in enumerate(looked):
        if not day.sums.n.any():  # a look before anybody counted
            continue
        then, names = compare(experiment, day, arms, segment)
        score = anytime.score(then.se, then.n, then.n_control, ratio)
        for v, name in enumerate(names):
            for j in range(len(arms)):
                if name in place:
                    at_looks[:, place[name] * len(arms) + j, number] = score[:, v * len(arms) + j]
    now = anytime.score(found.se, found.n, found.n_control, ratio)
    return anytime.watch(found, now, at_looks, planned_looks(experiment), error(experiment))


def corrected(
    experiment: Experiment, rows: list[dict[str, Any]], *, is_over: bool = True
) -> list[dict[str, Any]]:
    """Correct p-values over segments and secondary metrics, and over attributes whether segments differ.

    Args:
        experiment: Says by which method, and which metric is primary.
        rows: Rows of `effects`, which are changed.
        is_over: Whether the planned end is reached: only then is one reading all that is ever taken.
    """
    name = "p_value" if is_over else "p_always"
    roles = {metric.name: metric.role for metric in experiment.metrics}

    def is_headline(row: dict[str, Any]) -> bool:
        return bool(row["segment"] == facts.ALL and roles[row["metric"]] == "primary")

    for headline in (True, False):
        scope = [r for r in rows if is_headline(r) == headline and roles[r["metric"]] != "guardrail"]
        p = np.array([np.nan if r[name] is None else r[name] for r in scope], dtype=np.float64)
        method = "holm" if headline else experiment.correction
        for row, value in zip(scope, analyze.correct(p, method).p_value):
            row["p_corrected"] = known(value)
    # Each attribute asks once by metric and arm whether its segments differ: that is a scope of its own.
    asked = {_question(r): r["p_heterogeneity"] for r in rows if r["p_heterogeneity"] is not None}
    raised = analyze.correct(np.array(list(asked.values())), experiment.correction).p_value
    found = dict(zip(asked, raised.tolist()))
    for row in rows:
        row["p_heterogeneity"] = found.get(_question(row))
    return rows


def _question(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["metric"], row["arm"], row["segment"].partition("=")[0]


def known(value: Any) -> float | None:
    """Give a number, or None where it is not finite."""
    return float(value) if np.isfinite(value) else None
