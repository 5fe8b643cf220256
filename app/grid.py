"""Tables as every page shows them: titles, units and meaning of columns, our own words, and the download."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st
from pyarrow import csv

from app.data import Reader
from app.messages import (
    OURS,
    chance,
    changes,
    conditions,
    count,
    decimals,
    feature,
    knows,
    label,
    language,
    named,
    number,
    phrase,
    phrases,
    say,
    share,
    told,
)
from app.parts import role
from nba import tables
from nba.policy import eligibility

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

RATE, LINK = "%", "link"
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
P_VALUES = ("p_value", "p_always", "p_corrected", "p_heterogeneity", "p_srm", "p_traffic")
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
    "p_always": "p_always",
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
    "incremental_share": "incremental_share",
}
# Pixels of texts that fit badly by themselves: long ones that a figure above shows in full, and those that
# the first rows lack, by which the browser judges.
_WIDTHS = {
    ("value_finder", "segment"): 620,
    ("summary_models", "alias"): 150,
    ("judged", "segment"): 205,
    ("policy_values", "policy_id"): 215,
    ("ablations", "versus"): 142,
    ("ablations", "method"): 86,
    ("ablations", "doubt"): 120,
    ("attribution_parts", "source"): 90,
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
_READ: Mapping[str, Callable[[str], str]] = {
    "alias": lambda names: aliases(names),
    "item": lambda name: named(name),
    "treatment_id": lambda name: told(name) if name in OURS else name,
    "action_id": lambda name: told(name) if name in OURS else name,
    "feature": feature,
    "segment": conditions,
    "changes": changes,
    "subject": lambda name: feature(name) if name.startswith("f_") else _subject(name),
}
_TOLD = ("reason", "doubt", "note", "rule", "estimand", "warning", "unit", "scenario")
PINNED = ("arm", "segment", "treatment_id", "place")  # as a first column they stay while the others move
WHOLE = 16  # rows of a table that shows without scrolling


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


def limits(shown: pa.Table, columns: Sequence[str], currency: str, key: str) -> None:
    """Show rows of `batches` with what their uses are counted in: money for a budget, else contacts.

    Args:
        shown: The rows.
        columns: Columns to show, in order; `unit` is what uses are counted in.
        currency: Unit of money.
        key: Names the widget and the file.
    """
    words = {True: currency, False: label("unit", "contacts")}
    units = [words[name == "budget"] for name in shown["limit"].to_pylist()]
    field = tables.Field("unit", "text", "what is used and available is counted in")
    shown = shown.append_column("unit", pa.array(units, pa.string()))
    contract = replace(tables.BATCHES, fields=(*tables.BATCHES.fields, field))
    table(shown, columns, contract, currency, key, titles={"unit": say("feature.unit")})


def checks(shown: pa.Table, contract: tables.Table, currency: str, key: str) -> None:
    """Show checks of a log or of a policy: what was found, and on which side of what limit it must lie.

    Args:
        shown: Columns check, status, value, limit, note, side, is_count, and policy_id where there is one.
        contract: What they mean.
        currency: Unit of money.
        key: Names the widget and the file.
    """
    found, bounds = [], []
    for row in shown.to_pylist():
        value, limit = (_checked(row[column], is_count=row["is_count"]) for column in ("value", "limit"))
        found.append(value)
        bounds.append(limit and (say(f"bound.{row['side']}", limit=limit) if row["side"] else limit))
    fields = {"found": tables.Field("found", "text", ""), "bound": tables.Field("bound", "text", "")}
    for name, cells in (("found", found), ("bound", bounds)):
        shown = shown.append_column(name, pa.array(cells, pa.string()))
    contract = replace(contract, fields=(*contract.fields, *fields.values()))
    columns = ["check", "status", "found", "bound", "note", "policy_id"]
    titles = {"found": title_of("value"), "bound": title_of("limit")}
    table(shown, columns, contract, currency, key, titles=titles)


def _checked(value: float | None, *, is_count: bool | None) -> str | None:
    if value is None or value != value:
        return None
    if is_count:
        return count(value)
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    return number(value) if abs(value) >= 1 or value == 0 else sign + chance(abs(value))


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


def _by(form: str) -> Callable[[float], str]:
    # What the browser would write, with the minus sign of all other numbers.
    return lambda value: (form % value).replace("-", "−")


_WRITTEN: Mapping[str, Callable[[float], str]] = {"localized": decimals, "percent": share} | {
    form: _by(form) for form in ("%.2f", "%.4g")
}


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


def _subject(name: str) -> str:
    # A table, an arm and its limit, or whatever else a check looked at.
    if knows(f"table.{name}"):
        return label("table", name)
    arm, _, limit = name.rpartition(" ")
    return f"{arm} · {label('limit', limit)}" if arm and knows(f"limit.{limit}") else name


def aliases(names: str) -> str:
    """Give what a model is called, the champion first."""
    ordered = sorted(names.split(", "), key=lambda name: name != "champion")
    return ", ".join(label("alias", name) for name in ordered)
