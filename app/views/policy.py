"""Policy: what it sends to whom, how candidates rank, what limits are worth, and what others would earn."""

import math
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from app import figures, grid, parts, scenario
from app.data import Reader, where
from app.messages import day, label, number, plain, say, told
from nba import plots, tables
from nba.plots import policies

TABS = ("mix", "arbitration", "prices", "values", "ablations", "scenario")
NO_GAIN = "gain on the champion unknown"  # what an estimate then says
BY_ARM = ("mix", "arbitration", "prices")


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_mix", "summary_batches"):
        return
    arms = sorted(set(reader.table("summary_batches")["arm"].to_pylist()))
    head = [arm for arm in arms if arm == reader.headline_arm]
    others = [arm for arm in arms if arm not in head]
    shown = parts.choose(say("view"), TABS, "view", "policy.view")
    arm = ""
    if shown in BY_ARM:
        arm = parts.choose(say("arm"), [*head, *others, parts.ALL], "arm", help=say("arm_help"))
    draws = {"mix": _mix, "arbitration": _arbitration, "prices": _prices}
    if shown in draws:
        draws[shown](reader, arm)
    else:
        {"values": _values, "ablations": _ablations, "scenario": scenario.draw}[shown](reader)


def _mix(reader: Reader, arm: str) -> None:
    shown, batches = reader.table("summary_mix"), reader.table("summary_batches")
    by = parts.choose(say("policy.by"), ["channel", "action_id"], "by", "policy.by")
    if arm != parts.ALL:
        shown, batches = where(shown, arm=arm), where(batches, arm=arm)
        _newest(batches, reader)
    st.subheader(say("policy.mix"))
    order = sorted({*reader.names(by), *reader.table("summary_mix")[by].to_pylist()})
    figures.figure(plots.mix(shown, by, order), "mix", say("alt.mix", by=label("policy.by", by)))
    _segments(reader, arm, by)
    latest_first = [("decided_at", "descending"), ("arm", "ascending")]
    shown, batches = shown.sort_by(latest_first), batches.sort_by(latest_first)
    st.subheader(say("policy.batches"))
    columns = ["decided_at", "arm", "n", "n_contacts", "n_delivered", "cost", "is_matured", "batch_id"]
    grid.table(batches, columns, tables.SUMMARY_BATCHES, reader.currency, "batches")
    st.subheader(say("policy.treatments"))
    columns = ["decided_at", "action_id", "channel", "n", "n_delivered", "cost", "expected_value", "arm"]
    grid.table(shown, columns, tables.SUMMARY_MIX, reader.currency, "treatments")


def _newest(batches: pa.Table, reader: Reader) -> None:
    # Read before a figure is drawn.
    rows = sorted(batches.to_pylist(), key=lambda row: row["decided_at"])
    if rows:
        (row,) = rows[-1:]
        parts.numbers(
            (say("policy.newest"), number(row["n_contacts"]), "",
             say("policy.of_customers", n=number(row["n"]), at=day(row["decided_at"]))),
            (say("policy.newest_cost"), number(row["cost"], reader.currency), "", ""),
        )  # fmt: skip


@parts.section()
def _segments(reader: Reader, arm: str, by: str) -> None:
    if not reader.has("summary_segments"):
        return
    shown = reader.table("summary_segments")
    st.subheader(say("policy.segments"))
    names = sorted(set(shown["attribute"].to_pylist()))
    attribute = parts.choose(say("attribute"), names, "attribute", "attribute")
    shown = where(shown, attribute=attribute)
    if arm != parts.ALL:
        shown = where(shown, arm=arm)
    figures.figure(policies.segments(shown, by, reader.names(by)), "segments", say("alt.segments"))


