"""Parts that pages share: the frame around a page, empty states, choices, tables and figures."""

import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st
from pyarrow import csv
from streamlit.delta_generator import DeltaGenerator

from app import data
from app.access import NOBODY, Role
from app.data import Reader
from app.messages import (
    chance,
    changes,
    conditions,
    day,
    decimals,
    feature,
    knows,
    label,
    language,
    phrase,
    phrases,
    plain,
    say,
    share,
    told,
)
from nba import tables
from nba.errors import MissingError, NbaError
from nba.policy import eligibility

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

READER, ROLE = "reader", "role"
ALL, RATE, LINK = "all", "%", "link"
LARGE = 1000  # from here on, thousands are set apart
LEAST = 0.001  # below it a p-value is told as smaller than it
SCORES = ("auc", "log_loss", "log_loss_constant", "qini", "qini_lower", "qini_upper")
MIXED = "as the"  # units that differ from row to row
# Of metrics that are fractions, a difference is in points of a hundred.
DIFFERENCES = (
    *("effect", "lower", "upper", "always_lower", "always_upper", "limit"),
    *("judged_effect", "judged_lower", "judged_upper"),
)
RATIOS = ("roas", "roas_lower", "roas_upper", "marginal_return", "ratio", "weight", "lever")
P_VALUES = ("p_value", "p_corrected", "p_heterogeneity", "p_srm", "p_traffic")
_UNIT_FORMAT = {"fraction": "percent", "probability 0-1": "percent", "probability": "percent"}
_UNIT_FORMAT |= dict.fromkeys(("days", "seconds"), "localized")
_TERM = {
    "lower": "interval",
    "upper": "interval",
    "relative_lower": "interval",
    "relative_upper": "interval",
    "always_lower": "sequence",
    "always_upper": "sequence",
    "always_total_lower": "sequence",
    "always_total_upper": "sequence",
    "judged_lower": "judged",
    "judged_upper": "judged",
    "judged_total_lower": "judged",
    "judged_total_upper": "judged",
    "p_value": "p_value",
    "estimator": "estimator",
    "p_heterogeneity": "heterogeneity",
    "p_corrected": "corrected",
    "price": "price",
    "is_matured": "matured",
    "ess": "ess",
    "max_weight": "max_weight",
    "credit": "credit",
    "n_delivered": "delivered",
    "p_action": "p_action",
    "p_response": "p_response",
    "uplift": "uplift",
    "priority": "priority",
    "lever": "lever",
    "roas": "roas",
    "roas_lower": "interval",
    "roas_upper": "interval",
    "margin_lower": "interval",
    "margin_upper": "interval",
    "p_alive": "alive",
    "clv": "clv",
    "auc": "auc",
    "ece": "calibration",
    "qini": "qini",
    "qini_lower": "interval",
    "qini_upper": "interval",
    "psi": "psi",
    "relative_effect": "relative",
}
# Pixels of texts that fit badly by themselves: long ones that a figure above shows in full, and those that
# the first rows lack, by which the browser judges.
_WIDTHS = {
    ("value_finder", "segment"): 270,
    ("summary_models", "alias"): 150,
    ("choices", "stage"): 130,
    ("choices", "reason"): 170,
}
# Columns whose values are our own words: column to the section of the catalogue that words them.
_WORDED = {
    "channel": "channel",
    "estimator": "estimator",
    "verdict": "verdict",
    "state": "state",
    "metric": "metric_short",
    "method": "method",
    "limit": "limit",
    "table": "table",
    "severity": "severity",
    "status": "status",
    "versus": "versus",
    "check": "check_name",
    "alert": "alert_name",
    "step": "step",
    "stage": "stage",
    "standing": "standing",
    "what": "promotion",
    "source": "rests",
}
# Names in data that are our own words, not the company's.
OURS = ("none", "unknown", "order", "no order")
_READ: Mapping[str, Callable[[str], str]] = {
    "alias": lambda names: ", ".join(label("alias", name) for name in names.split(", ")),
    "item": lambda name: named(name),
    "treatment_id": lambda name: told(name) if name in OURS else name,
    "action_id": lambda name: told(name) if name in OURS else name,
    "feature": feature,
    "segment": conditions,
    "changes": changes,
    "subject": lambda name: feature(name) if name.startswith("f_") else _subject(name),
}
_TOLD = ("reason", "note", "rule", "estimand", "warning", "unit", "scenario")


