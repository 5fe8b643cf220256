"""The planner of experiments and of scenarios: what they tell is the library's, and links repeat them."""

import shutil
from datetime import date
from pathlib import Path

import pytest

from app.messages import say
from nba import settings, tables
from nba.experiments import planning
from nba.history import History
from nba.serving import whatif
from pipelines import scenario


def spread(root: Path, sd: float, adjusted: float) -> None:
    """Give every metric one spread."""
    history = History.read(root)
    rows = [row | {"sd": sd, "sd_adjusted": adjusted} for row in history.table("summary_spreads").to_pylist()]
    history.commit(replace={"summary_spreads": tables.SUMMARY_SPREADS.build(rows)})


def test_the_planner_tells_what_the_library_says(show, workspace, numbers) -> None:
    app = show(workspace, "experiments", view="plan")
    (row,) = (
        History.read(workspace).sql("from summary_spreads where metric = 'margin' and days = 28").to_pylist()
    )
    n = int(row["n"] * 0.6)  # the champion decides 60% of the customers
    mde = planning.detectable(row["sd_adjusted"], n * 0.9, n * 0.1)
    shown = numbers(app)
    assert shown["Smallest visible effect"] == f"{mde:.2f} EUR"
    assert shown["Customers in the new arm"] == f"{n * 0.9:,.0f}"
    app.slider(key="share").set_value(50).run()
    assert not app.exception
    half = planning.detectable(row["sd_adjusted"], n * 0.5, n * 0.5)
    assert numbers(app)["Smallest visible effect"] == f"{half:.2f} EUR"


def test_a_metric_that_does_not_vary_is_not_planned_for(show, fresh, words) -> None:
    root = fresh()
    spread(root, 0.0, 0.0)
    app = show(root, "experiments", view="plan")
    assert not app.exception
    assert say("planner.still") in words(app)


def test_the_effect_planned_for_follows_what_is_planned_until_it_is_set(show, fresh, numbers) -> None:
    root = fresh()
    spread(root, 4.0, 3.0)
    app = show(root, "experiments", view="plan")
    app.segmented_control(key="plan_metric").set_value("orders").run()
    app.slider(key="share").set_value(50)
    app.slider(key="goal").set_value(70).run()
    assert not app.exception
    # The smallest visible effect is asked about: it is seen with the chance asked for.
    assert numbers(app)["Chance to see your effect"] == "70%"
    assert not [name for name in app.query_params if name.startswith("effect")]
    app.number_input(key="effect_orders").set_value(0.5).run()
    app.slider(key="share").set_value(25).run()
    assert app.number_input(key="effect_orders").value == 0.5
    app.segmented_control(key="plan_metric").set_value("margin").run()
    assert numbers(app)["Chance to see your effect"] == "70%"  # an effect of orders is none of margin
    assert dict(app.query_params)["effect_orders"] == "0.5"


def test_the_planner_refuses_no_effect_names_that_are_no_names_and_starts_in_the_past(
    show, workspace, words
) -> None:
    app = show(workspace, "experiments", view="plan")
    app.text_input(key="trial").set_value("bad name/../x").run()
    assert not app.exception
    assert say("planner.bad_name") in words(app)
    assert not app.get("download_button") or all(
        "declaration" not in button.proto.id for button in app.get("download_button")
    )
    app.text_input(key="trial").set_value("trial")
    app.date_input(key="starts").set_value(date(2026, 3, 30)).run()  # the day of the newest summary
    assert not app.exception
    assert say("planner.begun", at="30 Mar 2026") in words(app)
    assert not app.code
    app.date_input(key="starts").set_value(date(2026, 3, 31)).run()
    assert app.code
    app.number_input(key="effect_margin").set_value(0.0).run()
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
    assert app.error[0].value == say("planner.taken", name="offers")
    assert not app.code
    app.text_input(key="trial").set_value("more").run()
    assert "cannot be declared" in app.error[0].value  # the place is taken
    assert not app.code


@pytest.mark.parametrize(
    "link",
    [
        {"starts": "9999-12-31"},
        {"starts": "0001-01-01"},
        {"effect_margin": "1e-300"},
        {"effect_margin": "1e300", "days": "-1", "share": "-9", "goal": "inf", "reach": "9" * 99},
    ],
)
def test_a_link_of_extremes_leaves_a_plan(show, workspace, link) -> None:
    app = show(workspace, "experiments", view="plan", **link)
    assert not app.exception
    assert not app.error
    assert app.code


