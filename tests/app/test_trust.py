"""Models and data health: their tables' numbers, nights and their checks."""

from nba import tables
from nba.history import History
from tests.app.conftest import figures


def test_data_health_tells_the_tables_numbers(show, workspace, numbers) -> None:
    app = show(workspace, "health")
    shown = numbers(app)
    assert shown["Orders"] == "200"
    frames = [frame.value for frame in app.dataframe]
    sources = next(frame for frame in frames if "rows_kept" in frame.columns)
    assert sources["rows_kept"].tolist() == [397]
    refused = next(frame for frame in frames if "row_number" in frame.columns)
    assert (refused["n"].item(), refused["row_number"].item()) == (3, 3)
    app.segmented_control(key="view").set_value("people").run()
    assert not app.exception
    assert numbers(app)["Merged so far"] == "7"
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


def test_models_tell_the_tables_numbers(show, workspace, words, numbers) -> None:
    app = show(workspace, "models")
    shown = numbers(app)
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


def test_the_value_finder_leads_with_the_segment_that_most_is_kept_from(show, fresh, words) -> None:
    root = fresh()
    rows = History.read(root).table("value_finder").to_pylist()
    rows[1] |= {"blocked": 9.0, "blocked_total": 450.0}
    History.read(root).commit(replace={"value_finder": tables.VALUE_FINDER.build(rows)})
    app = show(root, "value")
    assert app.dataframe[0].value["blocked_total"].tolist() == [450.0, 150.0]
    told = words(app).replace("\\", "")
    assert "For 5 of its 50 customers nothing" in told
    assert "keep from all 50 would add 9.00 EUR each on average, 450.00 EUR together" in told
