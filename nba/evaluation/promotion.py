"""May the challenger become the champion: a gate that may be asked every night.

All evidence is from decisions that neither model was trained on. The paired difference of value has an
interval that holds at all looks together (asymptotic confidence sequence), so that asking again until it
says yes does not make a worse policy pass. Opt-outs are few, and few make their variance: their upper bound
is that of weighted rare events, at the sequence's level of each look. Challengers of the same champion share
the level, so that trying one after another does not make a worse policy pass either.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm as normal

from nba import stats
from nba.evaluation import diagnostics, intervals, offpolicy
from nba.evaluation.offpolicy import Log

Array = NDArray[np.float64]
PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"
VALUE = "paired value, lower bound at any look"


class Check(NamedTuple):
    """One condition of the gate.

    Attributes:
        check: What was asked.
        status: pass, fail or unknown (which does not pass).
        value, limit: What was found, and what it had to reach or keep below; NaN where not known.
        note: In words.
        side: Where the value must lie: `at_least`, `at_most` or `above` the limit.
        is_count: Whether value and limit are whole numbers of decisions.
    """

    check: str
    status: str
    value: float
    limit: float
    note: str
    side: str = "at_most"
    is_count: bool = False


COUNTED = "at_least", True  # of checks that count decisions


class Rules(NamedTuple):
    """What the gate asks, fixed before the first look.

    Attributes:
        margin: Non-inferiority margin, money per decision: the lower bound must lie above minus this.
        planned: Decisions at which the confidence sequence is narrowest.
        level: Confidence level over all looks together, of the first challenger.
        unsubscribes: Additional opt-outs per decision that would be borne.
        ece: Largest calibration error of the model, however common responses are.
        ece_share: Largest part of the base rate that its calibration error is beyond that of chance.
        nth: Which challenger of this champion is judged, from 1.
    """

    margin: float = 0.0
    planned: float = 20_000.0
    level: float = 0.95
    unsubscribes: float = 0.002
    ece: float = 0.05
    ece_share: float = 0.25
    nth: int = 1

    @property
    def share(self) -> float:
        """The level of this challenger: 1 - level for the first, over n (n - 1) for the nth after it.

        One side of an interval errs half as often as both, and 1 + 1/2 + 1/6 + 1/12 + ... is 2: of all
        challengers of a champion together at most 1 - level pass wrongly.

        Example:
            >>> [round(Rules(nth=nth).share, 4) for nth in (1, 2, 3, 4)]
            [0.95, 0.975, 0.9917, 0.9958]
        """
        return 1 - (1 - self.level) / max(self.nth * (self.nth - 1), 1)


def judge(
    log: Log, unsubscribed: Array, challenger: Array, champion: Array, q: Array, rules: Rules
) -> list[Check]:
    """Ask value, guardrail and support of the challenger against the champion.

    Args:
        log: Decisions that neither was trained on, in the order of their batches.
        unsubscribed: 1 where the customer opted out within the window, shape (n,).
        challenger: Its probabilities, shape (n, k).
        champion: Its probabilities, shape (n, k).
        q: Expected reward of each treatment, shape (n, k), not learnt from the row itself.
        rules: What is asked.
    """
    lost = log._replace(reward=unsubscribed)
    checks = [_value(log, challenger, champion, q, rules), _guardrail(lost, challenger, champion, rules)]
    for name, p in (("challenger", challenger), ("champion", champion)):
        for found in diagnostics.examine(log.column, log.p_logged, p):
            if found.status == "refused" or found.check == "support":
                status = FAIL if found.status == "refused" else PASS
                checks.append(Check(f"{found.check} of the {name}", status, *found[2:]))
    return checks


def health(metrics: dict[str, float], rules: Rules) -> list[Check]:
    """Ask the challenger's model: is it calibrated, and does it know more than the base rate.

    Args:
        metrics: Of the model's report: ece, log_loss, log_loss_constant, and where they are known
            ece_of_noise and base_rate: an error that is small beside 1 may be as large as the rate itself.
        rules: What is asked.
    """
    ece = metrics.get("ece", np.nan)
    gain = metrics.get("log_loss_constant", np.nan) - metrics.get("log_loss", np.nan)
    chance, rate = metrics.get("ece_of_noise", np.nan), metrics.get("base_rate", np.nan)
    most = float(np.nanmin([rules.ece, chance + rules.ece_share * rate]))
    return [
        _at_most("calibration error of the model", ece, most, "of predicted chances of a response"),
        _at_most("log loss against the base rate", -gain, 0.0, "below 0 it knows more than the base rate"),
    ]


def passes(checks: list[Check]) -> bool:
    """Say whether all conditions hold; what is unknown does not."""
    return bool(checks) and all(check.status == PASS for check in checks)


def _value(log: Log, challenger: Array, champion: Array, q: Array, rules: Rules) -> Check:
    if refusal := offpolicy.difference(log, challenger, champion, q, rules.share).reason:
        return Check(VALUE, UNKNOWN, np.nan, -rules.margin, refusal, "above")
    value, influence = offpolicy.contrast(log, challenger, champion, q)
    if not influence.any():
        status = FAIL if rules.margin == 0 else PASS
        return Check(VALUE, status, 0.0, -rules.margin, "both do the same", "above")
    look = _look(value, influence, log.unit, rules)
    status = PASS if look.lower > -rules.margin else FAIL
    note = (
        f"{value:+.4f} per decision, {look.lower:+.4f} to {look.upper:+.4f} at all looks together, with"
        f" {100 * rules.share:.4g}% as challenger {rules.nth} of this champion"
    )
    return Check(VALUE, status, look.lower, -rules.margin, note, "above")


def _guardrail(lost: Log, challenger: Array, champion: Array, rules: Rules) -> Check:
    name = "additional opt-outs per decision, upper bound at any look"
    if reason := offpolicy.unanswerable(lost, challenger, champion):
        return Check(name, UNKNOWN, np.nan, rules.unsubscribes, reason)
    weight, base = (offpolicy.weights(lost, p) for p in (challenger, champion))
    apart = weight / weight.mean() - base / base.mean()
    sums, _ = stats.sums(apart * lost.reward, lost.unit)
    n, more = len(lost.reward), _one_more(lost, challenger, champion)
    if (challenger == champion).all():
        upper = 0.0
    elif not lost.reward.any():
        # A rate above this would have shown by now, whenever one looks ("rule of three").
        upper = float(-np.log((1 - rules.share) / 2) * more / n)
    else:
        # The sequence's level at this look, and an opt-out that has not come yet.
        bound = stats.sequence_bound(np.array([float(n)]), rules.planned, 1 - rules.share)[0]
        upper = intervals.rare(sums, n, more, float(normal.sf(bound)))
    status = PASS if upper <= rules.unsubscribes else FAIL
    note = f"{sums.sum() / n:+.5f} per decision, by {int(lost.reward.sum())} opt-outs"
    return Check(name, status, upper, rules.unsubscribes, note)


def _one_more(log: Log, challenger: Array, champion: Array) -> float:
    # What an opt-out weighs that the challenger brings: the mean over its additional choices. Where both do
    # the same nothing is brought, and a treatment that was hardly ever logged weighs as what it stands for.
    possible = log.p_logged > 0
    additional = np.where(possible, np.maximum(challenger - champion, 0.0), 0.0)
    weight = additional / np.where(possible, log.p_logged, 1.0)
    return float((additional * weight).sum() / max(additional.sum(), 1e-300))


def _look(value: float, influence: Array, unit: NDArray[np.int64], rules: Rules) -> intervals.Look:
    # The influence of each row is about the whole log; the newest look rests on all of it.
    batch = np.zeros(len(unit), dtype=np.int64)
    return intervals.sequence(influence, value + influence, batch, unit, rules.planned, rules.share)[-1]


def _at_most(name: str, value: float, limit: float, note: str) -> Check:
    if np.isnan(value):
        return Check(name, UNKNOWN, value, limit, "the model's report does not say")
    return Check(name, PASS if value <= limit else FAIL, float(value), limit, note)
