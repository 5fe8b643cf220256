"""Measures of models: how well they rank, how well they are calibrated, what their ranking is worth.

All take plain arrays. Uplift measures follow the definitions of scikit-uplift (named in each
docstring), extended by optional weights that make treated and untreated rows comparable.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import rankdata

from nba import stats
from nba.errors import DataError
from nba.stats import Interval

Array = NDArray[np.float64]
Whole = NDArray[np.int64]


def auc(y: Array, score: Array) -> float:
    """Chance that a random positive scores above a random negative; NaN without both.

    Example:
        >>> auc(np.array([0.0, 1.0, 1.0]), np.array([0.1, 0.9, 0.1]))
        0.75
    """
    stats.check("the AUC", flags={"y": y}, numbers={"score": score})
    positive = y > 0.5
    n1, n0 = int(positive.sum()), int((~positive).sum())
    if not n1 or not n0:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def auc_interval(y: Array, score: Array, customer: Whole | None = None, level: float = 0.95) -> Interval:
    """Estimate the AUC with an interval from the placements of single rows, summed by customer.

    A positive's placement is the share of negatives below it, a negative's the share of positives above it
    (DeLong et al. 1988); those of one customer are summed (Obuchowski 1997).

    Args:
        y: 0 or 1, shape (n,).
        score: Shape (n,).
        customer: Code of each row's customer, from 0, shape (n,); None where every row is another's.
        level: Confidence level.
    """
    value = auc(y, score)
    positive = y > 0.5
    n1, n0 = int(positive.sum()), int((~positive).sum())
    if not n1 or not n0:
        return Interval.unknown("one of the classes is empty", len(y))
    ranks = rankdata(score)
    inside = np.empty(len(y))
    inside[positive], inside[~positive] = rankdata(score[positive]), rankdata(score[~positive])
    placement = np.where(positive, (ranks - inside) / n0, 1 - (ranks - inside) / n1)
    # As one mean over rows: each class counts by the inverse of its share.
    influence = (placement - value) * np.where(positive, len(y) / n1, len(y) / n0)
    around = stats.mean(influence, level, customer)
    return around._replace(
        value=value, lower=max(value + around.lower, 0.0), upper=min(value + around.upper, 1.0)
    )


def gini(y: Array, score: Array) -> float:
    """Twice the AUC less one.

    Example:
        >>> gini(np.array([0.0, 1.0]), np.array([0.1, 0.9]))
        1.0
    """
    return 2 * auc(y, score) - 1


def log_loss(y: Array, p: Array, weight: Array | None = None) -> float:
    """Mean negative log-likelihood of probabilities, in nats per row.

    Example:
        >>> round(log_loss(np.array([1.0, 0.0]), np.array([0.5, 0.5])), 4)
        0.6931
    """
    stats.check("the log loss", flags={"y": y}, chances={"p": p}, weight=weight)
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return float(np.average(-(y * np.log(p) + (1 - y) * np.log(1 - p)), weights=weight))


def calibration(y: Array, p: Array, bins: int = 10) -> pa.Table:
    """Compare predicted and observed rates in bins of equal size.

    Args:
        y: 0 or 1, shape (n,).
        p: Predicted probability, shape (n,).
        bins: Number of bins, by rank of the prediction.

    Returns:
        Columns bin (from 1), n, predicted, observed; empty bins are left out.

    Example:
        >>> calibration(np.array([0.0, 1.0]), np.array([0.2, 0.7]), bins=2)["predicted"].to_pylist()
        [0.2, 0.7]
    """
    stats.check("calibration", flags={"y": y}, chances={"p": p})
    number = _by_rank(p, bins)
    n = np.bincount(number, minlength=bins)
    kept = np.flatnonzero(n)
    predicted = np.bincount(number, p, minlength=bins)[kept] / n[kept]
    observed = np.bincount(number, y, minlength=bins)[kept] / n[kept]
    return pa.table({"bin": kept + 1, "n": n[kept], "predicted": predicted, "observed": observed})


def ece(y: Array, p: Array, bins: int = 10) -> float:
    """Expected calibration error: mean |predicted - observed| over bins of equal size (Naeini 2015).

    Example:
        >>> round(ece(np.array([0.0, 1.0]), np.array([0.2, 0.7]), bins=2), 3)
        0.25
    """
    table = calibration(y, p, bins)
    gap = np.abs(table["predicted"].to_numpy() - table["observed"].to_numpy())
    return float(np.average(gap, weights=table["n"].to_numpy())) if len(y) else float("nan")


def ece_of_noise(p: Array, bins: int = 10) -> float:
    """Give the mean `ece` that a perfectly calibrated model has by chance with these predictions.

    A mean of absolute values is above 0 by noise alone; what a model shows beyond that is its own. Sums of a
    bin's outcomes are about normal: Σ over bins of √(2/π Σ p(1 − p)), over n.

    Args:
        p: Predicted probability, shape (n,).
        bins: As in `ece`.

    Example:
        >>> round(ece_of_noise(np.full(1000, 0.5), bins=1), 3)
        0.013
    """
    stats.check("the error of calibration", chances={"p": p})
    if not len(p):
        return float("nan")
    variance = np.bincount(_by_rank(p, bins), p * (1 - p), minlength=bins)
    return float(np.sqrt(2 / np.pi * variance).sum() / len(p))


def calibration_slope(y: Array, p: Array) -> float:
    """Slope of a logistic regression of y on the log-odds of p: 1 is calibrated, below 1 overconfident.

    Source: Cox 1958, "Two further applications of a model for binary regression".
    """
    stats.check("the slope of calibration", flags={"y": y}, chances={"p": p})
    x = np.log(np.clip(p, 1e-9, 1 - 1e-9)) - np.log1p(-np.clip(p, 1e-9, 1 - 1e-9))
    if len(y) < 3 or np.ptp(x) == 0 or y.min() == y.max():
        return float("nan")
    design = np.column_stack([np.ones_like(x), x])
    theta = np.array([0.0, 1.0])
    for _ in range(50):
        q = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        hessian = (design * (q * (1 - q))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (y - q))
        theta = theta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return float(theta[1])


def pr_auc(y: Array, score: Array) -> float:
    """Area under the precision-recall curve, as average precision: Σ (recall steps) × precision.

    Ties count at once. A random ranking has the base rate. NaN without a positive (scikit-learn's
    `average_precision_score`).

    Example:
        >>> pr_auc(np.array([1.0, 0.0, 1.0]), np.array([3.0, 2.0, 1.0])).__round__(3)
        0.833
    """
    stats.check("average precision", flags={"y": y}, numbers={"score": score})
    n = len(y)
    positive = float(y.sum())
    if not n or positive <= 0:
        return float("nan")
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), n - 1)
    found = np.cumsum(y[order])[ends]
    return float((np.diff(found, prepend=0.0) / positive) @ (found / (ends + 1)))


def classification(y: Array, p: Array) -> dict[str, float]:
    """Judge probabilities by everything above.

    Returns:
        auc, pr_auc, log_loss, log_loss_constant (of the base rate), ece, ece_of_noise, calibration_slope,
        base_rate, n.
    """
    rate = float(np.mean(y)) if len(y) else float("nan")
    return {
        "auc": auc(y, p),
        "pr_auc": pr_auc(y, p),
        "log_loss": log_loss(y, p),
        "log_loss_constant": log_loss(y, np.full(len(y), rate)),
        "ece": ece(y, p),
        "ece_of_noise": ece_of_noise(p),
        "calibration_slope": calibration_slope(y, p),
        "base_rate": rate,
        "n": float(len(y)),
    }


def qini_curve(y: Array, uplift: Array, treated: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """Give the Qini curve: incremental responses when the first rows by uplift are treated.

    At each distinct value of `uplift`, from the highest: responses of the treated so far, less those of
    the untreated so far scaled to the number of the treated (scikit-uplift's `qini_curve`; Radcliffe 2007).

    Args:
        y: Response, shape (n,).
        uplift: Predicted uplift, shape (n,).
        treated: 0 or 1, shape (n,).
        weight: Weights that make the two groups comparable, shape (n,); 1 if None.

    Returns:
        Rows reached (in weight) and incremental responses, both from (0, 0).

    Example:
        >>> x, gain = qini_curve(np.array([1.0, 0, 0, 1]), np.array([4.0, 3, 2, 1]), np.array([1, 0, 1, 0]))
        >>> x.tolist(), gain.tolist()
        ([0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 1.0, 1.0, 0.0])
    """
    stats.check_ranking(y, uplift, treated, weight)
    return _curve(y, uplift, treated, weight)


def _curve(y: Array, uplift: Array, treated: Array, weight: Array | None) -> tuple[Array, Array]:
    weight = np.ones(len(y)) if weight is None else weight
    order = np.argsort(-uplift, kind="stable")
    y, uplift, treated, weight = y[order], uplift[order], np.asarray(treated)[order], weight[order]
    ends = np.append(np.flatnonzero(np.diff(uplift)), len(y) - 1) if len(y) else np.empty(0, dtype=int)
    n1 = np.cumsum(weight * treated)[ends]
    n0 = np.cumsum(weight * (1 - treated))[ends]
    y1 = np.cumsum(weight * y * treated)[ends]
    y0 = np.cumsum(weight * y * (1 - treated))[ends]
    gain = y1 - y0 * np.divide(n1, n0, out=np.zeros_like(n1), where=n0 > 0)
    return np.append(0.0, n1 + n0), np.append(0.0, gain)


def qini(y: Array, uplift: Array, treated: Array, weight: Array | None = None) -> float:
    """Area between the Qini curve and chance, as a part of that of the perfect ranking.

    The definition is scikit-uplift's `qini_auc_score` (negative_effect=True): 0 is a random ranking,
    1 the ranking that knows who responds; for binary responses only.

    Args:
        y: As in `qini_curve`, like the others.
        uplift: Shape (n,).
        treated: Shape (n,).
        weight: Shape (n,).

    Returns:
        NaN if one of the groups is empty or the perfect ranking is not better than chance.

    Raises:
        DataError: naming every fault of the arrays; for money, `nba.targeting` has measures.
    """
    stats.check_ranking(y, uplift, treated, weight, is_binary=True)
    return _qini(y, uplift, np.asarray(treated), weight)


def _qini(y: Array, uplift: Array, t: Array, weight: Array | None) -> float:
    if not (t > 0).any() or not (t <= 0).any():
        return float("nan")
    x, gain = _curve(y, uplift, t, weight)
    perfect_x, perfect = _curve(y, y * t - y * (1 - t), t, weight)
    chance = 0.5 * x[-1] * gain[-1]
    best = float(np.trapezoid(perfect, perfect_x)) - chance
    return (float(np.trapezoid(gain, x)) - chance) / best if best > 0 else float("nan")


def qini_interval(
    y: Array,
    uplift: Array,
    treated: Array,
    rng: np.random.Generator,
    weight: Array | None = None,
    *,
    customer: Whole | None = None,
    repeats: int = 100,
    level: float = 0.95,
) -> Interval:
    """Estimate the Qini coefficient with a Poisson bootstrap over customers (the model is held fixed).

    Args:
        y: As in `qini_curve`, like the others.
        uplift: Shape (n,).
        treated: Shape (n,).
        rng: Source of the resampling.
        weight: Shape (n,).
        customer: Code of each row's customer, from 0, shape (n,), whose rows are drawn together; None where
            every row is another's.
        repeats: Bootstrap samples.
        level: Confidence level.
    """
    value = qini(y, uplift, treated, weight)
    n = len(y)
    if np.isnan(value):
        return Interval.unknown("one of the groups is empty or has no response", n)
    base = np.ones(n) if weight is None else weight
    # Sorted once: a resample only changes weights.
    order = np.argsort(-uplift, kind="stable")
    parts = y[order], uplift[order], np.asarray(treated)[order], base[order]
    whose = np.arange(n) if customer is None else customer[order]
    units = int(whose.max()) + 1
    draws = np.array([_qini(*parts[:3], parts[3] * rng.poisson(1.0, units)[whose]) for _ in range(repeats)])
    draws = draws[np.isfinite(draws)]
    if len(draws) < repeats / 2:
        return Interval.unknown("most resamples have no response in a group", n)
    lower, upper = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(np.std(draws, ddof=1)), float(lower), float(upper), n)


def qini_table(
    y: Array, uplift: Array, treated: Array, weight: Array | None = None, points: int = 50
) -> pa.Table:
    """Sample the Qini curve for a figure.

    Returns:
        Columns share (of rows reached), qini (incremental responses per row of all), random (of the
        straight line).
    """
    x, gain = qini_curve(y, uplift, treated, weight)
    total = x[-1] if x[-1] > 0 else 1.0
    share = np.linspace(0, 1, points + 1)
    curve = np.interp(share, x / total, gain / total)
    return pa.table({"share": share, "qini": curve, "random": share * gain[-1] / total})


def first(score: Array, share: float) -> Array:
    """Say how much of each row is within the share of rows with the highest score, shape (n,).

    Rows that tie at the edge count with the part of them that still fits, whatever their order.

    Example:
        >>> first(np.array([1.0, 3.0, 1.0, 2.0]), 0.75).tolist()
        [0.5, 1.0, 0.5, 1.0]
    """
    room = int(len(score) * share)
    if not room:
        return np.zeros(len(score))
    edge = np.partition(score, len(score) - room)[len(score) - room]
    above, tied = score > edge, score == edge
    return np.asarray(above + tied * ((room - above.sum()) / max(int(tied.sum()), 1)))


def uplift_at(y: Array, uplift: Array, treated: Array, share: float, weight: Array | None = None) -> float:
    """Difference of response rates within the share of rows with the highest uplift.

    The definition is scikit-uplift's `uplift_at_k` with strategy "overall", but for ties at the edge, which
    count in part instead of by the order of the rows. The share is above 0 and at most 1.

    Example:
        >>> uplift_at(np.array([1.0, 0, 0, 1]), np.array([4.0, 3, 2, 1]), np.array([1, 0, 1, 0]), 0.5)
        1.0
    """
    stats.check_ranking(y, uplift, treated, weight)
    if not 0 < share <= 1:
        raise DataError(f"share is {share}; expected a part of the rows, above 0 and at most 1")
    weight = np.ones(len(y)) if weight is None else weight
    taken = weight * first(uplift, share)
    is_treated = np.asarray(treated) > 0
    w1, w0 = taken * is_treated, taken * ~is_treated
    if w1.sum() <= 0 or w0.sum() <= 0:
        return float("nan")
    return float(w1 @ y / w1.sum() - w0 @ y / w0.sum())


def by_decile(
    predicted: Array,
    observed: Array,
    level: float = 0.95,
    bins: int = 10,
    customer: Whole | None = None,
    control: NDArray[np.bool_] | None = None,
    weight: Array | None = None,
) -> pa.Table:
    """Compare predicted effects with unbiased scores of them, by rank of the prediction.

    Args:
        predicted: Predicted effect, shape (n,).
        observed: A noisy unbiased score of the effect of each row, shape (n,).
        level: Confidence level of the intervals of the means.
        bins: Number of bins.
        customer: Code of each row's customer, from 0, shape (n,); None where every row is another's.
        control: Rows without contact, shape (n,), whose mean score in the bin is subtracted: what a baseline
            has missed there is no effect. None where scores need no control.
        weight: Of each row in the means, above 0, shape (n,); 1 if None.

    Returns:
        Columns decile (1 is the highest), n (rows that are no control), predicted, observed, lower, upper;
        bins of fewer than 2 rows or customers, on either side, are left out.

    Raises:
        DataError: for values that are missing or infinite.
    """
    stats.check("deciles", numbers={"predicted": predicted, "observed": observed}, weight=weight)
    number = bins - 1 - _by_rank(predicted, bins)
    rows = []
    for decile in range(bins):
        at = number == decile
        unit = None if customer is None else customer[at]
        counts = None if weight is None else weight[at]
        if control is None:
            values = observed[at] if counts is None else stats.weighed(observed[at], counts)
            found, shown = stats.mean(values, level, unit), at
        else:
            found, shown = stats.contrast(observed[at], control[at], level, unit, counts), at & ~control
        if found.n < 2 or np.isnan(found.value):
            continue
        estimate = found.value, found.lower, found.upper
        mean = np.average(predicted[shown], weights=None if weight is None else weight[shown])
        rows.append((decile + 1, int(shown.sum()), float(mean), *estimate))
    names = ("decile", "n", "predicted", "observed", "lower", "upper")
    types = (pa.int64(), pa.int64(), *(pa.float64(),) * 4)
    columns = list(zip(*rows)) if rows else [()] * len(names)
    return pa.table({name: pa.array(c, t) for name, t, c in zip(names, types, columns)})


def _by_rank(values: Array, bins: int) -> NDArray[np.int64]:
    if not len(values):
        return np.empty(0, dtype=np.int64)
    rank = rankdata(values, method="average") - 0.5
    return np.minimum(rank / len(values) * bins, bins - 1).astype(np.int64)
