# ruff: noqa: N999 (the name by which Streamlit's users know the entry)
"""The app's router: `streamlit run app/Home.py -- WORKSPACE`, or `nba app WORKSPACE`."""

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from app import access, data
from app.messages import LANGUAGE, LANGUAGES, say
from app.parts import READER, ROLE
from nba import settings
from nba.errors import MissingError, NbaError

VIEWS = Path(__file__).parent / "views"
FIRST = "overview"
PAGES: Mapping[str, Mapping[str, str]] = {
    "results": {
        "overview": ":material/monitoring:",
        "experiments": ":material/science:",
        "attribution": ":material/account_tree:",
        "clv": ":material/savings:",
    },
    "policy": {
        "policy": ":material/rule:",
        "decision": ":material/person_search:",
        "value": ":material/troubleshoot:",
    },
    "trust": {"models": ":material/model_training:", "health": ":material/health_and_safety:"},
}


def main() -> None:
    """Choose language and workspace, let the reader in, and show the page."""
    _set_language()
    st.set_page_config(page_title=say("app.title"), page_icon="🎯", layout="wide")
    try:
        found = data.workspaces()
    except MissingError as error:
        st.title(say("app.title"))
        st.error(say("app.none", found=error.message), icon=":material/error:")
        st.markdown(say("app.none_hint"))
        return
    listed = {say(f"section.{name}"): _pages(pages) for name, pages in PAGES.items()}
    # The first page has no name in its address: a link that names it leads there all the same.
    next(iter(listed.values())).append(st.Page(_to_first, url_path=FIRST, visibility="hidden"))
    chosen = st.navigation(listed)
    first = next(iter(found))
    role = _enter(found[first])
    name = st.sidebar.selectbox(
        say("app.workspace"),
        list(found),
        key="workspace",
        bind="query-params",
        help=say("app.workspace_help"),
    )
    if name != first:
        role = _enter(found[str(name)])
    access.leaving(role)
    _choose_language()
    st.session_state[READER], st.session_state[ROLE] = found[str(name)], role
    chosen.run()


def _pages(pages: Mapping[str, str]) -> list[st.Page]:
    return [
        st.Page(
            VIEWS / f"{name}.py",
            title=say(f"page.{name}"),
            icon=icon,
            url_path="start" if name == FIRST else name,
            default=name == FIRST,
        )
        for name, icon in pages.items()
    ]


def _to_first() -> None:
    given = {key: st.query_params.get_all(key) for key in st.query_params}
    st.switch_page(VIEWS / f"{FIRST}.py", query_params=given)


def _enter(workspace: Path) -> access.Role:
    try:
        given = settings.read(workspace).app
    except NbaError:
        return access.NOBODY  # the page says what is wrong with the settings, and shows nothing else
    return access.enter(given)


def _set_language() -> None:
    # From the link, else from the browser, before anything is said.
    if st.session_state.get(LANGUAGE) in LANGUAGES:
        return
    asked = st.query_params.get(LANGUAGE)
    browser = str(st.context.locale or "")[:2]
    st.session_state[LANGUAGE] = next((name for name in (asked, browser) if name in LANGUAGES), "en")


def _choose_language() -> None:
    st.sidebar.selectbox(
        say("app.language"), list(LANGUAGES), key=LANGUAGE, format_func=lambda name: LANGUAGES[str(name)]
    )
    st.query_params[LANGUAGE] = st.session_state[LANGUAGE]


if __name__ == "__main__":
    main()
