"""Data health: is everything fresh, full and rightly joined, whom channels reach, and how the nights went."""

from typing import Any

import streamlit as st

from app import figures, grid, parts
from app.data import Reader, where
from app.messages import age, clock, label, number, percent, plain, say
from nba import tables
from nba.plots import insight, policies

VIEWS = ("data", "people", "runs")


def draw(reader: Reader) -> None:
    """Show the page."""
    shown = parts.choose(say("view"), VIEWS, "view", "health.view")
    if shown != "runs" and not parts.filled(reader, "summary_tables"):
        return
    for part in PARTS[shown]:
        with parts.section():
            part(reader)


def _checks(reader: Reader) -> None:
    st.subheader(say("health.checks"))
    if not parts.filled(reader, "alerts"):
        return
    shown = reader.table("alerts")
    bad = where(shown, status="warning").num_rows
    words = {"n": number(shown.num_rows), "bad": number(bad), "at": clock(shown["at"][0].as_py())}
    st.markdown(say("health.checked", **words))
    columns = ["alert", "subject", "status", "value", "limit", "note"]
    grid.table(shown, columns, tables.ALERTS, reader.currency, "alerts")


def _runs(reader: Reader) -> None:
    st.subheader(say("health.runs"), help=say("term.run"))
    shown = reader.runs()
    if not shown.num_rows:
        st.info(say("empty.title"), icon=":material/hourglass_empty:")
        st.markdown(say("empty.step", command=reader.command("runs")))
        return
    newest: dict[str, dict[str, Any]] = {}
    for row in shown.to_pylist():
        newest.setdefault(row["run_id"].rpartition("-")[0], row)
    for kind, row in newest.items():
        steps = where(shown, run_id=row["run_id"]).to_pylist()
        failed = [step for step in steps if step["status"] == "failed"]
        ended = steps[-1]["status"]
        words = {
            "kind": plain(label("run", kind)),
            "run": plain(row["run_id"]),
            "n": number(len(steps)),
            "seconds": number(sum(step["seconds"] or 0 for step in steps)),
            "step": plain(label("step", failed[0]["step"])) if failed else "",
        }
        st.markdown(say(f"health.run_{ended}", **words))
    columns = ["run_id", "step", "status", "started_at", "seconds", "note"]
    grid.table(shown, columns, tables.RUNS, reader.currency, "runs")


def _tables(reader: Reader) -> None:
    st.subheader(say("health.tables"))
    shown = reader.table("summary_tables")
    sizes = {row["table"]: row for row in shown.to_pylist()}
    cards = [
        (label("table", name), number(sizes[name]["n_rows"]), "",
         say("health.behind", age=age(sizes[name]["days_behind"])))
        for name in ("customers", "orders", "events", "touches", "decisions")
        if name in sizes
    ]  # fmt: skip
    parts.numbers(*cards)
    figures.figure(insight.freshness(grid.worded(shown)), "freshness", say("alt.freshness"))
    columns = ["table", "n_rows", "newest_at", "days_behind"]
    grid.table(shown, columns, tables.SUMMARY_TABLES, reader.currency, "tables")


def _sources(reader: Reader) -> None:
    st.subheader(say("health.sources"))
    if not parts.filled(reader, "summary_sources"):
        return
    shown = reader.table("summary_sources")
    grid.table(shown, shown.column_names, tables.SUMMARY_SOURCES, reader.currency, "sources")


def _quarantine(reader: Reader) -> None:
    st.subheader(say("health.quarantine"), help=say("term.quarantine"))
    if not reader.has("summary_quarantine"):
        st.markdown(say("health.no_quarantine"))
        return
    shown = reader.table("summary_quarantine")
    columns = ["source", "reason", "n", "file", "row_number"]
    grid.table(shown, columns, tables.SUMMARY_QUARANTINE, reader.currency, "quarantine")


def _identity(reader: Reader) -> None:
    st.subheader(say("health.identity"), help=say("term.identity"))
    numbers = {row["measure"]: row["value"] for row in reader.rows("quality", source="identity")}
    if numbers:
        known, merged = numbers.get("customers"), numbers.get("merges")
        rate = merged / (known + merged) if known and merged is not None else None
        notes = {"merges": say("health.merge_rate", share=percent(rate))} if rate is not None else {}
        parts.numbers(
            *(
                (say(f"health.{name}"), number(numbers[name]), "", notes.get(name, ""))
                for name in ("customers_known", "merges", "splits", "links_refused", "largest")
                if name in numbers
            )
        )


def _identities(reader: Reader) -> None:
    if not reader.has("summary_identities"):
        return
    st.caption(say("health.kinds_note"))
    shown = reader.table("summary_identities")
    columns = ["identifier_kind", "n", "share", "joined", "per_customer", "n_junk", "n_cut", "note"]
    grid.table(shown, columns, tables.SUMMARY_IDENTITIES, reader.currency, "identities")


def _clusters(reader: Reader) -> None:
    if not reader.has("summary_clusters"):
        return
    st.caption(say("health.clusters_note"))
    columns = ["customer_id", "n_identifiers", "kinds", "first_seen_at"]
    shown = reader.table("summary_clusters")
    grid.table(shown, columns, tables.SUMMARY_CLUSTERS, reader.currency, "clusters")


def _consent(reader: Reader) -> None:
    st.subheader(say("health.consent"), help=say("term.consent"))
    if not reader.has("summary_consent"):
        return
    shown = reader.table("summary_consent")
    figures.figure(policies.shares(shown, ("channel", "share"), "Reachable"), "consent", say("alt.consent"))
    unknown = shown["n_unknown"][0].as_py()
    if unknown:
        st.markdown(say("health.unknown", n=number(unknown), known=number(shown["n"][0].as_py())))
    columns = ["channel", "n_reachable", "share", "n_consent", "n_opted_out", "n", "n_unknown"]
    grid.table(shown, columns, tables.SUMMARY_CONSENT, reader.currency, "consent")


PARTS = {
    "data": (_tables, _sources, _quarantine),
    "people": (_consent, _identity, _identities, _clusters),
    "runs": (_checks, _runs),
}


parts.page("health", draw)