def _arbitration(reader: Reader, arm: str) -> None:
    st.subheader(say("policy.arbitration"), help=say("term.priority"))
    if not parts.filled(reader, "summary_arbitration"):
        return
    shown = reader.table("summary_arbitration")
    if arm != parts.ALL:
        shown = where(shown, arm=arm)
    st.markdown(say("policy.arbitration_note"))
    _by_response(reader, shown)
    listed = [row for row in shown.to_pylist() if row["treatment_id"] != "none"]
    offered = tables.SUMMARY_ARBITRATION.build(listed).sort_by([("priority", "descending")])
    if arm != parts.ALL:
        figures.figure(policies.ranking(offered, reader.currency), "ranking", say("alt.ranking"))
    columns = ["treatment_id", "priority", "uplift", "value", "price", "p_response", "lever", "cost"]
    columns += ["p_action", "n_chosen", "n_eligible"]
    grid.table(
        offered,
        columns if arm != parts.ALL else [columns[0], "arm", *columns[1:]],
        tables.SUMMARY_ARBITRATION,
        reader.currency,
        "arbitration",
    )
    _removed(reader, arm)


def _by_response(reader: Reader, shown: pa.Table) -> None:
    # What such an arm ranks by is a response's worth, which those who buy anyway have too.
    arms = sorted(set(shown["arm"].to_pylist()) & reader.response_arms)
    if arms:
        st.markdown(say("policy.by_response", arms=plain(", ".join(arms))))


@parts.section()
def _removed(reader: Reader, arm: str) -> None:
    if not reader.has("summary_removed"):
        return
    st.subheader(say("policy.removed"), help=say("term.eligible"))
    found = reader.table("summary_removed")
    found = found if arm == parts.ALL else where(found, arm=arm)
    figures.figure(policies.removed(found), "removed", say("alt.removed"))
    gone = found.filter(pc.not_equal(found["reason"], "")).sort_by([("n", "descending")])
    gone, contract = grid.staged(gone, tables.SUMMARY_REMOVED, reader)
    grid.table(gone, ["arm", "treatment_id", "stage", "reason", "n"], contract, reader.currency, "removed")


def _prices(reader: Reader, arm: str) -> None:
    st.subheader(say("policy.prices"), help=say("term.price"))
    if not parts.filled(reader, "batches"):
        return
    shown = reader.table("batches")
    shown = (shown if arm == parts.ALL else where(shown, arm=arm)).sort_by([("decided_at", "descending")])
    if not shown.num_rows:
        st.markdown(say("policy.no_limits", arm=plain(arm)))
        return
    newest = shown["decided_at"][0].as_py()
    for row in where(shown, decided_at=newest).to_pylist():
        if row["price"] > 0:
            words = {"limit": plain(label("limit_unit", row["limit"])), "arm": plain(row["arm"])}
            key = "policy.price_response" if row["arm"] in reader.response_arms else "policy.price"
            st.markdown(say(key, price=number(row["price"], reader.currency), **words))
    _by_response(reader, shown)
    figures.figure(plots.prices(shown, reader.currency), "prices", say("alt.prices"))
    columns = ["decided_at", "limit", "price", "used", "available", "unit", "arm", "n_customers", "batch_id"]
    grid.limits(shown, columns, reader.currency, "prices")


def _values(reader: Reader) -> None:
    st.subheader(say("policy.values"), help=say("term.ope"))
    if not parts.filled(reader, "policy_values"):
        return
    st.caption(say("policy.values_note"))
    names = _registered(reader)
    rows = [
        row | {"place": _place(row, names), "named": _policy_named(row["policy_id"], names)}
        for row in _comparable(reader)
    ]
    rows.sort(key=lambda row: row["place"])
    usual: dict[str, dict[str, Any]] = {}
    for row in rows:
        usual.setdefault(row["policy_id"], row)
    shown = _estimates(list(usual.values()))
    figures.figure(plots.policy_values(shown, reader.currency), "values", say("alt.policy_values"))
    counts = {row["n_batches"] for row in usual.values() if row["value"] is not None}
    if len(counts) > 1:
        st.caption(say("policy.other_batches"))
    elif counts and None not in counts:  # estimates of earlier versions lack it
        st.caption(say("policy.same_batches", n=number(*counts)))
    for row in usual.values():
        _gain(row, reader.currency)
    columns = ["policy_id", "value", "lower", "upper", "estimator", "ess", "n", "n_batches", "max_weight"]
    columns.append("reason")
    grid.table(shown, columns, tables.POLICY_VALUES, reader.currency, "values")
    others = [row for row in rows if usual[row["policy_id"]] is not row]
    if others:
        with st.expander(say("policy.others")):
            grid.table(_estimates(others), columns, tables.POLICY_VALUES, reader.currency, "others")
    for part in (_diagnostics, _evidence, _promotions):
        with parts.section():
            part(reader)


