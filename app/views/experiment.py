"""Experiment: each arm against its control, with intervals; no verdicts, plain sentences."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from app import parts
from app.data import Reader, where
from app.messages import number, percent, plain, say
from nba import plots, tables

MONEY = ("margin", "revenue", "cost", "reward")
RATES = ("unsubscribes",)
COLUMNS = [
    *("arm", "n", "n_control", "mean", "mean_control", "effect", "lower", "upper"),
    *("relative_effect", "p_value"),
]
SRM_ALERT = 0.001


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_effects"):
        return
    shown = reader.table("summary_effects")
    experiments = list(dict.fromkeys(shown["experiment_id"].to_pylist()))
    experiment = experiments[0]
    if len(experiments) > 1:
        experiment = parts.choose(say("page.experiment"), experiments, "experiment")
        shown = where(shown, experiment_id=experiment)
    metrics = list(dict.fromkeys(shown["metric"].to_pylist()))
    metric = parts.choose(say("metric"), metrics, "metric", "metric")
    unit = reader.currency if metric in MONEY else ""
    whole = where(shown, metric=metric, segment="all")
    whole = _in_order(whole, reader)
    controls = sorted(set(whole["control"].to_pylist()))
    st.subheader(say("experiment.effects", control=plain(", ".join(controls))), help=say("term.holdout"))
    for row in whole.to_pylist():
        st.markdown(_sentence(row, metric, unit), help=say("term.interval"))
    parts.figure(plots.effects(whole, unit), "effects", say("alt.effects"))
    if any("CUPED" in row["method"] for row in whole.to_pylist()):
        st.caption(say("experiment.adjusted"))
    parts.table(whole, COLUMNS, tables.SUMMARY_EFFECTS, reader.currency, f"effects_{metric}", unit)
    _segments(where(shown, metric=metric), reader, metric, unit)
    _sizes(reader, experiment)
    with st.expander(say("experiment.how")):
        for text in dict.fromkeys(f"{row['estimand']}. {row['method']}." for row in whole.to_pylist()):
            st.markdown(plain(text))


def _in_order(shown: pa.Table, reader: Reader) -> pa.Table:
    # The champion first, the others as the experiment declares them.
    names = [reader.headline_arm, *(arm.name for arm in reader.config.experiment.arms)]
    place = [names.index(arm) if arm in names else len(names) for arm in shown["arm"].to_pylist()]
    return shown.take(sorted(range(shown.num_rows), key=lambda i: place[i]))


def _sentence(row: dict[str, Any], metric: str, unit: str) -> str:
    words: dict[str, str] = {name: plain(row[name]) for name in ("arm", "control", "reason")}
    words |= {name: number(row[name]) for name in ("n", "n_control")}
    if row["effect"] is None or row["lower"] is None:
        return say("experiment.unknown", **words)

    def write(name: str, *, signed: bool = True) -> str:
        value = row[name]
        return (
            percent(value, signed=signed, digits=2) if metric in RATES else number(value, unit, signed=signed)
        )

    relative = ""
    if row["relative_effect"] is not None:
        names = {"relative": "relative_effect", "lower": "relative_lower", "upper": "relative_upper"}
        relative = say("experiment.relative", **{k: percent(row[v], signed=True) for k, v in names.items()})
    return say(
        "experiment.sentence",
        **words,
        mean=write("mean", signed=False),
        mean_control=write("mean_control", signed=False),
        level=percent(row["level"], digits=0),
        relative=relative,
        **{name: write(name) for name in ("effect", "lower", "upper")},
    )


def _segments(shown: pa.Table, reader: Reader, metric: str, unit: str) -> None:
    parts_only = shown.filter(pc.not_equal(shown["segment"], "all"))
    if not parts_only.num_rows:
        return
    st.subheader(say("experiment.segments"))
    st.caption(say("experiment.segments_note"))
    parts.figure(plots.effects(parts_only, unit), "segments", say("alt.effects"))
    columns = ["segment", *COLUMNS]
    parts.table(parts_only, columns, tables.SUMMARY_EFFECTS, reader.currency, f"segments_{metric}", unit)


def _sizes(reader: Reader, experiment: str) -> None:
    st.subheader(say("experiment.srm"), help=say("term.srm"))
    if not parts.filled(reader, "summary_arms"):
        return
    shown = where(reader.table("summary_arms"), experiment_id=experiment)
    chance = shown["p_srm"][0].as_py() if shown.num_rows else None
    if chance is None:
        st.markdown(say("experiment.srm_unknown"))
    else:
        bad = chance < SRM_ALERT
        (st.error if bad else st.markdown)(
            say("experiment.srm_bad" if bad else "experiment.srm_ok", p=f"{chance:.2g}")
        )
    parts.table(
        shown,
        ["experiment_id", "arm", "n", "n_expected"],
        tables.SUMMARY_ARMS,
        reader.currency,
        "arms",
    )


parts.page("experiment", draw)
