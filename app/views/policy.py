"""Policy: what it sends to whom, how candidates rank, what limits are worth, and what others would earn."""

import streamlit as st

from app import parts
from app.data import Reader, where
from app.messages import label, number, plain, say
from nba import plots, tables
from nba.plots import policies

TABS = ("mix", "arbitration", "prices", "values")


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_mix", "summary_batches"):
        return
    arms = sorted(set(reader.table("summary_batches")["arm"].to_pylist()))
    head = [arm for arm in arms if arm == reader.headline_arm]
    others = [arm for arm in arms if arm not in head]
    shown = parts.choose(say("view"), TABS, "view", "policy.view")
    arm = parts.choose(say("arm"), [*head, *others, parts.ALL], "arm", help=say("arm_help"))
    {"mix": _mix, "arbitration": _arbitration, "prices": _prices, "values": _values}[shown](reader, arm)


def _mix(reader: Reader, arm: str) -> None:
    shown, batches = reader.table("summary_mix"), reader.table("summary_batches")
    by = parts.choose(say("policy.by"), ["channel", "action_id"], "by", "policy.by")
    if arm != parts.ALL:
        shown, batches = where(shown, arm=arm), where(batches, arm=arm)
    st.subheader(say("policy.mix"))
    order = sorted(set(reader.table("summary_mix")[by].to_pylist()))
    parts.figure(plots.mix(shown, by, order), "mix", say("alt.mix", by=label("policy.by", by)))
    _segments(reader, arm, by)
    latest_first = [("decided_at", "descending"), ("arm", "ascending")]
    shown, batches = shown.sort_by(latest_first), batches.sort_by(latest_first)
    st.subheader(say("policy.batches"))
    columns = ["batch_id", "arm", "decided_at", "n", "n_contacts", "n_delivered", "cost", "is_matured"]
    parts.table(batches, columns, tables.SUMMARY_BATCHES, reader.currency, "batches")
    st.subheader(say("policy.treatments"))
    columns = ["batch_id", "arm", "action_id", "channel", "n", "n_delivered", "cost", "expected_value"]
    parts.table(shown, columns, tables.SUMMARY_MIX, reader.currency, "treatments")


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
    parts.figure(policies.segments(shown, by), "segments", say("alt.segments"))


def _arbitration(reader: Reader, arm: str) -> None:
    st.subheader(say("policy.arbitration"), help=say("term.priority"))
    if not parts.filled(reader, "summary_arbitration"):
        return
    shown = reader.table("summary_arbitration")
    if arm != parts.ALL:
        shown = where(shown, arm=arm)
    st.markdown(say("policy.arbitration_note"))
    listed = [row for row in shown.to_pylist() if row["treatment_id"] != "none"]
    offered = tables.SUMMARY_ARBITRATION.build(listed).sort_by([("priority", "descending")])
    if arm != parts.ALL:
        parts.figure(policies.ranking(offered, reader.currency), "ranking", say("alt.ranking"))
    columns = ["treatment_id", "n_eligible", "n_chosen", "p_response", "uplift", "value", "lever", "cost"]
    columns += ["price", "priority", "p_action"]
    parts.table(
        offered,
        columns if arm != parts.ALL else ["arm", *columns],
        tables.SUMMARY_ARBITRATION,
        reader.currency,
        "arbitration",
    )
    if not reader.has("summary_removed"):
        return
    st.subheader(say("policy.removed"), help=say("term.eligible"))
    found = reader.table("summary_removed")
    found = found if arm == parts.ALL else where(found, arm=arm)
    parts.figure(policies.removed(found), "removed", say("alt.removed"))
    parts.table(
        found, ["arm", "treatment_id", "reason", "n"], tables.SUMMARY_REMOVED, reader.currency, "removed"
    )


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
            st.markdown(say("policy.price", price=number(row["price"], reader.currency), **words))
    parts.figure(plots.prices(shown, reader.currency), "prices", say("alt.prices"))
    columns = ["batch_id", "decided_at", "arm", "limit", "used", "available", "price", "n_customers"]
    parts.table(shown, columns, tables.BATCHES, reader.currency, "prices")


def _values(reader: Reader, arm: str) -> None:  # noqa: ARG001 (values are of policies, not of arms)
    st.subheader(say("policy.values"), help=say("term.ope"))
    if not parts.filled(reader, "policy_values"):
        return
    st.caption(say("policy.values_note"))
    shown = where(reader.table("policy_values"), batch_id="all")
    parts.figure(plots.policy_values(shown, reader.currency), "values", say("alt.policy_values"))
    columns = ["policy_id", "estimator", "value", "lower", "upper", "ess", "n", "max_weight", "reason"]
    parts.table(shown, columns, tables.POLICY_VALUES, reader.currency, "values")


parts.page("policy", draw)
