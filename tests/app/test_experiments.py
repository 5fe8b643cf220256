"""Experiments: sentences, tables and the report of one experiment, as its verdict goes by."""

import html
import json
from datetime import timedelta
from pathlib import Path

import pytest

from app import data, report
from app.messages import say
from nba import tables
from nba.history import History
from pipelines import overview
from tests.app.shop import START

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
    ends = ["judged_effect", "judged_lower", "judged_upper"]
    assert list(listed)[:6] == ["experiment_id", "arm", *ends, "verdict"]
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


def test_the_report_of_an_experiment_needs_nothing_else(workspace) -> None:
    text = report.build(data.read(workspace), "policy")
    assert "Ship it" in text
    assert "2.50" in text
    assert "Effect (EUR)" in text
    assert "EUR)" not in text.split("<h2>Orders")[1].split("<h2>")[0].split("<table>")[1]
    assert say("experiments.srm") in text
    assert "No segments are declared" in text
    assert "src=" not in text.split("<script")[0]
    assert 'src="http' not in text


def test_units_and_headline_come_from_the_declaration_not_the_name(show, fresh, words, numbers) -> None:
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
    assert (
        next(value for title, value in numbers(show(root)).items() if "value of policy" in title)
        == "+600.00 EUR"
    )
    app = show(root, "experiments", metric="basket")
    assert "a difference of **+0.12 EUR**" in words(app) or "a difference of **+0.13 EUR**" in words(app)
    assert not any("total" in frame.value.columns for frame in app.dataframe)
    assert "No segments are declared" in words(app)
    assert "nba analyze" in words(app)
    assert "points**" in words(show(root, "experiments", metric="left"))
    made = report.build(data.read(root), "policy")
    assert made.count("<th>Total (EUR)") == 1  # of the money that adds up
    assert "<td>600.00</td>" in made


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


def test_segments_are_told_in_words_and_claimed_by_the_corrected_value(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    rows = history.table("summary_effects").to_pylist()
    (whole,) = [row for row in rows if (row["metric"], row["arm"]) == ("margin", "policy")]
    rows += [
        whole | {"segment": f"a_acquisition={name}", "p_corrected": p, "p_heterogeneity": 0.5}
        for name, p in (("search", 0.3), ("store", 0.001))
    ]
    names = ["Acquisition channel: search", "Acquisition channel: store"]

    def drawn(app):
        points = json.loads(app.get("plotly_chart")[-1].proto.spec)["data"]
        return {point["y"][0]: (point["marker"]["symbol"], point["customdata"][0][1]) for point in points}

    # Without what holds at every look one reading proves nothing of a segment while others may follow.
    unknown = [row | ({"always_lower": None} if row["segment"] != "all" else {}) for row in rows]
    history = history.commit(replace={"summary_effects": tables.SUMMARY_EFFECTS.build(unknown)})
    app = show(root, "experiments")
    assert {symbol for symbol, _ in drawn(app).values()} == {"circle-open"}
    note = say("experiments.segments_open_note", command=f"nba analyze {root}")
    assert note in words(app)
    made = html.unescape(report.build(data.read(root), "policy"))
    assert note.replace("`", "") in made.replace("<code>", "").replace("</code>", "")
    assert f"<code>nba analyze {root}</code>" in made
    # With it, by the value corrected for looks and segments, with the interval of every look.
    history = history.commit(replace={"summary_effects": tables.SUMMARY_EFFECTS.build(rows)})
    app = show(root, "experiments")
    assert drawn(app)[names[1]] == ("circle", whole["always_upper"])
    assert drawn(app)[names[0]][0] == "circle-open"
    assert say("experiments.segments_every_note") in words(app)
    assert say("experiments.segments_every_note") in html.unescape(report.build(data.read(root), "policy"))
    planned(root, 0)
    app = show(root, "experiments")
    assert not app.exception
    shown = next(f.value for f in app.dataframe if "p_corrected" in f.value.columns)
    assert shown["segment"].tolist() == names
    # Both intervals leave zero; only one claim stands among many.
    assert [drawn(app)[name][0] for name in names] == ["circle-open", "circle"]
    assert drawn(app)[names[0]][1] == whole["upper"]
    made = report.build(data.read(root), "policy")
    assert "<td class=text>Acquisition channel: store</td>" in made
    assert "No segments are declared" not in made
    assert say("experiments.segments_note") in html.unescape(made)