def named(text: str) -> str:
    """Give a channel, or a path over channels, as people read it; other names stay as they are."""
    return " > ".join(told(part) if part in OURS else label("channel", part) for part in text.split(" > "))


def _subject(name: str) -> str:
    # A table, an arm and its limit, or whatever else a check looked at.
    if knows(f"table.{name}"):
        return label("table", name)
    arm, _, limit = name.rpartition(" ")
    return f"{arm} · {label('limit', limit)}" if arm and knows(f"limit.{limit}") else name


def page(name: str, draw: Callable[[Reader], None]) -> None:
    """Show a page; whatever goes wrong with its data becomes a message in its place."""
    st.session_state[_STALE_TOLD] = False  # a run tells it once
    st.title(say(f"page.{name}"))
    st.caption(say(f"about.{name}"))
    try:
        draw(data.read(st.session_state[READER]))
    except MissingError as error:
        st.info(f"{say('empty.title')} {_fault(error.message)}", icon=":material/hourglass_empty:")
        _mend(error.hint)
    except NbaError as error:
        st.error(_fault(error.message), icon=":material/error:")
        _mend(error.hint)
    except Exception:
        logging.getLogger(__name__).exception("page %s failed", name)
        st.error(say("page.failed"), icon=":material/error:")


@contextmanager
def section() -> Iterator[None]:
    """Let a part of a page fail alone: whatever goes wrong with its data becomes a message in its place."""
    try:
        yield
    except NbaError as error:
        st.error(_fault(error.message), icon=":material/error:")
        _mend(error.hint)
    except Exception:
        logging.getLogger(__name__).exception("part of a page failed")
        st.error(say("page.part_failed"), icon=":material/error:")


def _fault(message: str) -> str:
    # A message that this language does not know is quoted, as the log has it.
    own = told(message)
    is_known = own != message or not phrases(language())
    return literal(own) if is_known else say("page.quoted", message=literal(message))


def _mend(hint: str) -> None:
    if hint:
        st.markdown(say("page.hint", hint=told(hint)))


def role() -> Role:
    """Give the role of whoever looks."""
    found = st.session_state.get(ROLE, NOBODY)
    assert isinstance(found, Role)
    return found


def filled(reader: Reader, *needs: str) -> bool:
    """Say whether all tables have rows; else show which command fills the first that has none."""
    for name in needs:
        if not reader.has(name):
            source = _SOURCE.get(name, name)
            missing = source if not reader.has(source) else name
            st.info(say("empty.title"), icon=":material/hourglass_empty:")
            st.markdown(say("empty.step", command=reader.command(missing)))
            return False
    _warn_if_stale(reader, needs)
    return True


def numbers(*shown: tuple[str, str, str, str]) -> None:
    """Show single numbers side by side, wrapping where the window is narrow.

    Args:
        shown: Label, value, tooltip ("" for none) and a note below ("" for none) of each.
    """
    with st.container(horizontal=True, gap="small"):
        for title, value, meaning, note in shown:
            with st.container(width=CARD if len(value) <= LONG else WIDTH, gap=None):
                st.metric(title, value, help=meaning or None)
                if note:
                    st.caption(note)


def halves() -> tuple[DeltaGenerator, DeltaGenerator]:
    """Give two places side by side, one below the other where the window is narrow."""
    row = st.container(horizontal=True, gap="medium")
    return row.container(width=HALF), row.container(width=HALF)


def choose(
    title: str,
    options: Sequence[str],
    key: str,
    prefix: str = "",
    *,
    where: Any = None,
    help: str = "",  # noqa: A002
) -> str:
    """Let the user choose one of a few; the choice stands in the URL, so that a link repeats it.

    Args:
        title: Label.
        options: Our own names; the first is chosen at first, and then not in the URL.
        key: Name in the URL.
        prefix: Section of the catalogue that words the options; "" shows them as they are.
        where: Container to draw in.
        help: Tooltip.
    """
    asked, stands = st.query_params.get(key), st.session_state.get(key)
    # Always set: what another page left under the same name is not the choice of this page's widget.
    st.session_state[key] = next((name for name in (stands, asked) if name in options), options[0])
    is_short = bool(prefix) and len(options) <= SEGMENTS
    draw = (where or st).segmented_control if is_short else (where or st).selectbox
    more = {"required": True} if is_short else {}

    def word(name: str) -> str:
        text = _option(prefix, name)
        return plain(text) if is_short and text == name else text  # buttons read Markdown, lists do not

    shown = draw(title, options, key=key, format_func=word, help=help or None, **more)
    if shown == options[0]:
        st.query_params.pop(key, None)
    else:
        st.query_params[key] = str(shown)
    return str(shown)


