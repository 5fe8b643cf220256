"""Single decision: why this customer was given this, or nothing."""

import math
from dataclasses import replace
from typing import Any

import pyarrow as pa
import streamlit as st

from app import figures, grid, parts, story, why
from app.data import Reader, where
from app.messages import clock, label, language, named, number, percent, plain, say, told
from app.messages import feature as worded
from nba import settings, tables
from nba.catalog import NONE
from nba.features.table import FEATURES
from nba.plots import policies

EVEN = 1e-6  # chances that differ by less are equal
FEW = 12  # decisions whose outcomes are all shown at once
CUSTOMER, DECISION, EXAMPLE, ALL_OUTCOMES = "customer", "decision", "example", "all_outcomes"
CANDIDATES = ["treatment_id", "mean", "price", "p_action", "se", "is_eligible", "stage", "reason"]
EARLIER = ["decided_at", "arm", "treatment_id", "p_action", "expected_value", "reason"]
OUTCOMES = [
    *("decided_at", "treatment_id", "reward", "is_response", "delivery", "is_click", "is_unsubscribe"),
    "closed_at",
]


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "decisions"):
        return
    customer = _customer(reader)
    if not customer:
        return
    found = reader.lookup("decisions", "customer_id", customer)
    if not found.num_rows:
        st.warning(say("decision.unknown", customer=plain(customer)), icon=":material/person_off:")
        return
    found = found.sort_by([("decided_at", "descending")])
    rows = {row["decision_id"]: row for row in found.to_pylist()}
    asked = _decision(rows)
    _verdict(rows[asked], reader)
    _candidates(reader, rows[asked])
    known = tables.FEATURES.empty()
    with parts.section():
        known = _known(reader, rows[asked])
    reasons = st.container()
    _timeline(reader, customer)
    _earlier(reader, found, asked)
    _features(known)
    if not parts.role().sees_personal:
        st.caption(say("decision.private"))
    if known.num_rows:  # last, since a model may have to be read
        with reasons:
            _why(reader, rows[asked], known)


@parts.section()
def _why(reader: Reader, row: dict[str, Any], known: pa.Table) -> None:
    st.subheader(say("why.title"), help=say("term.shap"))
    why.tell(reader, row, known, personal=parts.role().sees_personal)


def _customer(reader: Reader) -> str:
    left, right = st.columns([2, 3])
    if CUSTOMER not in st.session_state:
        st.session_state[CUSTOMER] = st.query_params.get(CUSTOMER, "")
    given = left.text_input(
        say("decision.customer"),
        key=CUSTOMER,
        help=say("decision.customer_help"),
        placeholder=say("decision.customer_hint"),
        on_change=_typed,
    ).strip()
    with right, parts.section():
        first = _example(reader)
        given = given or first
    if given:
        st.query_params[CUSTOMER] = given
    else:
        st.markdown(say("decision.none"))
    return given


def _example(reader: Reader) -> str:
    # Offers customers of the last batch; the first of them is shown where nobody is asked for.
    if not reader.has("summary_examples"):
        return ""
    examples = reader.table("summary_examples")
    contacted = [row for row in examples.to_pylist() if row["treatment_id"] != "none"]
    listed = (contacted or examples.to_pylist())[:60]
    names = {row["customer_id"]: _named(row) for row in listed}
    st.selectbox(
        say("decision.example"),
        ["", *names],
        format_func=lambda c: names.get(c, say("decision.pick")),
        key=EXAMPLE,
        on_change=_picked,
    )
    return next(iter(names), "")


def _picked() -> None:
    # What was chosen last counts, whatever stood in the box or in the link.
    if st.session_state[EXAMPLE]:
        st.session_state[CUSTOMER] = st.session_state[EXAMPLE]


def _typed() -> None:
    st.session_state[EXAMPLE] = ""


def _named(row: dict[str, Any]) -> str:
    return f"{row['customer_id']} · {named(row['treatment_id'])} · {row['arm']}"


