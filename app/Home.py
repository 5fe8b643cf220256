# ruff: noqa: N999 (the name by which Streamlit's users know the entry)
"""The app's router: `streamlit run app/Home.py -- WORKSPACE`, or `nba app WORKSPACE`."""

from pathlib import Path

import streamlit as st

from app import data
from app.messages import say
from app.parts import READER
from nba.errors import MissingError

VIEWS = Path(__file__).parent / "views"
PAGES = {
    "overview": ":material/monitoring:",
    "decisions": ":material/send:",
    "experiment": ":material/science:",
    "policy": ":material/rule:",
    "attribution": ":material/account_tree:",
    "clv": ":material/savings:",
}


def main() -> None:
    """Choose the workspace and show the page."""
    st.set_page_config(page_title=say("app.title"), page_icon=":material/ads_click:", layout="wide")
    try:
        found = data.workspaces()
    except MissingError as error:
        st.title(say("app.title"))
        st.error(say("app.none", found=error.message), icon=":material/error:")
        st.markdown(say("app.none_hint"))
        return
    pages = [
        st.Page(
            VIEWS / f"{name}.py",
            title=say(f"page.{name}"),
            icon=icon,
            url_path=name,
            default=name == "overview",
        )
        for name, icon in PAGES.items()
    ]
    chosen = st.navigation(pages)
    name = st.sidebar.selectbox(
        say("app.workspace"),
        list(found),
        key="workspace",
        bind="query-params",
        help=say("app.workspace_help"),
    )
    st.session_state[READER] = found[str(name)]
    chosen.run()


if __name__ == "__main__":
    main()
