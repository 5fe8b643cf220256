"""Overview: what the policy was worth, what needs a look, what was sent to whom, which limits were short."""

from typing import Any

import pyarrow.compute as pc
import streamlit as st

from app import figures, grid, parts
from app.data import Reader, leading, where
from app.messages import chance, day, feature, label, number, percent, plain, say, told
from app.report import BASIS, valid
from nba import plots, tables
from nba.experiments.decision import EARLY
from nba.experiments.judged import READING
from nba.plots import policies

HALF = 455  # pixels of each half of the top
SHOWN = 6  # alerts that are shown at once
_ICON = {"error": ":material/error:", "warning": ":material/warning:", "info": ":material/info:"}
# Where each kind of alert is looked into.
_PAGE = {
    "uneven arms": "experiments",
    "harm": "experiments",
    "unreadable": "experiments",
    "verdict": "experiments",
    "stale data": "health",
    "thin batch": "policy",
    "unanswered batch": "health",
    "limit pressed": "policy",
    "immature": "policy",
    "credit disagrees": "attribution",
    "drift": "models",
    "value drop": "policy",
    "run failed": "health",
}

# The tab of that page, where it is not the first.
_VIEW = {"drift": "drift", "limit pressed": "prices", "credit disagrees": "cause", "run failed": "runs"}
_VIEW |= {"unanswered batch": "runs"}


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_batches", "summary_numbers"):
        return
    # Beside each other where there is room, else one below the other.
    with st.container(horizontal=True, gap="medium"):
        with st.container(width=HALF), parts.section():
            _headline(reader)
        with st.container(width=HALF), parts.section():
            _alerts(reader)
    with parts.section():
        _counts(reader)
    st.subheader(say("overview.value"), help=say("term.incremental"))
    batches = reader.table("summary_batches")
    figures.figure(plots.value_over_batches(batches, reader.currency, reader.arms), "value", say("alt.value"))
    st.caption(say("overview.value_note"))
    for part in (_limits, _sent, _to_whom):
        with parts.section():
            part(reader)


def _headline(reader: Reader) -> None:
    arm = reader.headline_arm
    if not reader.has("summary_effects"):
        command = reader.command("effects")
        st.info(say("overview.no_effects", command=command), icon=":material/hourglass_empty:")
        return
    experiment, metric = reader.config.experiment.experiment_id, reader.config.experiment.headline
    if metric is None:
        st.info(say("overview.no_money"), icon=":material/info:")
        return
    found = reader.rows(
        "summary_effects", experiment_id=experiment, metric=metric.name, arm=arm, segment="all"
    )
    if not found or found[0]["effect"] is None:
        reason = told(found[0]["reason"]) if found else say("unknown")
        text = say("overview.unknown", arm=plain(arm), reason=plain(reason))
        st.info(text, icon=":material/hourglass_empty:")
        return
    judged = reader.judged(tables.SUMMARY_EFFECTS.build(found), experiment)
    (row,), unit = leading(judged).to_pylist(), reader.currency
    period = _chosen(reader, arm)
    with st.container(border=True):
        if period is not None:
            _of_period(period, reader, is_net=metric.numerator == "margin")
            return
        read = reader.rows("readouts", experiment_id=experiment, arm=arm) if reader.has("readouts") else []
        headline = say("overview.headline", arm=plain(arm), **_period(reader, read))
        parts.number(headline, number(row["total"], unit, signed=True), say("term.incremental"))
        words = _words(row, arm, unit)
        if row["total_lower"] is not None:  # summaries of earlier versions lack that of every look
            st.markdown(say("overview.interval", **words), help=say(f"term.{BASIS[row['basis']]}"))
        key = "overview.sentence" if row["control"] == "holdout" else "overview.plain"
        st.markdown(say(key, **words))
        if row["lower"] is not None and row["lower"] <= 0 <= row["upper"]:
            st.markdown(say("overview.unclear"))
        if any(EARLY in one["reason"] and one["metric"] == metric.name for one in read):
            st.markdown(say("overview.early"))
        for text in _counted(reader, read, is_net=metric.numerator == "margin"):
            st.caption(text)
        if metric.numerator != "margin":  # a value that is not what was earned says of what it is
            st.caption(label("metric", metric.numerator))
        st.caption(_maturity(reader), help=say("term.matured"))