@pytest.mark.parametrize(
    ("page", "link"),
    [
        (
            "policy",
            {"view": "scenario", "budget": "inf", "capacity_sms": "1" + "0" * 18, "lever_coffee": "-inf"},
        ),
        ("policy", {"view": "scenario", "budget": "-1", "capacity_sms": "9" * 5000, "lever_coffee": "nan"}),
        ("decision", {"customer": "\x00'\"<b>" + "x" * 5000, "decision": "%00"}),
    ],
)
def test_a_link_of_extremes_leaves_a_page(show, workspace, page, link) -> None:
    app = show(workspace, page, **link)
    assert not app.exception
    assert not app.error


def test_the_scenario_planner_tells_what_the_library_says(show, workspace, words, numbers) -> None:
    app = show(workspace, "policy", view="scenario")
    assert not app.error
    shown = numbers(app)
    before = float(shown["Contacts"].replace(",", ""))
    assert f"unchanged {shown['Contacts']}" in words(app)
    app.number_input(key="capacity_sms").set_value(0).run()
    assert not app.exception
    after = numbers(app)
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
    # A row per limit, its price before and after.
    limits = app.dataframe[0].value.set_index("item")
    assert list(limits.columns[:2]) == ["price_now", "price_then"]
    for end, rows in (("now", before), ("then", previewed[len(exact) :])):
        for name in ("price", "used", "available"):
            of = {row["item"]: row[name] for row in rows if row["item"] != "total"}
            assert limits[f"{name}_{end}"].tolist() == pytest.approx([*of.values()], rel=0.01, abs=0.01)
    for row, of_whole in zip(before, exact, strict=True):
        assert row == pytest.approx(of_whole)


def test_links_repeat_a_scenario_a_plan_and_what_a_decision_shows(show, workspace, words, numbers) -> None:
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
    assert numbers(again) == numbers(app)
    again.number_input(key="capacity_sms").set_value(60).run()
    assert "capacity_sms" not in again.query_params
    wild = show(workspace, "policy", view="scenario", lever_coffee="99", stop="nothing", capacity_sms="x")
    assert wild.slider(key="lever_coffee").value == 3.0
    assert wild.multiselect(key="stop").value == []
    assert wild.number_input(key="capacity_sms").value == 60

    plan = show(workspace, "experiments", view="plan")
    plan.slider(key="share").set_value(25).run()
    plan.number_input(key="effect_margin").set_value(0.5).run()
    plan.text_input(key="trial").set_value("spring").run()
    again = show(workspace, "experiments", **dict(plan.query_params))
    assert not again.exception
    assert numbers(again) == numbers(plan)
    assert again.code[0].value == plan.code[0].value
    assert 'experiment_id = "spring"' in again.code[0].value

    shown = show(workspace, "decision", customer="c1")
    shown.toggle(key="all_outcomes").set_value(False).run()
    assert shown.query_params["all_outcomes"] == "0"
    again = show(workspace, "decision", **dict(shown.query_params))
    assert not again.toggle(key="all_outcomes").value


def test_without_a_rule_the_page_says_that_others_may_still_hold(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    rows = history.table("summary_candidates").to_pylist()
    for row in rows[1::5]:
        row.update(is_eligible=row["treatment_id"] == "none", reason="no consent")
    rows = [row | {"reason": "" if row["is_eligible"] else "no consent"} for row in rows]
    history.commit(replace={"summary_candidates": tables.SUMMARY_CANDIDATES.build(rows)})
    assert say("scenario.most") not in words(show(root, "policy", view="scenario"))
    without = show(root, "policy", view="scenario", without="no consent")
    assert not without.exception
    assert say("scenario.most") in words(without)


def test_a_sample_that_does_not_say_for_whom_it_stands_asks_for_a_new_one(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    old = history.table("summary_candidates").drop_columns(["stands_for", "spent_today"])
    history.commit(replace={"summary_candidates": tables.SUMMARY_CANDIDATES.conform(old)})
    app = show(root, "policy", view="scenario")
    assert "earlier version gathered it" in app.error[0].value
    assert "nba overview" in words(app)
