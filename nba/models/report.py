"""How good the served model is, measured on customers that it had not seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import metrics, stats
from nba.models import balance, immature, inputs
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


@dataclass(frozen=True)
class Logged:
    """What the log says of the examples beyond features and outcomes, n rows.

    Attributes:
        customer: Code of the customer, from 0.
        p_action: Logged chance of the treatment within the arm; NaN where it is not known.
        arm: Code of the arm.
        closed: Whether the outcome is known.
        sampled: How many examples each row stands for, above 0.
    """

    customer: Whole
    p_action: Array
    arm: Whole
    closed: NDArray[np.bool_]
    sampled: Array

    @classmethod
    def of(cls, examples: pa.Table, sampled: Array) -> "Logged":
        """Read it from examples; without `p_action` no chance is known, without `arm` there is one."""
        n, given = examples.num_rows, examples.column_names
        p_action, arm = np.full(n, np.nan), np.zeros(n, dtype=np.int64)
        if "p_action" in given:
            p_action = examples["p_action"].cast(pa.float64()).to_numpy().astype(np.float64)
        if "arm" in given:
            codes = examples["arm"].cast(pa.string()).combine_chunks().fill_null("").dictionary_encode()
            arm = np.asarray(codes.indices, dtype=np.int64)
        return cls(inputs.customers(examples), p_action, arm, immature.closed(examples), sampled)


def judge(
    rows: Rows, crossed: CrossFitted, learnt: Learnt, names: Sequence[str], logged: Logged, seed: int
) -> Report:
    """Measure a model on out-of-fold predictions for decisions whose outcome is known.

    Chances are judged on rows that each stand for as many examples. What contact changes is judged on rows
    weighted by 1 / p_action within their arm (`nba.models.balance`), as a policy chose whom to treat; Qini
    ranks (customer, treatment) pairs, treated against not. Intervals rest on customers: a customer's rows are
    no news to each other.
    """
    rng = np.random.default_rng(seed)
    found, tables = _chances(rows.y, crossed, logged, np.random.default_rng(seed + 1))
    found |= {f"calibration_loss_{kind}": loss for kind, loss in crossed.losses.items()}
    found |= {"validation_blocks": float(crossed.blocks)} if crossed.blocks else {}
    found |= {f"loss_{name}": value for name, value in learnt.losses.items()}
    found |= {f"weight_{n}": float(w) for n, w in zip(CANDIDATES, learnt.model.weights)}
    found["se_widening"] = learnt.widening
    closed = np.flatnonzero(logged.closed)
    chance = logged.p_action[closed]
    weight = balance.weights(rows.column[closed], chance, logged.arm[closed])
    used, weight = closed[weight > 0], weight[weight > 0]
    column, y, customer = rows.column[used], rows.y[used], logged.customer[used]
    kept = replace(learnt, effect=learnt.effect[used], residual=learnt.residual[used])
    treated = column > 0
    found["uplift_spread"] = float(learnt.effect[rows.column > 0].std()) if treated.any() else np.nan
    found["p_action_known"] = float(np.mean(np.isfinite(chance) & (chance > 0))) if len(chance) else 0.0
    found["compared_n"] = float(treated.sum())
    found["compared_effective"] = stats.effective(weight[treated])
    both = weight * rows.weight[used]
    interval = metrics.qini_interval(
        y, kept.effect, treated.astype(float), rng, both, customer=customer, repeats=50
    )
    found |= {"qini": interval.value, "qini_lower": interval.lower, "qini_upper": interval.upper}
    tables["qini"] = metrics.qini_table(y, kept.effect, treated.astype(float), both)
    tables["uplift_deciles"] = deciles(column, kept, customer, weight)
    tables["effects"] = effects(learnt.model.coding, column, kept, customer, weight)
    tables["importance"] = importance(crossed.model, (*names, *learnt.model.coding.names))
    return Report({name: float(value) for name, value in found.items()}, tables)


def _chances(
    y: Array, crossed: CrossFitted, logged: Logged, rng: np.random.Generator
) -> tuple[dict[str, float], dict[str, pa.Table]]:
    # Rows that stand for fewer examples than others are judged as seldom: what is left is a plain sample.
    most = float(logged.sampled[logged.closed].max(initial=0.0))
    at = np.flatnonzero(logged.closed & (rng.random(len(y)) * most < logged.sampled))
    served = crossed.p_served[at]
    found = metrics.classification(y[at], served)
    ranked = metrics.auc_interval(y[at], served, logged.customer[at])
    found |= {"auc_lower": ranked.lower, "auc_upper": ranked.upper}
    return found, {"calibration": metrics.calibration(y[at], served)}


def deciles(
    column: Whole, learnt: Learnt, customer: Whole, weight: Array | None = None, level: float = 0.95
) -> pa.Table:
    """Compare predicted effects with what contact changed in each tenth of the rows by prediction.

    Rows without contact are ranked by the effect of the treatment that they are paired with; their mean
    residual is what the baseline missed in that tenth. The weights (`nba.models.balance`) make it the same
    customers on both sides; all 1 if None.

    Returns:
        As `metrics.by_decile`.
    """
    return metrics.by_decile(
        learnt.effect, learnt.residual, level, customer=customer, control=column == 0, weight=weight
    )


def effects(
    coding: Coding,
    column: Whole,
    learnt: Learnt,
    customer: Whole,
    weight: Array | None = None,
    level: float = 0.95,
) -> pa.Table:
    """Average effect of each treatment, a customer's rows counting as one unit.

    What the baseline missed on average is told by the rows without contact, whose noise counts too. With
    weights (`nba.models.balance`) the average is over the customers who could have been given the
    treatment; without, over those who got it, and it is false where the policy picked them by what the
    baseline misses.

    Returns:
        Columns treatment_id, n, effect, se, lower, upper, predicted. No naive rate of responses: a
        policy chose whom to treat, so rates of treatments do not compare.
    """
    weight = np.ones(len(column)) if weight is None else weight
    rows = []
    for t, name in enumerate(coding.treatment_ids, start=1):
        at = column == t
        n = int(at.sum())
        if n < 2:
            rows.append((name, n, *(np.nan,) * 5))
            continue
        both = at | (column == 0)
        found = stats.contrast(learnt.residual[both], column[both] == 0, level, customer[both], weight[both])
        estimate = found.value, found.se, found.lower, found.upper
        rows.append((name, n, *estimate, float(np.average(learnt.effect[at], weights=weight[at]))))
    names = ("treatment_id", "n", "effect", "se", "lower", "upper", "predicted")
    columns = list(zip(*rows)) if rows else [()] * len(names)
    return pa.table(dict(zip(names, columns)))


def importance(model: Response, inputs: Sequence[str], top: int = 25) -> pa.Table:
    """Share of the response trees' gain by feature; columns feature, importance, highest first."""
    gain = model.booster.feature_importance("gain")
    names = np.array(inputs)
    order = np.argsort(-gain, kind="stable")[:top]
    return pa.table({"feature": names[order].tolist(), "importance": gain[order] / max(gain.sum(), 1e-12)})
