"""Policy: what limits were worth, and what other policies would have earned."""

import streamlit as st

from app import parts
from app.data import Reader
from app.messages import say
from nba import plots, tables


def draw(reader: Reader) -> None:
    """Show the page."""
    st.subheader(say("policy.prices"), help=say("term.price"))
    if parts.filled(reader, "batches"):
        shown = reader.table("batches")
        parts.figure(plots.prices(shown, reader.currency), "prices", say("alt.prices"))
        columns = ["batch_id", "arm", "limit", "used", "available", "price", "n_customers"]
        parts.table(shown, columns, tables.BATCHES, reader.currency, "prices")
    st.subheader(say("policy.values"), help=say("term.ess"))
    if parts.filled(reader, "policy_values"):
        st.caption(say("policy.values_note"))
        shown = reader.table("policy_values")
        parts.figure(plots.policy_values(shown, reader.currency), "values", say("alt.policy_values"))
        columns = ["policy_id", "estimator", "batch_id", "value", "lower", "upper", "ess", "n", "reason"]
        parts.table(shown, columns, tables.POLICY_VALUES, reader.currency, "values")


parts.page("policy", draw)