def kept(key: str, usual: Any, read: Callable[[list[str]], Any | None], draw_it: Callable[[], Any]) -> Any:
    """Draw a widget whose changed value stands in the URL, so that a link repeats it.

    Args:
        key: The widget's key, and its name in the URL.
        usual: Its value at first, which does not stand in the URL.
        read: Gives the value of what the URL says; None where that is no value of the widget.
        draw_it: Draws the widget under that key, without a value of its own.

    Returns:
        The widget's value.
    """
    if key not in st.session_state:
        asked = read(st.query_params.get_all(key))
        st.session_state[key] = usual if asked is None else asked
    value = draw_it()
    if value == usual:
        st.query_params.pop(key, None)
    elif isinstance(value, list):
        st.query_params[key] = [str(one) for one in value]
    else:
        st.query_params[key] = str(int(value)) if isinstance(value, bool) else str(value)
    return value


def between(low: float, high: float) -> Callable[[list[str]], Any | None]:
    """Give what reads a number between two ends from the URL: whole where the ends are.

    Example:
        >>> between(1, 50)(["70"]), between(0.1, 3.0)(["0.5"]), between(1, 50)(["many"])
        (50, 0.5, None)
    """

    def read(texts: list[str]) -> float | None:
        try:
            found = type(low)(texts[0])
        except (IndexError, ValueError):
            return None
        return None if found != found else min(max(found, low), high)

    return read


def among(options: Sequence[str]) -> Callable[[list[str]], Any | None]:
    """Give what reads one of the options from the URL."""
    return lambda texts: next((text for text in texts if text in options), None)


def several(options: Sequence[str]) -> Callable[[list[str]], Any | None]:
    """Give what reads some of the options from the URL."""
    return lambda texts: [text for text in texts if text in options]


PINNED = ("arm", "segment", "treatment_id")  # as a first column they stay while the others move
WIDTH = 270  # pixels of a long text
CARD = 180  # pixels of a single number
HALF = 460  # pixels of a figure beside another
WHOLE = 16  # rows of a table that shows without scrolling
LONG = 10  # characters that fit into it
SEGMENTS = 7  # more options than these go into a list


def _option(prefix: str, name: str) -> str:
    if re.fullmatch(r"\w+=.+", name):  # an attribute and its value
        attribute, _, value = name.partition("=")
        return f"{label('attribute', attribute.removeprefix('a_'))}: {value}"
    own = label(prefix, name) if prefix else name
    return say("all") if name == ALL and own == ALL else own


def table(
    shown: pa.Table,
    columns: Sequence[str],
    contract: tables.Table,
    currency: str,
    key: str,
    names: str = "",
    titles: Mapping[str, str] | None = None,
) -> None:
    """Show columns of a table with units, the contract's meaning as tooltip, and a download.

    Columns that are personal are left out, of the download too, for roles that may not see them.

    Args:
        shown: The rows.
        columns: Columns to show, in order; the download has all others too.
        contract: What the columns mean.
        currency: Unit of money.
        key: Names the widget and the file.
        names: Unit of numbers whose unit depends on the row, where it is one for all rows.
        titles: Column to a title other than its usual one.
    """
    fields = {f.name: f for f in contract.fields}
    shown = permitted(shown)
    columns = [name for name in columns if name in shown.column_names]
    config = {
        name: _column(fields[name], contract.name, currency, names, _is_large(shown[name]))
        for name in columns
    }
    for name, title in (titles or {}).items():
        config[name]["label"] = title
    if columns[0] in PINNED:
        config[columns[0]]["pinned"] = True
    frame = worded(_rounded(_without_zone(shown.select(list(columns))), fields, names or "")).to_pandas()
    st.dataframe(
        written(frame, config),
        hide_index=True,
        column_config=config,
        key=f"table_{key}",
        placeholder="–",
        height="content" if shown.num_rows <= WHOLE else "auto",
    )
    download(shown, key)


