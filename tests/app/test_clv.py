"""Lifetime value: what a customer is worth, and who is at risk."""

from app.messages import say
from nba import tables
from nba.history import History
from tests.app.conftest import figures


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


def test_lifetime_value_tells_the_tables_numbers(show, workspace, numbers) -> None:
    history = History.read(workspace)
    app = show(workspace, "clv")
    (mean,) = history.sql("select avg(clv) as mean from clv")["mean"].to_pylist()
    assert numbers(app)["Mean per customer"] == f"{mean:.2f} EUR"
    app.segmented_control(key="view").set_value("groups").run()
    assert app.dataframe[0].value["clv"].tolist() == [14.5, 9.0]  # the most valuable first
    for view in ("alive", "check"):
        app.segmented_control(key="view").set_value(view).run()
        assert not app.exception
        assert not app.error
        assert figures(app) == 1


def test_where_nobody_leaves_the_map_shows_what_differs(show, fresh) -> None:
    root = fresh()
    assert show(root, "clv", view="alive").segmented_control(key="measure").value == "p_alive"
    history = History.read(root)
    rows = [row | {"p_alive": 1.0} for row in history.table("clv_grid").to_pylist()]
    history.commit(replace={"clv_grid": tables.CLV_GRID.build(rows)})
    app = show(root, "clv", view="alive")
    assert not app.exception
    assert app.segmented_control(key="measure").options == ["Lifetime value", "Customers"]
    assert "p_alive" not in app.dataframe[0].value
    assert say("clv.all_stay") in [note.value for note in app.caption]


def test_a_chance_that_all_customers_have_is_not_told_as_a_finding(show, fresh, numbers, words) -> None:
    root = fresh()
    history = History.read(root)
    assert "Still customers" in numbers(show(root, "clv"))
    rows = [
        row
        for row in history.table("summary_numbers").to_pylist()
        if row["measure"] not in ("clv_p_alive", "clv_recent")
    ]
    rows += [{"measure": "clv_p_alive", "value": 1.0}, {"measure": "clv_recent", "value": 0.42}]
    sure = [row | {"p_alive": 1.0} for row in history.table("summary_clv").to_pylist()]
    history.commit(
        replace={
            "summary_numbers": tables.SUMMARY_NUMBERS.build([{"note": ""} | row for row in rows]),
            "summary_clv": tables.SUMMARY_CLV.build(sure),
        }
    )
    app = show(root, "clv")
    assert "Still customers" not in numbers(app)
    assert numbers(app)["Bought in the last 90 days"] == "42.0%"
    assert say("clv.all_stay") in words(app)
    assert "p_alive" not in app.dataframe[0].value
