"""How the response model does on what comes later: the latest decisions, by a model of the earlier ones.

The scorer's own measures are of customers that it had not seen, at times that it had. A response model also
meets times that it has not seen; this judges that, with one more fit.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nba import metrics
from nba.catalog import Catalog
from nba.models import calibration, crossfit, immature, inputs, response, scorer
from nba.models.inputs import Coding
from nba.models.response import CrossFitted, Response
from nba.settings import Models

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

SHARE = 0.2  # of the decisions, the latest
_FOLDS = 5  # of customers; one calibrates
_MOST = 50_000  # late decisions that are judged; a sample of more
_TOLD = ("log_loss", "log_loss_constant", "ece", "ece_of_noise", "calibration_slope", "n")


class Early(NamedTuple):
    """What the judging model knows.

    Attributes:
        rows: Numbers of the rows, sorted, shape (m,).
        held: Those of customers that stop and calibrate trees instead of growing them, shape (m,).
        weight: Shape (m,).
    """

    rows: Whole
    held: NDArray[np.bool_]
    weight: Array


def judge(
    examples: pa.Table, catalog: Catalog, settings: Models, seed: int, window_days: float
) -> dict[str, float]:
    """Measure chances of a response in the latest fifth of the decisions by a model that ends before them.

    The model is the served one's kind and capacity, fitted to decisions whose outcome had closed before the
    first of the latest was made, four fifths of the customers; the others stop its trees, choose and fit its
    calibration, and give the rates of treatments (also where `validation` is by time).

    Args:
        examples: The `examples` table.
        catalog: Fixes the treatments.
        settings: Capacity and the half-life of examples.
        seed: Of folds and trees.
        window_days: Days until an outcome closes.

    Returns:
        `latest_log_loss`, `latest_log_loss_constant` (of the latest's own base rate), `latest_ece`,
        `latest_ece_of_noise`, `latest_calibration_slope`, `latest_n`, without what is unknown; empty where
        either part has too few decisions or responses.
    """
    coding = Coding.of(catalog)
    column = coding.columns(examples["treatment_id"].to_pylist())
    early, late = parts(examples, column, window_days)
    if not len(early):
        return {}
    y = examples["is_response"].to_numpy().astype(float)
    rng = np.random.default_rng(seed)
    if len(late) > _MOST:
        late = np.sort(rng.choice(late, _MOST, replace=False))
    kept = scorer.thin(column[early], rng)
    early = early[kept.rows]
    held = crossfit.folds(examples["customer_id"].take(pa.array(early)), _FOLDS, seed) == 0
    if not held.any() or response.check_responses(y[early[~held]]):
        return {}
    with threadpool_limits(limits=1, user_api="blas"):
        p = _fit_predict(examples, column, Early(early, held, kept.weight), late, coding, settings, seed)
    found = metrics.classification(y[late], p)
    return {f"latest_{name}": found[name] for name in _TOLD if np.isfinite(found[name])}


def parts(examples: pa.Table, column: Whole, window_days: float) -> tuple[Whole, Whole]:
    """Number the decisions that had closed before the latest fifth, and those of the latest fifth, sorted.

    Args:
        examples: The `examples` table; outcomes that are only partly known are in neither part.
        column: Column of each row's treatment, -1 where unknown: in neither part, shape (n,).
        window_days: Days until an outcome closes.

    Returns:
        Both empty where either has too few decisions or responses.
    """
    usable = (column >= 0) & immature.closed(examples)
    none = np.empty(0, dtype=np.int64)
    if not usable.any():
        return none, none
    day = days(examples)
    start = np.sort(day[usable])[int((1 - SHARE) * usable.sum())]
    early = np.flatnonzero(usable & (day < start) & (day + window_days <= start))
    late = np.flatnonzero(usable & (day >= start))
    y = examples["is_response"].to_numpy().astype(float)
    if response.check_responses(y[early]) or response.check_responses(y[late]):
        return none, none
    return early, late


def days(examples: pa.Table) -> Array:
    """Give the moment of each example in days, shape (n,)."""
    return np.asarray(examples["as_of"].cast(pa.int64()).to_numpy() / 86400e6)


def _fit_predict(
    rows: pa.Table,
    column: Whole,
    early: Early,
    late: Whole,
    coding: Coding,
    settings: Models,
    seed: int,
) -> Array:
    past, held = rows.take(pa.array(early.rows)), early.held
    names, codes, got = inputs.feature_names(rows), coding.codes(), column[early.rows]
    X, y = inputs.matrix(past, names), past["is_response"].to_numpy().astype(float)
    weight = early.weight * scorer.age_weight(past, settings.half_life_days)
    params = response.parameters(settings, seed)
    if settings.monotone:
        params["monotone_constraints"] = response.signs((*names, *coding.names), settings)
    full = np.hstack([X, codes[got]])
    booster = response.Plan(full, y, weight, params, settings.trees).grow(np.flatnonzero(~held))
    scores = response.staged(booster, full[held], settings.trees)
    stop = response.stopped(scores, y[held], weight[held])
    fold = crossfit.folds(past["customer_id"].filter(pa.array(held)), settings.folds, seed + 1)
    customer = inputs.customers(past)[held]
    way = calibration.cross_fit(scores[:, stop], y[held], weight[held], fold, customer)
    booster = response.cut(booster, int(response.stops(settings.trees)[stop]))
    model = Response(booster, X.shape[1], way.kind, way.way)
    p = model.calibrated(scores[:, stop])
    one_fold = np.zeros(len(p), dtype=np.int64)
    rated = response.with_rates(
        CrossFitted(model, p, p, p, p), got[held], y[held], weight[held], one_fold, coding
    )
    chances = model.predict(inputs.matrix(rows.take(pa.array(late)), names), codes)
    return np.asarray(rated.model.at_rates(chances, coding)[np.arange(len(late)), column[late]])
