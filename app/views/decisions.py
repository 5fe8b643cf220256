"""Decisions: what was chosen for whom, batch by batch, by channel, action and arm."""

import streamlit as st

from app import parts
from app.data import Reader, where
from app.messages import label, say
from nba import plots, tables


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_mix", "summary_batches"):
        return
    shown, batches = reader.table("summary_mix"), reader.table("summary_batches")
    left, right = st.columns(2)
    by = parts.choose(say("decisions.by"), ["channel", "action_id"], "by", "decisions.by", where=left)
    arms = sorted(set(batches["arm"].to_pylist()))
    arm = parts.choose(say("arm"), [parts.ALL, *arms], "arm", where=right, help=say("arm_help"))
    if arm in arms:
        shown, batches = where(shown, arm=arm), where(batches, arm=arm)
    st.subheader(say("decisions.mix"))
    order = sorted(set(reader.table("summary_mix")[by].to_pylist()))
    parts.figure(plots.mix(shown, by, order), "mix", say("alt.mix", by=label("decisions.by", by)))
    latest_first = [("decided_at", "descending"), ("arm", "ascending")]
    shown, batches = shown.sort_by(latest_first), batches.sort_by(latest_first)
    st.subheader(say("decisions.batches"))
    columns = ["batch_id", "arm", "decided_at", "n", "n_contacts", "n_delivered", "cost", "is_matured"]
    parts.table(batches, columns, tables.SUMMARY_BATCHES, reader.currency, "batches")
    st.subheader(say("decisions.treatments"))
    columns = ["batch_id", "arm", "action_id", "channel", "n", "n_delivered", "cost", "expected_value"]
    parts.table(shown, columns, tables.SUMMARY_MIX, reader.currency, "treatments")


parts.page("decisions", draw)