def staged(shown: pa.Table, contract: tables.Table, reader: Reader) -> tuple[pa.Table, tables.Table]:
    """Add the stage of the engagement policy to which each rule in `reason` belongs.

    Returns:
        The rows, and the contract with that column.
    """
    stages = dict(eligibility.reasons(reader.config.engagement))
    found = pa.array([stages.get(rule, "") for rule in shown["reason"].to_pylist()], pa.string())
    field = next(f for f in tables.REMOVALS.fields if f.name == "stage")
    return shown.append_column("stage", found), replace(contract, fields=(*contract.fields, field))


def in_units(shown: pa.Table, contract: tables.Table, currency: str) -> tuple[pa.Table, tables.Table]:
    """Add what the uses of each `limit` are counted in: money for a budget, contacts for all others.

    Returns:
        The rows, and the contract with the column `unit`.
    """
    words = {True: currency, False: label("unit", "contacts")}
    units = [words[name == "budget"] for name in shown["limit"].to_pylist()]
    field = tables.Field("unit", "text", "what is used and available is counted in")
    out = shown.append_column("unit", pa.array(units, pa.string()))
    return out, replace(contract, fields=(*contract.fields, field))


def download(shown: pa.Table, key: str, title: str = "download") -> None:
    """Offer a table as CSV, as it is stored but for what the role may not see."""
    shown = permitted(shown)
    st.download_button(
        say(title),
        lambda: _csv(shown),
        f"{key}.csv",
        "text/csv",
        key=f"csv_{key}",
        type="tertiary",
        icon=":material/download:",
        on_click="ignore",
    )


def permitted(shown: pa.Table) -> pa.Table:
    """Leave out the columns that are personal, unless the role may see them."""
    if role().sees_personal:
        return shown
    return shown.select([name for name in shown.column_names if not _PERSONAL.fullmatch(name)])


# Ids of other systems, attributes of customers and free texts.
_PERSONAL = re.compile(r"external_id|identifier_hash|detail|raw|timezone|(f_)?a_\w+")


def _csv(shown: pa.Table) -> bytes:
    buffer = io.BytesIO()
    csv.write_csv(_disarmed(shown), buffer)
    return buffer.getvalue()


def _disarmed(shown: pa.Table) -> pa.Table:
    # A spreadsheet runs text that begins like a formula; an apostrophe in front makes it text again.
    for i, field in enumerate(shown.schema):
        if pa.types.is_string(field.type):
            safe = pc.replace_substring_regex(shown[i], r"^([=+\-@\t\r\n])", r"'\1")
            shown = shown.set_column(i, field, safe)
    return shown


def figure(drawn: go.Figure, key: str, alt: str) -> None:
    """Show a figure in the app's theme and language."""
    st.plotly_chart(
        unmarked(localised(_named(drawn, key), own=key in OWN)),
        key=f"figure_{key}",
        alt=alt,
        config={"displaylogo": False},
    )


def _named(drawn: go.Figure, key: str) -> go.Figure:
    # Channels, limits and our own categories have a word each; what the company named keeps its name.
    def word(text: str) -> str:
        # After the figure has its colours: each belongs to a name in data, in every language.
        own = label("limit", text) if key in LIMITS else named(text)
        own = label("method", own) if key in METHODS else own
        return told(own) if key in SPANS else own

    for trace in drawn.data:
        if trace.name:
            trace.name = word(trace.name)
        for part, names in ((trace, ("x", "y")), *((trace[n], ("label",)) for n in ("node",) if n in trace)):
            for name in names:
                if name in part and part[name] is not None:
                    part[name] = _each(part[name], word)
    for axis in (*drawn.select_xaxes(), *drawn.select_yaxes()):
        for name in ("categoryarray", "ticktext"):
            if axis[name] is not None:
                axis[name] = _each(axis[name], word)
    return drawn


# Figures of limits, of methods of attribution, and those whose categories are spans of numbers.
LIMITS = ("prices",)
METHODS = ("credits", "caused")
SPANS = ("clv",)


