"""How good the served model is, measured on customers that it had not seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import metrics, stats
from nba.models.inputs import Coding
from nba.models.response import CrossFitted, Response
from nba.models.uplift import CANDIDATES, Learnt, Rows

Array = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Report:
    """How good the model is, on customers that it had not seen.

    Attributes:
        metrics: Numbers by name.
        tables: Small tables for figures: calibration, qini, uplift_deciles, importance, effects.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)


def judge(
    rows: Rows,
    crossed: CrossFitted,
    learnt: Learnt,
    names: Sequence[str],
    customer: Whole,
    seed: int,
) -> Report:
    """Measure a model on out-of-fold predictions.

    Qini ranks (customer, treatment) pairs, treated against not; rows are weighted for sampling and age
    only. Where a policy chose whom to treat, the groups differ beyond the ranking: the number then
    describes, and the off-policy estimate judges. Intervals rest on customers, of whom `customer` gives the
    code by row, shape (n,): a customer's rows are no news to each other.
    """
    column, y, weight = rows.column, rows.y, rows.weight
    treated = column > 0
    served = crossed.p_own if crossed.p_served is None else crossed.p_served
    found = metrics.classification(y, served)
    ranked = metrics.auc_interval(y, served, customer)
    found |= {"auc_lower": ranked.lower, "auc_upper": ranked.upper}
    tables = {"calibration": metrics.calibration(y, served)}
    found |= {f"loss_{name}": value for name, value in learnt.losses.items()}
    found |= {f"weight_{n}": float(w) for n, w in zip(CANDIDATES, learnt.model.weights)}
    spread = float(learnt.effect[treated].std()) if treated.any() else np.nan
    found |= {"uplift_spread": spread}
    interval = metrics.qini_interval(
        y, learnt.effect, treated.astype(float), np.random.default_rng(seed), weight,
        customer=customer, repeats=50,
    )  # fmt: skip
    found |= {"qini": interval.value, "qini_lower": interval.lower, "qini_upper": interval.upper}
    tables["qini"] = metrics.qini_table(y, learnt.effect, treated.astype(float), weight)
    tables["uplift_deciles"] = deciles(column, learnt, customer)
    tables["effects"] = effects(learnt.model.coding, column, learnt, customer)
    tables["importance"] = importance(crossed.model, (*names, *learnt.model.coding.names))
    return Report({name: float(value) for name, value in found.items()}, tables)


def deciles(column: Whole, learnt: Learnt, customer: Whole, level: float = 0.95) -> pa.Table:
    """Compare predicted effects with what contact changed in each tenth of the rows by prediction.

    Rows without contact are ranked by the effect of the treatment that they are paired with; their mean
    residual is what the baseline missed in that tenth.

    Returns:
        As `metrics.by_decile`.
    """
    return metrics.by_decile(learnt.effect, learnt.residual, level, customer=customer, control=column == 0)


def effects(coding: Coding, column: Whole, learnt: Learnt, customer: Whole, level: float = 0.95) -> pa.Table:
    """Average effect of each treatment on the customers who got it, whose rows count as one unit.

    What the baseline missed on average is told by the rows without contact, whose noise counts too.

    Returns:
        Columns treatment_id, n, effect, se, lower, upper, predicted. No naive rate of responses: a
        policy chose whom to treat, so rates of treatments do not compare.
    """
    rows = []
    for t, name in enumerate(coding.treatment_ids, start=1):
        at = column == t
        n = int(at.sum())
        if n < 2:
            rows.append((name, n, *(np.nan,) * 5))
            continue
        both = at | (column == 0)
        found = stats.contrast(learnt.residual[both], column[both] == 0, level, customer[both])
        estimate = found.value, found.se, found.lower, found.upper
        rows.append((name, n, *estimate, float(learnt.effect[at].mean())))
    names = ("treatment_id", "n", "effect", "se", "lower", "upper", "predicted")
    columns = list(zip(*rows)) if rows else [()] * len(names)
    return pa.table(dict(zip(names, columns)))


def importance(model: Response, inputs: Sequence[str], top: int = 25) -> pa.Table:
    """Share of the response trees' gain by feature; columns feature, importance, highest first."""
    gain = model.booster.feature_importance("gain")
    names = np.array(inputs)
    order = np.argsort(-gain, kind="stable")[:top]
    return pa.table({"feature": names[order].tolist(), "importance": gain[order] / max(gain.sum(), 1e-12)})
