"""Attribution: how the margin of orders is shared among contacts, by method, beside what they caused."""

import streamlit as st

from app import parts
from app.data import Reader, where
from app.messages import plain, say
from nba import plots, tables


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_credits"):
        return
    shown = reader.table("summary_credits")
    st.info(say("attribution.note"), icon=":material/info:")
    st.subheader(say("attribution.credits"), help=say("term.credit"))
    parts.figure(plots.credits(shown, reader.currency), "credits", say("alt.credits"))
    if reader.has("attribution"):
        _incremental(reader)
    st.subheader(say("attribution.by"))
    methods = list(dict.fromkeys(shown["method"].to_pylist()))
    method = parts.choose(say("attribution.method"), methods, "method")
    columns = ["method", "channel", "treatment_id", "n_orders", "credit", "share"]
    parts.table(
        where(shown, method=method), columns, tables.SUMMARY_CREDITS, reader.currency, f"credits_{method}"
    )


def _incremental(reader: Reader) -> None:
    shown = where(reader.table("attribution"), period="all")
    st.subheader(say("attribution.incremental"), help=say("term.incremental"))
    for text in dict.fromkeys(row["warning"] for row in shown.to_pylist() if row["warning"]):
        st.warning(plain(text), icon=":material/balance:")
    columns = ["method", "channel", "credited", "incremental", "lower", "upper", "ratio", "cost", "reason"]
    parts.table(shown, columns, tables.ATTRIBUTION, reader.currency, "attribution")


parts.page("attribution", draw)