def _each(found: Any, change: Callable[[str], str]) -> Any:
    if isinstance(found, str):
        return change(found)
    if isinstance(found, np.ndarray):
        if found.dtype.kind not in "OUT":
            return found
        changed = [change(x) if isinstance(x, str) else x for x in found.ravel()]
        return np.array(changed, dtype=object).reshape(found.shape)
    return tuple(_each(x, change) for x in found) if isinstance(found, list | tuple) else found


def unmarked(drawn: go.Figure) -> go.Figure:
    """Let texts that come from data show as they are: plotly reads a little HTML in them.

    Args:
        drawn: The figure; it is changed.
    """
    for trace in drawn.data:
        for part in [trace, *(trace[name] for name in ("node", "link") if name in trace)]:
            for name in _TEXTS:
                if name in part and part[name] is not None:
                    part[name] = _texts(part[name])
    for axis in (*drawn.select_xaxes(), *drawn.select_yaxes()):
        for name in ("categoryarray", "ticktext"):
            if axis[name] is not None:
                axis[name] = _texts(axis[name])
    return drawn


_TEXTS = ("x", "y", "name", "text", "customdata", "label", "labels")


def _texts(found: Any) -> Any:
    if isinstance(found, str):
        return re.sub("<(?!br>)", "&lt;", found)  # our own figures break long names
    if isinstance(found, np.ndarray):
        if found.dtype.kind not in "OUT" or not any("<" in str(one) for one in found.ravel()):
            return found
        return np.array([_texts(one) for one in found.ravel()], dtype=object).reshape(found.shape)
    return tuple(map(_texts, found)) if isinstance(found, list | tuple) else found


# Figures whose legend holds our own words; in all others it holds the company's names.
OWN = (
    *("calibration", "qini", "uplift", "nothing", "ranking", "detectable", "removed", "caused"),
    *("deciles", "drift", "versions", "power"),
)


def localised(drawn: go.Figure, *, own: bool = False) -> go.Figure:
    """Put a figure's own words, numbers and days into the session's language.

    Args:
        drawn: The figure; it is changed.
        own: Whether the names of its traces are our own words.
    """
    if not phrases(language()):
        return drawn
    drawn.update_layout(separators=",.")
    for axis in (*drawn.select_xaxes(), *drawn.select_yaxes()):
        if axis.title.text:
            axis.title.text = _translated(axis.title.text)
        if axis.tickformat:
            axis.tickformat = axis.tickformat.replace("%-d %b", "%-d/%-m")
        if axis.hoverformat:
            axis.hoverformat = axis.hoverformat.replace("%-d %b", "%-d/%-m")
    for note in drawn.layout.annotations:
        note.text = phrase(note.text)
    for trace in drawn.data:
        if own and trace.name:
            trace.name = told(trace.name)
        if isinstance(getattr(trace, "hovertemplate", None), str):
            trace.hovertemplate = _translated(trace.hovertemplate).replace("%d %b %Y", "%d/%m/%Y")
    return drawn


def _translated(text: str) -> str:
    # Whole phrases only, longest first; what is replaced is not looked at again.
    out, rest = "", text
    while rest:
        for english, own in phrases(language()):
            if rest.startswith(english) and not (out and out[-1].isalpha() and english[0].isalpha()):
                end = rest[len(english) : len(english) + 1]
                if not (english[-1].isalpha() and end.isalpha()):
                    out, rest = out + own, rest[len(english) :]
                    break
        else:
            out, rest = out + rest[0], rest[1:]
    return out


_SOURCE = {
    "summary_effects": "effects",
    "summary_batches": "decisions",
    "summary_mix": "decisions",
    "summary_arms": "decisions",
    "summary_channels": "decisions",
    "summary_segments": "decisions",
    "summary_arbitration": "decisions",
    "summary_removed": "decisions",
    "summary_examples": "decisions",
    "summary_candidates": "decisions",
    "summary_credits": "credits",
    "summary_credit_parts": "credits",
    "summary_clv": "clv",
    "summary_at_risk": "clv",
    "summary_models": "models",
    "summary_importance": "models",
    "summary_drift": "models",
    "summary_tables": "customers",
    "summary_sources": "quality",
    "summary_consent": "customers",
    "summary_identities": "quality",
    "summary_spreads": "customers",
}


