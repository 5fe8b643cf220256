"""One experiment as a page of its own: a single HTML file that needs nothing else and no network."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from app import figures, grid
from app.data import Reader, leading, where
from app.messages import chance, conditions, day, difference, label, language, number, percent, say, told
from nba import plots, tables
from nba.experiments import decision, guardrails, srm
from nba.experiments.judged import EVERY, PLANNED, READING, is_over
from nba.plots import readings

LEAST = 0.001  # below it a p-value is told as smaller than it
# What an interval is valid for, to the term that explains it.
BASIS = {READING: "interval", EVERY: "sequence", PLANNED: "planned"}

_META = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2433}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;font-size:.85rem}
th,td{border-bottom:1px solid #d8dbe3;padding:.35rem .5rem;text-align:right}
td{white-space:nowrap}td.text{white-space:normal}
th:first-child,td:first-child,th.text,td.text{text-align:left}
.alarm{border-left:4px solid #b3261e;background:#fdecea;padding:.5rem .75rem}
.note{color:#5b6270;font-size:.85rem}
"""


def unit_of(reader: Reader, metric: str, experiment: str) -> str:
    """Give the unit of a metric by its declaration: the currency, "%", or nothing for a number of things."""
    declared = reader.metric(metric, experiment)
    return {"money": reader.currency, "fraction": grid.RATE}.get(declared.unit if declared else "", "")


def is_per_customer(reader: Reader, metric: str, experiment: str) -> bool:
    """Tell whether a metric is declared as a mean per customer: neither a ratio nor a quantile."""
    declared = reader.metric(metric, experiment)
    return declared is not None and declared.adds_up


def valid(row: Mapping[str, Any]) -> str:
    """Say for which looks the interval of an effect is valid; nothing where it is for one reading."""
    basis = BASIS[row["basis"]]
    return "" if basis == "interval" else say(f"experiments.valid.{basis}", at=day(row["judged_at"]))


def bases(judged: pa.Table, reader: Reader, experiment: str) -> list[str]:
    """Say by which intervals the verdict goes, and of which moment they are."""
    found = set(judged["basis"].to_pylist())
    out = []
    if EVERY in found:
        key = "running_note" if is_planned(reader, experiment) else "open_note"
        out.append(say(f"experiments.{key}"))
    if PLANNED in found:
        looked = max((at for at in judged["judged_at"].to_pylist() if at), default=None)
        until = reader.rows("readouts", experiment_id=experiment)[0]["matured_at"]
        if looked:
            out.append(say("experiments.planned_note", at=day(looked)))
        if looked and until and looked != until:
            out.append(say("experiments.between_note", until=day(until)))
    return out


def is_planned(reader: Reader, experiment: str, metric: str = "") -> bool:
    """Say whether an experiment has a planned end, and a metric is the one that it was planned for."""
    found = reader.rows("readouts", experiment_id=experiment) if reader.has("readouts") else []
    return bool(found) and found[0]["ends_at"] is not None and metric in ("", found[0]["metric"])


def band_note(reader: Reader, experiment: str, metric: str) -> str:
    """Say for which looks the bands over time are valid."""
    key = "sequence_planned_note" if is_planned(reader, experiment, metric) else "sequence_note"
    return say(f"experiments.{key}")


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
    """Make the report: verdicts, effects, looks and segments of every metric, guardrails, sizes, how.

    Everything that comes from data is escaped.
    """
    every = where(reader.table("summary_effects"), experiment_id=experiment)
    effects = where(every, segment="all")
    body = [f"<h1>{_safe(say('report.title', experiment=experiment))}</h1>", _verdicts(reader, experiment)]
    script = True
    for metric in dict.fromkeys(effects["metric"].to_pylist()):
        body += _metric(reader, where(every, metric=metric), experiment, script=script)
        script = False
    if set(every["segment"].to_pylist()) <= {"all"}:
        body.append(f"<h2>{_safe(say('experiments.segments'))}</h2>")
        body.append(f"<p>{_typed(no_segments(reader, experiment))}</p>")
    body += _guardrails(reader, experiment)
    body += _sizes(reader, experiment)
    body.append(f"<h2>{_safe(say('experiments.how'))}</h2>")
    how = dict.fromkeys(
        f"{sentence_case(told(r['estimand']))}. {sentence_case(told(r['method']))}."
        for r in effects.to_pylist()
    )
    body += [f"<p>{_safe(text)}</p>" for text in how]
    body.append(f"<p class=note>{_safe(say('report.made', at=day(reader.moment('summarised'))))}</p>")
    title = _safe(say("report.title", experiment=experiment))
    head = f"{_META}<title>{title}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang={language()}><head>{head}</head><body>{''.join(body)}</body></html>"


