"""Overview: what the policy was worth, what was sent, which limits were short."""

import pyarrow.compute as pc
import streamlit as st

from app import parts
from app.data import Reader, where
from app.messages import day, label, number, percent, plain, say
from nba import plots, tables

METRIC = "margin"
SRM_ALERT = 0.001


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_batches", "summary_numbers"):
        return
    _alerts(reader)
    _headline(reader)
    _counts(reader)
    st.subheader(say("overview.value"), help=say("term.incremental"))
    st.caption(say("overview.value_note"))
    batches = reader.table("summary_batches")
    parts.figure(plots.value_over_batches(batches, reader.currency), "value", say("alt.value"))
    _sent(reader)
    _limits(reader)


def _headline(reader: Reader) -> None:
    arm = reader.headline_arm
    if not reader.has("summary_effects"):
        st.info(
            say("overview.no_effects", command=reader.command("effects")), icon=":material/hourglass_empty:"
        )
        return
    experiment = reader.config.experiment.experiment_id
    found = reader.rows("summary_effects", experiment_id=experiment, metric=METRIC, arm=arm, segment="all")
    if not found or found[0]["effect"] is None:
        reason = found[0]["reason"] if found else say("unknown")
        st.info(
            say("overview.unknown", arm=plain(arm), reason=plain(reason)), icon=":material/hourglass_empty:"
        )
        return
    row, unit = found[0], reader.currency
    ends = {
        name: number(row[name], unit, signed=True)
        for name in ("lower", "upper", "total_lower", "total_upper")
    }
    with st.container(border=True):
        st.metric(
            say("overview.headline", arm=plain(arm)),
            number(row["total"], unit, signed=True),
            help=say("term.incremental"),
        )
        level = percent(row["level"], digits=0)
        st.markdown(
            say("overview.interval", level=level, lower=ends["total_lower"], upper=ends["total_upper"]),
            help=say("term.interval"),
        )
        key = "overview.sentence" if row["control"] == "holdout" else "overview.plain"
        st.markdown(
            say(
                key,
                arm=plain(arm),
                control=plain(row["control"]),
                effect=number(abs(row["effect"]), unit),
                way=say("more" if row["effect"] >= 0 else "less"),
                level=level,
                lower=ends["lower"],
                upper=ends["upper"],
                n=number(row["n"]),
                total=number(row["total"], unit, signed=True),
            )
        )
        if row["lower"] is not None and row["lower"] <= 0 <= row["upper"]:
            st.markdown(say("overview.unclear"))


def _alerts(reader: Reader) -> None:
    rows = reader.rows("summary_arms")
    for name, chance in {row["experiment_id"]: row["p_srm"] for row in rows}.items():
        if chance is not None and chance < SRM_ALERT:
            text = say("overview.alert_srm", experiment=plain(name), p=f"{chance:.2g}")
            st.error(text, icon=":material/warning:")


def _counts(reader: Reader) -> None:
    batches, matured = number(reader.number("batches")), number(reader.number("batches_matured"))
    delivered = say("overview.delivered", n=number(reader.number("delivered")))
    parts.numbers(
        (say("overview.contacts"), number(reader.number("contacts")), say("term.delivered"), delivered),
        (say("overview.cost"), number(reader.number("cost"), reader.currency), "", ""),
        (say("overview.customers"), number(reader.number("customers")), "", ""),
        (say("overview.batches"), batches, say("term.matured"), say("overview.matured_n", n=matured)),
    )
    st.caption(_maturity(reader), help=say("term.matured"))


def _maturity(reader: Reader) -> str:
    batches, matured = reader.number("batches") or 0, reader.number("batches_matured") or 0
    until = day(reader.moment("matured_until"))
    text = say("overview.matured", until=until, matured=number(matured), batches=number(batches))
    if matured == batches:
        return text
    return f"{text} {say('overview.immature', at=day(reader.moment('matures_at')))}"


def _sent(reader: Reader) -> None:
    st.subheader(say("overview.sent"))
    shown = reader.table("summary_channels")
    parts.table(
        shown.filter(pc.not_equal(shown["channel"], "none")),
        ["channel", "n", "n_customers", "n_delivered", "cost"],
        tables.SUMMARY_CHANNELS,
        reader.currency,
        "channels",
    )


def _limits(reader: Reader) -> None:
    st.subheader(say("overview.limits"), help=say("term.price"))
    if not parts.filled(reader, "batches"):
        return
    at = max(row["decided_at"] for row in reader.rows("batches"))
    last = where(reader.table("batches"), decided_at=at, arm=reader.headline_arm)
    st.caption(say("overview.limits_note", at=day(at), arm=plain(reader.headline_arm)))
    short = [row for row in last.to_pylist() if row["price"] > 0]
    for row in short:
        price = number(row["price"], reader.currency)
        limit = plain(label("limit", row["limit"]))
        st.markdown(say("overview.price", limit=limit, price=price))
    if not short:
        st.markdown(say("overview.no_price"))
    columns = ["limit", "used", "available", "price"]
    parts.table(last, columns, tables.BATCHES, reader.currency, "limits")


parts.page("overview", draw)
