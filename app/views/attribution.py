"""Attribution: how each method shares the margin of orders, beside what contact caused; the paths there."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from app import figures, grid, parts
from app.data import Reader, where
from app.messages import label, named, number, plain, say, told
from nba import plots, tables
from nba.plots import journeys

DIMENSIONS = ("channel", "action_id", "campaign", "treatment_id")
# How the tables of what was caused name a dimension; a treatment's own effect is not estimated.
LEVELS = {"channel": "channel", "action_id": "action", "campaign": "campaign"}
TABS = ("credit", "cause", "paths")


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_credits"):
        return
    shown = parts.choose(say("view"), TABS, "view", "attribution.view")
    {"credit": _credit, "cause": _cause, "paths": _paths}[shown](reader)


def _credit(reader: Reader) -> None:
    st.info(say("attribution.note"), icon=":material/info:")
    found = reader.table("summary_credit_parts") if reader.has("summary_credit_parts") else None
    by = parts.choose(say("attribution.by"), DIMENSIONS, "by", "attribution.by")
    if found is None:
        found = reader.table("summary_credits")
        by = "channel" if by in ("action_id", "campaign") else by
    else:
        left, right = st.columns(2)
        periods = [parts.ALL, *sorted(set(found["period"].to_pylist()) - {parts.ALL}, reverse=True)]
        period = parts.choose(say("attribution.period"), periods, "period", where=left)
        audiences = [parts.ALL, *sorted(set(found["audience"].to_pylist()) - {parts.ALL})]
        audience = parts.choose(say("attribution.audience"), audiences, "audience", where=right)
        found = where(found, period=period, audience=audience)
        if audience == parts.ALL:
            _headline(reader, period)
    st.subheader(say("attribution.credits"), help=say("term.credit"))
    figures.figure(plots.credits(found, reader.currency, by, reader.names(by)), "credits", say("alt.credits"))
    methods = list(dict.fromkeys(found["method"].to_pylist()))
    if not methods:
        return
    method = parts.choose(say("attribution.method"), methods, "method", "method")
    listed = where(found, method=method).sort_by([("credit", "descending")])
    if by in LEVELS and "period" in found.column_names:
        _beside(reader, listed, by, {"method": method, "period": period, "audience": audience})
        return
    st.caption(say("attribution.by_treatment"))
    contract = tables.SUMMARY_CREDIT_PARTS if "period" in found.column_names else tables.SUMMARY_CREDITS
    columns = ["channel", "treatment_id", "n_orders", "credit", "share", "method"]
    grid.table(listed, columns, contract, reader.currency, f"credits_{method}")


def _beside(reader: Reader, credits: pa.Table, by: str, of: dict[str, str]) -> None:  # noqa: A002
    # What each item was credited, and what part of it contact caused, as far as randomisation can tell.
    level = LEVELS[by]
    caused: dict[str, dict[str, Any]] = {}
    if reader.has("attribution_parts"):
        caused = {row["item"]: row for row in reader.rows("attribution_parts", level=level, **of)}
    else:
        st.caption(say("empty.part", command=reader.command("attribution_parts")))
    nothing = say(_unknown(of, is_known=bool(caused)))
    summed = credits.group_by([by]).aggregate([("credit", "sum"), ("share", "sum")])
    rows = [
        {"method": of["method"], "level": level, "source": "none", "reason": nothing}
        | caused.get(row[by], {})
        | {"item": row[by], "period": of["period"], "audience": of["audience"]}
        | {"credited": row["credit_sum"], "warning": ""}
        for row in summed.sort_by([("credit_sum", "descending")]).to_pylist()
    ]
    shares = pa.array(summed.sort_by([("credit_sum", "descending")])["share_sum"].to_pylist(), pa.float64())
    shown = tables.ATTRIBUTION_PARTS.build(rows).append_column("share", shares)
    share = next(field for field in tables.SUMMARY_CREDIT_PARTS.fields if field.name == "share")
    contract = replace(tables.ATTRIBUTION_PARTS, fields=(*tables.ATTRIBUTION_PARTS.fields, share))
    columns = ["item", "credited", "share", "compared", "incremental", "lower", "upper", "incremental_share"]
    titles = {"item": say(f"attribution.by.{by}"), "share": grid.title_of("share", "summary_credit_parts")}
    st.caption(say("attribution.beside_note"))
    grid.table(
        shown,
        [*columns, "source", "reason"],
        contract,
        reader.currency,
        f"credits_{of['method']}",
        titles=titles,
    )


def _unknown(of: dict[str, str], *, is_known: bool) -> str:
    # Why an item has no number of what contact caused.
    if is_known:
        return "attribution.not_measured"
    if of["method"].endswith("_calibrated"):
        return "attribution.is_calibrated"
    is_part = parts.ALL not in (of["period"], of["audience"])
    return "attribution.not_both" if is_part else "attribution.not_measured"


@parts.section()
def _headline(reader: Reader, period: str) -> None:
    # What all contact caused stands above what methods credit, and is read before a figure is drawn.
    if not reader.has("incremental"):
        return
    rows = reader.rows("incremental", level=parts.ALL, period=period)
    if not rows or rows[0]["margin"] is None:
        return
    (row,), unit = rows, reader.currency
    ends = {end: number(row[f"margin_{end}"], unit) for end in ("lower", "upper")}
    returned = {end: number(row[f"roas_{end}"]) for end in ("lower", "upper")}
    parts.numbers(
        (say("attribution.all_caused"), number(row["margin"], unit), say("term.incremental"),
         say("attribution.span", **ends)),
        (say("column.roas"), number(row["roas"]), say("term.roas"), say("attribution.span", **returned)),
    )  # fmt: skip
    st.caption(say("attribution.all_note"))


def _cause(reader: Reader) -> None:
    st.subheader(say("attribution.incremental"), help=say("term.incremental"))
    if not parts.filled(reader, "attribution"):
        return
    whole = reader.table("attribution")
    by = parts.choose(say("attribution.by"), list(LEVELS), "by", "attribution.by")
    left, right = st.columns(2)
    periods = [parts.ALL, *sorted(set(whole["period"].to_pylist()) - {parts.ALL}, reverse=True)]
    period = parts.choose(say("attribution.period"), periods, "period", where=left)
    shown, audience = where(whole, period=period), parts.ALL
    if reader.has("attribution_parts"):
        found = reader.table("attribution_parts")
        known = set(found["audience"].to_pylist()) if period == parts.ALL else set()
        audiences = [parts.ALL, *sorted(known - {parts.ALL})]
        audience = parts.choose(say("attribution.audience"), audiences, "audience", where=right)
        if (by, audience) != ("channel", parts.ALL):
            shown = _as_channels(where(found, level=LEVELS[by], period=period, audience=audience))
    elif by != "channel":
        st.caption(say("empty.part", command=reader.command("attribution_parts")))
        return
    shown = _named(shown, "channel")
    _disagreements(shown, reader)
    figures.figure(journeys.credited_against_caused(shown, reader.currency), "caused", say("alt.caused"))
    st.caption(say("attribution.caused_note"))
    if (by, audience) == ("channel", parts.ALL):
        _left_out(reader, period)
    columns = ["method", "channel", "compared", "incremental", "lower", "upper", "ratio", "source", "reason"]
    titles = {"channel": say(f"attribution.by.{by}")}
    grid.table(shown, columns, tables.ATTRIBUTION, reader.currency, "attribution", titles=titles)
    if audience == parts.ALL:
        _returns(reader, period)


def _as_channels(found: pa.Table) -> pa.Table:
    # Figures and sentences of channels tell of actions and campaigns, too; what was not ours is no item.
    ours = found.filter(pc.not_equal(found["item"], "unknown"))
    rows = [row | {"channel": row["item"], "is_advertising": True} for row in ours.to_pylist()]
    columns = tables.ATTRIBUTION.columns
    return tables.ATTRIBUTION.build([{n: v for n, v in row.items() if n in columns} for row in rows])


@parts.section()
def _returns(reader: Reader, period: str) -> None:
    st.subheader(say("attribution.roas"), help=say("term.roas"))
    if not parts.filled(reader, "incremental"):
        return
    found = where(reader.table("incremental"), period=period)
    level = parts.choose(say("attribution.by"), ["channel", "action"], "level", "attribution.level")
    # What all contact caused stands below: what single channels or actions caused does not add up to it.
    once = _named(pa.concat_tables([where(found, level=level), where(found, level=parts.ALL)]), "item")
    st.caption(say("attribution.roas_note"))
    columns = [
        "item",
        *("roas", "roas_lower", "roas_upper"),
        *("margin", "margin_lower", "margin_upper"),
        *("spent", "cost"),
    ]
    columns += ["conversions", "cost_per_conversion", "marginal_return", "source", "reason"]
    title = {"item": say(f"attribution.level.{level}")}
    grid.table(once, columns, tables.INCREMENTAL, reader.currency, "roas", titles=title)


def _named(shown: pa.Table, column: str) -> pa.Table:
    names = [say("all") if name == parts.ALL else name for name in shown[column].to_pylist()]
    return shown.set_column(shown.column_names.index(column), column, pa.array(names, pa.string()))


@parts.section()
def _left_out(reader: Reader, period: str) -> None:
    if not reader.has("incremental"):
        return
    rows = reader.rows("incremental", period=period, level="channel")
    lines = [f"{plain(named(row['item']))}: {plain(told(row['reason']))}" for row in rows if row["reason"]]
    if lines:
        st.markdown("\n".join([say("attribution.left_out"), "", *(f"- {line}" for line in lines)]))


def _disagreements(shown: pa.Table, reader: Reader) -> None:
    rows = [row for row in shown.to_pylist() if row["warning"]]
    if not rows:
        st.markdown(say("attribution.agrees"))
        return
    st.warning(say("attribution.disagrees", n=number(len(rows))), icon=":material/balance:")
    with st.expander(say("attribution.which")):
        for row in rows:
            words = {
                name: number(row[name], reader.currency)
                for name in ("compared", "incremental", "lower", "upper")
            }
            way = "too_much" if (row["compared"] or 0) > (row["incremental"] or 0) else "too_little"
            st.markdown(
                say(
                    f"attribution.{way}",
                    method=plain(label("method", row["method"])),
                    channel=plain(named(row["channel"])),
                    **words,
                )
            )


def _paths(reader: Reader) -> None:
    if not parts.filled(reader, "path_statistics"):
        return
    shown = reader.table("path_statistics")
    journey = {row["item"]: row for row in where(shown, measure="journeys").to_pylist()}
    parts.numbers(
        *(
            (told(name).capitalize(), number((row["conversions"] or 0) or row["nulls"]), "", "")
            for name, row in journey.items()
        )
    )
    st.subheader(say("attribution.paths"), help=say("term.path"))
    figures.figure(journeys.paths(shown), "paths", say("alt.paths"))
    left, right = parts.halves()
    with left:
        st.subheader(say("attribution.length"))
        figures.figure(
            journeys.counts(shown, "length", "Contacts before the order"), "length", say("alt.length")
        )
    with right:
        st.subheader(say("attribution.lag"))
        figures.figure(
            journeys.counts(shown, "lag_days", "Days from the first contact to the order"),
            "lag",
            say("alt.lag"),
        )
    listed = where(shown, measure="path").sort_by([("conversions", "descending")])
    columns = ["item", "conversions", "nulls", "margin"]
    grid.table(listed, columns, tables.PATH_STATISTICS, reader.currency, "path_list")


parts.page("attribution", draw)