def _chosen(reader: Reader, arm: str) -> dict[str, Any] | None:
    # The whole period is the verdict's; parts of it are there once more batches have matured than they hold.
    rows = reader.rows("summary_periods", arm=arm) if reader.has("summary_periods") else []
    parts_of = {row["period"]: row for row in rows}
    if not parts_of:
        return None
    return parts_of.get(
        parts.choose(say("overview.period"), ["whole", *parts_of], "period", "overview.period")
    )


def _of_period(row: dict[str, Any], reader: Reader, *, is_net: bool) -> None:
    unit, arm = reader.currency, row["arm"]
    headline = say("overview.headline", arm=plain(arm), since=day(row["since"]), until=day(row["until"]))
    parts.number(headline, number(row["total"], unit, signed=True), say("term.incremental"))
    if row["effect"] is None:
        st.markdown(say("overview.unknown", arm=plain(arm), reason=plain(told(row["reason"]))))
        return
    words = _words(row | {"basis": READING}, arm, unit)
    st.markdown(say("overview.interval", **words), help=say("term.interval"))
    st.markdown(say("overview.part", **words))
    if row["lower"] <= 0 <= row["upper"]:
        st.markdown(say("overview.unclear"))
    st.caption(say("overview.cost_net" if is_net else "overview.cost_apart", cost=number(row["cost"], unit)))
    st.caption(say("overview.part_note"))


def _period(reader: Reader, read: list[dict[str, Any]]) -> dict[str, str]:
    # Effects count from each customer's assignment to the moment of the readout.
    until = read[0]["matured_at"] if read else reader.moment("matured_until")
    since = reader.config.experiment.starts_at or reader.moment("first_batch")
    return {"since": day(since), "until": day(until)}


def _counted(reader: Reader, read: list[dict[str, Any]], *, is_net: bool) -> list[str]:
    # What the value is net of, and that it counts batches that are still open up to the same moment.
    if not read or read[0]["matured_at"] is None:
        return []
    out, (row, *_) = [], read
    until = day(row["matured_at"])
    if row["cost"] is not None:  # readouts of earlier versions lack it
        key = "overview.cost_net" if is_net else "overview.cost_apart"
        out.append(say(key, cost=number(row["cost"], reader.currency)))
    batches = reader.rows("summary_batches", arm=row["arm"], is_matured=False)
    still = [one for one in batches if one["decided_at"] < row["matured_at"]]
    if still:
        out.append(say("overview.includes", until=until, n=number(len(still))))
    return out


def _words(row: dict[str, Any], arm: str, unit: str) -> dict[str, str]:
    names = ("lower", "upper", "total", "total_lower", "total_upper")
    return {name: number(row[name], unit, signed=True) for name in names} | {
        "arm": plain(arm),
        "control": plain(row["control"]),
        "effect": number(abs(row["effect"]), unit),
        "way": say("more" if row["effect"] >= 0 else "less"),
        "level": percent(row["level"], digits=0),
        "valid": valid(row),
        "n": number(row["n"]),
    }


def _alerts(reader: Reader) -> None:
    st.subheader(say("overview.next"))
    rows = _failed(reader) + (reader.rows("summary_alerts") if reader.has("summary_alerts") else [])
    if not rows:
        st.markdown(say("overview.nothing"))
    for row in rows[:SHOWN]:
        _alert(row, reader)
    if len(rows) > SHOWN:
        with st.expander(say("overview.more", n=number(len(rows) - SHOWN))):
            for row in rows[SHOWN:]:
                _alert(row, reader)


