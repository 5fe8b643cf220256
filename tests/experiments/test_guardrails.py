from datetime import UTC, datetime, timedelta

import pytest

from nba import tables
from nba.experiments import guardrails
from nba.settings import Arm, Experiment, Measured

START = datetime(2026, 1, 5, 6, tzinfo=UTC)


def declared(**more) -> Experiment:
    guards = (
        Measured(name="opt_outs", numerator="unsubscribes", role="guardrail", is_good=False, margin=0.02),
        Measured(name="visits", numerator="visits", role="guardrail", margin=0.5),
    )
    metrics = (Measured(name="margin", numerator="margin", role="primary"), *guards)
    arms = (Arm(name="holdout", share=0.5, policy="none"), Arm(name="a", share=0.5, policy="champion"))
    return Experiment(experiment_id="e", control="holdout", arms=arms, metrics=metrics, **more)


def looks(*rows):
    given = {"experiment_id": "e", "arm": "a", "se": 0.1, "bound": 3.0}
    names = ("metric", "looked_at", "effect", "lower", "upper", "scale")
    return tables.LOOKS.build([given | dict(zip(names, row)) for row in rows])


# by hand


def test_the_newest_look_is_brought_to_the_days_of_the_limit():
    later = START + timedelta(days=84)
    found = guardrails.standing(
        declared(),
        looks(
            ("opt_outs", later, 0.03, 0.015, 0.045, 1 / 3),
            ("opt_outs", START, 0.30, 0.2, 0.4, 1.0),  # an older look
            ("visits", later, -3.0, -4.5, -1.8, 1 / 3),
            ("margin", later, 1.0, 0.5, 1.5, 1 / 3),  # no guardrail
        ),
    ).to_pylist()
    assert [row["metric"] for row in found] == ["opt_outs", "visits"]
    less, more = found
    assert [less[name] for name in ("effect", "always_lower", "always_upper")] == pytest.approx(
        [0.01, 0.005, 0.015]
    )
    assert (less["limit"], less["days"], less["standing"]) == (0.02, 28.0, "held")
    assert (more["limit"], more["standing"]) == (-0.5, "broken")


def test_an_interval_that_holds_the_limit_shows_nothing_yet_and_plans_have_their_days():
    planned = declared(starts_at=START, ends_at=START + timedelta(days=60))
    (row,) = guardrails.standing(planned, looks(("visits", START, -0.4, -0.6, 0.1, 1.0))).to_pylist()
    assert (row["days"], row["standing"]) == (60.0, "not yet shown")