# What summaries are made from; other tables, such as scenarios and promotions, leave them as they are.
_SUMMARISED = (
    *("customers", "identities", "orders", "events", "touches", "decisions", "outcomes", "features"),
    *("choices", "assignments", "actions", "treatments", "aliases", "states", "quality", "quarantine"),
    *("effects", "readouts", "credits", "attribution", "clv"),
)
_STALE_TOLD = "is_stale_told"


def _warn_if_stale(reader: Reader, needs: Sequence[str]) -> None:
    if not any(name.startswith("summary") for name in needs) or not reader.has("summary_numbers"):
        return
    version, at = reader.number("summarised"), reader.moment("summarised")
    is_told = st.session_state.get(_STALE_TOLD, False)
    if version is not None and not is_told and reader.history.last_written(*_SUMMARISED) > version:
        st.session_state[_STALE_TOLD] = True
        st.warning(say("stale", at=day(at), command=reader.command("summary")), icon=":material/update:")


def written(frame: pd.DataFrame, config: Mapping[str, Any]) -> "pd.DataFrame | Styler":
    """Write numbers in the session's language, not in the browser's; they sort as numbers all the same.

    Args:
        frame: What is shown.
        config: Its columns; formats that would be the browser's are taken out.
    """
    if frame.size > MOST_WRITTEN:
        return frame
    formats: dict[str, Callable[[float], str]] = {}
    for name, column in config.items():
        kind = column.get("type_config") or {}
        write = _WRITTEN.get(str(kind.get("format")))
        if write is not None:
            kind["format"] = None
            formats[name] = write
    return frame.style.format(formats, na_rep="–") if formats and len(frame) else frame


MOST_WRITTEN = 20_000  # cells of a table; writing more would be waited for
_WRITTEN: Mapping[str, Callable[[float], str]] = {"localized": decimals, "percent": share}


