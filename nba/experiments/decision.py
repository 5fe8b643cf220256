"""The verdict of an experiment, from the rule that was fixed before it began.

The rule reads intervals that are valid at all looks together, and a verdict once reached stands until a later
look contradicts it: a wider interval or a weaker estimate takes nothing back. Values are oriented: up is
good.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple


class Verdict(StrEnum):
    """What to do."""

    SHIP = "ship"
    RUNNING = "keep running"
    HARM = "stop: harm"
    NO_DIFFERENCE = "stop: no difference worth having"
    UNREADABLE = "cannot be read"


class Shown(NamedTuple):
    """What is known of one metric at a look; up is good.

    Attributes:
        name: The metric.
        lower, upper: Ends of the look's interval, valid at all looks together.
        margin: For a guardrail: the loss that would be borne; for the primary: the least effect worth
            having (its planned effect). Both above or at 0.
    """

    name: str
    lower: float
    upper: float
    margin: float


class Decision(NamedTuple):
    """The verdict and its reason.

    Attributes:
        verdict: What to do.
        reason: Why, in one plain sentence.
        is_early: Whether it was reached before the planned end: the estimate is then likely too high.
    """

    verdict: Verdict
    reason: str
    is_early: bool = False


def unreadable(fault: str) -> Decision:
    """Give the verdict on data that cannot be trusted."""
    return Decision(Verdict.UNREADABLE, _sentence(fault))


EARLY = "; it was seen early, so its estimated size is likely too high"


HELD, PENDING, BROKEN = "held", "not yet shown", "broken"


# What tells an answer still open at the planned end from data in doubt.
_LATE, _EITHER_WAY = "by the planned end.", "The planned end was reached and"


def standing(guardrail: Shown) -> str:
    """Say whether a guardrail held, is broken, or neither is shown yet.

    Example:
        >>> [standing(Shown("visits", *ends, 0.5)) for ends in ((-0.2, 0.1), (-0.9, 0.1), (-0.9, -0.6))]
        ['held', 'not yet shown', 'broken']
    """
    if guardrail.upper < -guardrail.margin:
        return BROKEN
    return HELD if guardrail.lower > -guardrail.margin else PENDING


def decide(primary: Shown, guardrails: tuple[Shown, ...], *, is_over: bool, unit: str = "") -> Decision:
    """Apply the rule at one look.

    Ship: the primary metric is up, and every guardrail is shown to lose less than its margin. Stop for
    harm: the primary is down, or a guardrail is shown to lose more than its margin. Stop for no
    difference: the primary's interval ends below the least effect worth having. Otherwise keep running;
    at the planned end an answer that is still open cannot be read.

    Args:
        primary: The primary metric.
        guardrails: Metrics that must not suffer.
        is_over: Whether the planned end has been reached.
        unit: Unit of the primary metric, for the sentence.

    Example:
        >>> decide(Shown("margin", 0.2, 0.9, 0.3), (), is_over=True).verdict.value
        'ship'
    """
    late = "" if is_over else EARLY
    hurt = [g for g in guardrails if standing(g) == BROKEN]
    if hurt:
        return Decision(Verdict.HARM, f"{_names(hurt)} fell by more than the margin set for it.", not is_over)
    if primary.upper < 0:
        return Decision(Verdict.HARM, f"{primary.name} fell against the control{late}.", not is_over)
    open_ = [g for g in guardrails if standing(g) != HELD]
    if primary.lower > 0 and not open_:
        kept = " and every guardrail held" if guardrails else ""
        return Decision(Verdict.SHIP, f"{primary.name} rose against the control{kept}{late}.", not is_over)
    if primary.upper < primary.margin and not primary.lower > 0:
        worth = f"{primary.margin:.4g} {unit}".strip()
        reason = f"any gain in {primary.name} is below the {worth} per customer that would be worth having."
        return Decision(Verdict.NO_DIFFERENCE, _sentence(reason), not is_over)
    return _undecided(primary, open_, is_over=is_over)


def follow(looks: Sequence[Decision]) -> Decision:
    """Give the verdict after several looks: the first that ends the matter, unless later data contradict.

    Args:
        looks: Decisions of the looks so far, in order; at least one.

    Example:
        >>> ship = Decision(Verdict.SHIP, "margin rose.", True)
        >>> follow([ship, Decision(Verdict.RUNNING, "not yet.")]).verdict.value
        'ship'
    """
    stands = looks[0]
    for look in looks[1:]:
        opposed = {stands.verdict, look.verdict} == {Verdict.SHIP, Verdict.HARM}
        if stands.verdict == Verdict.RUNNING:
            stands = look
        elif opposed:
            taken_back = f"{look.reason} This takes back an earlier verdict: {stands.verdict.value}."
            stands = look._replace(reason=taken_back)
    return stands


def is_distrusted(readout: Mapping[str, Any]) -> bool:
    """Say whether no effect of an experiment can be trusted, rather than merely not telling enough.

    Args:
        readout: Row of the `readouts` table.

    Example:
        >>> uneven = {"verdict": "cannot be read", "reason": "the arms do not have the customers promised"}
        >>> is_distrusted(uneven), is_distrusted(uneven | {"verdict": "ship"})
        (True, False)
    """
    unsettled = any(text in readout["reason"] for text in (_LATE, _EITHER_WAY))
    return readout["verdict"] == Verdict.UNREADABLE.value and not unsettled


def _undecided(primary: Shown, pending: list[Shown], *, is_over: bool) -> Decision:
    if primary.lower > 0 and is_over:
        reason = f"{primary.name} rose, but {_names(pending)} could not be shown to be within its margin"
        return Decision(Verdict.UNREADABLE, f"{reason} {_LATE}")
    if primary.lower > 0:
        reason = f"{primary.name} rose, but {_names(pending)} is not yet shown to be within its margin."
        return Decision(Verdict.RUNNING, reason)
    if is_over and not primary.margin > 0:
        reason = f"{_EITHER_WAY} {primary.name} could have moved either way"
        return Decision(
            Verdict.UNREADABLE, f"{reason}; no planned_effect says how little would be too little."
        )
    if is_over:
        reason = (
            f"{_EITHER_WAY} {primary.name} could have moved by nothing or by an amount "
            "worth having; a larger experiment would be needed to tell."
        )
        return Decision(Verdict.UNREADABLE, reason)
    return Decision(Verdict.RUNNING, f"{primary.name} has not been measured closely enough yet.")


def _names(shown: list[Shown]) -> str:
    return " and ".join(s.name for s in shown)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else text + "."
