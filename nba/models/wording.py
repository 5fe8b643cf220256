"""Reasons in words: what about a customer moves the chance of a response, and the effect of contact.

A reason is a feature's value in the words of its documentation with the direction in which it moves the
prediction. Contributions sum to the prediction: TreeSHAP for the response before its calibration,
`nba.models.parts` for the effect as served. How far reasons would change had other customers been drawn is
measured by `stability`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba.catalog import Catalog
from nba.errors import DataError
from nba.models import inputs, parts
from nba.models.scorer import Scorer
from nba.settings import Models

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_COUNTS = frozenset({"orders", "visits", "views", "items", "touches", "clicks", "events", "decisions"})


@dataclass(frozen=True)
class Words:
    """How a feature is spoken of.

    Attributes:
        doc: What it means, one phrase.
        unit: Unit of its values.
    """

    doc: str
    unit: str


def phrase(name: str, value: float, words: Mapping[str, Words]) -> str:
    """Say the value of a feature.

    Example:
        >>> words = {"f_orders_28": Words("purchases in the last 28 days", "orders")}
        >>> phrase("f_orders_28", 3.0, words)
        '3 purchases in the last 28 days'
        >>> phrase("f_orders_28", float("nan"), words)
        'purchases in the last 28 days: unknown'
        >>> phrase("f_days", 5.25, {"f_days": Words("since the last purchase", "days")})
        '5.2 days since the last purchase'
        >>> phrase("f_share", 0.5, {"f_share": Words("returns per purchase", "fraction")})
        'returns per purchase: 50%'
    """
    known = words.get(name)
    if known is None:
        plain = name.removeprefix("f_").replace("_", " ")
        return f"{plain}: {_number(value)}"
    if not np.isfinite(value):
        return f"{known.doc}: unknown"
    if known.unit in _COUNTS:
        return f"{_number(value)} {known.doc}"
    if known.unit == "days":
        return f"{_number(value)} days {known.doc}"
    if known.unit in ("fraction", "share", "probability"):
        return f"{known.doc}: {value:.0%}"
    return f"{known.doc}: {_number(value)}"


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "unknown"
    return f"{value:.0f}" if value == round(value) or abs(value) >= 100 else f"{value:.2g}"


@dataclass(frozen=True)
class Contributions:
    """What moves two predictions of n customers under one treatment each.

    Attributes:
        names: The p features.
        values: Their values, shape (n, p).
        response: Contributions to the log-odds of a response, shape (n, p); the treatment's and the base's
            are in `response_rest`.
        response_rest: Shape (n,): with the sum of `response`, exactly the prediction before calibration.
        effect: Contributions to the served effect, in chance of a response, shape (n, p).
        effect_rest: Shape (n,): the mean customer's effect and the part of the chance without contact; with
            the sum of `effect`, the served effect.
        gap: Largest difference of a sum from its prediction.
    """

    names: tuple[str, ...]
    values: Array
    response: Array
    response_rest: Array
    effect: Array
    effect_rest: Array
    gap: float


def contributions(scorer: Scorer, features: pa.Table, treatment_ids: Sequence[str]) -> Contributions:
    """Split both predictions into what each feature adds.

    Args:
        scorer: The served model.
        features: The `features` table, n rows.
        treatment_ids: The treatment of each row, n of them; `none` has no effect.

    Raises:
        ArithmeticError: when contributions do not add up to the prediction.
    """
    X = inputs.matrix(features, scorer.names)
    codes = scorer.coding.codes()
    column = np.maximum(scorer.coding.columns(list(treatment_ids)), 0)
    full = np.hstack([X, codes[column]])
    found = np.asarray(scorer.response.booster.predict(full, pred_contrib=True))
    p = X.shape[1]
    response, rest = found[:, :p], found[:, p:].sum(axis=1)
    raw = np.asarray(scorer.response.booster.predict(full, raw_score=True))
    gap = float(np.abs(response.sum(axis=1) + rest - raw).max(initial=0.0))
    if gap > 1e-6:
        raise ArithmeticError(f"contributions miss the predictions by {gap}; expected 1e-6 or less")
    effect = parts.split(scorer, X, column)
    return Contributions(
        scorer.names, X, response, rest, effect.features, effect.baseline + effect.rest, max(gap, effect.gap)
    )


def reasons(found: Contributions, words: Mapping[str, Words], top: int = 3) -> list[list[str]]:
    """Give the strongest reasons of every row, in words, for the effect and for the response.

    Args:
        found: Contributions.
        words: By feature.
        top: Reasons of each kind.

    Returns:
        Per row up to 2 × top sentences, strongest first; a contribution of 0 is no reason.
    """
    kinds = (
        (found.effect, "contact helps more", "contact helps less"),
        (found.response, "likelier to respond", "less likely to respond"),
    )
    out: list[list[str]] = [[] for _ in range(len(found.values))]
    for part, up, down in kinds:
        order = np.argsort(-np.abs(part), axis=1, kind="stable")[:, :top]
        for i, best in enumerate(order):
            for j in best:
                if part[i, j] != 0:
                    said = phrase(found.names[j], float(found.values[i, j]), words)
                    out[i].append(f"{said} ({up if part[i, j] > 0 else down})")
    return out


def stability(found: Sequence[Contributions], kind: str = "effect", top: int = 3) -> float:
    """Measure how far the strongest reasons of the same rows agree between models of resampled customers.

    Args:
        found: Contributions of the same rows and treatments by models fitted to resamples.
        kind: "effect" or "response".
        top: Reasons that count.

    Returns:
        Mean share of the top reasons that two models have in common, 0 to 1; NaN for fewer than 2.
    """
    if len(found) < 2:
        return float("nan")
    strength = [np.abs(getattr(part, kind)) for part in found]
    # Decisions without contact have no effect, and so no reasons for it.
    has = np.all([part.any(axis=1) for part in strength], axis=0)
    if not has.any():
        return float("nan")
    sets = [np.argsort(-part[has], axis=1, kind="stable")[:, :top] for part in strength]
    shares = [
        np.mean([len(set(a) & set(b)) / top for a, b in zip(first, second)])
        for i, first in enumerate(sets)
        for second in sets[i + 1 :]
    ]
    return float(np.mean(shares))


def under_resampling(
    examples: pa.Table, catalog: Catalog, settings: Models, seed: int, *, repeats: int = 2, most: int = 20_000
) -> dict[str, float]:
    """Fit the model to resampled customers and measure how far the strongest reasons agree.

    Args:
        examples: The `examples` table.
        catalog: Its treatments.
        settings: Capacity.
        seed: Of the resamples, folds and trees.
        repeats: Resamples (bootstrap of customers), 2 or more.
        most: Examples of which customers are drawn; a sample of more.

    Returns:
        `stability` by kind, effect and response; NaN where too few examples are left to learn from.
    """
    rng = np.random.default_rng(seed)
    if examples.num_rows > most:
        examples = examples.take(pa.array(np.sort(rng.choice(examples.num_rows, most, replace=False))))
    customer = examples["customer_id"].combine_chunks().dictionary_encode()
    rows, code = np.arange(examples.num_rows), customer.indices.to_numpy()
    shown = examples.take(pa.array(rows[:: max(len(rows) // 200, 1)]))
    found = []
    for _ in range(repeats):
        drawn = rng.poisson(1.0, len(customer.dictionary))[code]
        try:
            scorer = Scorer.fit(examples.take(pa.array(np.repeat(rows, drawn))), catalog, settings, seed)
        except DataError:
            continue
        found.append(contributions(scorer, shown, shown["treatment_id"].to_pylist()))
    return {kind: stability(found, kind) for kind in ("effect", "response")}


def dependence(found: Contributions, name: str, kind: str = "effect", bins: int = 20) -> pa.Table:
    """Summarise how a feature's contribution depends on its value.

    Returns:
        Columns value (mean of the bin), contribution, lower, upper (10% and 90% quantiles), n; unknown
        values are left out.
    """
    j = found.names.index(name)
    value, part = found.values[:, j], getattr(found, kind)[:, j]
    known = np.isfinite(value)
    value, part = value[known], part[known]
    edges = np.unique(np.quantile(value, np.linspace(0, 1, bins + 1))) if len(value) else np.empty(0)
    number = np.clip(np.searchsorted(edges, value, "right") - 1, 0, max(len(edges) - 2, 0))
    rows = []
    for b in np.unique(number):
        at = number == b
        low, high = np.quantile(part[at], [0.1, 0.9])
        rows.append((float(value[at].mean()), float(part[at].mean()), float(low), float(high), int(at.sum())))
    names = ("value", "contribution", "lower", "upper", "n")
    return pa.table(dict(zip(names, zip(*rows) if rows else [()] * len(names))))
