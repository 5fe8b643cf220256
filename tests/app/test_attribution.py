"""Attribution: credits by method, and where they disagree with what contact caused."""

import pytest

from nba import tables
from nba.history import History


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
