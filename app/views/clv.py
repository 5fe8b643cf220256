"""Lifetime value: what customers are expected to bring, and how unevenly."""

import streamlit as st

from app import parts
from app.data import Reader
from app.messages import day, number, percent, say
from nba import plots, tables


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_clv", "summary_numbers"):
        return
    worth = [
        (say(f"clv.{name}"), number(reader.number(f"clv_{name}"), reader.currency), say("term.clv"), "")
        for name in ("mean", "median", "total")
    ]
    parts.numbers(*worth, (say("clv.alive"), percent(reader.number("clv_p_alive")), say("term.alive"), ""))
    note = say(
        "clv.note",
        at=day(reader.moment("clv_as_of")),
        days=number(reader.number("clv_horizon_days")),
        unknown=number(reader.number("clv_unknown")),
        n=number(reader.number("clv_customers")),
    )
    st.caption(note)
    st.subheader(say("clv.title"))
    shown = reader.table("summary_clv")
    parts.figure(plots.clv(shown, reader.currency), "clv", say("alt.clv"))
    columns = ["lower", "upper", "n", "total", "p_alive"]
    parts.table(shown, columns, tables.SUMMARY_CLV, reader.currency, "clv")


parts.page("clv", draw)
