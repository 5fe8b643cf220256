"""Models: which were trained, how good they are on customers they had not seen, and what they rest on."""

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from app import figures, grid, markup, parts
from app.data import Reader, where
from app.messages import day, number, percent, plain, say
from app.messages import feature as worded
from nba import monitoring, plots, tables, tracking
from nba.plots import insight

VIEWS = ("board", "quality", "why", "drift", "card")
DRIFTED = monitoring.Thresholds().drift  # as the alert of the overview has it
MLFLOW = "http://127.0.0.1:5000"  # where `nba mlflow` serves


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_models"):
        return
    _champion(reader)
    shown = parts.choose(say("view"), VIEWS, "view", "models.view")
    {"board": _board, "quality": _quality, "why": _why, "drift": _drift, "card": _card}[shown](reader)


def _champion(reader: Reader) -> None:
    rows = reader.rows("summary_models")
    best = next((row for row in rows if "champion" in row["alias"]), rows[0])
    span = say("models.qini_span", lower=number(best["qini_lower"]), upper=number(best["qini_upper"]))
    parts.numbers(
        (say("models.champion"), say("models.version", n=best["version"]), "", day(best["trained_at"])),
        (say("models.auc"), number(best["auc"]), say("term.auc"), ""),
        (say("models.ece"), percent(best["ece"]), say("term.calibration"), ""),
        (say("models.qini"), number(best["qini"]), say("term.qini"), span),
        (
            say("models.examples"),
            number(best["n_examples"]),
            "",
            say("models.base", p=percent(best["base_rate"])),
        ),
    )


def _board(reader: Reader) -> None:
    st.subheader(say("models.board"))
    st.caption(say("models.board_note", command=f"nba mlflow {reader.root}"))
    shown = _linked(reader)
    figures.figure(insight.versions(shown), "versions", say("alt.versions"))
    columns = ["version", "alias", "qini", "qini_lower", "qini_upper", "auc", "ece", "link", "trained_at"]
    columns += ["n_examples", "log_loss", "log_loss_constant"]
    grid.table(shown, columns, tables.SUMMARY_MODELS, reader.currency, "models")
    _checks(reader)


@parts.section()
def _checks(reader: Reader) -> None:
    if not reader.has("summary_checks"):
        return
    st.subheader(say("models.checks"))
    checks = reader.table("summary_checks")
    bad = where(checks, status="warning")
    if not bad.num_rows:
        st.markdown(say("models.no_warnings", n=number(checks.num_rows)))
    for row in bad.to_pylist():
        text = say(
            f"check.{row['check'].replace(' ', '_')}",
            subject=plain(worded(row["subject"]) if row["subject"].startswith("f_") else row["subject"]),
            value=number(row["value"]),
            limit=number(row["limit"]),
            share=percent(row["value"], digits=0),
        )
        st.markdown(f":material/warning: {text}")
    with st.expander(say("models.all_checks", n=number(checks.num_rows))):
        columns = ["check", "subject", "status", "value", "limit"]
        grid.table(checks, columns, tables.SUMMARY_CHECKS, reader.currency, "checks")


def _linked(reader: Reader) -> pa.Table:
    # Runs are opened on the tracking server, or where `nba mlflow` serves the workspace's own store.
    shown = reader.table("summary_models")
    base = tracking.setup(reader.config, reader.root).tracking
    base = base.rstrip("/") if base.startswith(("http://", "https://")) else MLFLOW
    links = [base + path if path else None for path in shown["link"].to_pylist()]
    return shown.set_column(shown.column_names.index("link"), "link", pa.array(links, pa.string()))


def _quality(reader: Reader) -> None:
    left, right = parts.halves()
    with left, parts.section():
        st.subheader(say("models.calibration"), help=say("term.calibration"))
        if reader.has("summary_calibration"):
            drawn = plots.calibration(reader.table("summary_calibration"))
            figures.figure(drawn, "calibration", say("alt.calibration"))
    with right, parts.section():
        st.subheader(say("models.qini_curve"), help=say("term.qini"))
        if reader.has("summary_qini"):
            figures.figure(plots.qini(reader.table("summary_qini")), "qini", say("alt.qini"))
    _deciles(reader)


@parts.section()
def _deciles(reader: Reader) -> None:
    st.subheader(say("models.deciles"), help=say("term.uplift"))
    if reader.has("summary_deciles"):
        shown = reader.table("summary_deciles")
        figures.figure(plots.uplift_deciles(shown), "uplift", say("alt.uplift"))
        st.caption(say("models.deciles_note"))
        grid.table(shown, shown.column_names, tables.SUMMARY_DECILES, reader.currency, "deciles")


def _why(reader: Reader) -> None:
    if not parts.filled(reader, "summary_importance"):
        return
    model = parts.choose(say("models.of"), ["response", "uplift"], "model", "models.of")
    shown = where(reader.table("summary_importance"), model=model)
    st.subheader(say("models.importance"), help=say("term.shap"))
    figures.figure(plots.importance(grid.worded(shown), 15), "importance", say("alt.importance"))
    grid.download(shown, "importance")
    if model == "response":
        _dependence(reader)


@parts.section()
def _dependence(reader: Reader) -> None:
    if not reader.has("summary_dependence"):
        return
    st.subheader(say("models.dependence"), help=say("term.shap"))
    st.caption(say("models.dependence_note"))
    found = reader.table("summary_dependence")
    halves = parts.halves()
    for place, feature in enumerate(dict.fromkeys(found["feature"].to_pylist())):
        name = worded(feature)
        drawn = insight.dependence(where(found, feature=feature), name)
        with halves[place % 2]:
            figures.figure(drawn, f"dependence_{feature}", say("alt.dependence", feature=name))


def _drift(reader: Reader) -> None:
    if not parts.filled(reader, "summary_drift"):
        return
    shown = reader.table("summary_drift")
    moved = [row for row in shown.to_pylist() if (row["psi"] or 0) > DRIFTED]
    st.subheader(say("models.drift"), help=say("term.psi"))
    st.markdown(say("models.drifted", n=number(len(moved))) if moved else say("models.steady"))
    st.caption(say("models.drift_note"))
    known = shown.filter(pc.is_valid(shown["psi"])).slice(0, 15)
    figures.figure(insight.drift(grid.worded(known), DRIFTED), "drift", say("alt.drift"))
    columns = ["feature", "psi", "mean_before", "mean_now", "unknown_before", "unknown_now"]
    grid.table(shown, columns, tables.SUMMARY_DRIFT, reader.currency, "drift")


def _card(reader: Reader) -> None:
    rows = {str(row["version"]): row for row in reader.rows("summary_models") if row.get("card")}
    if not rows:
        st.info(say("empty.title"), icon=":material/hourglass_empty:")
        st.markdown(say("models.no_card", command=f"nba train {reader.root}"))
        return
    best = [name for name, row in rows.items() if "champion" in row["alias"]]
    version = parts.choose(
        say("column.version"), [*best, *(name for name in rows if name not in best)], "version"
    )
    st.caption(say("models.card_note"))
    with st.container(border=True):
        st.markdown(markup.document(markup.without_naive(rows[version]["card"])))


parts.page("models", draw)
