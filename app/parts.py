"""Parts that pages share: the frame around a page, empty states, tables and figures."""

import io
import logging
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st
from pyarrow import csv

from app import data
from app.data import Reader
from app.messages import EN, day, plain, say
from nba import tables
from nba.errors import MissingError, NbaError

READER = "reader"
ALL = "all"
LARGE = 1000  # from here on, thousands are set apart
P_VALUES = ("p_value", "p_corrected", "p_heterogeneity", "p_srm")
_UNIT_FORMAT = {"fraction": "percent", "probability 0-1": "percent"}
_TERM = {
    "lower": "interval",
    "upper": "interval",
    "relative_lower": "interval",
    "relative_upper": "interval",
    "p_value": "p_value",
    "price": "price",
    "is_matured": "matured",
    "ess": "ess",
    "credit": "credit",
    "n_delivered": "delivered",
}


def page(name: str, draw: Callable[[Reader], None]) -> None:
    """Show a page; whatever goes wrong with its data becomes a message in its place."""
    st.title(say(f"page.{name}"))
    try:
        draw(data.read(st.session_state[READER]))
    except MissingError as error:
        st.info(f"{say('empty.title')} {_literal(error.message)}", icon=":material/hourglass_empty:")
        st.markdown(say("page.hint", hint=error.hint))
    except NbaError as error:
        st.error(_literal(error.message), icon=":material/error:")
        if error.hint:
            st.markdown(say("page.hint", hint=error.hint))
    except Exception:
        logging.getLogger(__name__).exception("page %s failed", name)
        st.error(say("page.failed"), icon=":material/error:")


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
    with st.container(horizontal=True, gap="medium"):
        for label, value, meaning, note in shown:
            with st.container(width=200, gap=None):
                st.metric(label, value, help=meaning or None)
                if note:
                    st.caption(note)


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
    asked = st.query_params.get(key)
    if st.session_state.get(key) not in options:
        st.session_state[key] = asked if asked in options else options[0]
    draw = (where or st).segmented_control if prefix else (where or st).selectbox
    more = {"required": True} if prefix else {}
    shown = draw(
        title, options, key=key, format_func=lambda name: _option(prefix, name), help=help or None, **more
    )
    if shown == options[0]:
        st.query_params.pop(key, None)
    else:
        st.query_params[key] = str(shown)
    return str(shown)


def _option(prefix: str, name: str) -> str:
    return EN["all_arms"] if name == ALL else EN.get(f"{prefix}.{name}", name)


def table(
    shown: pa.Table, columns: Sequence[str], contract: tables.Table, currency: str, key: str, names: str = ""
) -> None:
    """Show columns of a table with units, the contract's meaning as tooltip, and a download.

    Args:
        shown: The rows.
        columns: Columns to show, in order; the download has them all.
        contract: What the columns mean.
        currency: Unit of money.
        key: Names the widget and the file.
        names: Unit of numbers whose unit depends on the row, where it is one for all rows.
    """
    fields = {f.name: f for f in contract.fields}
    config = {
        name: _column(fields[name], contract.name, currency, names, _is_large(shown[name]))
        for name in columns
    }
    st.dataframe(
        _without_zone(shown.select(list(columns))).to_pandas(),
        hide_index=True,
        column_config=config,
        key=f"table_{key}",
    )
    buffer = io.BytesIO()
    csv.write_csv(shown, buffer)
    st.download_button(
        say("download"), buffer.getvalue(), f"{key}.csv", "text/csv", key=f"csv_{key}", type="tertiary"
    )


def figure(drawn: go.Figure, key: str, alt: str) -> None:
    """Show a figure in the app's theme."""
    st.plotly_chart(drawn, key=f"figure_{key}", alt=alt, config={"displaylogo": False})


_SOURCE = {
    "summary_effects": "effects",
    "summary_batches": "decisions",
    "summary_mix": "decisions",
    "summary_arms": "decisions",
    "summary_channels": "decisions",
    "summary_credits": "credits",
    "summary_clv": "clv",
}


def _warn_if_stale(reader: Reader, needs: Sequence[str]) -> None:
    if not any(name.startswith("summary") for name in needs) or not reader.has("summary_numbers"):
        return
    version, at = reader.number("summarised"), reader.moment("summarised")
    if version is not None and reader.history.version > version + 1:
        st.warning(say("stale", at=day(at), command=reader.command("summary")), icon=":material/update:")


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


def _column(field: tables.Field, table: str, currency: str, names: str, large: bool) -> Any:
    own = field.name.removesuffix("_id").replace("_", " ").capitalize()
    title = EN.get(f"column.{table}.{field.name}", EN.get(f"column.{field.name}", own))
    meaning = EN[f"term.{_TERM[field.name]}"] if field.name in _TERM else field.doc
    if field.kind == "time":
        return st.column_config.DatetimeColumn(f"{title} (UTC)", help=meaning, format="D MMM YYYY, HH:mm")
    if field.kind == "flag":
        return st.column_config.CheckboxColumn(title, help=meaning)
    if field.kind == "count":
        return st.column_config.NumberColumn(title, help=meaning, format="localized")
    if field.kind == "number":
        unit = currency if field.unit == "money" else names if "metric" in field.unit else ""
        plain_form = "localized" if large else "%.2f" if unit else "%.4g"
        shown = "%.3f" if field.name in P_VALUES else _UNIT_FORMAT.get(field.unit, plain_form)
        return st.column_config.NumberColumn(
            f"{title} ({unit})" if unit else title, help=meaning, format=shown
        )
    return st.column_config.TextColumn(title, help=meaning)


def _literal(text: str) -> str:
    return "  \n".join(plain(line) for line in text.splitlines())