def _comparable(reader: Reader) -> list[dict[str, Any]]:
    # Of arms what they earned in the batches that the champion is judged on: other times had other customers.
    found = reader.rows("policy_values", batch_id="judged")
    known = {row["policy_id"] for row in found}
    return found + [
        row for row in reader.rows("policy_values", batch_id="all") if row["policy_id"] not in known
    ]


def _gain(row: dict[str, Any], currency: str) -> None:
    # A challenger against the champion on the same decisions: two intervals side by side would not show it.
    if row["gain"] is None or row["gain"] != row["gain"]:
        if row["reason"].startswith(NO_GAIN):
            why = told(row["reason"])
            st.markdown(say("policy.gain_unknown", name=plain(row["named"]), why=plain(why)))
        return
    numbers = {
        name: number(row[name], currency, signed=name == "gain")
        for name in ("gain", "gain_lower", "gain_upper")
    }
    st.markdown(say("policy.gain", name=plain(row["named"]), n=number(row["n"]), **numbers))


def _diagnostics(reader: Reader) -> None:
    st.subheader(say("policy.diagnostics"), help=say("term.overlap"))
    if not parts.present(reader, "diagnostics"):
        return
    found, names = reader.table("diagnostics"), _registered(reader)
    named = [_policy_named(name, names) for name in found["policy_id"].to_pylist()]
    found = found.set_column(found.column_names.index("policy_id"), "policy_id", pa.array(named, pa.string()))
    grid.checks(found, tables.DIAGNOSTICS, reader.currency, "diagnostics")


def _evidence(reader: Reader) -> None:
    st.subheader(say("policy.promotion"), help=say("term.gate"))
    if not parts.present(reader, "promotion_evidence"):
        return
    found = reader.table("promotion_evidence")
    asked = found.slice(0, 1).to_pylist()[0]
    words = {name: number(asked[name]) for name in ("challenger", "champion")}
    st.markdown(say("policy.asked", at=day(asked["asked_at"]), **words))
    grid.checks(found, tables.PROMOTION_EVIDENCE, reader.currency, "evidence")
    if parts.role().approves:
        st.markdown(say("policy.approve", command=f"nba promote {reader.root} --approver {_who()}"))


def _promotions(reader: Reader) -> None:
    if not reader.has("promotions"):
        return
    st.subheader(say("policy.promotions"))
    columns = ["promoted_at", "what", "from_version", "to_version", "approver", "is_passed", "note"]
    grid.table(reader.table("promotions"), columns, tables.PROMOTIONS, reader.currency, "promotions")


def _registered(reader: Reader) -> dict[str, str]:
    # What people call the models that stand, by the id of their content; the champion first.
    if not reader.has("summary_models"):
        return {}
    rows = [row for row in reader.table("summary_models").to_pylist() if row["alias"] and row["model_id"]]
    rows.sort(key=lambda row: ("champion" not in row["alias"].split(", "), row["alias"]))
    said = {
        row["model_id"]: say(
            "policy.version",
            alias=grid.aliases(row["alias"]),
            version=number(row["version"]),
        )
        for row in rows
    }
    return {model_id: text[:1].upper() + text[1:] for model_id, text in said.items()}


def _place(row: dict[str, Any], names: dict[str, str]) -> tuple[int, str, bool, bool]:
    # Models that stand, then other policies; of each, the usual estimator of the whole log first.
    model_id = row["policy_id"].partition("@")[2]
    known = list(names).index(model_id) if model_id in names else len(names)
    estimator = row["estimator"]
    return known, row["policy_id"], "@" in estimator, estimator not in ("dros", "on_policy")


