"""May the challenger become the champion: a gate that may be asked every night.

All evidence is from decisions that neither model was trained on. The paired difference has an interval that
holds at all looks together (an asymptotic confidence sequence), so that asking again until it says yes does
not make a worse policy pass.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nba.evaluation import diagnostics, intervals, offpolicy
from nba.evaluation.offpolicy import Log

Array = NDArray[np.float64]
PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"


class Check(NamedTuple):
    """One condition of the gate.

    Attributes:
        check: What was asked.
        status: pass, fail or unknown (which does not pass).
        value, limit: What was found, and what it had to reach or keep below; NaN where not known.
        note: In words.
    """

    check: str
    status: str
    value: float
    limit: float
    note: str


class Rules(NamedTuple):
    """What the gate asks, fixed before the first look.

    Attributes:
        margin: Non-inferiority margin, money per decision: the lower bound must lie above minus this.
        planned: Decisions at which the confidence sequence is narrowest.
        level: Confidence level over all looks together.
        unsubscribes: Additional opt-outs per decision that would be borne.
        ece: Largest calibration error of the model.
    """

    margin: float = 0.0
    planned: float = 20_000.0
    level: float = 0.95
    unsubscribes: float = 0.002
    ece: float = 0.05


def judge(
    log: Log, unsubscribed: Array, batch: NDArray[np.int64], challenger: Array, champion: Array, q: Array,
    rules: Rules,
) -> list[Check]:  # fmt: skip
    """Ask value, guardrail and support of the challenger against the champion.

    Args:
        log: Decisions that neither was trained on, in the order of their batches.
        unsubscribed: 1 where the customer opted out within the window, shape (n,).
        batch: Number of the batch, not decreasing, shape (n,).
        challenger: Its probabilities, shape (n, k).
        champion: Its probabilities, shape (n, k).
        q: Expected reward of each treatment, shape (n, k), not learnt from the row itself.
        rules: What is asked.
    """
    value, influence = offpolicy.contrast(log, challenger, champion, q)
    refusal = offpolicy.difference(log, challenger, champion, q, rules.level).reason
    checks = [_value(value, influence, batch, log.unit, rules, refusal)]
    lost = log._replace(reward=unsubscribed)
    more = offpolicy.difference(lost, challenger, champion, np.zeros_like(q), rules.level)
    checks.append(_guardrail(more, rules))
    for name, p in (("challenger", challenger), ("champion", champion)):
        for found in diagnostics.examine(log.column, log.p_logged, p):
            if found.status == "refused" or found.check == "support":
                status = FAIL if found.status == "refused" else PASS
                checks.append(
                    Check(f"{found.check} of the {name}", status, found.value, found.limit, found.note)
                )
    return checks


def health(metrics: dict[str, float], rules: Rules) -> list[Check]:
    """Ask the challenger's model: is it calibrated, and does it know more than the base rate.

    Args:
        metrics: Of the model's report: ece, log_loss, log_loss_constant.
        rules: What is asked.
    """
    ece = metrics.get("ece", np.nan)
    gain = metrics.get("log_loss_constant", np.nan) - metrics.get("log_loss", np.nan)
    return [
        _at_most("calibration error of the model", ece, rules.ece, "of predicted chances of a response"),
        _at_most("log loss against the base rate", -gain, 0.0, "below 0 it knows more than the base rate"),
    ]


def passes(checks: list[Check]) -> bool:
    """Say whether all conditions hold; what is unknown does not."""
    return bool(checks) and all(check.status == PASS for check in checks)


def _value(
    value: float, influence: Array, batch: NDArray[np.int64], unit: NDArray[np.int64], rules: Rules,
    refusal: str,
) -> Check:  # fmt: skip
    name = "paired value, lower bound at any look"
    if refusal:
        return Check(name, UNKNOWN, np.nan, -rules.margin, refusal)
    if not influence.any():
        return Check(name, FAIL if rules.margin == 0 else PASS, 0.0, -rules.margin, "both do the same")
    # The influence of each row is about the whole log; the newest look rests on all of it.
    looks = intervals.sequence(influence, value + influence, batch * 0, unit, rules.planned, rules.level)
    lower, upper = looks[-1].lower, looks[-1].upper
    status = PASS if lower > -rules.margin else FAIL
    note = f"{value:+.4f} per decision, {lower:+.4f} to {upper:+.4f} at all looks together"
    return Check(name, status, lower, -rules.margin, note)


def _guardrail(more: offpolicy.PolicyValue, rules: Rules) -> Check:
    name = "additional opt-outs per decision, upper bound"
    if more.reason:
        return Check(name, UNKNOWN, np.nan, rules.unsubscribes, more.reason)
    note = f"{more.value:+.5f} per decision"
    return Check(
        name, PASS if more.upper <= rules.unsubscribes else FAIL, more.upper, rules.unsubscribes, note
    )


def _at_most(name: str, value: float, limit: float, note: str) -> Check:
    if np.isnan(value):
        return Check(name, UNKNOWN, value, limit, "the model's report does not say")
    return Check(name, PASS if value <= limit else FAIL, float(value), limit, note)
