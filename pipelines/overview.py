"""Gather what the app's pages show into small tables, so that no page ever aggregates a big one."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import settings, tables
from nba.experiments.analyze import welch
from nba.history import History
from pipelines import (
    overview_alerts,
    overview_arms,
    overview_clv,
    overview_credits,
    overview_data,
    overview_models,
    overview_periods,
    overview_policy,
)
from pipelines import plan as planning
from pipelines.progress import Progress, silent

LEVEL = 0.95
# What is over all customers of an arm, and of which number per customer.
_TOTALS = {"total": "effect"}
_TOTALS |= {f"total_{end}": end for end in ("lower", "upper")}
_TOTALS |= {f"always_total_{end}": f"always_{end}" for end in ("lower", "upper")}
BINS = 12

# One row per decision with what came of it; a decision is delivered if its outcome or a touch says so.
_DECIDED = """
create temp view spent as
    select decision_id, sum(cost) as cost, bool_or(kind in ('delivered', 'seen', 'clicked')) as is_seen
    from touches where decision_id is not null group by all;
create temp view decided as
    select d.batch_id, coalesce(d.arm, 'policy') as arm, d.customer_id, d.treatment_id,
        d.channel, d.policy_id, d.experiment_id, d.p_arm, d.decided_at, d.expected_value,
        d.treatment_id <> 'none' as is_contact, coalesce(s.cost, 0) as cost,
        d.treatment_id <> 'none' and coalesce(o.is_delivered, s.is_seen, false) as is_delivered,
        o.reward, o.closed_at,
        d.decided_at + to_days($window) as matures_at
    from decisions_all d left join outcomes o using (decision_id) left join spent s using (decision_id)
"""
_BATCHES = """
    select batch_id, arm, max(policy_id) as policy_id, min(decided_at) as decided_at,
        max(matures_at) as matures_at, count(closed_at) = count(*) as is_matured,
        count(*) as n, count(closed_at) as n_closed,
        count(*) filter (is_contact) as n_contacts, count(*) filter (is_delivered) as n_delivered,
        sum(cost) as cost, avg(reward) as mean, var_samp(reward) as variance
    from decided group by all order by decided_at, batch_id, arm
"""
_MIX = """
    select batch_id, arm, treatment_id, coalesce(t.action_id, treatment_id) as action_id,
        d.channel, min(decided_at) as decided_at, count(*) as n,
        count(*) filter (is_delivered) as n_delivered, sum(d.cost) as cost,
        sum(expected_value) as expected_value
    from decided d left join treatments t using (treatment_id)
    group by all order by decided_at, batch_id, arm, treatment_id
"""
_CHANNELS = """
    select channel, count(*) as n, count(distinct customer_id) as n_customers,
        count(*) filter (is_delivered) as n_delivered, sum(cost) as cost
    from decided group by channel order by n desc, channel
"""
_PERIOD = """
    with batch as (
        select batch_id, count(closed_at) = count(*) as is_matured, max(matures_at) as matures_at
        from decided group by batch_id
    )
    select count(distinct customer_id) as customers, (select count(*) from batch) as batches,
        (select count(*) from batch where is_matured) as batches_matured,
        count(*) filter (is_contact) as contacts, count(*) filter (is_delivered) as delivered,
        sum(cost) as cost, min(decided_at) as first_batch, max(decided_at) as last_batch,
        (select max(matures_at) from batch where is_matured) as matured_until,
        max(matures_at) as matures_at
    from decided
"""
_CREDITS = """
    with summed as (
        select method, channel, coalesce(treatment_id, 'unknown') as treatment_id,
            count(distinct order_id) as n_orders, sum(credit) as credit, sum(share) as orders
        from credits group by all
    )
    select method, channel, treatment_id, n_orders, credit,
        orders / nullif(sum(orders) over (partition by method), 0) as share
    from summed order by method, channel, treatment_id
"""
_CLV = """
    with latest as (from clv where as_of = (select max(as_of) from clv) and clv is not null),
    cut as (select quantile_cont(clv, 0.98) as top from latest),
    binned as (
        select least(floor(greatest(clv, 0) / nullif(top, 0) * $bins), $bins)::bigint as bin,
            clv, p_alive, top
        from latest, cut
    )
    select bin, count(*) as n, sum(clv) as total, avg(p_alive) as p_alive, max(top) as cut,
        max(clv) as highest
    from binned group by bin order by bin