def _is_large(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_floating(column.type):
        return False
    largest = pc.max(pc.abs(column)).as_py()
    return largest is not None and largest >= LARGE


def _without_zone(shown: pa.Table) -> pa.Table:
    # All times are UTC; Streamlit would otherwise drop the zone with a warning of pandas.
    for i, field in enumerate(shown.schema):
        if pa.types.is_timestamp(field.type):
            shown = shown.set_column(i, field.name, shown[i].cast(pa.timestamp("us")))
    return shown


def _rounded(shown: pa.Table, fields: Mapping[str, tables.Field], names: str) -> pa.Table:
    # Large numbers are read without decimals, times with one; the download keeps them.
    for i, field in enumerate(shown.schema):
        unit = fields[field.name].unit
        is_time = pa.types.is_floating(field.type) and unit in ("days", "seconds")
        if names == RATE and field.name in DIFFERENCES and "metric" in unit:
            shown = shown.set_column(i, field.name, pc.round(pc.multiply(shown[i].cast("double"), 100), 3))
            continue
        is_money = field.name in RATIOS or unit == "money" or ("metric" in unit and names not in ("", RATE))
        if field.name in P_VALUES:
            told_p = [None if p is None else chance(p, LEAST) for p in shown[i].to_pylist()]
            shown = shown.set_column(i, field.name, pa.array(told_p, pa.string()))
        elif is_time or (_is_large(shown[i]) and not unit.startswith(MIXED)):
            shown = shown.set_column(i, field.name, pc.round(shown[i], 1 if is_time else 0))
        elif is_money and pa.types.is_floating(field.type) and language() != "en":
            # The browser would write three decimals, which read like thousands.
            shown = shown.set_column(i, field.name, pc.round(shown[i], 2))
    return shown


def worded(shown: pa.Table) -> pa.Table:
    """Put our own words and sentences into the session's language; the company's names stay as they are."""
    for i, name in enumerate(shown.column_names):
        if not pa.types.is_string(shown.schema.field(i).type):
            continue
        if name in _WORDED:
            section = _WORDED[name]
            # What is no word of the section may still be a sentence of ours, as checks of policies are.
            words = [None if v is None else told(label(section, v)) for v in shown[i].to_pylist()]
        elif name in _READ:
            words = [None if v is None else _READ[name](v) for v in shown[i].to_pylist()]
        elif name in _TOLD and phrases(language()):
            words = [None if v is None else told(v) for v in shown[i].to_pylist()]
        else:
            continue
        shown = shown.set_column(i, name, pa.array(words, pa.string()))
    return shown


def _column(field: tables.Field, table: str, currency: str, names: str, large: bool) -> Any:
    title = title_of(field.name, table)
    meaning: str | None = say(f"term.{_TERM[field.name]}") if field.name in _TERM else phrase(field.doc)
    if language() != "en" and field.name not in _TERM and meaning == field.doc:
        meaning = None  # rather none than one in another language
    if field.kind == "time":
        form = "D MMM YYYY, HH:mm" if language() == "en" else "DD/MM/YYYY, HH:mm"
        return st.column_config.DatetimeColumn(f"{title} (UTC)", help=meaning, format=form)
    if field.kind == "flag":
        return st.column_config.CheckboxColumn(title, help=meaning)
    if field.kind == "count":
        return st.column_config.NumberColumn(title, help=meaning, format="localized")
    if field.kind == "number":
        unit = currency if field.unit == "money" else names if "metric" in field.unit else ""
        if unit == RATE:
            if field.name not in DIFFERENCES:
                return st.column_config.NumberColumn(title, help=meaning, format="percent")
            form = "%.2f" if language() == "en" else "localized"
            return st.column_config.NumberColumn(f"{title} ({say('unit.points')})", help=meaning, format=form)
        is_plain = large or language() != "en" or field.unit.startswith(MIXED) or field.name in SCORES
        plain_form = "localized" if is_plain else "%.2f" if unit or field.name in RATIOS else "%.4g"
        known = plain_form if field.name in SCORES else _UNIT_FORMAT.get(field.unit, plain_form)
        if field.name in P_VALUES:
            return st.column_config.TextColumn(title, help=meaning, alignment="right")
        return st.column_config.NumberColumn(
            f"{title} ({unit})" if unit else title, help=meaning, format=known
        )
    if field.name == LINK:
        return st.column_config.LinkColumn(title, help=meaning, display_text=say("open"))
    return st.column_config.TextColumn(title, help=meaning, width=_WIDTHS.get((table, field.name)))


def title_of(name: str, table: str = "") -> str:
    """Give the title of a column: the catalogue's, or in English the column's own name."""
    for key in (f"column.{table}.{name}", f"column.{name}"):
        if knows(key):
            return say(key)
    return name.removesuffix("_id").removesuffix("_at").replace("_", " ").capitalize()


def safe(text: str) -> str:
    """Escape what comes from data."""
    return plain(text)


def document(text: str) -> str:
    r"""Let a document's headings, lists and tables show, but nothing in it act: no link, picture or HTML.

    Example:
        >>> print(document("# A\n| [x](http://y) | <b> |"))
        #### A
        | \[x\](http://y) | &lt;b> |
    """
    out = []
    smaller = re.sub(r"^(#+) ", r"###\1 ", text, flags=re.MULTILINE)  # it stands within a page
    for i, piece in enumerate(smaller.split("`")):
        # What stands between backquotes shows as it is.
        out.append(piece if i % 2 else piece.translate(_INERT))
    return "`".join(out)


_INERT = str.maketrans({"[": "\\[", "]": "\\]", "<": "&lt;", "$": "\\$", "!": "\\!"})


_NAIVE = "response rate"


def without_naive(card: str) -> str:
    r"""Leave out the column of naive response rates, which cards of earlier versions have.

    A policy chose whom to treat, so rates of treatments do not compare.

    Example:
        >>> print(without_naive("| a | response rate | b |\n|---|---:|---:|\n| x | 0.1 | y |"))
        | a | b |
        |---|---:|
        | x | y |
    """
    out: list[str] = []
    naive: int | None = None
    for line in card.splitlines():
        cells = line.split("|")
        if not line.startswith("|"):
            naive = None
        elif naive is None:
            titles = [cell.strip() for cell in cells]  # of whatever space, unbreakable too
            naive = titles.index(_NAIVE) if _NAIVE in titles else len(titles)
        if naive is not None and naive < len(cells):
            del cells[naive]
        out.append("|".join(cells))
    return "\n".join(out)


def literal(text: str) -> str:
    """Escape a message of several lines, so that it shows as it is."""
    return "  \n".join(plain(line) for line in text.splitlines())