def _failed(reader: Reader) -> list[dict[str, Any]]:
    # Read from the records, not from the summary: a night that fails early makes none.
    newest: dict[str, str] = {}
    rows = reader.runs().to_pylist()
    for row in rows:
        newest.setdefault(row["run_id"].rpartition("-")[0], row["run_id"])
    return [
        {"kind": "run failed", "subject": row["run_id"], "severity": "error", "value": None, "limit": None,
         "note": row["note"], "step": label("step", row["step"])}
        for row in rows
        if row["status"] == "failed" and row["run_id"] in newest.values()
    ]  # fmt: skip


def _alert(row: dict[str, Any], reader: Reader) -> None:
    kind = row["kind"].replace(" ", "_")
    subject = row["subject"]
    experiment, _, arm = subject.rpartition(": ")  # of verdicts
    text = say(
        f"alert.{kind}",
        subject=plain(" · ".join(label("limit", part) for part in subject.split())),
        table=plain(label("table", subject)),
        experiment=plain(experiment),
        arm=plain(arm),
        name=plain(feature(subject) if kind == "drift" else subject),
        value=number(row["value"]),
        limit=number(row["limit"]),
        share=percent(row["value"], digits=0),
        small=chance(row["value"] or 0.0),
        note=plain(label("verdict", told(row["note"]))),
        step=plain(row.get("step", "")),
        at=day(reader.moment("matures_at")),
    )
    with st.container(horizontal=True, gap="small"):
        st.markdown(f"{_ICON[row['severity']]} {text}", width=HALF - 90)
        st.page_link(
            f"views/{_PAGE[row['kind']]}.py",
            label=say("overview.look"),
            width="content",
            query_params=_query(row, experiment),
        )


def _query(row: dict[str, Any], experiment: str) -> dict[str, str]:
    # The tab, or the experiment, that the alert is about.
    if _PAGE[row["kind"]] == "experiments":
        return {"experiment": experiment or row["subject"]}
    return {"view": _VIEW[row["kind"]]} if row["kind"] in _VIEW else {}


def _counts(reader: Reader) -> None:
    batches, matured = number(reader.number("batches")), number(reader.number("batches_matured"))
    delivered = say("overview.delivered", n=number(reader.number("delivered")))
    since = say("overview.since", at=day(reader.moment("first_batch")))
    parts.numbers(
        (say("overview.contacts"), number(reader.number("contacts")), say("term.delivered"), delivered),
        (say("overview.cost"), number(reader.number("cost"), reader.currency), "", since),
        (say("overview.customers"), number(reader.number("customers")), "", since),
        (say("overview.batches"), batches, say("term.matured"), say("overview.matured_n", n=matured)),
    )
    st.caption(say("overview.counts_note"))


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
    grid.table(
        shown.filter(pc.not_equal(shown["channel"], "none")),
        ["channel", "n", "n_customers", "n_delivered", "cost"],
        tables.SUMMARY_CHANNELS,
        reader.currency,
        "channels",
        titles={"n": say("overview.contacts")},
    )


def _to_whom(reader: Reader) -> None:
    if not reader.has("summary_segments"):
        return
    st.subheader(say("overview.to_whom"))
    names = sorted(set(reader.table("summary_segments")["attribute"].to_pylist()))
    attribute = parts.choose(say("attribute"), names, "attribute", "attribute")
    shown = where(reader.table("summary_segments"), attribute=attribute, arm=reader.headline_arm)
    figures.figure(policies.segments(shown), "segments", say("alt.segments"))
    st.caption(say("overview.to_whom_note", arm=plain(reader.headline_arm)))


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
        limit = plain(label("limit_unit", row["limit"]))
        st.markdown(say("overview.price", limit=limit, price=price))
    if not short:
        st.markdown(say("overview.no_price"))
    grid.limits(last, ["limit", "used", "available", "unit", "price"], reader.currency, "limits")


parts.page("overview", draw)
