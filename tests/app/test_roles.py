"""Who may see what: sign-in, roles, personal data."""

import shutil
from collections.abc import Callable

import pytest
import streamlit as st

from app import access
from app.messages import say
from nba import tables
from nba.history import History
from tests.app.shop import START


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


def test_who_must_sign_in_sees_nothing_before(show, fresh, words, numbers) -> None:
    root = fresh()
    with (root / "nba.toml").open("a", encoding="utf-8") as file:
        file.write("\n[app]\nsign_in = true\n")
    app = show(root)
    assert not app.exception
    assert say("access.unconfigured") in words(app)
    assert not numbers(app)
    assert not app.dataframe


def test_the_way_out_is_there_once_whichever_workspace_is_looked_at(show, fresh, monkeypatch) -> None:
    root = fresh()
    with (root / "nba.toml").open("a", encoding="utf-8") as file:
        file.write("\n[app]\nsign_in = true\n")
    shutil.copytree(root, root.parent / "zother")
    monkeypatch.setattr(access, "_is_configured", lambda: True)
    monkeypatch.setattr(st, "user", {"is_logged_in": True, "email": "ana@shop.example"})
    app = show(root, workspace="zother")
    assert not app.exception
    assert [button.label for button in app.sidebar.button] == [say("access.sign_out")]


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
