"""Which models forecast lifetime value: chosen, or blended, by backtests on rolling origins.

The history is cut at earlier days; every candidate is fitted on what lay before each cut and judged on
what followed it. The default gives way only to a candidate that is better by more than noise, which
counts in how many candidates there are (Bonferroni) and that labels shorter than the horizon say less of
it (the needed gain grows with the root of horizon over label).
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import norm

from nba import stats, tables
from nba.models import clv_counts, clv_score
from nba.models.clv import Choice, Forecaster, fit, margin_of, sample, span, spend_of
from nba.models.clv_ml import Correction, Log, Seen, follow, look

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
MOST = 4_000  # customers judged at each origin
ORIGINS = 2
_MIN_DAYS = 60.0  # history shorter than this is not cut into origins
_MIN_GAIN = 1e-4  # relative; what is less is rounding


class Chosen(NamedTuple):
    """A choice and what it rests on.

    Attributes:
        choice: Which candidates forecast.
        backtest: The `clv_backtest` table: candidate by candidate, all origins together.
        scores: The `clv_scores` table: the chosen ones at each origin.
        deciles: The `clv_deciles` table: their calibration.
    """

    choice: Choice
    backtest: pa.Table
    scores: pa.Table
    deciles: pa.Table


class _Origin(NamedTuple):
    past: Log
    cut: float
    until: float
    seen: Seen
    orders: Array
    margin: Array


def choose(log: Log, at: float, horizon: float) -> Chosen:
    """Choose among candidates by backtests on the latest stretches of history.

    Args:
        log: Purchase days.
        at: Day of the forecast.
        horizon: Its length in days.

    Returns:
        The default where history is too short to be cut, or no candidate beats it by more than noise.
    """
    default = Choice()
    unjudged = Chosen(
        default, *(t.empty() for t in (tables.CLV_BACKTEST, tables.CLV_SCORES, tables.CLV_DECILES))
    )
    origins = _origins(sample(log.before(at), MOST), at, horizon)
    fitted = [_candidates(origin, default) for origin in origins]
    first = f"{default.kind}+trees"
    names = [name for name in (fitted[0] if fitted else ()) if all(name in found for found in fitted)]
    if first not in names:
        return unjudged
    who = np.concatenate([origin.seen.customer for origin in origins])
    orders = {
        name: [found[name].orders(o.seen, o.until - o.cut) for o, found in zip(origins, fitted)]
        for name in names
    }
    rows: list[dict[str, Any]] = []
    stretch = max(horizon / (origins[0].until - origins[0].cut), 1.0)
    count = np.concatenate([o.orders for o in origins])
    losses = {name: _poisson_loss(count, np.concatenate(found)) for name, found in orders.items()}
    best = departs(losses, first, who, stretch, "orders", rows)
    picked = fitted[0][best].choice
    values = _values(origins, orders[best], [found[best] for found in fitted])
    margin = np.concatenate([o.margin for o in origins])
    scale = max(float(margin[margin > 0].mean()) if (margin > 0).any() else 1.0, 1e-9)
    value_losses = {
        name: _tweedie_loss(margin / scale, np.concatenate(found) / scale) for name, found in values.items()
    }
    won = departs(value_losses, "all", who, stretch, "value", rows)
    picked = picked._replace(
        spend=won if won in ("all", "repeat", "blend") else "all",
        value={"two_part": "two_part", "two_part_blend": "blend"}.get(won, "product"),
    )
    held = [_shaped(o, found[best], picked, v) for o, found, v in zip(origins, fitted, values[won])]
    scores, deciles = _judged(origins, orders[best], values[won], held)
    return Chosen(picked, tables.CLV_BACKTEST.build(rows), scores, deciles)


def departs(
    losses: dict[str, Array], default: str, who: Codes, stretch: float, part: str,
    rows: list[dict[str, Any]],
) -> str:  # fmt: skip
    """Name the best candidate: the default, or one better than it by more than noise.

    Args:
        losses: By candidate, of each forecast, shape (n,).
        default: Its name.
        who: Customer of each forecast; one customer's forecasts are not independent, shape (n,).
        stretch: Horizon over length of the labels, at least 1.
        part: What is forecast, for the rows.
        rows: Gets a row of the `clv_backtest` table for each candidate.
    """
    best, gain = default, 0.0
    unit = np.unique(who, return_inverse=True)[1]
    base = float(losses[default].mean())
    needed = float(norm.ppf(1 - 0.025 / max(len(losses) - 1, 1)) * np.sqrt(stretch))
    for name, loss in losses.items():
        difference = losses[default] - loss
        mean = float(difference.mean())
        se = stats.clustered(difference - mean, unit, corrected=False)[0] / len(loss)
        rows.append(
            {"part": part, "candidate": name, "loss": float(loss.mean()), "default_loss": base, "se": se}
        )
        if mean > max(needed * se, gain, _MIN_GAIN * abs(base)):
            best, gain = name, mean
    return best


def _origins(past: Log, at: float, horizon: float) -> list[_Origin]:
    span = at - past.day.min() if len(past.day) else 0.0
    if span < _MIN_DAYS:
        return []
    length = min(horizon, 0.3 * span)
    out = []
    for i in range(ORIGINS):  # labels overlap, and half of the history or more lies before each cut
        until = at - i * length / 2
        cut = until - length
        seen = look(past, cut)
        if len(seen.customer) >= 4 * clv_counts.MIN_REPEATERS:
            out.append(_Origin(past, cut, until, seen, *follow(past, seen, cut, until)))
    return out


def _candidates(origin: _Origin, default: Choice) -> dict[str, Forecaster]:
    out: dict[str, Forecaster] = {}
    for kind in (default.kind, *(k for k in clv_counts.KINDS if k != default.kind)):
        # The default's kind is nearly always chosen: its two-part model is made in the same fit.
        wanted = default._replace(kind=kind, value="two_part" if kind == default.kind else default.value)
        model = fit(origin.past, origin.cut, origin.until - origin.cut, wanted)
        if not model.is_known or (model.counts.kind == "nbd" and out):
            continue  # at its limit it is the NBD that stands there already, or nothing better
        out[f"{kind}+trees"] = model
        plain = model.choice._replace(trees=0)
        out[kind] = model._replace(correction=Correction(""), choice=plain)
        if kind == default.kind:
            half = model.choice._replace(power=0.5)
            out["blend"] = model._replace(correction=Correction(model.correction.text, 0.5), choice=half)
    if out and len(np.unique(origin.past.stratum)) > 1:
        wanted = default._replace(is_stratified=True)
        out["strata"] = fit(origin.past, origin.cut, origin.until - origin.cut, wanted)
    return out


def _values(origins: list[_Origin], orders: list[Array], best: list[Forecaster]) -> dict[str, list[Array]]:
    out: dict[str, list[Array]] = {"all": [], "repeat": [], "blend": []}
    two = [
        model
        if model.choice.value == "two_part"
        else fit(o.past, o.cut, o.until - o.cut, model.choice._replace(value="two_part"))
        for o, model in zip(origins, best)
    ]
    is_able = all(model.two_part is not None for model in two)
    for o, expected, model in zip(origins, orders, two):
        each = {s: expected * margin_of(spend_of(o.past, o.cut, s), o.seen, s) for s in ("all", "repeat")}
        each["blend"] = (each["all"] + each["repeat"]) / 2
        if is_able:
            each["two_part"] = model.value(o.seen, o.until - o.cut)
            each["two_part_blend"] = (each["two_part"] + each["all"]) / 2
        for name, value in each.items():
            out.setdefault(name, []).append(value)
    return out


def _shaped(o: _Origin, model: Forecaster, picked: Choice, value: Array) -> dict[str, Array]:
    # Intervals as a forecast at the origin would have given them.
    if picked.spend == "repeat":
        model = model._replace(spend=spend_of(o.past, o.cut, "repeat"), choice=picked)
    return span(model, o.seen, o.until - o.cut, value, seed=0, most=100)


def _judged(
    origins: list[_Origin], orders: list[Array], values: list[Array], held: list[dict[str, Array]]
) -> tuple[pa.Table, pa.Table]:
    scores, deciles = [], []
    for o, expected, value, ends in zip(origins, orders, values, held):
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=float(np.ceil(o.cut)))
        for part, seen, forecast in (("orders", o.orders, expected), ("value", o.margin, value)):
            key = {"origin_at": at, "part": part}
            found = clv_score.score(seen, forecast)._asdict()
            known = {k: v if v == v else None for k, v in found.items()}
            name = "clv" if part == "value" else part
            within = clv_score.held(seen, ends[f"{name}_lower"], ends[f"{name}_upper"])
            scores.append(key | known | {"days": o.until - o.cut} | within)
            by = clv_score.by_decile(seen, forecast).to_pylist()
            deciles += [key | {"decile": i + 1} | row for i, row in enumerate(by)]
    return tables.CLV_SCORES.build(scores), tables.CLV_DECILES.build(deciles)


def _poisson_loss(y: Array, forecast: Array) -> Array:
    forecast = np.maximum(forecast, 1e-9)
    return np.asarray(forecast - y * np.log(forecast))


def _tweedie_loss(y: Array, forecast: Array) -> Array:
    # Deviance of power 1.5: right for money that is often zero and has a long tail.
    forecast = np.maximum(forecast, 1e-6)
    return np.asarray(2 * (np.maximum(y, 0) / np.sqrt(forecast) + np.sqrt(forecast)))
