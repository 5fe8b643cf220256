"""Gather for pages: the registered models, how good the champion is, what it rests on, and what has moved."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import monitoring, settings, tables, tracking
from nba.catalog import Catalog
from nba.errors import NbaError
from nba.history import History
from nba.models import explain
from nba.models.scorer import Scorer

SAMPLE = 5_000
TOP, BINS = 6, 12
_MEANS = pa.schema(
    [(name, pa.string()) for name in ("arm", "treatment_id")]
    + [(name, pa.float64()) for name in ("p_response", "uplift")]
)
# The last batch, of large arms a sample: which treatments each customer could be given.
_LAST = """
    with batch as (
        select decision_id, customer_id, decided_at, coalesce(arm, 'policy') as arm from decisions
        where batch_id = (select batch_id from decisions order by decided_at desc limit 1)
        qualify row_number() over (partition by arm order by hash(customer_id)) <= {n}
    ),
    open as (
        select decision_id, list(treatment_id) as eligible from choices
        where is_eligible and decision_id in (select decision_id from batch) group by 1
    )
    select b.arm, o.eligible, f.* from batch b join open o using (decision_id)
        join features f on f.customer_id = b.customer_id and f.as_of = b.decided_at
    order by b.decision_id
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
    """Score the last batch with the champion and average, by arm, over who could be given each treatment.

    Returns:
        Columns arm, treatment_id, p_response, uplift; no rows where there is no model yet, or no candidates
        or features of that batch are kept. Of an arm larger than `SAMPLE` a sample by hash is scored.
    """
    if found is None or not (history.has("features") and history.has("choices")):
        return _MEANS.empty_table()
    batch = history.sql(_LAST.format(n=SAMPLE))
    if not batch.num_rows:
        return _MEANS.empty_table()
    scores = found.scorer.scores(batch.drop_columns(["arm", "eligible"]), catalog)
    eligible = [set(names) for names in batch["eligible"].to_pylist()]
    is_eligible = np.array([[name in names for name in catalog.treatment_ids] for names in eligible])
    return averages(
        batch["arm"].to_pylist(), catalog.treatment_ids, is_eligible, scores.p_response, scores.uplift
    )


def averages(
    arms: Sequence[str],
    treatments: Sequence[str],
    is_eligible: NDArray[np.bool_],
    p_response: NDArray[np.float64],
    uplift: NDArray[np.float64],
) -> pa.Table:
    """Average scores by arm over the customers who could be given each treatment; unknown ones are left out.

    Args:
        arms: The arm of each of n customers.
        treatments: Names of k treatments.
        is_eligible: n x k, whether the customer could be given it.
        p_response: n x k, probability.
        uplift: n x k, change of it.

    Returns:
        Columns arm, treatment_id, p_response, uplift; null where nobody could be given it.
    """
    rows = []
    of = np.array(arms)
    for arm in sorted(set(arms)):
        for k, name in enumerate(treatments):
            row: dict[str, Any] = {"arm": arm, "treatment_id": name}
            inside = (of == arm) & is_eligible[:, k]
            for column, scores in (("p_response", p_response), ("uplift", uplift)):
                known = scores[inside, k]
                known = known[~np.isnan(known)]
                row[column] = float(known.mean()) if len(known) else None
            rows.append(row)
    return pa.Table.from_pylist(rows, _MEANS)


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
