"""Lifetime value: what customers will bring, who is worth keeping, how good the forecast is, what is done."""

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from app import figures, grid, parts
from app.data import Reader, where
from app.messages import day, label, number, percent, say
from nba import plots, tables
from nba.plots import journeys, policies

SURE = 0.9995  # a chance that reads as 100%
VIEWS = ("worth", "groups", "alive", "risk", "check")


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_clv", "summary_numbers"):
        return
    shown = parts.choose(say("view"), VIEWS, "view", "clv.view")
    {"worth": _worth, "groups": _groups, "alive": _alive, "risk": _risk, "check": _check}[shown](reader)


def _worth(reader: Reader) -> None:
    worth = [
        (say(f"clv.{name}"), number(reader.number(f"clv_{name}"), reader.currency), say("term.clv"), "")
        for name in ("mean", "median", "total")
    ]
    alive, recent = reader.number("clv_p_alive"), reader.number("clv_recent")
    cards = [(say("clv.recent"), percent(recent), say("term.recent"), "")] if recent is not None else []
    if not _all_stay(alive):
        cards.append((say("clv.alive"), percent(alive), say("term.alive"), ""))
    parts.numbers(*worth, *cards)
    note = say(
        "clv.note",
        at=day(reader.moment("clv_as_of")),
        days=number(reader.number("clv_horizon_days")),
        unknown=number(reader.number("clv_unknown")),
        n=number(reader.number("clv_customers")),
    )
    st.caption(note)
    if _all_stay(alive):
        st.caption(say("clv.all_stay"))
    st.subheader(say("clv.title"))
    shown = reader.table("summary_clv")
    figures.figure(plots.clv(shown, reader.currency), "clv", say("alt.clv"))
    columns = _told(["lower", "upper", "n", "total", "p_alive"], shown)
    grid.table(shown, columns, tables.SUMMARY_CLV, reader.currency, "clv")


def _all_stay(alive: float | None) -> bool:
    # The model knows no leaving: its chances are 100% whoever the customer is, and mean nothing.
    return alive is not None and alive > SURE


def _told(columns: list[str], shown: pa.Table) -> list[str]:
    is_told = not _all_stay(pc.min(shown["p_alive"]).as_py())
    return [name for name in columns if is_told or name != "p_alive"]


def _groups(reader: Reader) -> None:
    if not parts.filled(reader, "clv_groups"):
        return
    whole = reader.table("clv_groups")
    names = [name for name in dict.fromkeys(whole["attribute"].to_pylist()) if name != parts.ALL]
    short = [name.removeprefix("a_") for name in names]
    chosen = parts.choose(say("attribute"), short, "attribute", "attribute")
    shown = where(whole, attribute=names[short.index(chosen)]).sort_by([("clv", "descending")])
    st.subheader(say("clv.groups"), help=say("term.clv"))
    known = shown.filter(pc.is_valid(shown["clv"]))
    figures.figure(
        journeys.bars(known, ("item", "clv", "n_known"), reader.currency), "groups", say("alt.groups")
    )
    columns = ["item", "n", "n_known", "p_alive", "expected_orders", "clv", "clv_total", "clv_at_risk"]
    columns = _told(columns, known)
    title = {"item": label("attribute", chosen)}
    grid.table(shown, columns, tables.CLV_GROUPS, reader.currency, "groups", titles=title)


