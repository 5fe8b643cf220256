"""Attribution: credits by method, and where they disagree with what contact caused."""

import pytest

from app.messages import say
from nba import tables
from nba.history import History


def test_changing_the_method_and_the_part_filters_credits(show, workspace) -> None:
    app = show(workspace, "attribution")
    app.segmented_control(key="method").set_value("shapley").run()
    assert app.segmented_control(key="method").value == "shapley"
    whole = app.dataframe[-1].value["credited"].sum()
    assert whole == pytest.approx(30 * 2 * 8.0)
    app.selectbox(key="audience").set_value("acquisition=store").run()
    assert not app.exception
    assert app.dataframe[-1].value["credited"].sum() == pytest.approx(whole / 2)
    app.segmented_control(key="by").set_value("treatment_id").run()
    assert set(app.dataframe[-1].value["method"]) == {"shapley"}
    assert app.dataframe[-1].value["credit"].sum() == pytest.approx(whole / 2)


def test_where_credit_and_cause_disagree_the_page_says_so(show, workspace, words) -> None:
    app = show(workspace, "attribution", view="cause")
    assert "Credits that disagree with what contact caused: 1." in app.warning[0].value
    assert "credits E\\-mail with 300.00 EUR; contact caused 120.00 EUR" in words(app)
    caused = next(frame.value for frame in app.dataframe if "ratio" in frame.value.columns)
    assert caused["incremental"].tolist() == [120.0, 120.0]  # of the whole period only


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


def test_what_contact_caused_stands_beside_credit_by_action_and_where_it_is_not_known_a_cell_says_why(
    show, fresh, words
) -> None:
    root = fresh()
    history = History.read(root)
    found = history.table("summary_credit_parts").to_pylist()
    mine = [
        row for row in found if (row["method"], row["period"], row["audience"]) == ("shapley", "all", "all")
    ]
    actions = sorted({row["action_id"] for row in mine})
    known = {"method": "shapley", "level": "action", "item": actions[0], "period": "all", "audience": "all",
             "credited": 1.0, "compared": 300.0, "incremental": 120.0, "lower": 50.0, "upper": 190.0,
             "ratio": 2.5, "incremental_share": 0.4, "warning": "too much credit", "source": "randomised",
             "reason": ""}  # fmt: skip
    part = known | {"audience": "acquisition=store", "incremental": 60.0, "incremental_share": 0.2}
    history.commit(replace={"attribution_parts": tables.ATTRIBUTION_PARTS.build([known, part])})
    app = show(root, "attribution", by="action_id", method="shapley")
    assert not app.exception
    shown = app.dataframe[-1].value.set_index("item")
    assert set(shown.index) == set(actions)
    credit = sum(row["credit"] for row in mine if row["action_id"] == actions[0])
    assert shown.loc[actions[0], ["credited", "incremental"]].tolist() == pytest.approx([credit, 120.0])
    assert shown.loc[actions[0], "incremental_share"] == 0.4
    others = shown.drop(index=actions[0])
    assert others["incremental"].isna().all()
    assert others["reason"].str.startswith("not measured").all()
    app.selectbox(key="audience").set_value("acquisition=store").run()
    assert app.dataframe[-1].value.set_index("item").loc[actions[0], "incremental"] == 60.0
    month = next(row["period"] for row in found if row["audience"] != "all" and row["period"] != "all")
    app.selectbox(key="period").set_value(month).run()
    assert not app.exception
    assert set(app.dataframe[-1].value["reason"]) == {say("attribution.not_both")}
    cause = show(root, "attribution", view="cause", by="action_id")
    assert not cause.exception
    assert f"**shapley** credits {actions[0]} with 300.00 EUR; contact caused 120.00 EUR" in words(cause)
    link = show(root, "attribution", view="cause", by="action_id", audience="acquisition=store")
    assert "contact caused 60.00 EUR" in words(link)