"""
_CLV_NUMBERS = """
    with latest as (from clv where as_of = (select max(as_of) from clv))
    select count(*) as clv_customers, count(*) filter (clv is null) as clv_unknown,
        avg(clv) as clv_mean, median(clv) as clv_median, sum(clv) as clv_total,
        avg(p_alive) as clv_p_alive,
        (count(*) filter (age_days - recency_days <= 90))::double
            / nullif(count(age_days - recency_days), 0) as clv_recent,
        max(horizon_days) as clv_horizon_days, max(as_of) as clv_as_of
    from latest
"""


@dataclass(frozen=True)
class OverviewReport:
    """What was gathered.

    Attributes:
        rows: One per table: its name and number of rows.
    """

    rows: list[dict[str, Any]]


def overview(workspace: Path, at: datetime, *, progress: Progress | None = None) -> OverviewReport:
    """Write the `summary_*` tables from whatever tables the workspace has.

    Args:
        workspace: Folder of the workspace.
        at: The moment of the summary, shown on the pages.
        progress: Where to report.

    Raises:
        SettingsError: when `nba.toml` cannot be used.
        DataError: when a table that is there is damaged.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    history = History.read(workspace)
    parts: tuple[Callable[[History, settings.Settings, datetime], dict[str, pa.Table]], ...] = (
        _decisions,
        _effects,
        overview_periods.gather,
        _credits,
        _clv,
        _data,
        _spreads,
    )
    advance = progress.step("gathering what the app shows", total=len(parts))
    made: dict[str, pa.Table] = {}
    numbers: list[dict[str, Any]] = []
    for part in parts:
        found = part(history, config, at)
        numbers += found.pop("summary_numbers", tables.SUMMARY_NUMBERS.empty()).to_pylist()
        made |= found
        advance(1)
    numbers += [
        {"measure": "summarised", "value": float(history.version), "at": at, "note": "history version"}
    ]
    made["summary_numbers"] = tables.SUMMARY_NUMBERS.build(numbers)
    made["summary_alerts"] = overview_alerts.gather(history, config, at, made)
    history.commit(replace=made)
    return OverviewReport([{"table": name, "rows": table.num_rows} for name, table in made.items()])


def _decisions(history: History, config: settings.Settings, at: datetime) -> dict[str, pa.Table]:  # noqa: ARG001
    if not history.has("decisions"):
        return {}
    with history.connection(follows=True) as connection:
        for name in ("outcomes", "touches"):
            if not history.has(name):
                connection.register(name, tables.BY_NAME[name].empty())
        connection.register("treatments", _treatments(history, config))
        script = _DECIDED.replace("$window", str(config.reward.window_days))
        for statement in script.split(";"):
            connection.execute(statement).fetchall()
        batches = connection.sql(_BATCHES).to_arrow_table()
        mix = connection.sql(_MIX).to_arrow_table()
        arms = overview_arms.gather(connection, history, config)
        channels = connection.sql(_CHANNELS).to_arrow_table()
        catalog = settings.read_catalog(history.root, config)
        champion = overview_models.champion(history, config)
        means = overview_models.means(history, catalog, champion)
        more = overview_policy.gather(connection, history, catalog, means)
        more |= overview_policy.candidates(connection, history, config, catalog)
        more |= overview_models.gather(connection, history, catalog, champion)
        (period,) = connection.sql(_PERIOD).to_arrow_table().to_pylist()
    return {
        "summary_batches": tables.SUMMARY_BATCHES.conform(
            against_control(batches, config.experiment.control)
        ),
        "summary_mix": tables.SUMMARY_MIX.conform(mix),
        "summary_channels": tables.SUMMARY_CHANNELS.conform(channels),
        "summary_arms": arms,
        "summary_numbers": _numbers(period),
        **more,
    }


def _data(history: History, config: settings.Settings, at: datetime) -> dict[str, pa.Table]:  # noqa: ARG001
    with history.connection() as connection:
        if not history.has("touches"):
            connection.register("touches", tables.TOUCHES.empty())
        return overview_data.gather(connection, history, at)


def _spreads(history: History, config: settings.Settings, at: datetime) -> dict[str, pa.Table]:
    if not (history.has("customers") and history.has("orders")):
        return {}
    with history.as_of(at) as snapshot:
        rows = planning.spreads(snapshot, config)
    return {"summary_spreads": tables.SUMMARY_SPREADS.build(rows)}


def _treatments(history: History, config: settings.Settings) -> pa.Table:
    if history.has("treatments"):
        return history.table("treatments").select(["treatment_id", "action_id"])
    catalog = settings.read_catalog(history.root, config)
    return pa.table({"treatment_id": list(catalog.treatment_ids), "action_id": catalog.action.tolist()})


