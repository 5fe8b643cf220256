"""Overview: the headline, the counts, and what it warns of."""

from datetime import timedelta

from app import data, report
from app.messages import say
from nba import tables
from nba.experiments.decision import EARLY
from nba.history import History
from pipelines import overview
from tests.app.shop import START


def test_overview_tells_the_tables_numbers(show, workspace, words, numbers) -> None:
    app = show(workspace)
    history = History.read(workspace)
    (row,) = history.sql(
        "from effects where metric = 'margin' and arm = 'policy' and segment = 'all'"
    ).to_pylist()
    shown = numbers(app)
    value = shown["Incremental value of policy, 2 Mar 2026 to 30 Mar 2026"]
    assert value == f"{row['effect'] * row['n']:+,.2f} EUR"
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


def test_a_part_of_the_period_is_chosen_by_link_and_told_as_of_one_reading(
    show, fresh, words, numbers
) -> None:
    root = fresh()
    row = {
        "period": "last_4", "arm": "policy", "control": "holdout", "metric": "margin", "since": START,
        "until": START + timedelta(weeks=4), "n_batches": 4, "n": 10, "n_control": 9, "effect": 2.0,
        "lower": -1.0, "upper": 5.0, "total": 20.0, "total_lower": -10.0, "total_upper": 50.0, "cost": 3.0,
        "level": 0.95, "reason": "",
    }  # fmt: skip
    for given, value in (
        (row, "+20.00 EUR"),
        (row | {"effect": None, "total": None, "reason": "x"}, "unknown"),
    ):
        History.read(root).commit(replace={"summary_periods": tables.SUMMARY_PERIODS.build([given])})
        app = show(root, period="last_4")
        assert not app.exception
        assert numbers(app)["Incremental value of policy, 2 Mar 2026 to 30 Mar 2026"] == value
    assert "x" in words(app)
    History.read(root).commit(replace={"summary_periods": tables.SUMMARY_PERIODS.build([row])})
    app = show(root, period="last_4")
    assert say("overview.part_note") in words(app)
    assert "earned **2.00 EUR** more each" in words(app)
    app.segmented_control(key="period").set_value("whole").run()
    assert say("overview.part_note") not in words(app)
    assert "period" not in app.query_params


def test_a_headline_of_closed_batches_alone_speaks_of_no_open_ones(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    earlier = {"matured_at": START + timedelta(weeks=3), "cost": None}
    rows = [row | earlier for row in history.table("readouts").to_pylist()]
    history.commit(replace={"readouts": tables.READOUTS.build(rows)})
    text = words(show(root))
    assert "also by batches that are still open" not in text
    assert "the value is what is left after that" not in text
    assert "1 of 4 batches still have open reward windows" in text


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


def test_pages_follow_each_other_in_one_session(show, workspace) -> None:
    app = show(workspace)
    for page in ("clv", "overview"):
        app.switch_page(f"views/{page}.py").run()
        assert not app.exception
        assert app.title[0].value == say(f"page.{page}")


def test_the_headline_says_that_it_was_seen_early_and_what_it_cost(show, fresh, words) -> None:
    root = fresh()
    text = words(show(root))
    history = History.read(root)
    (cost,) = history.sql("select cost from readouts where arm = 'policy'")["cost"].to_pylist()
    assert say("overview.cost_net", cost=f"{cost:,.2f} EUR") in text
    # The batch of 23 March is open and yet before the end of the last closed window.
    assert say("overview.includes", until="30 Mar 2026", n=1) in text
    assert say("overview.early") not in text
    early = {"is_early": True, "reason": f"margin rose against the control{EARLY}."}
    rows = [row | early for row in history.table("readouts").to_pylist()]
    history.commit(replace={"readouts": tables.READOUTS.build(rows)})
    assert say("overview.early") in words(show(root))