def _decision(rows: dict[str, dict[str, Any]]) -> str:
    names = list(rows)
    asked = st.query_params.get(DECISION)
    place = names.index(asked) if asked in names else 0
    chosen = st.selectbox(
        say("decision.which"),
        names,
        place,
        format_func=lambda name: f"{clock(rows[name]['decided_at'])} · {named(rows[name]['treatment_id'])}",
    )
    st.query_params[DECISION] = str(chosen)
    return str(chosen)


def _verdict(row: dict[str, Any], reader: Reader) -> None:
    key = "decision.nothing" if row["treatment_id"] == "none" else "decision.given"
    with st.container(border=True):
        st.markdown(
            say(
                key,
                customer=plain(row["customer_id"]),
                at=clock(row["decided_at"]),
                treatment=plain(row["treatment_id"]),
                channel=plain(label("channel", row["channel"])),
                reason=plain(told(row["reason"])),
                p=percent(row["p_action"]),
            )
        )
        parts.numbers(
            (say("decision.p"), percent(row["p_action"]), say("term.p_action"), ""),
            (say("decision.value"), number(row["expected_value"], reader.currency, signed=True),
             say("term.expected"), ""),
            (say("arm"), plain(row["arm"] or "–"), say("arm_help"),
             say("decision.share", share=percent(row["p_arm"], digits=0))),
        )  # fmt: skip
        facts = {
            "decision.policy": row["policy_id"],
            "decision.batch": row["batch_id"],
            "decision.valid": clock(row["valid_until"]),
            "decision.config": row["config_hash"],
        }
        if parts.role().sees_personal:
            facts["decision.external"] = row["external_id"] or "–"
        st.caption(" · ".join(f"{say(key)} {plain(value)}" for key, value in facts.items()))


@parts.section()
def _candidates(reader: Reader, row: dict[str, Any]) -> None:
    st.subheader(say("decision.candidates"), help=say("term.eligible"))
    found = reader.lookup("choices", "decision_id", row["decision_id"])
    if not found.num_rows:
        st.markdown(say("decision.no_candidates"))
        return
    shown = _ranked(found)
    drawn = policies.candidates(_with_channel(shown, reader), reader.currency, row["treatment_id"])
    figures.figure(drawn, "candidates", say("alt.candidates"))
    st.caption(say("decision.candidates_note"))
    removed = [r for r in shown.to_pylist() if not r["is_eligible"]]
    kept = shown.num_rows - len(removed)
    st.markdown(say("decision.count", kept=number(kept), all=number(shown.num_rows)))
    chances = [r["p_action"] for r in shown.to_pylist() if r["is_eligible"]]
    if "drawn evenly" in row["reason"] and max(chances) - min(chances) > EVEN:
        st.markdown(say("decision.evened", n=number(kept), even=percent(1 / kept)))
    listed, contract = grid.staged(shown, tables.CHOICES, reader)
    grid.table(listed, CANDIDATES, contract, reader.currency, "candidates")


def _ranked(found: pa.Table) -> pa.Table:
    # As the figure ranks them: by value less price; what was removed comes last, what is unknown below it.
    def place(row: dict[str, Any]) -> tuple[bool, bool, float, float]:
        worth = row["mean"] - row["price"] if row["mean"] is not None else math.nan
        is_unknown = math.isnan(worth)
        return not row["is_eligible"], is_unknown, 0.0 if is_unknown else -worth, -row["p_action"]

    rows = found.to_pylist()
    return found.take(sorted(range(len(rows)), key=lambda i: place(rows[i])))


def _with_channel(shown: pa.Table, reader: Reader) -> pa.Table:
    catalog = settings.read_catalog(reader.root, reader.config)
    channel = dict(zip(catalog.treatment_ids, catalog.channel.tolist()))
    names = [channel.get(name, "none") for name in shown["treatment_id"].to_pylist()]
    return shown.append_column("channel", pa.array(names, pa.string()))


@parts.section()
def _timeline(reader: Reader, customer: str) -> None:
    st.subheader(say("decision.timeline"))
    shown = story.timeline(reader, customer, personal=parts.role().sees_personal)
    figures.figure(policies.timeline(shown, story.lanes()), "timeline", say("alt.timeline"))


