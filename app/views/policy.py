"""Policy: what limits were worth, and what other policies would have earned."""

import streamlit as st

from app import parts
from app.data import Reader, where
from app.messages import say
from nba import plots, tables

HOLDOUT = "holdout"


def draw(reader: Reader) -> None:
    """Show the page."""
    st.subheader(say("policy.prices"), help=say("term.price"))
    if parts.filled(reader, "batches"):
        arms = sorted(set(reader.table("batches")["arm"].to_pylist()))
        champion = [arm for arm in arms if arm == reader.headline_arm]
        others = [arm for arm in arms if arm not in (*champion, HOLDOUT)]
        arm = parts.choose(say("arm"), [*champion, *others], "arm", help=say("arm_help"))
        shown = where(reader.table("batches"), arm=arm).sort_by([("decided_at", "descending")])
        parts.figure(plots.prices(shown, reader.currency), "prices", say("alt.prices"))
        columns = ["batch_id", "decided_at", "limit", "used", "available", "price", "n_customers"]
        parts.table(shown, columns, tables.BATCHES, reader.currency, "prices")
    st.subheader(say("policy.values"), help=say("term.ess"))
    if parts.filled(reader, "policy_values"):
        st.caption(say("policy.values_note"))
        shown = where(reader.table("policy_values"), batch_id="all")
        parts.figure(plots.policy_values(shown, reader.currency), "values", say("alt.policy_values"))
        columns = ["policy_id", "estimator", "value", "lower", "upper", "ess", "n", "reason"]
        parts.table(shown, columns, tables.POLICY_VALUES, reader.currency, "values")


parts.page("policy", draw)
