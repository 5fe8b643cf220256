"""Value finder: customers for whom the policy has nothing, or nothing worth much, as segments to read."""

import streamlit as st

from app import figures, grid, markup, parts
from app.data import Reader
from app.messages import conditions, number, say
from nba import tables
from nba.plots import policies

NAME = "value_finder"


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, NAME):
        return
    shown = reader.table(NAME)
    rows = shown.to_pylist()
    worst = rows[0]
    words = {
        "segment": say("value.everybody")
        if worst["segment"] == "everybody"
        else f"**{markup.safe(conditions(worst['segment']))}**",
        "n": number(worst["n"]),
        "nothing": number(worst["n_nothing"]),
        "blocked": number(worst["blocked"], reader.currency),
    }
    st.markdown(say("value.worst", **words))
    figures.figure(policies.nothing(grid.worded(shown)), "nothing", say("alt.nothing"))
    columns = ["segment", "n", "n_nothing", "reason", "best", "blocked", "blocked_total"]
    grid.table(shown, columns, tables.BY_NAME[NAME], reader.currency, NAME)
    st.caption(say("value.note"))


parts.page("value", draw)
