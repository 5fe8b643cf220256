"""Single decision: what was chosen for one customer, from what, and why."""

from pathlib import Path

import numpy as np
import pytest

from app import why
from app.messages import say
from nba import tables
from nba.errors import MissingError
from nba.history import History
from nba.models import explain


def test_a_decision_tells_the_tables_numbers(show, workspace, words) -> None:
    history = History.read(workspace)
    (row,) = history.sql(
        "from decisions where arm = 'policy' and batch_id = 'b2' and treatment_id <> 'none' limit 1"
    ).to_pylist()
    app = show(workspace, "decision", customer=row["customer_id"], decision=row["decision_id"])
    text = words(app)
    assert f"Chance of this choice: {row['p_action']:.1%}" in text
    assert f"Expected value: {row['expected_value']:+.2f} EUR" in text
    assert row["treatment_id"].replace("_", "\\_") in text
    candidates = app.dataframe[0].value
    assert len(candidates) == 5
    assert set(candidates["stage"]) == {""}
    assert candidates["p_action"].sum() == pytest.approx(1.0)
    assert len(app.dataframe[1].value) == 4  # its decisions in all batches
    app.text_input(key="customer").set_value("nobody").run()
    assert not app.exception
    assert "No decision was made for nobody" in words(app)


def test_an_example_chosen_after_a_link_is_shown(show, workspace, words) -> None:
    app = show(workspace, "decision", customer="c1")
    options = app.selectbox(key="example").options
    assert not app.text_input(key="customer").placeholder.startswith("c0")
    other = next(name.split(" · ")[0] for name in options[1:] if not name.startswith("c1 "))
    app.selectbox(key="example").set_value(other).run()
    assert not app.exception
    assert app.text_input(key="customer").value == other
    assert f"customer **{other}**" in words(app)
    app.text_input(key="customer").set_value("c2").run()
    assert "customer **c2**" in words(app)
    assert app.selectbox(key="example").value == ""


def test_candidates_stand_by_value_less_price_and_nothing_sent_was_not_delivered(show, fresh) -> None:
    root = fresh()
    history = History.read(root)
    of_one = [row for row in history.table("choices").to_pylist() if row["decision_id"] == "b0-1"]
    means = [0.0, 0.4, 0.3, None, 0.2]
    told = [row | {"mean": mean, "is_eligible": mean is not None} for row, mean in zip(of_one, means)]
    told[1]["price"] = 0.15
    decided = [row for row in history.table("decisions").to_pylist() if row["decision_id"] == "b0-1"]
    history.commit(
        replace={
            "choices": tables.CHOICES.build(told),
            "decisions": tables.DECISIONS.build([decided[0] | {"treatment_id": "none", "channel": "none"}]),
        }
    )
    app = show(root, "decision", customer="c1", decision="b0-1")
    assert not app.exception
    names = [told[i]["treatment_id"] for i in (2, 1, 4, 0, 3)]
    assert app.dataframe[0].value["treatment_id"].tolist() == names
    outcomes = next(frame.value for frame in app.dataframe if "delivery" in frame.value.columns)
    assert outcomes["delivery"].isna().all()
    # What answers stands first, and an outcome is known by the date and treatment of its decision.
    assert list(app.dataframe[0].value)[:4] == ["treatment_id", "mean", "price", "p_action"]
    assert list(outcomes)[:3] == ["decided_at", "treatment_id", "reward"]
    assert outcomes["treatment_id"].tolist() == ["none"]


def decided(root: Path, policy_id: str) -> None:
    """Let a policy have given the first customer a repair."""
    history = History.read(root)
    rows = history.table("decisions").to_pylist()
    given = {"policy_id": policy_id, "treatment_id": "repair_push"}
    changed = [row | given if row["decision_id"] == "b1-1" else row for row in rows]
    history.commit(replace={"decisions": tables.DECISIONS.build(changed)})


def test_where_no_model_decided_the_reasons_say_so(show, workspace, words) -> None:
    app = show(workspace, "decision", customer="c1")
    assert not app.exception
    assert say("why.no_model") in words(app)


def test_without_the_model_that_decided_the_reasons_name_the_store_asked(
    show, fresh, words, monkeypatch
) -> None:
    def missing(_name: str, model_id: str) -> None:
        raise MissingError(f"{model_id} is not registered")

    root = fresh()
    decided(root, "thompson@older")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@models.shop:5000")
    monkeypatch.setattr(why, "_load", missing)
    app = show(root, "decision", customer="c1", decision="b1-1")
    assert not app.exception
    text = words(app)
    assert "The model that decided, older, cannot be read from `http://models.shop:5000`" in text
    assert "secret" not in text


def test_the_reasons_are_of_the_effect_first_with_units(show, fresh, words, monkeypatch) -> None:
    root = fresh()
    decided(root, "thompson@older")
    names = ("f_days_since_visit", "f_can_email", "f_margin_28", "f_a_acquisition_store")
    found = explain.Reasons(
        names, np.array([198.7, 1.0, 12.5, 1.0]), np.array([-0.5, 0.25, 0.0, 3.0]),
        0.2, 0.05, 0.02, np.array([0.015, -0.005, 0.0, 0.01]), 0.01,
    )  # fmt: skip
    wanted = []
    monkeypatch.setattr(why, "_load", lambda _name, model_id: wanted.append(model_id) or "a scorer")
    monkeypatch.setattr(explain, "reasons", lambda _scorer, _example: found)
    app = show(root, "decision", customer="c1", decision="b1-1")
    assert not app.exception
    text = words(app).replace("\\", "")
    assert wanted == ["older"]  # whatever the champion is now
    assert "chance to respond by **+5.00 points**, and a usual customer's by +2.00 points" in text
    assert "days since visit: **199 days** raises it (+1.50 points)" in text
    (visit, _) = [one for one in app.markdown if "days since visit" in one.value]
    assert visit.help == "since the last visit"  # the definition is there for who asks
    assert "chance to respond without contact: **20.0%** raises it (+1.00 points)" in text
    assert "can email: **yes** lowers it (−0.50 points)" in text
    assert text.index("+1.50 points") < text.index("**199 days** lowers it (−0.500)")
    assert "store" not in text[text.index("The model expects") : text.index("**199 days** lowers")]


def test_chances_that_limits_made_uneven_are_explained_where_a_draw_was_even(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    even = "drawn evenly among 5 eligible, before limits"
    rows = [
        row | ({"reason": even} if row["decision_id"] in ("b1-1", "b2-1") else {})
        for row in history.table("decisions").to_pylist()
    ]
    thinned = {"none": 0.8}
    choices = [
        row | ({"p_action": thinned.get(row["treatment_id"], 0.05)} if row["decision_id"] == "b1-1" else {})
        for row in history.table("choices").to_pylist()
    ]
    history.commit(
        replace={"decisions": tables.DECISIONS.build(rows), "choices": tables.CHOICES.build(choices)}
    )
    told = "All 5 candidates began with the same chance, 20.0%. Limits then took chance from contacts"
    assert told in words(show(root, "decision", customer="c1", decision="b1-1"))
    assert told not in words(show(root, "decision", customer="c1", decision="b2-1"))
    spanish = words(show(root, "decision", customer="c1", decision="b1-1", lang="es")).replace("\\", "")
    assert "sorteado por igual entre 5 elegibles, antes de los límites" in spanish
