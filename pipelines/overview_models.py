"""Gather for pages: the registered models, how good the champion is, what it rests on, and what has moved."""

from datetime import datetime
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from nba import monitoring, settings, tables, tracking
from nba.catalog import Catalog
from nba.errors import NbaError
from nba.history import History
from nba.models import explain
from nba.models.scorer import Scorer

SAMPLE = 5_000
TOP, BINS = 6, 12
_MEANS = pa.schema([("treatment_id", pa.string()), ("p_response", pa.float64()), ("uplift", pa.float64())])
_LAST = """
    select * from features where as_of = (select max(as_of) from features)
    order by hash(customer_id) limit {n}
"""
# The last batch, and the last one before it that the champion may have learnt from.
_COMPARED = """
    with newest as (select max(as_of) as moment from features)
    select max(as_of) as earlier, max(moment) as now from features, newest
    where as_of < $at and as_of < moment
"""
# What was chosen, so that a sample of each is explained under its own treatment.
_GIVEN = """
    select f.*, d.treatment_id from features f join decisions d
        on d.customer_id = f.customer_id and d.decided_at = f.as_of
    where f.as_of = (select max(as_of) from features) order by hash(f.customer_id) limit {n}
"""
_TREATMENTS = """
    select t.treatment_id, count(d.decision_id) as n_chosen, count(o.decision_id) as n_closed,
        count(*) filter (o.is_response) as n_response
    from (select unnest($names) as treatment_id) t left join decisions d using (treatment_id)
        left join outcomes o using (decision_id)
    group by 1 order by 1
"""


class Champion(NamedTuple):
    """The registered champion.

    Attributes:
        versions: All registered versions, newest first.
        trained_at: Outcomes closed by then were learnt from; None where unknown.
    """

    scorer: Scorer
    versions: list[dict[str, Any]]
    trained_at: datetime | None


def champion(history: History, config: settings.Settings) -> Champion | None:
    """Load the champion; None where nothing is registered or it cannot be loaded."""
    tracking.setup(config, history.root)
    name = tracking.policy_name(config)
    try:
        folder, _version = tracking.load_policy(name)
    except NbaError:
        return None
    found = tracking.versions(name)
    named = [row for row in found if "champion" in row["alias"]]
    at = named[0]["tags"].get("at") if named else None
    return Champion(Scorer.load(folder), found, datetime.fromisoformat(at) if at else None)


def means(history: History, catalog: Catalog, found: Champion | None) -> pa.Table:
    """Score a sample of the last batch with the champion and average by treatment.

    Returns:
        Columns treatment_id, p_response, uplift; no rows where there is no model yet.
    """
    if found is None or not history.has("features"):
        return _MEANS.empty_table()
    scores = found.scorer.scores(history.sql(_LAST.format(n=SAMPLE)), catalog)
    averaged = [np.nanmean(part, axis=0) for part in (scores.p_response, scores.uplift)]
    return pa.table([pa.array(catalog.treatment_ids), *averaged], schema=_MEANS)


def gather(
    connection: duckdb.DuckDBPyConnection, history: History, catalog: Catalog, found: Champion | None
) -> dict[str, pa.Table]:
    """Gather the leaderboard, the champion's curves, its explanation, drift and checks.

    Args:
        connection: Holds the history's views, outcomes registered where there are none.
        history: Says which tables there are.
        catalog: Gives the treatments offered.
        found: The champion; nothing is gathered without one.
    """
    if found is None:
        return {}
    out = {"summary_models": _leaderboard(found.versions)} | _curves(found.scorer)
    importance = tables.SUMMARY_IMPORTANCE.empty()
    if history.has("features"):
        sample = connection.sql(_GIVEN.format(n=explain.MAX_ROWS)).to_arrow_table()
        if sample.num_rows:
            told = explain.explain(found.scorer, sample)
            importance = tables.SUMMARY_IMPORTANCE.conform(told.table())
            out["summary_importance"] = importance
            out["summary_dependence"] = dependence(told)
        at = {"at": found.trained_at or datetime.max}
        (compared,) = history.sql(_COMPARED, at).to_pylist()
        if compared["earlier"] is not None:
            out["summary_drift"] = monitoring.moved(history, compared["earlier"], compared["now"])
    names = list(catalog.treatment_ids[1:])
    treatments = connection.sql(_TREATMENTS, params={"names": names}).to_arrow_table()
    auc = found.scorer.report.metrics.get("auc")
    out["summary_checks"] = monitoring.model_checks(treatments, auc, importance)
    return out


def _leaderboard(versions: list[dict[str, Any]]) -> pa.Table:
    columns = set(tables.SUMMARY_MODELS.columns)
    rows = []
    for one in versions:
        at = one["tags"].get("at")
        known = {name: value for name, value in one["metrics"].items() if name in columns}
        rows.append(
            {name: one[name] for name in ("version", "alias", "created_at", "run_id", "link", "card")}
            | known
            | {"model_id": one["tags"].get("model_id")}
            | {"trained_at": datetime.fromisoformat(at) if at else None}
        )
    return tables.SUMMARY_MODELS.build(rows)


def _curves(scorer: Scorer) -> dict[str, pa.Table]:
    wanted = {
        "calibration": tables.SUMMARY_CALIBRATION,
        "qini": tables.SUMMARY_QINI,
        "uplift_deciles": tables.SUMMARY_DECILES,
    }
    out = {}
    for name, contract in wanted.items():
        found = scorer.report.tables.get(name)
        if found is not None and set(contract.columns) <= set(found.column_names):
            out[contract.name] = contract.conform(found.select(list(contract.columns)))
    return out


def dependence(told: explain.Explanation, top: int = TOP, bins: int = BINS) -> pa.Table:
    """Bin the SHAP values of the most important features by the feature's value.

    Returns:
        The `summary_dependence` table; unknown values are left out.
    """
    size = np.abs(told.response).mean(axis=0)
    features = [j for j in np.argsort(-size, kind="stable") if told.names[j].startswith("f_")][:top]
    rows = []
    for j in features:
        value, shap = told.values[:, j], told.response[:, j]
        known = ~np.isnan(value)
        if not known.any():
            continue
        distinct = np.unique(value[known])
        # Few values are a bin each: between the quantiles of yes and no lies no edge.
        spread = np.unique(np.quantile(value[known], np.linspace(0, 1, bins + 1)))[1:-1]
        edges = distinct[1:] if len(distinct) <= bins else spread
        group = np.searchsorted(edges, value[known], side="right")
        for b in np.unique(group):
            inside = group == b
            low, high = np.quantile(shap[known][inside], [0.1, 0.9])
            rows.append(
                {
                    "feature": told.names[j], "bin": int(b), "value": float(value[known][inside].mean()),
                    "contribution": float(shap[known][inside].mean()), "lower": float(low),
                    "upper": float(high), "n": int(inside.sum()),
                }
            )  # fmt: skip
    return tables.SUMMARY_DEPENDENCE.build(rows)