def _policy_named(policy_id: str, names: dict[str, str]) -> str:
    return names.get(policy_id.partition("@")[2]) or re.sub("^arm:", f"{say('arm')} ", policy_id)


def _estimates(rows: list[dict[str, Any]]) -> pa.Table:
    # As people read them; estimates from one arm's decisions alone say so.
    out = []
    for row in rows:
        estimator, _, arm = row["estimator"].partition("@")
        told = label("estimator", estimator)
        if arm:
            told = say("policy.of_arm", estimator=told, arm=arm)
        kept = {name: row[name] for name in tables.POLICY_VALUES.columns}
        out.append(kept | {"policy_id": row["named"], "estimator": told})
    return tables.POLICY_VALUES.build(out)


def _who() -> str:
    return parts.role().who or "NAME"


def _ablations(reader: Reader) -> None:
    st.subheader(say("policy.ablations"), help=say("term.ablation"))
    if not parts.filled(reader, "ablations"):
        return
    found = reader.table("ablations").to_pylist()
    st.caption(say("policy.ablations_note", decisions=say(_judged_on(reader, found))))
    order = list(dict.fromkeys(row["versus"] for row in found))
    rows = sorted(found, key=lambda row: order.index(row["versus"]))  # both methods, one below the other
    for name in _disagreeing(rows):
        st.warning(say("policy.disagree", versus=label("versus", name)), icon=":material/compare_arrows:")
    shown = tables.ABLATIONS.build(rows)
    named = [label("versus", row["versus"]) for row in rows]
    drawn = grid.worded(shown).append_column("name", pa.array(named, pa.string()))
    figures.figure(policies.ablations(drawn, reader.currency), "ablations", say("alt.ablations"))
    _doubts(rows)
    columns = ["versus", "method", "value", "lower", "upper", "ess", "n", "doubt", "reason"]
    grid.table(shown, columns, tables.ABLATIONS, reader.currency, "ablations")
    _levers(reader)


def _doubts(rows: list[dict[str, Any]]) -> None:
    # What is drawn as a cross says in words why nothing may be built on it.
    for row in rows:
        if row["doubt"] and row["value"] is not None:
            words = {"versus": label("versus", row["versus"]), "method": label("method", row["method"])}
            st.warning(say("policy.doubtful", why=plain(told(row["doubt"])), **words), icon=":material/help:")


def _judged_on(reader: Reader, ablations: list[dict[str, Any]]) -> str:
    # While nothing made since its training has closed, the champion is judged on what it may know of.
    judged = {row["policy_id"] for row in ablations if row["method"] == "off-policy"}
    checks = reader.rows("diagnostics", check="made since training") if reader.has("diagnostics") else []
    return "policy.made_before" if judged & {row["policy_id"] for row in checks} else "policy.made_since"


def _disagreeing(rows: list[dict[str, Any]]) -> list[str]:
    # Comparisons whose methods leave no value that both hold for possible; an unknown end overlaps all.
    ends: dict[str, tuple[float, float]] = {}
    out = []
    for row in rows:
        low, high = ends.get(row["versus"], (-math.inf, math.inf))
        lower, upper = (math.nan if row[name] is None else row[name] for name in ("lower", "upper"))
        if lower > high or upper < low:
            out.append(row["versus"])
        elif lower <= upper:
            ends[row["versus"]] = max(low, lower), min(high, upper)
    return out


@parts.section()
def _levers(reader: Reader) -> None:
    st.subheader(say("policy.levers"), help=say("term.lever"))
    if not parts.present(reader, "lever_costs"):
        return
    st.caption(say("policy.levers_note"))
    columns = ["batch_id", "lever", "weight", "n_customers", "value", "without", "cost", "moved"]
    grid.table(reader.table("lever_costs"), columns, tables.LEVER_COSTS, reader.currency, "levers")


parts.page("policy", draw)
