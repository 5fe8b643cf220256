"""The decision rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nba.experiments import decision
from nba.experiments.decision import Decision, Shown, Verdict

HELD = Shown("returns", -0.01, 0.03, 0.02)
OPEN = Shown("returns", -0.05, 0.03, 0.02)
HURT = Shown("returns", -0.09, -0.03, 0.02)


def primary(lower, upper, worth=0.5):
    return Shown("margin", lower, upper, worth)


# by hand


@pytest.mark.parametrize(
    ("shown", "guards", "is_over", "verdict"),
    [
        (primary(0.1, 0.9), (HELD,), False, Verdict.SHIP),
        (primary(0.1, 0.9), (OPEN,), False, Verdict.RUNNING),
        (primary(0.1, 0.9), (OPEN,), True, Verdict.UNREADABLE),
        (primary(0.1, 0.9), (HURT,), False, Verdict.HARM),
        (primary(-0.9, -0.1), (HELD,), False, Verdict.HARM),
        (primary(-0.2, 0.4), (HELD,), False, Verdict.NO_DIFFERENCE),
        (primary(-0.2, 0.9), (HELD,), False, Verdict.RUNNING),
        (primary(-0.2, 0.9), (HELD,), True, Verdict.UNREADABLE),
        (primary(-np.inf, np.inf), (), False, Verdict.RUNNING),
    ],
)
def test_each_verdict(shown, guards, is_over, verdict):
    found = decision.decide(shown, guards, is_over=is_over)
    assert found.verdict == verdict
    assert found.reason.endswith(".")


def test_a_fault_beats_everything():
    found = decision.unreadable("shares changed without a phase")
    assert found == Decision(Verdict.UNREADABLE, "Shares changed without a phase.")


def test_without_a_least_effect_the_end_says_what_is_missing():
    found = decision.decide(primary(-0.2, 0.9, 0.0), (), is_over=True)
    assert found.verdict == Verdict.UNREADABLE
    assert "planned_effect" in found.reason


def test_an_early_verdict_says_that_its_size_is_too_high():
    assert "likely too high" in decision.decide(primary(0.1, 0.9), (), is_over=False).reason
    assert "likely too high" not in decision.decide(primary(0.1, 0.9), (), is_over=True).reason


def test_a_verdict_stands_until_data_contradict_it():
    ship, running = Decision(Verdict.SHIP, "It rose.", True), Decision(Verdict.RUNNING, "Not yet.")
    harm = Decision(Verdict.HARM, "It fell.")
    assert decision.follow([running, ship, running, running]) == ship
    taken_back = decision.follow([ship, running, harm])
    assert taken_back.verdict == Verdict.HARM
    assert "takes back an earlier verdict: ship" in taken_back.reason


# laws


@given(st.floats(-5, 5), st.floats(0, 5), st.floats(-5, 5), st.floats(0, 5), st.booleans())
def test_never_ship_what_is_not_shown(middle, half, guard, guard_half, is_over):
    guard_shown = Shown("returns", guard - guard_half, guard + guard_half, 0.5)
    found = decision.decide(primary(middle - half, middle + half), (guard_shown,), is_over=is_over)
    if found.verdict == Verdict.SHIP:
        assert middle - half > 0
        assert guard - guard_half > -0.5


@given(st.lists(st.sampled_from(list(Verdict)), min_size=1, max_size=12))
def test_running_never_follows_a_verdict(verdicts):
    looks = [Decision(v, f"{v}.") for v in verdicts]
    ended = False
    for k in range(len(looks)):
        now = decision.follow(looks[: k + 1]).verdict
        assert not (ended and now == Verdict.RUNNING)
        ended = ended or now != Verdict.RUNNING
