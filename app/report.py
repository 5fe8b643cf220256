"""One experiment as a page of its own: a single HTML file that needs nothing else and no network."""

import html
from typing import Any

import pyarrow as pa
import streamlit as st

from app import parts
from app.data import Reader, where
from app.messages import day, label, language, number, percent, say, told
from nba import plots
from nba.plots import readings

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2433}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;font-size:.85rem}
th,td{border-bottom:1px solid #d8dbe3;padding:.35rem .5rem;text-align:right}
th:first-child,td:first-child,th.text,td.text{text-align:left}
.note{color:#5b6270;font-size:.85rem}
"""


def offer(reader: Reader, experiment: str) -> None:
    """Offer the report of an experiment for download; it is made when it is asked for."""
    st.download_button(
        say("report.download"),
        lambda: build(reader, experiment).encode(),
        f"experiment-{experiment}.html",
        "text/html",
        key="report",
        icon=":material/description:",
        on_click="ignore",
    )


def build(reader: Reader, experiment: str) -> str:
    """Make the report: verdicts, then effects and looks of every metric, then how it was computed.

    Everything that comes from data is escaped.
    """
    effects = where(reader.table("summary_effects"), experiment_id=experiment, segment="all")
    has_looks = reader.has("looks")
    looks = where(reader.table("looks"), experiment_id=experiment) if has_looks else None
    body = [f"<h1>{_safe(say('report.title', experiment=experiment))}</h1>", _verdicts(reader, experiment)]
    script = True
    for metric in dict.fromkeys(effects["metric"].to_pylist()):
        unit = reader.currency if metric in ("margin", "revenue", "cost", "reward") else ""
        rows = where(effects, metric=metric)
        body.append(f"<h2>{_safe(label('metric', metric))}</h2>")
        body.append(_figure(plots.effects(rows, unit), script=script))
        script = False
        if looks is not None and where(looks, metric=metric).num_rows:
            body.append(f"<p class=note>{_safe(say('experiments.sequence_note'))}</p>")
            body.append(_figure(readings.sequence(where(looks, metric=metric), unit), script=False))
        body.append(_table(rows))
    body.append(f"<h2>{_safe(say('experiments.how'))}</h2>")
    how = dict.fromkeys(f"{told(r['estimand'])}. {told(r['method'])}." for r in effects.to_pylist())
    body += [f"<p>{_safe(text)}</p>" for text in how]
    body.append(f"<p class=note>{_safe(say('report.made', at=day(reader.moment('summarised'))))}</p>")
    title = _safe(say("report.title", experiment=experiment))
    head = f"<meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang={language()}><head>{head}</head><body>{''.join(body)}</body></html>"


def _verdicts(reader: Reader, experiment: str) -> str:
    if not reader.has("readouts"):
        return ""
    out = []
    for row in reader.rows("readouts", experiment_id=experiment):
        verdict = _safe(label("verdict", row["verdict"]))
        arms = _safe(say("report.arms", arm=row["arm"], control=row["control"]))
        out.append(f"<p><b>{verdict}</b> · {arms}<br>{_safe(told(row['reason']))}</p>")
    return "".join(out)


def _table(rows: pa.Table) -> str:
    columns = ("arm", "control", "n", "n_control", "mean", "mean_control", "effect", "lower", "upper")
    more = ("relative_effect", "p_value", "reason")
    names = (*columns, *more)
    head = "".join(f"<th>{_safe(parts.title_of(name, 'summary_effects'))}</th>" for name in names)
    lines = [
        f"<tr>{''.join(f'<td>{_safe(_cell(name, row[name]))}</td>' for name in names)}</tr>"
        for row in rows.to_pylist()
    ]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return told(value)
    if name == "relative_effect":
        return percent(value, signed=True)
    return number(value)


def _figure(drawn: Any, *, script: bool) -> str:
    drawn = parts.unmarked(parts.localised(drawn))
    drawn.update_layout(font={"color": "#1d2433"})
    text = drawn.to_html(full_html=False, include_plotlyjs=script, config={"displaylogo": False})
    return str(text)


def _safe(text: object) -> str:
    return html.escape(str(text))