def _earlier(reader: Reader, found: pa.Table, asked: str) -> None:
    st.subheader(say("decision.earlier"))
    grid.table(found, EARLIER, tables.DECISIONS, reader.currency, "earlier")
    _outcomes(reader, found, asked)


@parts.section()
def _outcomes(reader: Reader, found: pa.Table, asked: str) -> None:
    st.subheader(say("decision.outcomes"), help=say("term.matured"))
    # Outcomes are not sorted by customer: those of all decisions are only looked for when asked for.
    wanted = [asked]
    if found.num_rows > 1 and parts.kept(
        ALL_OUTCOMES, found.num_rows <= FEW, lambda texts: {"1": True, "0": False}.get("".join(texts)),
        lambda: st.toggle(say("decision.all_outcomes"), key=ALL_OUTCOMES),
    ):  # fmt: skip
        wanted = found["decision_id"].to_pylist()
    outcomes = reader.lookup("outcomes", "decision_id", *wanted)
    if not outcomes.num_rows:
        st.markdown(say("decision.no_outcomes"))
        return
    outcomes, contract = _with_decision(outcomes, found)
    grid.table(
        outcomes.sort_by([("decided_at", "descending")]), OUTCOMES, contract, reader.currency, "outcomes"
    )


def _with_decision(outcomes: pa.Table, decided: pa.Table) -> tuple[pa.Table, tables.Table]:
    # People know a decision by its date and treatment. Where nothing was sent, nothing could arrive.
    told = ("decided_at", "treatment_id")
    rows = {row["decision_id"]: row for row in decided.select(["decision_id", *told]).to_pylist()}
    of_each = [rows[name] for name in outcomes["decision_id"].to_pylist()]
    fields = {field.name: field for field in (*tables.DECISIONS.fields, *tables.OUTCOMES.fields)}
    for name in told:
        values = pa.array([row[name] for row in of_each], fields[name].type)
        outcomes = outcomes.append_column(name, values)
    delivery = [
        None if row["treatment_id"] == NONE else say("yes" if is_delivered else "no")
        for row, is_delivered in zip(of_each, outcomes["is_delivered"].to_pylist())
    ]
    more = (*(fields[name] for name in told), replace(fields["is_delivered"], name="delivery", kind="text"))
    contract = replace(tables.OUTCOMES, fields=(*tables.OUTCOMES.fields, *more))
    return outcomes.append_column("delivery", pa.array(delivery, pa.string())), contract


def _known(reader: Reader, row: dict[str, Any]) -> pa.Table:
    found = reader.lookup("features", "customer_id", row["customer_id"])
    return where(found, as_of=row["decided_at"]) if found.num_rows else found


def _features(found: pa.Table) -> None:
    if not found.num_rows:
        return
    known = {feature.name: feature for feature in FEATURES}
    values = found.to_pylist()[0]
    names = [
        name
        for name, value in values.items()
        if name.startswith("f_")
        and value is not None
        and value == value
        and (parts.role().sees_personal or not name.startswith("f_a_"))
    ]
    with st.expander(say("decision.features", n=number(len(names)))):
        st.caption(say("decision.features_note"))
        shown = pa.table(
            {
                "feature": [worded(name) for name in names],
                "value": pa.array([float(values[name]) for name in names], pa.float64()),
                "unit": [label("unit", known[name].unit) if name in known else "" for name in names],
                "meaning": [known[name].doc if name in known else "" for name in names],
            }
        )
        if language() != "en":  # rather none than one in another language
            shown = shown.drop_columns(["meaning"])
        config = {name: st.column_config.Column(say(f"feature.{name}")) for name in shown.column_names}
        config["value"] = st.column_config.NumberColumn(say("feature.value"), format="localized")
        st.dataframe(
            grid.written(shown.to_pandas(), config),
            hide_index=True,
            column_config=config,
            key="table_features",
        )
        grid.download(shown, "features")


parts.page("decision", draw)
