"""Every page: shows its content, on an empty workspace, on a broken one, and after a change of a filter."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.data import STEP
from app.messages import EN, say
from nba import tables
from nba.history import History

HOME = Path(__file__).parents[2] / "app" / "Home.py"
PAGES = {
    "overview": ("summary_batches", "Incremental value of policy"),
    "decisions": ("summary_mix", say("decisions.mix")),
    "experiment": ("summary_effects", "Each arm against holdout"),
    "policy": ("batches", say("policy.prices")),
    "attribution": ("summary_credits", say("attribution.credits")),
    "clv": ("summary_clv", say("clv.mean")),
}


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Open a page of the app on a workspace."""

    def opened(root: Path, page: str = "overview", **query: str) -> AppTest:
        monkeypatch.setenv("NBA_WORKSPACE", str(root))
        app = AppTest.from_file(str(HOME), default_timeout=30)
        for name, value in query.items():
            app.query_params[name] = value
        app.run()
        return app if page == "overview" else app.switch_page(f"views/{page}.py").run()

    return opened


def words(app: AppTest) -> str:
    """All that a page says."""
    kinds = (app.title, app.subheader, app.markdown, app.caption, app.info, app.warning, app.error)
    texts = [element.value for kind in kinds for element in kind]
    return "\n".join([*texts, *(f"{m.label}: {m.value}" for m in app.metric)])


@pytest.mark.parametrize("page", PAGES)
def test_page_shows_its_content(show, workspace, page) -> None:
    app = show(workspace, page)
    assert not app.exception
    assert not app.error
    assert PAGES[page][1] in words(app)
    assert app.get("plotly_chart")
    assert app.dataframe


@pytest.mark.parametrize("page", PAGES)
def test_page_on_an_empty_workspace_names_the_command(show, fresh, page) -> None:
    root = fresh(filled=False)
    app = show(root, page)
    assert not app.exception
    assert not app.error
    assert say("empty.title") in words(app)
    assert f"nba {STEP.get(page, '')}" in words(app)
    assert str(root) in words(app)


@pytest.mark.parametrize("page", PAGES)
def test_page_survives_a_broken_table(show, fresh, page) -> None:
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


def test_no_workspace_says_how_to_make_one(show, tmp_path) -> None:
    app = show(tmp_path / "nowhere")
    assert not app.exception
    assert "nba demo" in words(app)


def test_overview_tells_the_tables_numbers(show, workspace) -> None:
    app = show(workspace)
    history = History.read(workspace)
    (row,) = history.sql(
        "from effects where metric = 'margin' and arm = 'policy' and segment = 'all'"
    ).to_pylist()
    shown = {m.label: m.value for m in app.metric}
    assert shown["Incremental value of policy"] == f"{row['effect'] * row['n']:+,.2f} EUR"
    text = words(app)
    assert f"{row['lower'] * row['n']:+,.2f} EUR to {row['upper'] * row['n']:+,.2f} EUR" in text
    contacts = history.sql("select count(*) from decisions where treatment_id <> 'none'")[0][0].as_py()
    cost = history.sql("select sum(cost) from touches")[0][0].as_py()
    assert shown["Contacts decided"] == f"{contacts:,}"
    assert shown["Spent on contacts"] == f"{cost:,.2f} EUR"
    assert shown["Batches"] == "4"
    assert "3 of 4 batches are matured" in text
    assert "One more unit of **sms**" in text


def test_experiment_says_what_is_known_and_no_verdict(show, workspace) -> None:
    text = words(show(workspace, "experiment"))
    assert "**policy**: 8\\.50 EUR against" not in text  # our own numbers are not escaped
    assert "**policy**: 8.50 EUR against 6.00 EUR in holdout: a difference of **+2.50 EUR**" in text
    assert "(95% interval +1.50 EUR to +3.50 EUR)" in text
    assert "240 against 80 customers" in text
    assert not any(word in text.lower() for word in ("winner", "significant", "success"))


def test_changing_the_metric_changes_sentence_and_table(show, workspace) -> None:
    app = show(workspace, "experiment")
    app.segmented_control(key="metric").set_value("orders").run()
    assert not app.exception
    assert "**policy**: 0.425 against 0.300 in holdout" in words(app)
    assert "EUR" not in next(m.value for m in app.markdown if m.value.startswith("**policy**"))


