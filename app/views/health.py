"""Data health: is everything fresh, full and rightly joined, and whom may each channel reach."""

import streamlit as st

from app import parts
from app.data import Reader
from app.messages import label, number, say
from nba import tables
from nba.plots import policies


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_tables"):
        return
    _tables(reader)
    _sources(reader)
    _quarantine(reader)
    _identity(reader)
    _consent(reader)


def _tables(reader: Reader) -> None:
    st.subheader(say("health.tables"))
    shown = reader.table("summary_tables")
    sizes = {row["table"]: row for row in shown.to_pylist()}
    cards = [
        (label("table", name), number(sizes[name]["n_rows"]), "",
         say("health.behind", days=number(sizes[name]["days_behind"])))
        for name in ("customers", "orders", "events", "touches", "decisions")
        if name in sizes
    ]  # fmt: skip
    parts.numbers(*cards)
    columns = ["table", "n_rows", "newest_at", "days_behind"]
    parts.table(shown, columns, tables.SUMMARY_TABLES, reader.currency, "tables")


def _sources(reader: Reader) -> None:
    st.subheader(say("health.sources"))
    if not parts.filled(reader, "summary_sources"):
        return
    shown = reader.table("summary_sources")
    parts.table(shown, shown.column_names, tables.SUMMARY_SOURCES, reader.currency, "sources")


def _quarantine(reader: Reader) -> None:
    st.subheader(say("health.quarantine"), help=say("term.quarantine"))
    if not reader.has("summary_quarantine"):
        st.markdown(say("health.no_quarantine"))
        return
    shown = reader.table("summary_quarantine")
    columns = ["source", "reason", "n", "file", "row_number"]
    parts.table(shown, columns, tables.SUMMARY_QUARANTINE, reader.currency, "quarantine")


def _identity(reader: Reader) -> None:
    st.subheader(say("health.identity"), help=say("term.identity"))
    numbers = {row["measure"]: row["value"] for row in reader.rows("quality", source="identity")}
    if numbers:
        parts.numbers(
            *(
                (say(f"health.{name}"), number(numbers[name]), "", "")
                for name in ("customers", "customers_known", "merges", "splits", "largest")
                if name in numbers
            )
        )
    if reader.has("summary_clusters"):
        st.caption(say("health.clusters_note"))
        columns = ["customer_id", "n_identifiers", "kinds", "first_seen_at"]
        shown = reader.table("summary_clusters")
        parts.table(shown, columns, tables.SUMMARY_CLUSTERS, reader.currency, "clusters")


def _consent(reader: Reader) -> None:
    st.subheader(say("health.consent"), help=say("term.consent"))
    if not reader.has("summary_consent"):
        return
    shown = reader.table("summary_consent")
    parts.figure(policies.shares(shown, ("channel", "share"), "Reachable"), "consent", say("alt.consent"))
    columns = ["channel", "n", "n_consent", "n_opted_out", "n_reachable", "share"]
    parts.table(shown, columns, tables.SUMMARY_CONSENT, reader.currency, "consent")


parts.page("health", draw)
