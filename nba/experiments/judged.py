"""Effects with the interval by which the verdict goes, in place of the one for a single reading."""

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from nba import tables

READING, EVERY, PLANNED = "one reading", "every look", "planned looks"
ALL = "all"
WAITING = "no planned look has been taken yet"


def judged(
    effects: pa.Table, looks: pa.Table, readouts: pa.Table, guardrails: Collection[str] = ()
) -> pa.Table:
    """Give each effect the interval by which its verdict goes.

    Without a planned end that is the interval valid at every look. With one, the primary metric has the
    interval of its newest planned look; the others, and segments, that of every look, but once the end is
    reached only guardrails need it: the rest is read once. What has no verdict keeps the interval for one
    reading.

    Args:
        effects: Rows of `summary_effects`.
        looks: The table of that name.
        readouts: The table of that name.
        guardrails: Names of the metrics that are guardrails.

    Returns:
        The `judged` table; its order is that of the effects.
    """
    verdicts = {(row["experiment_id"], row["arm"]): row for row in readouts.to_pylist()}
    newest = {
        (row["experiment_id"], row["metric"], row["arm"]): row
        for row in looks.sort_by("looked_at").to_pylist()
    }
    return tables.JUDGED.build(
        row
        | _interval(
            row,
            verdicts.get((row["experiment_id"], row["arm"])),
            newest.get((row["experiment_id"], row["metric"], row["arm"])),
            is_guardrail=row["metric"] in guardrails,
        )
        for row in effects.to_pylist()
    )


def is_over(verdict: Mapping[str, Any] | None) -> bool:
    """Say whether an experiment has reached its planned end, after which one reading is all there is.

    Args:
        verdict: A row of `readouts`; None where there is none.
    """
    if not verdict or verdict["ends_at"] is None or verdict["matured_at"] is None:
        return False
    return bool(verdict["matured_at"] >= verdict["ends_at"])


def _interval(
    row: Mapping[str, Any],
    verdict: Mapping[str, Any] | None,
    look: Mapping[str, Any] | None,
    *,
    is_guardrail: bool,
) -> dict[str, Any]:
    ends_at = verdict["ends_at"] if verdict else None
    headline = (verdict["metric"], ALL) if verdict and ends_at else None
    if verdict and headline == (row["metric"], row["segment"]) and row["effect"] is not None:
        return _at(row, look, verdict)
    known = row["always_lower"] is not None and row["always_upper"] is not None
    if verdict and known and (is_guardrail or not is_over(verdict)):
        return _named(EVERY, row, "always_")
    return _named(READING, row, "")


def _at(row: Mapping[str, Any], look: Mapping[str, Any] | None, verdict: Mapping[str, Any]) -> dict[str, Any]:
    # Between looks nothing is judged: the newest look's own effect stands beside its interval.
    if look is None:
        return {"basis": PLANNED, "reason": row["reason"] or WAITING}
    # Ratios and quantiles have no total.
    is_now = look["looked_at"] == verdict["matured_at"] and row["total"] is not None
    totals = {f"judged_total_{end}": look[end] * row["n"] if is_now else None for end in ("lower", "upper")}
    return totals | {
        "basis": PLANNED, "judged_at": look["looked_at"], "judged_effect": look["effect"],
        "judged_lower": look["lower"], "judged_upper": look["upper"],
    }  # fmt: skip


def _named(basis: str, row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    names = ("lower", "upper", "total_lower", "total_upper")
    return {f"judged_{name}": row.get(f"{prefix}{name}") for name in names} | {
        "basis": basis, "judged_effect": row["effect"],
    }  # fmt: skip
