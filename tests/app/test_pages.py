"""Every page: shows its content, on an empty workspace, on a broken one, and in both languages."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from app.data import STEP
from app.messages import say
from app.messages import words as catalogue
from nba import tables
from nba.history import History
from tests.app.conftest import figures
from tests.app.shop import START

PAGES = {
    "overview": ("summary_batches", "Incremental value of policy"),
    "experiments": ("summary_effects", "Each arm against holdout"),
    "attribution": ("summary_credits", say("attribution.credits")),
    "clv": ("summary_clv", say("clv.mean")),
    "policy": ("summary_mix", say("policy.mix")),
    "decision": ("decisions", say("decision.candidates")),
    "value": ("value_finder", "For 60 of its 100 customers nothing"),
    "models": ("summary_models", say("models.board")),
    "health": ("summary_tables", say("health.tables")),
}


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


def test_a_channel_has_one_colour_in_every_language(show, workspace) -> None:
    colours = []
    for code in ("en", "es"):
        (drawn,) = show(workspace, "attribution", lang=code).get("plotly_chart")
        colours.append([bar["marker"]["color"] for bar in json.loads(drawn.proto.spec)["data"]])
    assert colours[0] == colours[1]


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


def test_a_changed_workspace_says_that_the_page_is_old(show, fresh, words) -> None:
    root = fresh()
    assert "has changed since" not in words(show(root))
    history = History.read(root)
    history = history.commit(append={"scenarios": tables.SCENARIOS.empty()})
    assert "has changed since" not in words(show(root))  # no summary is made from scenarios
    history.commit(replace={"effects": history.table("effects")})
    assert words(show(root)).count("has changed since") == 1
    assert words(show(root, "models")).count("has changed since") == 1


@pytest.mark.parametrize(
    ("name", "page", "query", "sign"),
    [
        ("looks", "experiments", {}, "Ship it"),
        ("summary_alerts", "overview", {}, "Contacts decided"),
        ("incremental", "attribution", {"view": "cause"}, "Credits that disagree"),
        ("summary_retained", "clv", {"view": "risk"}, "clv.risk"),
        ("clv_scores", "clv", {"view": "check"}, "clv.check_note"),
        ("summary_segments", "policy", {}, "policy.treatments"),
        ("summary_removed", "policy", {"view": "arbitration"}, "policy.arbitration"),
        ("diagnostics", "policy", {"view": "values"}, "policy.promotions"),
        ("summary_numbers", "policy", {}, "policy.treatments"),
        ("scenarios", "policy", {"view": "scenario"}, "Expected value"),
        ("choices", "decision", {"customer": "c1"}, "decision.earlier"),
        ("features", "decision", {"customer": "c1"}, "decision.earlier"),
        ("events", "decision", {"customer": "c1"}, "decision.outcomes"),
        ("summary_examples", "decision", {"customer": "c1"}, "decision.candidates"),
        ("summary_checks", "models", {}, "models.board"),
        ("summary_qini", "models", {"view": "quality"}, "models.deciles"),
        ("summary_dependence", "models", {"view": "why"}, "models.importance"),
        ("summary_quarantine", "health", {}, "health.tables"),
        ("quality", "health", {"view": "people"}, "health.kinds_note"),
    ],
)
def test_a_damaged_side_table_takes_its_own_section_only(show, fresh, words, name, page, query, sign) -> None:
    root = fresh()
    history = History.read(root)
    more = {
        "customer_id": "c1",
        "clv_at_risk": 1.0,
        "clv": 2.0,
        "p_alive": 0.5,
        "n_repeat": 1,
        "quiet_days": 9.0,
    }
    promotion = {
        "promotion_id": "1", "promoted_at": START, "what": "promote", "policy": "p", "from_version": 1,
        "to_version": 2, "approver": "x", "is_passed": True, "evidence": "{}", "note": "",
    }  # fmt: skip
    rows = {"promotions": [promotion], "summary_at_risk": [more]}
    history = history.commit(replace={n: tables.BY_NAME[n].build(found) for n, found in rows.items()})
    if not history.has(name):
        history = history.commit(replace={name: tables.BY_NAME[name].empty()})
    for path in history.paths(name):
        Path(path).write_bytes(b"no parquet")
    app = show(root, page, **query)
    assert not app.exception
    # What rests on it in several places is missed in each of them.
    assert len(app.error) == {"looks": 3, "incremental": 2}.get(name, 1)
    assert all("cannot be read" in error.value for error in app.error)
    told = catalogue("en").get(sign, sign)
    assert told.split("{")[0] in words(app)


def test_a_summary_that_lost_a_column_says_so(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    (path,) = history.paths("summary_numbers")
    pq.write_table(pq.read_table(path).drop_columns(["value"]), path)
    assert "summary\\_numbers lacks" in words(show(root))


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
