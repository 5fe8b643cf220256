"""Every page: shows its content, on an empty workspace, on a broken one, and after a change of a filter."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app import access, data, report, why
from app.data import STEP
from app.messages import say
from app.messages import words as catalogue
from nba import settings, tables
from nba.experiments import planning
from nba.history import History
from nba.models import explain
from nba.serving import whatif
from pipelines import overview, scenario
from tests.app.conftest import START

GUARD = """
[[experiment.metrics]]
name = "margin"
numerator = "margin"
role = "primary"

[[experiment.metrics]]
name = "unsubscribes"
numerator = "unsubscribes"
role = "guardrail"
is_good = false
margin = 0.02
"""
PAGES = {
    "overview": ("summary_batches", "Incremental value of policy"),
    "experiments": ("summary_effects", "Each arm against holdout"),
    "attribution": ("summary_credits", say("attribution.credits")),
    "clv": ("summary_clv", say("clv.mean")),
    "policy": ("summary_mix", say("policy.mix")),
    "decision": ("decisions", say("decision.candidates")),
    "value": ("value_finder", "60 of 100 have nothing worth offering"),
    "models": ("summary_models", say("models.board")),
    "health": ("summary_tables", say("health.tables")),
}


def figures(app: AppTest) -> int:
    """How many figures a page shows."""
    return len(app.get("plotly_chart"))


@pytest.mark.parametrize("page", PAGES)
def test_page_shows_its_content(show, workspace, page, words) -> None:
    app = show(workspace, page)
    assert not app.exception
    assert not app.error
    assert PAGES[page][1] in words(app)
    assert figures(app)
    assert app.dataframe


@pytest.mark.parametrize("page", PAGES)
def test_page_on_an_empty_workspace_names_the_command(show, fresh, page, words) -> None:
    root = fresh(filled=False)
    app = show(root, page)
    assert not app.exception
    assert not app.error
    assert say("empty.title") in words(app)
    assert f"nba {STEP.get(page, '')}" in words(app)
    assert str(root) in words(app)


@pytest.mark.parametrize("page", PAGES)
def test_page_survives_a_broken_table(show, fresh, page, words) -> None:
    root = fresh()
    for path in History.read(root).paths(PAGES[page][0]):
        Path(path).write_bytes(b"not parquet")
    app = show(root, page)
    assert not app.exception
    assert len(app.error) == 1
    assert "cannot be read" in app.error[0].value
    assert "How to mend it" in words(app)


def test_page_survives_a_broken_list_of_tables_and_broken_settings(show, fresh) -> None:
    root = fresh(filled=False)
    (root / "tables").mkdir()
    (root / "tables" / "history.json").write_text("{", encoding="utf-8")
    app = show(root)
    assert not app.exception
    assert "cannot be read" in app.error[0].value
    (root / "nba.toml").write_text("[workspace]\nnam = 1", encoding="utf-8")
    app.run()
    assert not app.exception
    assert "unknown key" in app.error[0].value


def test_no_workspace_says_how_to_make_one(show, tmp_path, words) -> None:
    app = show(tmp_path / "nowhere")
    assert not app.exception
    assert "nba demo" in words(app)


def test_overview_tells_the_tables_numbers(show, workspace, words) -> None:
    app = show(workspace)
    history = History.read(workspace)
    (row,) = history.sql(
        "from effects where metric = 'margin' and arm = 'policy' and segment = 'all'"
    ).to_pylist()
    shown = {m.label: m.value for m in app.metric}
    assert shown["Incremental value of policy"] == f"{row['effect'] * row['n']:+,.2f} EUR"
    text = words(app)
    # No end is planned, so the headline has the interval by which the verdict goes.
    low, high = (row[name] * row["n"] for name in ("always_lower", "always_upper"))
    assert f"95% interval valid at every look: {low:+,.2f} EUR to {high:+,.2f} EUR" in text
    assert "(95% interval valid at every look +1.00 EUR to +4.00 EUR)" in text
    contacts = history.sql("select count(*) from decisions where treatment_id <> 'none'")[0][0].as_py()
    cost = history.sql("select sum(cost) from touches")[0][0].as_py()
    assert shown["Contacts decided"] == f"{contacts:,}"
    assert shown["Spent on contacts"] == f"{cost:,.2f} EUR"
    assert shown["Batches"] == "4"
    assert "3 of 4 batches are matured" in text
    assert "One more **SMS slot**" in text
    assert "1 of 4 batches still have open reward windows" in text


def test_experiment_says_what_is_known_and_its_verdict(show, workspace, words) -> None:
    text = words(show(workspace, "experiments"))
    assert "**policy**: 8\\.50 EUR against" not in text  # our own numbers are not escaped
    assert "**policy**: 8.50 EUR against 6.00 EUR in holdout: a difference of **+2.50 EUR**" in text
    assert "(95% interval valid at every look +1.00 EUR to +4.00 EUR), that is +41.7%;" in text
    assert "240 against 80 customers" in text
    assert "**policy** against holdout: **Ship it**" in text
    assert "**random** against holdout: **Keep running**" in text


def test_the_answer_stands_before_what_explains_it(show, fresh) -> None:
    root = fresh()
    with (root / "nba.toml").open("a", encoding="utf-8") as file:
        file.write(
            '\n[[experiments]]\nexperiment_id = "next"\nsalt = "next"\ncontrol = "old"\n'
            "starts_at = 2026-12-07T06:00:00Z\n"
            'arms = [{ name = "old", share = 0.5, policy = "champion" },'
            ' { name = "newer", share = 0.5, policy = "random" }]\n'
        )
    app = show(root, "experiments")
    assert not app.exception
    listed = app.dataframe[0].value
    assert list(listed)[:5] == ["experiment_id", "arm", "verdict", "state", "days_left"]
    assert listed.set_index("arm")["state"].to_dict() == {
        "policy": "running", "random": "running", "newer": "planned",
    }  # fmt: skip
    effects = next(frame.value for frame in app.dataframe if "relative_effect" in frame.value.columns)
    assert list(effects)[:5] == ["arm", "judged_effect", "judged_lower", "judged_upper", "relative_effect"]
    assert list(effects)[-4:] == ["mean", "mean_control", "n", "n_control"]
    ranked = show(root, "policy", view="arbitration").dataframe[0].value
    assert list(ranked)[:5] == ["treatment_id", "priority", "uplift", "value", "price"]


def planned(root: Path, days: int) -> None:
    """Give the experiment a planned end so many days after its newest look."""
    history = History.read(root)
    rows = [
        row | {"ends_at": row["matured_at"] + timedelta(days=days)}
        for row in history.table("readouts").to_pylist()
    ]
    history.commit(replace={"readouts": tables.READOUTS.build(rows)})


@pytest.mark.parametrize("left", [0, 14])
def test_with_a_planned_end_page_list_and_report_have_the_interval_of_the_look(
    show, fresh, words, left
) -> None:
    root = fresh()
    planned(root, left)
    app = show(root, "experiments")
    text = "(95% interval valid at the planned looks +1.10 EUR to +3.90 EUR), that is +41.7%;"
    assert text in words(app)
    assert "These intervals hold at the planned looks together" in words(app)
    assert "at which a band leaves zero, never between looks" in words(app)
    assert not any("p_value" in frame.value.columns for frame in app.dataframe)
    listed = app.dataframe[0].value.set_index("arm")
    assert listed.loc["policy", ["judged_lower", "judged_upper"]].tolist() == pytest.approx([1.1, 3.9])
    made = report.build(data.read(root), "policy").split("<h2>")[1]
    assert "<td>1.10</td><td>3.90</td>" in made
    assert "never between looks" in made
    assert set(app.dataframe[0].value["state"]) == {"running" if left else "ended"}
    # What the verdict does not go by has the interval of one reading once the end is reached.
    app.segmented_control(key="metric").set_value("orders").run()
    assert any("p_value" in frame.value.columns for frame in app.dataframe) == (left == 0)


def test_between_planned_looks_the_page_says_of_when_the_effect_is(show, fresh, words) -> None:
    root = fresh()
    planned(root, 14)
    history = History.read(root)
    looks = [
        row | {"looked_at": row["looked_at"] - timedelta(days=3)}
        for row in history.table("looks").to_pylist()
    ]
    history.commit(replace={"looks": tables.LOOKS.build(looks)})
    assert "Difference and interval are those of that look" in words(show(root, "experiments"))


def test_small_p_values_are_told_as_smaller(show, fresh) -> None:
    root = fresh()
    planned(root, 0)
    history = History.read(root)
    rows = [row | {"p_value": 1e-9} for row in history.table("summary_effects").to_pylist()]
    history.commit(replace={"summary_effects": tables.SUMMARY_EFFECTS.build(rows)})
    app = show(root, "experiments", metric="orders")
    told = next(frame.value for frame in app.dataframe if "p_value" in frame.value.columns)
    assert set(told["p_value"]) == {"< 0.001"}
    assert "&lt; 0.001" in report.build(data.read(root), "policy")


def test_guardrails_are_shown_on_the_days_of_their_limit(show, fresh, words) -> None:
    root = fresh()
    with (root / "nba.toml").open("a", encoding="utf-8") as file:
        file.write(GUARD)
    history = History.read(root)
    look = history.table("looks").to_pylist()[-1] | {"metric": "unsubscribes", "scale": 0.5, "arm": "policy"}
    looks = [look | {"effect": 0.02, "lower": 0.01, "upper": 0.03}]
    looks.append(look | {"arm": "random", "effect": 0.03, "lower": 0.01, "upper": 0.05})
    history.commit(append={"looks": tables.LOOKS.build(looks)})
    app = show(root, "experiments")
    assert not app.exception
    assert "by at most 2 points per customer in 28 days" in words(app)
    shown = next(f.value for f in app.dataframe if "standing" in f.value.columns).set_index("arm")
    assert shown["standing"].to_dict() == {"policy": "held", "random": "not yet shown"}
    # In points of a hundred, as the titles say.
    assert shown.loc["policy", ["effect", "always_lower", "always_upper"]].tolist() == [1.0, 0.5, 1.5]
    assert (shown["limit"] == 2.0).all()
    assert (shown["days"] == 28).all()
    text = report.build(data.read(root), "policy")
    assert "Effect in these days (points)" in text
    assert "<td class=text>not yet shown</td>" in text


def test_changing_the_metric_changes_sentence_and_table(show, workspace, words) -> None:
    app = show(workspace, "experiments")
    app.segmented_control(key="metric").set_value("orders").run()
    assert not app.exception
    assert "**policy**: 0.425 against 0.300 in holdout" in words(app)
    assert "EUR" not in next(m.value for m in app.markdown if m.value.startswith("**policy**: "))


def test_the_planner_tells_what_the_library_says(show, workspace) -> None:
    app = show(workspace, "experiments", view="plan")
    (row,) = (
        History.read(workspace).sql("from summary_spreads where metric = 'margin' and days = 28").to_pylist()
    )
    n = int(row["n"] * 0.6)  # the champion decides 60% of the customers
    mde = planning.detectable(row["sd_adjusted"], n * 0.9, n * 0.1)
    shown = {m.label: m.value for m in app.metric}
    assert shown["Smallest visible effect"] == f"{mde:.2f} EUR"
    assert shown["Customers in the new arm"] == f"{n * 0.9:,.0f}"
    app.slider(key="share").set_value(50).run()
    assert not app.exception
    half = planning.detectable(row["sd_adjusted"], n * 0.5, n * 0.5)
    assert {m.label: m.value for m in app.metric}["Smallest visible effect"] == f"{half:.2f} EUR"


def test_the_planner_refuses_no_effect_and_names_that_are_no_names(show, workspace, words) -> None:
    app = show(workspace, "experiments", view="plan")
    app.text_input(key="trial").set_value("bad name/../x").run()
    assert not app.exception
    assert say("planner.bad_name") in words(app)
    assert not app.get("download_button") or all(
        "declaration" not in button.proto.id for button in app.get("download_button")
    )
    app.number_input(key="effect").set_value(0.0).run()
    assert not app.exception
    assert say("planner.no_effect") in words(app)


def test_the_planner_declares_what_the_settings_accept(show, workspace, tmp_path) -> None:
    app = show(workspace, "experiments", view="plan")
    app.text_input(key="trial").set_value("offers").run()
    assert not app.exception
    text = app.code[0].value
    root = shutil.copytree(workspace, tmp_path / "declared")
    with (root / "nba.toml").open("a", encoding="utf-8") as file:
        file.write("\n" + text)
    (trial,) = settings.read(root).experiments
    assert (trial.experiment_id, trial.control) == ("offers", "offers_control")
    assert [arm.share for arm in trial.arms] == [0.1, 0.9]
    app = show(root, "experiments", view="plan")
    app.text_input(key="trial").set_value("offers").run()
    assert "cannot be declared" in app.error[0].value  # the name and the place are taken


def test_the_report_of_an_experiment_needs_nothing_else(workspace) -> None:
    text = report.build(data.read(workspace), "policy")
    assert "Ship it" in text
    assert "2.50" in text
    assert "Effect (EUR)" in text
    assert "EUR)" not in text.split("<h2>Orders")[1].split("<h2>")[0].split("<table>")[1]
    assert say("experiments.srm") in text
    assert "src=" not in text.split("<script")[0]
    assert 'src="http' not in text


def test_changing_channel_to_action_and_arm(show, workspace) -> None:
    app = show(workspace, "policy")
    assert set(app.dataframe[0].value["arm"]) == {"policy"}
    app.segmented_control(key="by").set_value("action_id").run()
    app.selectbox(key="arm").set_value("all").run()
    assert not app.exception
    assert len(set(app.dataframe[0].value["arm"])) == 3


def test_policy_tells_the_tables_numbers(show, workspace, words) -> None:
    history = History.read(workspace)
    app = show(workspace, "policy", view="arbitration")
    shown = app.dataframe[0].value.set_index("treatment_id")
    last = "batch_id = 'b3' and coalesce(arm, '') = 'policy'"
    chosen = history.sql(f"select treatment_id, count(*) as n from decisions where {last} group by 1")
    expected = {row["treatment_id"]: row["n"] for row in chosen.to_pylist()}
    assert shown["n_chosen"].to_dict() == {k: v for k, v in expected.items() if k != "none"}
    assert shown["value"].tolist() == pytest.approx([0.1] * 4)
    app.segmented_control(key="view").set_value("prices").run()
    assert "One more **SMS slot** for policy would have been worth about **0.40 EUR**" in words(app)
    app.segmented_control(key="view").set_value("values").run()
    assert app.dataframe[0].value["value"].tolist() == [3.1, 3.1, 2.2, 2.2]


def test_the_scenario_planner_tells_what_the_library_says(show, workspace, words) -> None:
    app = show(workspace, "policy", view="scenario")
    assert not app.error
    shown = {m.label: m.value for m in app.metric}
    before = float(shown["Contacts"].replace(",", ""))
    assert f"now {shown['Contacts']}" in words(app)
    app.number_input(key="capacity_sms").set_value(0).run()
    assert not app.exception
    after = {m.label: m.value for m in app.metric}
    assert float(after["Contacts"].replace(",", "")) < before
    assert "--capacity sms=0" in words(app)
    config = settings.read(workspace)
    catalog = settings.read_catalog(workspace, config)
    sample = History.read(workspace).table("summary_candidates")
    assert 0 < sample["sampled"][0].as_py() < 1  # the holdout is no part of it
    # The sample is everybody but the holdout: the page tells what the whole batch comes to.
    whole = scenario.read(History.read(workspace), catalog, config, "b3")
    changed, now = whatif.changed(whole, catalog, config, whatif.Changes({"sms": 0}))
    exact = whatif.solve("what if", changed, *now, "")
    assert after["Expected value"] == f"{exact[0]['value']:.2f} EUR"
    assert after["Contacts"] == f"{exact[0]['contacts']:,.0f}"
    previewed = whatif.preview(whatif.sample_of(sample, catalog), catalog, config, whatif.Changes({"sms": 0}))
    before, exact = previewed[: len(exact)], whatif.solve(whatif.AS_DECIDED, whole, catalog, config, "")
    for row, of_whole in zip(before, exact, strict=True):
        assert row == pytest.approx(of_whole)


def test_links_repeat_a_scenario_a_plan_and_what_a_decision_shows(show, workspace, words) -> None:
    app = show(workspace, "policy", view="scenario")
    app.number_input(key="capacity_sms").set_value(5).run()
    app.slider(key="lever_coffee").set_value(1.5).run()
    app.multiselect(key="stop").set_value(["repair"]).run()
    assert not app.exception
    link = dict(app.query_params)
    assert link["capacity_sms"] == "5"
    assert "lever_repair" not in link  # only what was changed
    again = show(workspace, "policy", **link)
    assert not again.exception
    assert "--capacity sms=5 --lever coffee=1.5 --stop repair" in words(again)
    assert [m.value for m in again.metric] == [m.value for m in app.metric]
    again.number_input(key="capacity_sms").set_value(60).run()
    assert "capacity_sms" not in again.query_params
    wild = show(workspace, "policy", view="scenario", lever_coffee="99", stop="nothing", capacity_sms="x")
    assert wild.slider(key="lever_coffee").value == 3.0
    assert wild.multiselect(key="stop").value == []
    assert wild.number_input(key="capacity_sms").value == 60

    plan = show(workspace, "experiments", view="plan")
    plan.slider(key="share").set_value(25).run()
    plan.number_input(key="effect").set_value(0.5).run()
    plan.text_input(key="trial").set_value("spring").run()
    again = show(workspace, "experiments", **dict(plan.query_params))
    assert not again.exception
    assert [m.value for m in again.metric] == [m.value for m in plan.metric]
    assert again.code[0].value == plan.code[0].value
    assert 'experiment_id = "spring"' in again.code[0].value

    shown = show(workspace, "decision", customer="c1")
    shown.toggle(key="all_outcomes").set_value(False).run()
    assert shown.query_params["all_outcomes"] == "0"
    again = show(workspace, "decision", **dict(shown.query_params))
    assert not again.toggle(key="all_outcomes").value


def test_a_sample_that_does_not_say_for_whom_it_stands_asks_for_a_new_one(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    old = history.table("summary_candidates").drop_columns(["stands_for", "spent_today"])
    history.commit(replace={"summary_candidates": tables.SUMMARY_CANDIDATES.conform(old)})
    app = show(root, "policy", view="scenario")
    assert "earlier version gathered it" in app.error[0].value
    assert "nba overview" in words(app)


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


def test_without_the_model_that_decided_the_reasons_say_so(show, workspace, words) -> None:
    app = show(workspace, "decision", customer="c1")
    app.button(key="why").click().run()
    assert not app.exception
    assert say("why.gone") in words(app)


def test_the_reasons_are_of_the_effect_first_with_units(show, fresh, words, monkeypatch) -> None:
    root = fresh()
    history = History.read(root)
    rows = history.table("decisions").to_pylist()
    (asked,) = [row for row in rows if row["decision_id"] == "b1-1"]
    given = {"policy_id": "thompson@older", "treatment_id": "repair_push"}
    changed = [row | given if row is asked else row for row in rows]
    history.commit(replace={"decisions": tables.DECISIONS.build(changed)})
    names = ("f_days_since_visit", "f_can_email", "f_margin_28", "f_a_acquisition_store")
    found = explain.Reasons(
        names, np.array([198.7, 1.0, 12.5, 1.0]), np.array([-0.5, 0.25, 0.0, 3.0]),
        0.2, 0.05, 0.02, np.array([0.015, -0.005, 0.0, 0.01]), 0.01,
    )  # fmt: skip
    wanted = []
    monkeypatch.setattr(why, "_decider", lambda _reader, model_id: wanted.append(model_id) or "a scorer")
    monkeypatch.setattr(explain, "reasons", lambda _scorer, _example: found)
    app = show(root, "decision", customer="c1", decision="b1-1")
    app.button(key="why").click().run()
    assert not app.exception
    text = words(app).replace("\\", "")
    assert wanted == ["older"]  # whatever the champion is now
    assert "chance to respond by **+5.00 points**, and a usual customer's by +2.00 points" in text
    assert "since the last visit: **199 days** raises it (+1.50 points)" in text
    assert "chance to respond without contact: **20.0%** raises it (+1.00 points)" in text
    assert "no later opt-out on it: **yes** lowers it (−0.50 points)" in text
    assert text.index("+1.50 points") < text.index("**199 days** lowers it (−0.500)")
    assert "store" not in text[text.index("The model expects") : text.index("**199 days** lowers")]


def test_personal_data_are_shown_only_to_the_role(show, fresh, words) -> None:
    root = fresh()
    hidden = show(root, "decision", customer="c1")
    features = hidden.dataframe[-1].value
    assert "CRM\\-1" not in words(hidden)
    assert "acquisition store" not in features["feature"].tolist()
    with (root / "nba.toml").open("a", encoding="utf-8") as file:
        file.write('\n[app]\nopen_role = "approver"\n')
    shown = show(root, "decision", customer="c1")
    assert "CRM\\-1" in words(shown)
    assert "acquisition store" in shown.dataframe[-1].value["feature"].tolist()


def test_downloads_hold_personal_data_only_for_the_role(show, fresh, monkeypatch) -> None:
    root, saved = fresh(), {}

    def offered(label: str, found: Callable[[], bytes], name: str, *rest: object, **more: object) -> None:
        saved[name] = found().decode() if callable(found) else found

    monkeypatch.setattr(st, "download_button", offered)
    show(root, "decision", customer="c1")
    assert "decided_at" in saved["earlier.csv"]
    assert not [name for name, text in saved.items() if "external_id" in text or "CRM-1" in text]
    with (root / "nba.toml").open("a", encoding="utf-8") as file:
        file.write('\n[app]\nopen_role = "approver"\n')
    show(root, "decision", customer="c1")
    assert "CRM-1" in saved["earlier.csv"]


def test_who_must_sign_in_sees_nothing_before(show, fresh, words) -> None:
    root = fresh()
    with (root / "nba.toml").open("a", encoding="utf-8") as file:
        file.write("\n[app]\nsign_in = true\n")
    app = show(root)
    assert not app.exception
    assert say("access.unconfigured") in words(app)
    assert not app.metric
    assert not app.dataframe


@pytest.mark.parametrize(
    ("user", "said", "is_in", "sees"),
    [
        ({}, "access.asked", False, False),
        ({"is_logged_in": True, "email": "ana@shop.example"}, "", True, True),
        ({"is_logged_in": True, "email": "joe@shop.example"}, "", True, False),
        ({"is_logged_in": True, "email": "joe@other.example"}, "access.refused", False, False),
        (
            {"is_logged_in": True, "email": "ana@shop.example", "email_verified": False},
            "access.refused",
            False,
            False,
        ),
        (
            {"is_logged_in": True, "email": "ana@shop.example", "email_verified": "false"},
            "access.refused",
            False,
            False,
        ),
        ({"is_logged_in": True, "email": "ana@shop.example", "email_verified": True}, "", True, True),
        ({"is_logged_in": True}, "access.refused", False, False),
    ],
)
def test_whoever_signs_in_has_the_role_of_the_address(
    show, fresh, monkeypatch, user, said, is_in, sees, words
) -> None:
    root = fresh()
    with (root / "nba.toml").open("a", encoding="utf-8") as file:
        file.write('\n[app]\nsign_in = true\nviewers = ["@shop.example"]\napprovers = ["ana@shop.example"]\n')
    monkeypatch.setattr(access, "_is_configured", lambda: True)
    monkeypatch.setattr("streamlit.user", user)
    app = show(root, "overview" if not is_in else "decision", customer="c1")
    assert not app.exception
    assert bool(app.dataframe) == is_in
    assert ("CRM\\-1" in words(app)) == sees
    if said:
        assert say(said, who="X").split("X")[-1] in words(app)


def test_only_an_approver_is_told_how_to_approve(show, fresh, words) -> None:
    root = fresh()
    row = {"check": "not rolled back before", "status": "pass", "note": "", "asked_at": START}
    evidence = tables.PROMOTION_EVIDENCE.build([row | {"champion": 1, "challenger": 2}])
    History.read(root).commit(replace={"promotion_evidence": evidence})
    assert "You may approve it" not in words(show(root, "policy", view="values"))
    with (root / "nba.toml").open("a", encoding="utf-8") as file:
        file.write('\n[app]\nopen_role = "approver"\n')
    assert "You may approve it" in words(show(root, "policy", view="values"))


def test_a_channel_has_one_colour_in_every_language(show, workspace) -> None:
    colours = []
    for code in ("en", "es"):
        (drawn,) = show(workspace, "attribution", lang=code).get("plotly_chart")
        colours.append([bar["marker"]["color"] for bar in json.loads(drawn.proto.spec)["data"]])
    assert colours[0] == colours[1]


def test_nobody_at_risk_is_said(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    row = {"clv_at_risk": 0.0, "p_alive": 1.0, "n_repeat": 1, "quiet_days": 9.0}
    rows = [row | {"customer_id": f"c{i}", "clv": 10.0 + i} for i in range(3)]
    history.commit(replace={"summary_at_risk": tables.SUMMARY_AT_RISK.build(rows)})
    app = show(root, "clv", view="risk")
    assert say("clv.nobody_at_risk") in [info.value for info in app.info]
    assert app.dataframe[0].value["customer_id"].tolist() == ["c2", "c1", "c0"]  # the most valuable first
    assert say("clv.nobody_at_risk") not in words(show(root, "clv", view="worth"))


def test_data_health_tells_the_tables_numbers(show, workspace) -> None:
    app = show(workspace, "health")
    shown = {m.label: m.value for m in app.metric}
    assert shown["Orders"] == "200"
    frames = [frame.value for frame in app.dataframe]
    sources = next(frame for frame in frames if "rows_kept" in frame.columns)
    assert sources["rows_kept"].tolist() == [397]
    refused = next(frame for frame in frames if "row_number" in frame.columns)
    assert (refused["n"].item(), refused["row_number"].item()) == (3, 3)
    app.segmented_control(key="view").set_value("people").run()
    assert not app.exception
    assert {m.label: m.value for m in app.metric}["Merged so far"] == "7"
    frames = [frame.value for frame in app.dataframe]
    (kind,) = next(f for f in frames if "n_junk" in f.columns).to_dict("records")
    assert (kind["identifier_kind"], kind["n"], kind["share"], kind["n_junk"], kind["n_cut"]) == (
        "email", 80, 0.75, 4, 2,
    )  # fmt: skip
    assert kind["note"] == "ab12 (9), cd34 (5)"
    reach = next(frame for frame in frames if "n_reachable" in frame.columns).set_index("channel")
    assert reach["n_reachable"].to_dict() == {"E-mail": 400, "SMS": 200, "Push": 100, "Call": 0}
    assert reach["share"]["SMS"] == 0.5


def test_nights_and_their_checks_are_shown_and_a_failed_one_is_urgent(show, fresh, recorded, words) -> None:
    root = fresh()
    app = show(root, "health", view="runs")
    assert "**1** of 2 checks need a look" in words(app)
    assert "did all 2 steps in 5 s" in words(app)
    checks, steps = (frame.value for frame in app.dataframe)
    assert checks["value"].tolist() == [9.5, 1.0]
    assert steps["note"].tolist() == ["rows: 397", ""]
    assert "failed" not in words(show(root))
    recorded(root, "nightly-20260331T060000", "failed")
    app = show(root, "health", view="runs")
    assert "failed at **Deciding**" in words(app)
    assert "no customer can be decided Mend it." in app.dataframe[1].value["note"].tolist()
    assert "failed at **Deciding**" in words(show(root))
    (root / "runs" / "nightly-20260401T060000.json").write_text("{", encoding="utf-8")
    app = show(root, "health", view="runs")
    assert not app.exception
    assert "the record cannot be read" in app.dataframe[1].value["note"][0]


def test_a_model_card_is_shown_and_nothing_in_it_acts(show, workspace) -> None:
    app = show(workspace, "models", view="card")
    assert not app.exception
    (card,) = (m.value for m in app.markdown if m.value.startswith("#### Model"))
    assert "| \\[x\\](http://y) |" in card
    assert "response rate" not in card  # naive where a policy chose, in cards of earlier versions
    assert "0.0777" not in card


def test_models_tell_the_tables_numbers(show, workspace, words) -> None:
    app = show(workspace, "models")
    shown = {m.label: m.value for m in app.metric}
    assert shown["Sorting responders (AUC)"] == "0.710"
    assert shown["Decisions learnt from"] == "900"
    assert app.dataframe[0].value["auc"].tolist() == [0.71, 0.64]
    assert "**repair\\_push** rests on 12 closed decisions" in words(app)
    for view, count in (("quality", 3), ("why", 2), ("drift", 1)):
        app.segmented_control(key="view").set_value(view).run()
        assert not app.exception
        assert not app.error
        assert figures(app) == count
    assert "should be trained again: **1**" in words(app)


def test_lifetime_value_tells_the_tables_numbers(show, workspace) -> None:
    history = History.read(workspace)
    app = show(workspace, "clv")
    (mean,) = history.sql("select avg(clv) as mean from clv")["mean"].to_pylist()
    assert {m.label: m.value for m in app.metric}["Mean per customer"] == f"{mean:.2f} EUR"
    app.segmented_control(key="view").set_value("groups").run()
    assert app.dataframe[0].value["clv"].tolist() == [14.5, 9.0]  # the most valuable first
    for view in ("alive", "check"):
        app.segmented_control(key="view").set_value(view).run()
        assert not app.exception
        assert not app.error
        assert figures(app) == 1


def test_changing_the_method_and_the_part_filters_credits(show, workspace) -> None:
    app = show(workspace, "attribution")
    app.segmented_control(key="method").set_value("shapley").run()
    assert set(app.dataframe[-1].value["method"]) == {"shapley"}
    whole = app.dataframe[-1].value["credit"].sum()
    assert whole == pytest.approx(30 * 2 * 8.0)
    app.selectbox(key="audience").set_value("acquisition=store").run()
    assert not app.exception
    assert app.dataframe[-1].value["credit"].sum() == pytest.approx(whole / 2)


def test_where_credit_and_cause_disagree_the_page_says_so(show, workspace, words) -> None:
    app = show(workspace, "attribution", view="cause")
    assert "Credits that disagree with what contact caused: 1." in app.warning[0].value
    assert "credits E\\-mail with 300.00 EUR; contact caused 120.00 EUR" in words(app)
    caused = next(frame.value for frame in app.dataframe if "ratio" in frame.value.columns)
    assert caused["incremental"].tolist() == [120.0, 120.0]  # of the whole period only


def test_switching_the_workspace_and_back(show, workspace, words) -> None:
    app = show(workspace)
    app.selectbox(key="workspace").set_value("bare").run()
    assert not app.exception
    assert say("empty.title") in words(app)
    app.selectbox(key="workspace").set_value("shop").run()
    assert "Incremental value of policy" in words(app)


def test_a_link_names_a_workspace_beside_the_first_and_no_other(show, workspace, words) -> None:
    assert say("empty.title") in words(show(workspace, workspace="bare"))
    elsewhere = show(workspace, workspace="../../etc")
    assert not elsewhere.exception
    assert elsewhere.selectbox(key="workspace").value == "shop"


def test_attribution_says_which_contacts_it_cannot_judge(show, fresh, words) -> None:
    root = fresh()
    row = {"level": "channel", "item": "email", "period": "all", "n": 9, "source": "combined"}
    left = "1,216 of 2,637 contacts had too little chance of none"
    rows = [row | {"cost": 5.0, "spent": 12.5, "margin": 9.0, "roas": 1.8, "reason": left}]
    rows.append(
        row | {"level": "all", "item": "all", "cost": 40.0, "spent": 40.0, "margin": 99.0, "reason": ""}
    )
    History.read(root).commit(replace={"incremental": tables.INCREMENTAL.build(rows)})
    app = show(root, "attribution", view="cause")
    assert not app.exception
    assert "E-mail: 1,216 of 2,637 contacts" in words(app).replace("\\", "")
    returns = next(f.value for f in app.dataframe if "spent" in f.value.columns).set_index("item")
    assert returns.loc["E-mail", ["spent", "cost"]].tolist() == [12.5, 5.0]
    assert returns.loc["All", "margin"] == 99.0
    spanish = words(show(root, "attribution", view="cause", lang="es")).replace("\\", "")
    assert "Correo: 1.216 de 2.637 contactos tenían" in spanish


def test_policy_and_attribution_lead_with_numbers(show, fresh, words) -> None:
    root = fresh()
    row = {"level": "all", "item": "all", "n": 9, "source": "combined", "roas": 2.5, "margin": 99.0}
    rows = [row | {"period": "all", "margin_lower": 50.0, "margin_upper": 148.0, "reason": ""}]
    history = History.read(root).commit(replace={"incremental": tables.INCREMENTAL.build(rows)})
    app = show(root, "attribution")
    assert {m.label: m.value for m in app.metric}["Margin all contact caused"] == "99.00 EUR"
    assert {m.label: m.value for m in app.metric}["Return on cost"] == "2.50"
    assert "50.00 EUR to 148.00 EUR" in words(app)
    app.selectbox(key="audience").set_value("acquisition=store").run()
    assert not app.metric  # what contact caused is known of all customers only
    (newest,) = history.sql("from summary_batches where arm = 'policy' and batch_id = 'b3'").to_pylist()
    shown = {m.label: m.value for m in show(root, "policy").metric}
    assert shown["Contacts of the last batch"] == str(newest["n_contacts"])


def test_a_changed_workspace_says_that_the_page_is_old(show, fresh, words) -> None:
    root = fresh()
    assert "has changed since" not in words(show(root))
    history = History.read(root)
    history = history.commit(append={"scenarios": tables.SCENARIOS.empty()})
    assert "has changed since" not in words(show(root))  # no summary is made from scenarios
    history.commit(replace={"effects": history.table("effects")})
    assert words(show(root)).count("has changed since") == 1
    assert words(show(root, "models")).count("has changed since") == 1


def test_uneven_arms_raise_an_alert(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    fault = {"p_srm": 1e-6, "p_traffic": 1e-5, "verdict": "cannot be read", "reason": "arms are uneven."}
    rows = [row | fault for row in history.table("readouts").to_pylist()]
    history.commit(replace={"readouts": tables.READOUTS.build(rows)})
    overview.overview(root, START + timedelta(weeks=4))
    text = words(show(root))
    assert "not as large as planned" in text
    assert "**policy** cannot be read" in text
    app = show(root, "experiments")
    starts = ("Trust no effect", "No: counts", "In policy, treatments were not", "In random, treatments were")
    assert len(app.error) == len(starts)
    assert all(e.value.replace("\\", "").startswith(start) for e, start in zip(app.error, starts))
    made = report.build(data.read(root), "policy")
    assert "<p class=alarm>Trust no effect of this experiment" in made
    assert "(p = &lt; 0.001, valid at every look)" in made


def test_units_and_headline_come_from_the_declaration_not_the_name(show, fresh, words) -> None:
    root = fresh()
    names = {"margin": "earned", "orders": "basket", "unsubscribes": "left"}
    metrics = (
        '{ name = "earned", numerator = "margin", role = "primary" }',
        '{ name = "basket", numerator = "revenue", denominator = "orders" }',
        '{ name = "left", numerator = "unsubscribes" }',
    )
    text = (root / "nba.toml").read_text(encoding="utf-8")
    (root / "nba.toml").write_text(f"{text}metrics = [{', '.join(metrics)}]\n", encoding="utf-8")
    history = History.read(root)
    found = [row | {"metric": names[row["metric"]]} for row in history.table("effects").to_pylist()]
    history.commit(replace={"effects": tables.EFFECTS.build(found)})
    overview.overview(root, START + timedelta(weeks=4))
    assert next(m.value for m in show(root).metric if "value of policy" in m.label) == "+600.00 EUR"
    app = show(root, "experiments", metric="basket")
    assert "a difference of **+0.12 EUR**" in words(app) or "a difference of **+0.13 EUR**" in words(app)
    assert not any("total" in frame.value.columns for frame in app.dataframe)
    assert "No segments are declared" in words(app)
    assert "nba analyze" in words(app)
    assert "points**" in words(show(root, "experiments", metric="left"))
    made = report.build(data.read(root), "policy")
    assert made.count("Over all customers (EUR)") == 1  # of the money that adds up
    assert "<td>600.00</td>" in made


def test_a_damaged_side_table_leaves_the_rest_of_the_page(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    for name, page, sign in (
        ("looks", "experiments", "Ship it"),
        ("summary_alerts", "overview", "Contacts decided"),
    ):
        for path in history.paths(name):
            Path(path).write_bytes(b"no parquet")
        app = show(root, page)
        assert app.error
        assert sign in words(app)
        assert app.dataframe


def test_a_summary_that_lost_a_column_says_so(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    (path,) = history.paths("summary_numbers")
    pq.write_table(pq.read_table(path).drop_columns(["value"]), path)
    assert "summary\\_numbers lacks" in words(show(root))


def test_several_experiments_are_chosen_one_at_a_time(show, fresh) -> None:
    root = fresh()
    history = History.read(root)
    rows = history.table("summary_effects").to_pylist()
    rows += [row | {"experiment_id": "trial"} for row in rows if row["metric"] == "orders"]
    history.commit(replace={"summary_effects": tables.SUMMARY_EFFECTS.build(rows)})
    app = show(root, "experiments")
    assert app.segmented_control(key="metric").value == "margin"
    app.selectbox(key="experiment").set_value("trial").run()
    assert not app.exception
    assert app.segmented_control(key="metric").value == "orders"
    effects = next(frame.value for frame in app.dataframe if "relative_effect" in frame.value.columns)
    assert len(effects) == 2


def test_what_comes_from_data_is_not_markup(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    rows = history.table("summary_effects").to_pylist()
    for row in rows:
        row["arm"] = "[x](javascript:alert(1)) <b>" if row["arm"] == "policy" else row["arm"]
    history.commit(replace={"summary_effects": tables.SUMMARY_EFFECTS.build(rows)})
    app = show(root, "experiments")
    assert not app.exception
    assert "](javascript" not in words(app)


# laws


@pytest.mark.parametrize("page", PAGES)
def test_page_speaks_spanish_only(show, workspace, page, words) -> None:
    app = show(workspace, page, lang="es")
    assert not app.exception
    assert not app.error
    assert app.title[0].value == catalogue("es")[f"page.{page}"]
    english = {
        text for key, text in catalogue("en").items() if text != catalogue("es")[key] and "{" not in text
    }
    assert not {line for line in words(app).splitlines() if line in english}
    for frame in app.dataframe:
        for column in ("reason", "method", "estimand"):
            if column in frame.value.columns:
                assert not set(frame.value[column]) & {"held out", "no consent", "no purchase yet"}