def test_changing_channel_to_action_and_arm(show, workspace) -> None:
    app = show(workspace, "decisions")
    assert len(set(app.dataframe[0].value["arm"])) == 3
    app.segmented_control(key="by").set_value("action_id").run()
    app.selectbox(key="arm").set_value("policy").run()
    assert not app.exception
    assert set(app.dataframe[0].value["arm"]) == {"policy"}
    assert set(app.dataframe[1].value["arm"]) == {"policy"}


def test_changing_the_method_filters_credits(show, workspace) -> None:
    app = show(workspace, "attribution")
    app.selectbox(key="method").set_value("shapley").run()
    assert set(app.dataframe[-1].value["method"]) == {"shapley"}


def test_where_credit_and_cause_disagree_the_page_says_so(show, workspace) -> None:
    app = show(workspace, "attribution")
    assert any("2\\.5 times what it caused" in warning.value for warning in app.warning)
    caused = next(frame.value for frame in app.dataframe if "incremental" in frame.value.columns)
    assert caused["incremental"].tolist() == [120.0, 120.0]  # of the whole period only


def test_switching_the_workspace_and_back(show, workspace) -> None:
    app = show(workspace)
    app.selectbox(key="workspace").set_value("bare").run()
    assert not app.exception
    assert say("empty.title") in words(app)
    app.selectbox(key="workspace").set_value("shop").run()
    assert "Incremental value of policy" in words(app)


def test_a_link_names_a_workspace_beside_the_first_and_no_other(show, workspace) -> None:
    assert say("empty.title") in words(show(workspace, workspace="bare"))
    elsewhere = show(workspace, workspace="../../etc")
    assert not elsewhere.exception
    assert elsewhere.selectbox(key="workspace").value == "shop"


def test_a_changed_workspace_says_that_the_page_is_old(show, fresh) -> None:
    root = fresh()
    assert "has changed since" not in words(show(root))
    history = History.read(root)
    history.commit(replace={"effects": history.table("effects")})
    assert "has changed since" in words(show(root))


def test_uneven_arms_raise_an_alert(show, fresh) -> None:
    root = fresh()
    history = History.read(root)
    rows = history.table("summary_arms").to_pylist()
    table = tables.SUMMARY_ARMS.build([row | {"p_srm": 1e-6} for row in rows])
    history.commit(replace={"summary_arms": table})
    assert "not as large as planned" in words(show(root))
    assert "Trust no effect" in words(show(root, "experiment"))


def test_several_experiments_are_chosen_one_at_a_time(show, fresh) -> None:
    root = fresh()
    history = History.read(root)
    rows = history.table("summary_effects").to_pylist()
    rows += [row | {"experiment_id": "trial"} for row in rows if row["metric"] == "orders"]
    history.commit(replace={"summary_effects": tables.SUMMARY_EFFECTS.build(rows)})
    app = show(root, "experiment")
    assert app.segmented_control(key="metric").value == "margin"
    app.selectbox(key="experiment").set_value("trial").run()
    assert not app.exception
    assert app.segmented_control(key="metric").value == "orders"
    assert len(app.dataframe[0].value) == 2


def test_what_comes_from_data_is_not_markup(show, fresh) -> None:
    root = fresh()
    history = History.read(root)
    rows = history.table("summary_effects").to_pylist()
    for row in rows:
        row["arm"] = "[x](javascript:alert(1)) <b>" if row["arm"] == "policy" else row["arm"]
    history.commit(replace={"summary_effects": tables.SUMMARY_EFFECTS.build(rows)})
    app = show(root, "experiment")
    assert not app.exception
    assert "](javascript" not in words(app)


# laws


def test_every_word_used_is_in_the_catalogue() -> None:
    import re

    folder = HOME.parent
    used = {
        key
        for path in folder.rglob("*.py")
        for key in re.findall(r'say\(\s*"([a-z_.]+)"', path.read_text(encoding="utf-8"))
    }
    assert used
    assert used <= set(EN)


def commands() -> set[str]:
    from pipelines.cli import app as cli

    return {c.name or c.callback.__name__ for c in cli.registered_commands}


def test_every_command_named_exists() -> None:
    assert set(STEP.values()) <= commands()
