from datetime import UTC, datetime, timedelta

import pytest

from nba import tables
from nba.experiments import judged

START = datetime(2026, 1, 5, 6, tzinfo=UTC)
END = START + timedelta(days=28)
ENDS = ("judged_effect", "judged_lower", "judged_upper", "judged_total_lower", "judged_total_upper")


def effects(*metrics):
    row = {
        "experiment_id": "e", "arm": "new", "segment": "all", "control": "old", "n": 10, "n_control": 10,
        "mean": 3.0, "mean_control": 1.0, "effect": 2.0, "lower": 1.0, "upper": 3.0, "always_lower": 0.0,
        "always_upper": 4.0, "level": 0.95, "method": "Welch", "estimand": "", "reason": "", "total": 20.0,
        "total_lower": 10.0, "total_upper": 30.0, "always_total_lower": 0.0, "always_total_upper": 40.0,
    }  # fmt: skip
    return tables.SUMMARY_EFFECTS.build([row | {"metric": name} for name in metrics])


def looks(*rows):
    given = {"experiment_id": "e", "arm": "new", "metric": "margin", "se": 0.5, "bound": 3.0, "scale": 1.0}
    names = ("looked_at", "effect", "lower", "upper")
    return tables.LOOKS.build([given | dict(zip(names, row)) for row in rows])


def readouts(matured_at, ends_at):
    row = {
        "experiment_id": "e", "arm": "new", "control": "old", "unit": "customer", "metric": "margin",
        "verdict": "keep running", "reason": "", "is_early": False, "n_looks": 1, "matured_at": matured_at,
        "ends_at": ends_at, "rule": "", "estimand": "",
    }  # fmt: skip
    return tables.READOUTS.build([row])


def of(*given, guardrails=()):
    rows = judged.judged(*given, guardrails).to_pylist()
    return [(row["basis"], [row[name] for name in ENDS]) for row in rows]


# by hand

SINGLE = ("one reading", [2.0, 1.0, 3.0, 10.0, 30.0])
ALWAYS = ("every look", [2.0, 0.0, 4.0, 0.0, 40.0])


def test_without_an_end_every_metric_has_the_interval_of_every_look():
    assert of(effects("margin", "visits"), looks(), readouts(START, None)) == [ALWAYS, ALWAYS]


def test_without_a_verdict_the_interval_is_that_of_one_reading():
    assert of(effects("margin"), looks(), readouts(START, None).slice(0, 0)) == [SINGLE]


@pytest.mark.parametrize(("late", "others"), [(7, (ALWAYS, ALWAYS)), (28, (ALWAYS, SINGLE))])
def test_with_an_end_the_verdict_goes_by_the_newest_planned_look(late, others):
    at = START + timedelta(days=late)
    seen = looks((at, 2.0, -0.5, 4.5), (at - timedelta(days=7), 9.0, 8.0, 10.0))
    found = of(effects("margin", "opt_outs", "visits"), seen, readouts(at, END), guardrails=("opt_outs",))
    assert found == [("planned looks", [2.0, -0.5, 4.5, -5.0, 45.0]), *others]


def test_between_looks_the_effect_is_that_of_the_look_too():
    look = START + timedelta(days=7)
    given = effects("margin"), looks((look, 1.5, -1.0, 4.0)), readouts(look + timedelta(days=3), END)
    assert of(*given) == [("planned looks", [1.5, -1.0, 4.0, None, None])]
    assert judged.judged(*given)["judged_at"].to_pylist() == [look]


def test_before_the_first_planned_look_nothing_is_told():
    given = effects("margin"), looks(), readouts(START, END)
    assert of(*given) == [("planned looks", [None] * 5)]
    assert judged.judged(*given)["reason"].to_pylist() == ["no planned look has been taken yet"]


def test_a_segment_of_the_primary_metric_has_every_look_until_the_end():
    rows = [row | {"segment": "a_city=Rome"} for row in effects("margin").to_pylist()]
    given = tables.SUMMARY_EFFECTS.build(rows), looks((END, 2.0, -0.5, 4.5))
    assert of(*given, readouts(END - timedelta(days=7), END)) == [ALWAYS]
    assert of(*given, readouts(END, END)) == [SINGLE]
