"""The scenario planner: change a limit, a lever or a rule, and see what the last batch would have become."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import streamlit as st

from app import grid, parts
from app.data import Reader
from app.messages import count, label, number, plain, say, told
from nba import settings, tables
from nba.catalog import Action, Catalog
from nba.policy import levers
from nba.serving import whatif

BUDGET = "budget"
MOST = 10**9  # of what a link may ask for


def draw(reader: Reader) -> None:
    """Show the planner, and the scenarios that were solved for the whole batch."""
    st.subheader(say("scenario.title"), help=say("term.scenario"))
    if not parts.filled(reader, "summary_candidates"):
        return
    st.markdown(say("scenario.intro"))
    sample = reader.table("summary_candidates")
    catalog = settings.read_catalog(reader.root, reader.config)
    stored = _stored(str(reader.root), reader.history.version, sample, catalog)
    changes = _changes(reader, catalog, stored)
    rows = whatif.preview(stored, catalog, reader.config, changes)
    _answer(rows, reader)
    if changes.without_rules:
        st.caption(say("scenario.most"))
    st.caption(say("scenario.note", batch=stored.batch_id, n=count(len(stored.is_eligible))))
    st.markdown(say("scenario.exact", command=_command(reader, changes)))
    _solved(reader)


@st.cache_data(max_entries=8, show_spinner=False)
def _stored(root: str, version: int, _sample: pa.Table, _catalog: Catalog) -> whatif.Stored:  # noqa: ARG001
    return whatif.sample_of(_sample, _catalog)


def _changes(reader: Reader, catalog: Catalog, stored: whatif.Stored) -> whatif.Changes:
    limits = reader.config.limits
    left, right = st.columns(2)
    with left:
        st.markdown(f"**{say('scenario.limits')}**")
        capacity = {
            channel: _capacity(channel, int(limits.capacity[channel]))
            for channel in catalog.channels
            if channel in limits.capacity
        }
        budget = None
        if limits.budget is not None:
            title = f"{say('scenario.budget')} ({reader.currency})"
            budget = parts.kept(
                BUDGET, float(limits.budget), parts.between(0.0, float(MOST)),
                lambda: st.number_input(title, 0.0, None, key=BUDGET),
            )  # fmt: skip
    with right:
        st.markdown(f"**{say('scenario.levers')}**")
        weights = {action.action_id: _lever(action) for action in catalog.actions}
        reasons = {str(reason) for reason in stored.reason[~stored.is_eligible].ravel()}
        rules = sorted(reasons - {"", whatif.NOT_OFFERED})
        without = parts.kept(
            "without", [], parts.several(rules),
            lambda: st.multiselect(
                say("scenario.without"), rules, format_func=told, key="without", placeholder=say("choose")
            ),
        )  # fmt: skip
        names = [action.action_id for action in catalog.actions]
        stopped = parts.kept(
            "stop", [], parts.several(names),
            lambda: st.multiselect(say("scenario.stop"), names, key="stop", placeholder=say("choose")),
        )  # fmt: skip
    declared = {action.action_id: action.lever for action in catalog.actions}
    return whatif.Changes(
        {name: int(n) for name, n in capacity.items() if n != limits.capacity[name]},
        budget if budget != limits.budget else None,
        {name: x for name, x in weights.items() if x != declared[name]},
        {},
        tuple(without),
        tuple(stopped),
    )


def _capacity(channel: str, declared: int) -> int:
    key = f"capacity_{channel}"
    title = say("scenario.capacity", channel=label("limit", channel))
    read = parts.between(0, MOST)
    return int(parts.kept(key, declared, read, lambda: st.number_input(title, 0, None, key=key)))


def _lever(action: Action) -> float:
    key, high = f"lever_{action.action_id}", max(3.0, action.lever)
    return float(
        parts.kept(
            key,
            float(action.lever),
            parts.between(levers.LOW, high),
            lambda: st.slider(plain(action.name), levers.LOW, high, step=0.1, key=key),
        )
    )


def _answer(rows: list[dict[str, Any]], reader: Reader) -> None:
    now, then = (
        next(row for row in rows if row["scenario"] == name and row["item"] == "total")
        for name in (whatif.AS_DECIDED, "what if")
    )
    unit = reader.currency
    span = say(
        "scenario.span", lower=number(then["value_lower"], unit), upper=number(then["value_upper"], unit)
    )
    parts.numbers(
        (say("scenario.value"), number(then["value"], unit), say("term.expected"),
         say("scenario.now", value=number(now["value"], unit))),
        (say("scenario.contacts"), count(then["contacts"]), "",
         say("scenario.now", value=count(now["contacts"]))),
        (say("scenario.cost"), number(then["cost"], unit), "",
         say("scenario.now", value=number(now["cost"], unit))),
    )  # fmt: skip
    st.caption(span, help=say("term.scenario"))
    _limits(rows, unit)


def _limits(rows: list[dict[str, Any]], currency: str) -> None:
    # A row per limit, before and after side by side, the price first: it is the answer where room is short.
    now, then = (
        {row["item"]: row for row in rows if row["scenario"] == name and row["item"] != "total"}
        for name in (whatif.AS_DECIDED, "what if")
    )
    fields = {field.name: field for field in tables.SCENARIOS.fields}
    titles, kept, shown = (
        {"item": say("column.limit")},
        [fields["item"]],
        pa.table({"item": pa.array([label("limit", item) for item in then], pa.string())}),
    )
    for name in ("price", "used", "available"):
        title = grid.title_of(name) + (f" ({currency})" if name == "price" else "")
        for end, found in (("now", now), ("then", then)):
            column = f"{name}_{end}"
            values = [found[item][name] if item in found else None for item in then]
            shown = shown.append_column(column, pa.array(values, pa.float64()))
            kept.append(replace(fields[name], name=column))
            titles[column] = say(f"scenario.column_{end}", column=title)
    contract = replace(tables.SCENARIOS, fields=tuple(kept), key=("item",))
    grid.table(shown, shown.column_names, contract, currency, "scenario", titles=titles)


def _worded(shown: pa.Table) -> pa.Table:
    words = {
        "item": [label("limit", item) for item in shown["item"].to_pylist()],
        # Not as it was decided, by every arm's own policy: solved like the scenario, with nothing changed.
        "scenario": [
            say("scenario.unchanged") if name == whatif.AS_DECIDED else name
            for name in shown["scenario"].to_pylist()
        ],
    }
    for name, found in words.items():
        shown = shown.set_column(shown.column_names.index(name), name, pa.array(found, pa.string()))
    return shown


def _command(reader: Reader, changes: whatif.Changes) -> str:
    words = [f"nba scenario {reader.root}"]
    words += [f"--capacity {name}={n}" for name, n in changes.capacity.items()]
    words += [] if changes.budget is None else [f"--budget {changes.budget:g}"]
    words += [f"--lever {name}={x:g}" for name, x in (changes.levers or {}).items()]
    words += [f"--without '{rule}'" for rule in changes.without_rules]
    words += [f"--stop {name}" for name in changes.stopped]
    return " ".join(words)


@parts.section()
def _solved(reader: Reader) -> None:
    st.subheader(say("scenario.solved"))
    if not parts.present(reader, "scenarios"):
        return
    shown = reader.table("scenarios")
    columns = ["scenario", "batch_id", "item", "value", "contacts", "cost", "used", "price", "changes"]
    title = {"item": say("column.limit")}
    grid.table(_worded(shown), columns, tables.SCENARIOS, reader.currency, "scenarios", titles=title)