def against_control(batches: pa.Table, control: str) -> pa.Table:
    """Compare each arm's reward per customer with the control of the same batch, once all windows closed.

    Within a batch a customer has one decision, so customers are independent and Welch's interval holds.

    Args:
        batches: Columns batch_id, arm, is_matured, n, mean, variance, and others, which are kept.
        control: Name of the control arm.

    Returns:
        The batches without variance and with effect, lower, upper (null where unknown) and reason.
    """
    rows = batches.to_pylist()
    base = {row["batch_id"]: row for row in rows if row["arm"] == control}
    nothing = {"n": 0, "mean": None, "variance": None, "is_matured": False}
    pairs = [base.get(row["batch_id"], nothing) for row in rows]

    def column(of: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
        return np.array([np.nan if row[name] is None else row[name] for row in of], dtype=np.float64)

    n, mean, variance = (column(rows, name) for name in ("n", "mean", "variance"))
    n_control, mean_control, variance_control = (column(pairs, name) for name in ("n", "mean", "variance"))
    found = welch(n, mean, variance, n_control, mean_control, variance_control, LEVEL)
    for i, (row, pair) in enumerate(zip(rows, pairs)):
        reason = _why_unknown(row, pair, control)
        known = not reason and np.isfinite(found["lower"][i])
        row |= {name: float(found[name][i]) if known else None for name in ("effect", "lower", "upper")}
        row["reason"] = reason or ("" if known else "no variance, or fewer than 2 customers in an arm")
        row.pop("variance")
    return pa.Table.from_pylist(rows) if rows else tables.SUMMARY_BATCHES.empty()


def _why_unknown(row: dict[str, Any], pair: dict[str, Any], control: str) -> str:
    if row["arm"] == control:
        return "this is the control"
    if not pair["n"]:
        return f"the batch has no control arm {control!r}"
    if not (row["is_matured"] and pair["is_matured"]):
        return "a reward window is still open"
    return ""


def _effects(history: History, config: settings.Settings, at: datetime) -> dict[str, pa.Table]:  # noqa: ARG001
    if not history.has("effects"):
        return {}
    known = {one.experiment_id: one for one in (config.experiment, *config.experiments)}
    rows = tables.EFFECTS.conform(history.table("effects")).to_pylist()
    for row in rows:
        # What settings no longer declare is known by its name alone.
        metric = known.get(row["experiment_id"], config.experiment).measured(row["metric"])
        adds_up = metric is not None and metric.adds_up
        for name, part in _TOTALS.items():
            row[name] = row[part] * row["n"] if adds_up and row[part] is not None else None
    return {"summary_effects": tables.SUMMARY_EFFECTS.build(rows)}


def _credits(history: History, config: settings.Settings, at: datetime) -> dict[str, pa.Table]:  # noqa: ARG001
    if not history.has("credits"):
        return {}
    return {
        "summary_credits": tables.SUMMARY_CREDITS.conform(history.sql(_CREDITS)),
        "summary_credit_parts": overview_credits.gather(history, settings.read_catalog(history.root, config)),
    }


def _clv(history: History, config: settings.Settings, at: datetime) -> dict[str, pa.Table]:  # noqa: ARG001
    if not history.has("clv"):
        return {}
    rows = history.sql(_CLV, {"bins": BINS}).to_pylist()
    for row in rows:
        top, highest = row.pop("cut"), row.pop("highest")
        row["bin"] = row["bin"] or 0
        row["lower"] = row["bin"] * top / BINS
        row["upper"] = highest if row["bin"] == BINS else (row["bin"] + 1) * top / BINS
    (numbers,) = history.sql(_CLV_NUMBERS).to_pylist()
    return overview_clv.gather(history) | {
        "summary_clv": tables.SUMMARY_CLV.build(rows),
        "summary_numbers": _numbers(numbers),
    }


_NOTES = {
    "cost": "money",
    "clv_mean": "money per customer",
    "clv_median": "money per customer",
    "clv_total": "money",
    "clv_p_alive": "probability 0-1",
    "clv_recent": "share of those who have bought that bought in the last 90 days",
    "clv_horizon_days": "days",
}


def _numbers(found: dict[str, Any]) -> pa.Table:
    rows = []
    for name, value in found.items():
        key = "at" if isinstance(value, datetime) else "value"
        rows.append(
            {"measure": name, key: value, "note": _NOTES.get(name, "time" if key == "at" else "count")}
        )
    return tables.SUMMARY_NUMBERS.build(rows)
