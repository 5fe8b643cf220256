"""Experiments: which run and what they say, one in full, and the planner of the next."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from app import figures, grid, markup, parts, planner, report
from app.data import Reader, leading, where
from app.messages import conditions, knows, label, number, percent, plain, points, say, told
from app.report import BASIS, band_note, bases, sentence_case, standing, valid
from nba import plots, tables
from nba.experiments import guardrails
from nba.experiments.decision import EARLY
from nba.experiments.judged import EVERY, READING
from nba.experiments.readout import horizon_days
from nba.plots import readings
from nba.settings import Experiment

MEANS = ["mean", "mean_control", "n", "n_control"]  # last: they explain, they do not answer
COLUMNS = ["effect", "lower", "upper", "relative_effect"]
# The interval that the verdict goes by, of which there is no p-value of a single reading.
JUDGED = ["judged_effect", "judged_lower", "judged_upper"]
ALWAYS = ["always_lower", "always_upper"]
LIST, PLAN = "list", "plan"


def draw(reader: Reader) -> None:
    """Show the page."""
    view = parts.choose(say("view"), [LIST, PLAN], "view", "experiments.view")
    if view == PLAN:
        planner.draw(reader)
        return
    if not parts.filled(reader, "summary_effects"):
        return
    shown = reader.table("summary_effects")
    names = list(dict.fromkeys(shown["experiment_id"].to_pylist()))
    with parts.section():
        _listed(reader)
    experiment = parts.choose(say("experiments.one"), names, "experiment")
    shown = where(shown, experiment_id=experiment)
    with parts.section():
        _verdicts(reader, experiment)
    metrics = list(dict.fromkeys(shown["metric"].to_pylist()))
    metric = parts.choose(say("metric"), metrics, "metric", "metric_short")
    st.caption(label("metric", metric))
    with parts.section():
        _metric(reader, shown, experiment, metric)
    for part in (_guardrails, _sizes):
        with parts.section():
            part(reader, experiment)
    with st.expander(say("experiments.how")):
        for text in dict.fromkeys(
            f"{sentence_case(told(row['estimand']))}. {sentence_case(told(row['method']))}."
            for row in shown.to_pylist()
        ):
            st.markdown(plain(text))
    report.offer(reader, experiment)


def _listed(reader: Reader) -> None:
    if not reader.has("readouts"):
        return
    shown, contract = _with_effects(reader.table("readouts"), reader)
    shown, contract = _with_state(shown, contract, reader)
    # The verdicts are told in sentences below, too: the interval must not be what a narrow window cuts.
    columns = ["experiment_id", "arm", *JUDGED, "verdict", "metric", "control", "state", "days_left"]
    if shown["ends_at"].null_count < shown.num_rows:
        columns.append("ends_at")
    known = [row for row in shown.to_pylist() if row["metric"]]
    units = {_unit(row["metric"], reader, row["experiment_id"]) for row in known}
    unit = units.pop() if len(units) == 1 else ""
    grid.table(shown, columns, contract, reader.currency, "readouts", unit)


def _with_effects(shown: pa.Table, reader: Reader) -> tuple[pa.Table, tables.Table]:
    # The effect and the interval that each verdict goes by.
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for experiment in dict.fromkeys(shown["experiment_id"].to_pylist()):
        whole = where(reader.table("summary_effects"), experiment_id=experiment, segment="all")
        found |= {
            (experiment, row["metric"], row["arm"]): row
            for row in reader.judged(whole, experiment).to_pylist()
        }
    keys = [(row["experiment_id"], row["metric"], row["arm"]) for row in shown.to_pylist()]
    for name in JUDGED:
        values = [found[key][name] if key in found else None for key in keys]
        shown = shown.append_column(name, pa.array(values, pa.float64()))
    fields = tuple(field for field in tables.JUDGED.fields if field.name in JUDGED)
    return shown, replace(tables.READOUTS, fields=(*tables.READOUTS.fields, *fields))


def _with_state(shown: pa.Table, contract: tables.Table, reader: Reader) -> tuple[pa.Table, tables.Table]:
    # Whether each runs now; those declared that have no reading yet stand below.
    read = shown.to_pylist()
    known = {row["experiment_id"] for row in read}
    declared = (reader.config.experiment, *reader.config.experiments)
    waiting = [
        {"experiment_id": one.experiment_id, "arm": arm.name, "control": one.control, "ends_at": one.ends_at}
        for one in declared
        if one.experiment_id not in known and one.starts_at is not None
        for arm in one.arms
        if arm.name != one.control
    ]
    starts = {one.experiment_id: one.starts_at for one in declared}
    now = reader.moment("summarised")
    rows = [
        row | {"state": state(starts.get(row["experiment_id"]), row["ends_at"], now)}
        for row in (*read, *waiting)
    ]
    field = tables.Field("state", "text", doc="planned, running or ended")
    out = pa.Table.from_pylist(rows, shown.schema.append(pa.field("state", pa.string())))
    return out, replace(contract, fields=(*contract.fields, field))


def state(starts: datetime | None, ends: datetime | None, now: datetime | None) -> str:
    """Say whether an experiment is planned, running or ended; without a moment to compare with, it runs."""
    if now is None:
        return "running"
    return "planned" if starts and starts > now else "ended" if ends and ends <= now else "running"


def _verdicts(reader: Reader, experiment: str) -> None:
    if not reader.has("readouts"):
        return
    rows = reader.rows("readouts", experiment_id=experiment)
    for row in rows:
        words = {
            "arm": plain(row["arm"]),
            "control": plain(row["control"]),
            "verdict": label("verdict", row["verdict"]),
            "reason": plain(sentence_case(told(row["reason"]))),
        }
        early = f" {say('experiments.early')}" if row["is_early"] and EARLY not in row["reason"] else ""
        st.markdown(f"{say('experiments.verdict', **words)}{early}", help=say("term.verdict"))
    found = report.distrust(reader, experiment)
    if found:
        st.error(markup.literal(found), icon=":material/error:")
    if rows:
        st.caption(standing(reader, experiment))


def _metric(reader: Reader, shown: pa.Table, experiment: str, metric: str) -> None:
    unit = _unit(metric, reader, experiment)
    whole = _in_order(where(shown, metric=metric, segment="all"), reader)
    controls = sorted(set(whole["control"].to_pylist()))
    st.subheader(say("experiments.effects", control=plain(", ".join(controls))), help=say("term.holdout"))
    judged = reader.judged(whole, experiment)
    told_first = leading(judged)
    for row in told_first.to_pylist():
        st.markdown(sentence(row, unit), help=say(f"term.{BASIS[row['basis']]}"))
    each = report.is_per_customer(reader, metric, experiment)
    drawn = plots.effects(told_first, unit, order=reader.arms, per_customer=each)
    figures.figure(drawn, "effects", say("alt.effects"))
    for text in bases(judged, reader, experiment):
        st.caption(text)
    if any("CUPED" in row["method"] for row in whole.to_pylist()):
        st.caption(say("experiments.adjusted"))
    is_single = set(judged["basis"].to_pylist()) == {READING}
    prefix = "" if is_single else "judged_"
    columns = ["arm", *(COLUMNS if is_single else [*JUDGED, "relative_effect"])]
    if unit == reader.currency and judged["total"].null_count < judged.num_rows:  # a ratio has none
        columns += ["total", f"{prefix}total_lower", f"{prefix}total_upper"]
    columns += ["p_value", *MEANS] if is_single else MEANS
    grid.table(judged, columns, tables.JUDGED, reader.currency, f"effects_{metric}", unit)
    with parts.section():
        _sequence(reader, experiment, metric, unit)
    _segments(where(shown, metric=metric), reader, experiment, metric)


def _sequence(reader: Reader, experiment: str, metric: str, unit: str) -> None:
    if not reader.has("looks"):
        return
    looks = where(reader.table("looks"), experiment_id=experiment, metric=metric)
    if looks.num_rows:
        st.subheader(say("experiments.sequence"), help=say("term.sequence"))
        st.caption(band_note(reader, experiment, metric))
        each = report.is_per_customer(reader, metric, experiment)
        drawn = readings.sequence(looks, unit, reader.arms, per_customer=each)
        figures.figure(drawn, "sequence", say("alt.sequence"))


def _unit(metric: str, reader: Reader, experiment: str) -> str:
    return report.unit_of(reader, metric, experiment)


def _in_order(shown: pa.Table, reader: Reader) -> pa.Table:
    # The champion first, the others as the experiment declares them.
    names = [reader.headline_arm, *(arm.name for arm in reader.config.experiment.arms)]
    place = [names.index(arm) if arm in names else len(names) for arm in shown["arm"].to_pylist()]
    return shown.take(sorted(range(shown.num_rows), key=lambda i: place[i]))


def sentence(row: dict[str, Any], unit: str) -> str:
    """Say one effect in a sentence."""
    words: dict[str, str] = {name: plain(row[name]) for name in ("arm", "control")}
    words |= {name: number(row[name]) for name in ("n", "n_control")}
    is_rate, unit = unit == grid.RATE, "" if unit == grid.RATE else unit
    if row["effect"] is None or row["lower"] is None:
        return say("experiments.unknown", reason=plain(told(row["reason"])), **words)

    def write(name: str, *, signed: bool = True) -> str:
        value = row[name]
        if is_rate and signed:
            return points(value, signed=True)
        return percent(value, digits=2) if is_rate else number(value, unit, signed=signed)

    relative = ""
    if row["relative_effect"] is not None and row["relative_lower"] is None:
        relative = say("experiments.relative_alone", relative=percent(row["relative_effect"], signed=True))
    elif row["relative_effect"] is not None:
        names = {"relative": "relative_effect", "lower": "relative_lower", "upper": "relative_upper"}
        relative = say("experiments.relative", **{k: percent(row[v], signed=True) for k, v in names.items()})
    return say(
        "experiments.sentence",
        **words,
        mean=write("mean", signed=False),
        mean_control=write("mean_control", signed=False),
        level=percent(row["level"], digits=0),
        valid=valid(row),
        relative=relative,
        **{name: write(name) for name in ("effect", "lower", "upper")},
    )


def _segments(shown: pa.Table, reader: Reader, experiment: str, metric: str) -> None:
    parts_only = shown.filter(pc.not_equal(shown["segment"], "all"))
    st.subheader(say("experiments.segments"), help=say("term.corrected"))
    if not parts_only.num_rows:
        st.markdown(report.no_segments(reader, experiment))
        return
    unit = _unit(metric, reader, experiment)
    parts_only, note = report.segments(reader, parts_only, experiment)
    st.caption(note)
    arms = list(dict.fromkeys(parts_only["arm"].to_pylist()))
    first = [arm for arm in arms if arm == reader.headline_arm]
    arm = parts.choose(say("arm"), [*first, *(a for a in arms if a not in first)], "segment_arm")
    parts_only = where(parts_only, arm=arm)
    each = report.is_per_customer(reader, metric, experiment)
    read = pa.array([conditions(name) for name in parts_only["segment"].to_pylist()], pa.string())
    named = parts_only.set_column(parts_only.column_names.index("segment"), "segment", read)
    drawn = plots.effects(named, unit, order=reader.arms, per_customer=each)
    figures.figure(drawn, "segments", say("alt.effects"))
    is_single = EVERY not in parts_only["basis"].to_pylist()
    columns = ["segment", *(COLUMNS if is_single else [*JUDGED, "relative_effect"])]
    columns += ["p_corrected", "p_heterogeneity", "p_value" if is_single else "p_always", *MEANS, "arm"]
    grid.table(parts_only, columns, tables.JUDGED, reader.currency, f"segments_{metric}", unit)


def _guardrails(reader: Reader, experiment: str) -> None:
    declared = reader.declared(experiment)
    guards = [metric for metric in declared.metrics if metric.role == "guardrail"] if declared else []
    if not guards or declared is None:
        return
    st.subheader(say("experiments.guardrails"), help=say("term.guardrail"))
    for text in guards_in_words(reader, declared):
        st.markdown(text)
    if not reader.has("looks"):
        return
    shown = guardrails.standing(declared, reader.table("looks"))
    if not shown.num_rows:
        return
    units = {_unit(guard.name, reader, declared.experiment_id) for guard in guards}
    unit = units.pop() if len(units) == 1 else ""
    st.caption(say("experiments.guardrails_note"))
    columns = ["arm", "metric", "effect", *ALWAYS, "standing", "limit", "days"]
    grid.table(shown, columns, tables.GUARDRAILS, reader.currency, "guardrails", unit)


def guards_in_words(reader: Reader, declared: Experiment) -> list[str]:
    """Say of each guardrail what would be borne at most, and over how long."""
    days = number(horizon_days(declared))
    out = []
    for guard in declared.metrics:
        if guard.role != "guardrail":
            continue
        unit = _unit(guard.name, reader, declared.experiment_id)
        margin = points(guard.margin) if unit == grid.RATE else number(guard.margin, unit)
        key = "ratio" if guard.denominator else "planned" if declared.ends_at else "open"
        words = {"metric": _named(guard.name), "margin": margin, "days": days}
        out.append(say(f"experiments.guardrail.{key}", **words))
    return out


def _named(metric: str) -> str:
    return label("metric_short", metric) if knows(f"metric_short.{metric}") else plain(metric)


def _sizes(reader: Reader, experiment: str) -> None:
    st.subheader(say("experiments.srm"), help=say("term.srm"))
    for is_fault, text in report.checks(reader, experiment):
        (st.error if is_fault else st.markdown)(markup.literal(text))
    if not reader.has("summary_arms"):
        return
    shown = where(reader.table("summary_arms"), experiment_id=experiment)
    if shown.num_rows:
        columns = ["arm", "n", "n_expected"]
        grid.table(shown, columns, tables.SUMMARY_ARMS, reader.currency, "arms")
        st.caption(say("experiments.srm_note"))


parts.page("experiments", draw)