def _metric(reader: Reader, rows: pa.Table, experiment: str, *, script: bool) -> list[str]:
    (metric,) = set(rows["metric"].to_pylist())
    unit = unit_of(reader, metric, experiment)
    each = is_per_customer(reader, metric, experiment)
    judged = reader.judged(where(rows, segment="all"), experiment)
    out = [f"<h2>{_safe(label('metric', metric))}</h2>"]
    figure = plots.effects(leading(judged), unit, order=reader.arms, per_customer=each)
    out.append(_figure(figure, script=script))
    out += [_note(text) for text in bases(judged, reader, experiment)]
    is_single = set(judged["basis"].to_pylist()) == {READING}
    # Only money is summed over customers; a ratio has no total either.
    is_money = unit == reader.currency
    columns = [n for n in (_COLUMNS if is_single else _JUDGED) if is_money or "total" not in n]
    out.append(_table(judged.to_pylist(), columns, "judged", unit))
    looks = reader.table("looks") if reader.has("looks") else None
    if looks is not None:
        looks = where(looks, experiment_id=experiment, metric=metric)
        if looks.num_rows:
            out.append(_note(band_note(reader, experiment, metric)))
            figure = readings.sequence(looks, unit, reader.arms, per_customer=each)
            out.append(_figure(figure, script=False))
    parted = rows.filter(pc.not_equal(rows["segment"], "all"))
    if parted.num_rows:
        told_parts, note = segments(reader, parted, experiment)
        out += [f"<h3>{_safe(say('experiments.segments'))}</h3>", _note(note)]
        out.append(_table(told_parts.to_pylist(), _SEGMENTS, "judged", unit))
    return out


def _guardrails(reader: Reader, experiment: str) -> list[str]:
    declared = reader.declared(experiment)
    if declared is None or not reader.has("looks"):
        return []
    found = guardrails.standing(declared, reader.table("looks")).to_pylist()
    if not found:
        return []
    out = [f"<h2>{_safe(say('experiments.guardrails'))}</h2>", _note(say("experiments.guardrails_note"))]
    for metric in dict.fromkeys(row["metric"] for row in found):
        rows = [
            {**row, "metric": label("metric_short", metric), "standing": label("standing", row["standing"])}
            for row in found
            if row["metric"] == metric
        ]
        out.append(_table(rows, _GUARDS, "guardrails", unit_of(reader, metric, experiment)))
    return out


def _sizes(reader: Reader, experiment: str) -> list[str]:
    found = reader.rows("summary_arms", experiment_id=experiment) if reader.has("summary_arms") else []
    said = [f"<p>{_safe(text)}</p>" for _, text in checks(reader, experiment)]
    out = [f"<h2>{_safe(say('experiments.srm'))}</h2>", *said]
    if found:
        out += [_table(found, ("arm", "n", "n_expected"), "summary_arms", "")]
        out.append(_note(say("experiments.srm_note")))
    return out


def checks(reader: Reader, experiment: str) -> list[tuple[bool, str]]:
    """Say whether the arms are as large as planned and treatments were chosen as logged.

    Returns:
        Whether each is a fault, and the sentence, not escaped; by the p-values that decide the verdict.
    """
    rows = reader.rows("readouts", experiment_id=experiment) if reader.has("readouts") else []
    p = rows[0]["p_srm"] if rows else None
    if p is None:
        out = [(False, say("experiments.srm_unknown", command=reader.command("readouts")))]
    else:
        is_uneven = p < srm.SEQUENTIAL_ALARM
        key = "srm_bad" if is_uneven else "srm_ok"
        out = [(is_uneven, say(f"experiments.{key}", p=chance(p, LEAST)))]
    known = {row["arm"]: row["p_traffic"] for row in rows if row["p_traffic"] is not None}
    for arm, p_arm in known.items():
        is_astray = p_arm < srm.ALARM
        key = "traffic_bad" if is_astray else "traffic_ok"
        out.append((is_astray, say(f"experiments.{key}", arm=arm, p=chance(p_arm, LEAST))))
    return out


def distrust(reader: Reader, experiment: str) -> str:
    """Say why no effect of an experiment can be trusted; nothing where they can."""
    rows = reader.rows("readouts", experiment_id=experiment) if reader.has("readouts") else []
    why = [row["reason"] for row in rows if decision.is_distrusted(row)]
    return say("experiments.distrust", reason=sentence_case(told(why[0]))) if why else ""


def segments(reader: Reader, shown: pa.Table, experiment: str) -> tuple[pa.Table, str]:
    """Give effects by segment with the interval that may be read now, and say when to believe one.

    Returns:
        The `judged` table, without a claim where nothing is known that holds at every look, and the note.
    """
    rows = reader.rows("readouts", experiment_id=experiment) if reader.has("readouts") else []
    judged = leading(reader.judged(shown, experiment))
    if rows and is_over(rows[0]):
        return judged, say("experiments.segments_note")
    kept = [r if r["basis"] == EVERY else r | {"p_corrected": None} for r in judged.to_pylist()]
    is_known = any(row["basis"] == EVERY for row in kept)
    key = "segments_every_note" if is_known else "segments_open_note"
    return tables.JUDGED.build(kept), say(f"experiments.{key}", command=reader.command("effects"))