def _alive(reader: Reader) -> None:
    if not parts.filled(reader, "clv_grid"):
        return
    shown = reader.table("clv_grid").sort_by([("quiet_from", "ascending"), ("repeats_from", "ascending")])
    all_stay = _all_stay(pc.min(shown["p_alive"]).as_py())
    # One colour everywhere would say nothing.
    measures = ["clv", "n"] if all_stay else ["p_alive", "clv", "n"]
    measure = parts.choose(say("clv.show"), measures, "measure", "clv.measure")
    st.subheader(say("clv.grid"), help=say("term.alive"))
    st.caption(say("clv.all_stay" if all_stay else "clv.grid_note"))
    titles = ("Days since the last purchase", "Purchases after the first")
    names = ("quiet", "repeats", measure, "n")
    form = ".0%" if measure == "p_alive" else ",.0f"
    figures.figure(journeys.heat(shown, names, titles, form), "grid", say("alt.grid"))
    columns = _told(["repeats", "quiet", "n", "p_alive", "expected_orders", "clv"], shown)
    grid.table(shown, columns, tables.CLV_GRID, reader.currency, "grid")


def _risk(reader: Reader) -> None:
    if not parts.filled(reader, "summary_at_risk"):
        return
    columns = [
        "customer_id",
        "clv_at_risk",
        "clv",
        "clv_lower",
        "clv_upper",
        "p_alive",
        "n_repeat",
        "quiet_days",
        "treatment_id",
        "reason",
    ]
    risky = reader.table("summary_at_risk")
    is_any = any((value or 0) > 0 for value in risky["clv_at_risk"].to_pylist())
    if is_any:
        st.subheader(say("clv.risk"), help=say("term.at_risk"))
        st.caption(say("clv.risk_note"))
    else:  # a model without leaving cannot say who is at risk: the title must not
        st.subheader(say("clv.most_valuable"), help=say("term.clv"))
        st.info(say("clv.nobody_at_risk"), icon=":material/info:")
        risky = risky.sort_by([("clv", "descending")])
        columns.remove("clv_at_risk")
    columns = _told(columns, risky)
    columns = [name for name in columns if name in risky.column_names]  # an earlier version had no interval
    grid.table(risky, columns, tables.SUMMARY_AT_RISK, reader.currency, "customers_at_risk")
    _retained(reader, is_at_risk=is_any)


@parts.section()
def _retained(reader: Reader, *, is_at_risk: bool) -> None:
    # Where nothing is at risk, the step ranked the customers by what they are worth.
    st.subheader(say("clv.retained" if is_at_risk else "clv.retained_worth"))
    if not parts.present(reader, "summary_retained"):
        return
    shown = reader.table("summary_retained")
    named = [
        say("clv.band" if is_at_risk else "clv.band_worth", n=number(band))
        for band in shown["band"].to_pylist()
    ]
    drawn = tables.SUMMARY_SEGMENTS.empty().select(["segment", "n", "channel"])
    drawn = drawn.from_pydict({"segment": named, "n": shown["n"], "channel": shown["channel"]})
    figures.figure(policies.segments(drawn, sort=False), "retained", say("alt.segments"))
    st.caption(say("clv.retained_note" if is_at_risk else "clv.retained_note_worth"))


def _check(reader: Reader) -> None:
    if not parts.filled(reader, "clv_deciles"):
        return
    part = parts.choose(say("clv.part"), ["value", "orders"], "part", "clv.part")
    whole = where(reader.table("clv_deciles"), part=part)
    origin = max(whole["origin_at"].to_pylist())
    unit = reader.currency if part == "value" else ""
    st.subheader(say("clv.check"), help=say("term.calibration"))
    st.caption(say("clv.check_note", at=day(origin)))
    shown = where(whole, origin_at=origin)
    title = "Margin per customer" if part == "value" else "Orders per customer"
    figures.figure(journeys.deciles(shown, title, unit), "deciles", say("alt.deciles"))
    _scores(reader, part)


@parts.section()
def _scores(reader: Reader, part: str) -> None:
    if not reader.has("clv_scores"):
        return
    scores = where(reader.table("clv_scores"), part=part)
    columns = ["origin_at", "n", "mae", "rmse", "ratio", "ngini", "top_decile", "decile_mape"]
    columns += [name for name in ("cover", "above") if name in scores.column_names]
    grid.table(scores, columns, tables.CLV_SCORES, reader.currency, "scores")


parts.page("clv", draw)