def no_segments(reader: Reader, experiment: str) -> str:
    """Say why no effect by segment is known, and what makes one."""
    declared = reader.declared(experiment)
    key = "undone" if declared and declared.segments else "none"
    return say(f"experiments.segments_{key}")


def _verdicts(reader: Reader, experiment: str) -> str:
    if not reader.has("readouts"):
        return ""
    out = []
    for row in reader.rows("readouts", experiment_id=experiment):
        verdict = _safe(label("verdict", row["verdict"]))
        arms = _safe(say("report.arms", arm=row["arm"], control=row["control"]))
        out.append(f"<p><b>{verdict}</b> · {arms}<br>{_safe(sentence_case(told(row['reason'])))}</p>")
    found = distrust(reader, experiment)
    if found:
        out.append(f"<p class=alarm>{_safe(found)}</p>")
    out.append(_note(standing(reader, experiment)))
    return "".join(out)


def standing(reader: Reader, experiment: str) -> str:
    """Say until when an experiment counts, how often it was looked at, and when it ends."""
    rows = reader.rows("readouts", experiment_id=experiment)
    if not rows:
        return ""
    ends = rows[0]["ends_at"]
    text = say("experiments.ends", at=day(ends)) if ends else say("experiments.open")
    looks = number(rows[0]["n_looks"])
    return f"{say('experiments.state', at=day(rows[0]['matured_at']), looks=looks)} {text}"


def sentence_case(text: str) -> str:
    """Begin a sentence with a capital."""
    return text[:1].upper() + text[1:]


def _note(text: str) -> str:
    return f"<p class=note>{_typed(text)}</p>"


def _typed(text: str) -> str:
    # What is to be typed stands between backticks.
    pieces = _safe(text).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))


_MEANS = ("arm", "control", "n", "n_control", "mean", "mean_control", "effect")
_RELATIVE = ("relative_effect", "relative_lower", "relative_upper")
_COLUMNS = (*_MEANS, "lower", "upper", *_RELATIVE, "total", "total_lower", "total_upper", "p_value", "reason")
_TOTAL = ("relative_effect", "total", "judged_total_lower", "judged_total_upper")
_WHERE_KNOWN = ("reason", *_COLUMNS[7:13], *_TOTAL)
# What the verdict goes by has no p-value of a single reading.
_JUDGED = (*_MEANS[:-1], "judged_effect", "judged_lower", "judged_upper", *_TOTAL, "reason")
_SEGMENTS = ("segment", *_MEANS, "judged_lower", "judged_upper", "p_corrected", "p_heterogeneity")
_GUARDS = ("metric", "arm", "standing", "limit", "effect", "always_lower", "always_upper", "days")
_MEASURED = (
    *("mean", "mean_control", "effect", "lower", "upper", "always_lower", "always_upper", "limit"),
    *("judged_effect", "judged_lower", "judged_upper"),
    *("total", "total_lower", "total_upper", "judged_total_lower", "judged_total_upper"),
)
_TEXTS = ("arm", "control", "reason", "segment", "metric", "standing")


def _table(rows: Sequence[dict[str, Any]], names: Sequence[str], table: str, unit: str) -> str:
    # What no row has is left out: reasons, totals of ratios.
    names = [n for n in names if n not in _WHERE_KNOWN or any(row[n] not in (None, "") for row in rows)]
    shape = {name: " class=text" if name in _TEXTS else "" for name in names}
    head = "".join(f"<th{shape[name]}>{_safe(_title(name, table, unit))}</th>" for name in names)
    cells = (
        [f"<td{shape[name]}>{_safe(_cell(name, row[name], unit))}</td>" for name in names] for row in rows
    )
    lines = [f"<tr>{''.join(line)}</tr>" for line in cells]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _title(name: str, table: str, unit: str) -> str:
    title = grid.title_of(name, table)
    if name not in _MEASURED or not unit:
        return title
    if unit == grid.RATE:
        return f"{title} ({say('unit.points')})" if name in grid.DIFFERENCES else title
    return f"{title} ({unit})"


def _cell(name: str, value: Any, unit: str) -> str:
    if isinstance(value, str):
        return conditions(value) if name == "segment" else told(value)
    if name in grid.P_VALUES:
        return chance(value, 0.001)
    if name in _RELATIVE:
        return percent(value, signed=True)
    if name in grid.DIFFERENCES and unit == grid.RATE:
        return difference(value)  # "points" stands in the title
    if name in _MEASURED and unit == grid.RATE:
        return percent(value, digits=2)
    if name in _MEASURED and unit:
        return number(value, unit).removesuffix(f" {unit}")  # it stands in the title
    return number(value)


def _figure(drawn: Any, *, script: bool) -> str:
    drawn = figures.unmarked(figures.localised(drawn))
    drawn.update_layout(font={"color": "#1d2433"})
    text = drawn.to_html(full_html=False, include_plotlyjs=script, config={"displaylogo": False})
    return str(text)


def _safe(text: object) -> str:
    return html.escape(str(text))
