"""What a ranking by uplift, or a policy, is worth: named definitions, intervals over customers.

Two packages call different numbers "Qini"; each is here under the name of its package, and
`definition` says what a number means. Ties share their rank, so that no measure depends on the order of the
rows. Measures take weights, with which `interval` bootstraps any of them over customers.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nba import stats
from nba.errors import DataError, listed
from nba.stats import Interval

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Measure = Callable[[Array], float]


def definition(measure: Callable[..., Any]) -> str:
    """Give what a measure means: the first paragraph of its documentation.

    Example:
        >>> definition(rate).splitlines()[0]
        'Rank-weighted average treatment effect: what a ranking finds beyond the average effect.'
    """
    return re.split(r"\n\n(?:Args|Returns|Raises|Example):", inspect.getdoc(measure) or "")[0]


def _reached(uplift: Array, *parts: Array) -> tuple[Array, ...]:
    # Sums from the highest uplift down to each distinct value, ties at once.
    order = np.argsort(-uplift, kind="stable")
    ranked = uplift[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return tuple(np.append(0.0, np.cumsum(part[order])[ends]) for part in parts)


def _ratio(a: Array, b: Array) -> Array:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def uplift_curve(y: Array, uplift: Array, treated: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """Rows reached against their number times the difference of response rates (scikit-uplift's).

    Returns:
        Rows reached (in weight) and the gain, both from (0, 0), one point per distinct uplift.
    """
    stats.check_ranking(y, uplift, treated, weight)
    w = np.ones(len(y)) if weight is None else weight
    t = np.asarray(treated, dtype=np.float64)
    n1, n0, y1, y0 = _reached(uplift, w * t, w * (1 - t), w * y * t, w * y * (1 - t))
    return n1 + n0, (_ratio(y1, n1) - _ratio(y0, n0)) * (n1 + n0)


def auuc(y: Array, uplift: Array, treated: Array, weight: Array | None = None) -> float:
    """Area under the uplift curve beyond chance, as a part of the perfect ranking's.

    The definition is scikit-uplift's `uplift_auc_score`: 0 is a random ranking, 1 the perfect one; for
    binary responses only. NaN if a group is empty.

    Example:
        >>> y, t = np.array([1.0, 0, 0, 1]), np.array([1, 0, 1, 0])
        >>> float(auuc(y, np.array([4.0, 3, 2, 1]), t))
        1.0
    """
    t = np.asarray(treated, dtype=np.float64)
    stats.check_ranking(y, uplift, t, weight, is_binary=True)
    if not len(t) or t.min() == t.max():
        return float("nan")
    w = np.ones(len(y)) if weight is None else weight
    more_responders = (w * y * (1 - t)).sum() > (w * (1 - y) * t).sum()
    perfect = 2.0 * (y == t) + (y if more_responders else t)
    x, gain = uplift_curve(y, uplift, t, weight)
    best_x, best = uplift_curve(y, perfect, t, weight)
    chance = 0.5 * x[-1] * gain[-1]
    room = float(np.trapezoid(best, best_x)) - chance
    return (float(np.trapezoid(gain, x)) - chance) / room if room > 0 else float("nan")


def _height(
    y: Array, uplift: Array, treated: Array, weight: Array | None, is_qini: bool
) -> tuple[float, float]:
    # Mean of a curve over whole numbers of rows, 0 to all, and its end: straight within ties, unknown
    # stretches bridged. Sums over whole numbers are integrals and what their ends add (Euler, Maclaurin).
    stats.check_ranking(y, uplift, treated, weight)
    w = np.ones(len(y)) if weight is None else weight
    t = np.asarray(treated, dtype=np.float64)
    n1, n0, y1, y0 = _reached(uplift, w * t, w * (1 - t), w * y * t, w * y * (1 - t))
    known = n0 > 0 if is_qini else (n1 > 0) & (n0 > 0)
    known[0] = True
    x, n1, n0, y1, y0 = (part[known] for part in (n1 + n0, n1, n0, y1, y0))
    if is_qini:
        curve = y1 - y0 * _ratio(n1, n0)
        area, ends = float(np.trapezoid(curve, x)), (curve[0] + curve[-1]) / 2
    else:
        lift = _ratio(y1, n1) - _ratio(y0, n0)
        curve = lift * x
        middle = (x[1:] + x[:-1]) * (lift[1:] + lift[:-1])
        area = float((np.diff(x) * (curve[1:] + middle + curve[:-1])).sum() / 6)
        ends = curve[-1] / 2 + (lift[-1] - lift[0]) / 6
    return (area + float(ends)) / (float(x[-1]) + 1), float(curve[-1])


def qini_causalml(y: Array, uplift: Array, treated: Array, weight: Array | None = None) -> float:
    """Mean height of the Qini curve over the straight line, both divided by the curve's last value.

    The definition is causalml's `qini_score` (normalize=True): not bounded by 1, and huge where
    the average effect is near 0. For binary and money outcomes. NaN if the last value is 0. A weight says
    how many rows a row stands for.

    Example:
        >>> y, t = np.array([1.0, 0, 0, 1]), np.array([1, 0, 1, 0])
        >>> qini_causalml(np.append(y, 1.0), np.array([5.0, 4, 3, 2, 1]), np.append(t, 1))
        0.5
    """
    height, last = _height(y, uplift, treated, weight, is_qini=True)
    return (height - last / 2) / abs(last) if last else float("nan")


def auuc_causalml(y: Array, uplift: Array, treated: Array, weight: Array | None = None) -> float:
    """Mean height of the cumulative gain divided by its last value; 0.5 is a random ranking.

    The definition is causalml's `auuc_score` (normalize=True). NaN if the last value is 0. A weight says how
    many rows a row stands for.
    """
    height, last = _height(y, uplift, treated, weight, is_qini=False)
    return height / abs(last) if last else float("nan")


def rate(
    scores: Array,
    priority: Array,
    weighting: Literal["autoc", "qini"] = "autoc",
    weight: Array | None = None,
) -> float:
    """Rank-weighted average treatment effect: what a ranking finds beyond the average effect.

    The area under the targeting operator curve, the mean effect of the first u less that of all, over u
    from 0 to 1: all u alike for "autoc", in proportion to u for "qini" (Yadlowsky et al. 2025). In the
    unit of the scores; 0 is a random ranking.

    Args:
        scores: Unbiased scores of the effects, such as doubly robust ones, shape (n,).
        priority: What rows are ranked by, highest first, shape (n,).
        weighting: "autoc" or "qini".
        weight: Shape (n,).

    Example:
        >>> rate(np.array([3.0, 1.0]), np.array([2.0, 1.0]), "qini")
        0.25
    """
    stats.check("the RATE", numbers={"scores": scores, "priority": priority}, weight=weight)
    if weighting not in ("autoc", "qini"):
        raise DataError(f"weighting is {weighting!r}; expected 'autoc' or 'qini'")
    w = np.ones(len(scores)) if weight is None else weight
    n, total = _reached(priority, w, w * scores)
    if n[-1] <= 0:
        return float("nan")
    u, height = n / n[-1], total / n[-1]
    average = height[-1]
    # Within ties the curve of sums is straight, so that the areas are exact.
    if weighting == "qini":
        return float(np.trapezoid(height - average * u, u))
    # ∫ (a + b u) / u du over each piece, with height = a + b u there; the first piece has a = 0.
    du = np.diff(u)
    slope = np.divide(np.diff(height), du, out=np.zeros_like(du), where=du > 0)
    level = height[:-1] - slope * u[:-1]
    log = np.zeros_like(du)
    later = (u[:-1] > 0) & (du > 0)
    log[later] = np.log(u[1:][later] / u[:-1][later])
    return float((slope * du + level * log).sum() - average)


def policy_value(
    y: Array,
    arm: Whole,
    p_own: Array,
    p_policy: Array,
    estimator: Literal["ipw", "sn", "dr"] = "dr",
    *,
    expected: Array | None = None,
    cost: Array | None = None,
    weight: Array | None = None,
) -> float:
    """Mean outcome per customer if a policy had chosen, net of costs if given.

    "ipw" weighs outcomes by p_policy / p_action; "sn" divides by the sum of these weights (self-normalised);
    "dr" adds to the policy's expected outcome the weighted residuals (doubly robust). Costs are paid by
    the policy with its own probabilities and need no weighing.

    Args:
        y: Outcome, shape (n,).
        arm: Arm that each row got, shape (n,).
        p_own: Probability with which it got it, shape (n,).
        p_policy: The policy's probability of every arm, shape (n, k).
        estimator: One of the three.
        expected: Expected outcome of every arm by models that have not seen the row, shape (n, k); for "dr".
        cost: Of every arm, shape (k,), in the unit of y.
        weight: Shape (n,).

    Raises:
        DataError: naming every fault of the arrays.

    Example:
        >>> y, arm = np.array([1.0, 0.0, 2.0, 0.0]), np.array([1, 0, 1, 0])
        >>> always = np.tile([0.0, 1.0], (4, 1))
        >>> policy_value(y, arm, np.full(4, 0.5), always, "sn", cost=np.array([0.0, 0.2]))
        1.3
    """
    _check_policy(y, arm, p_own, p_policy, weight)
    if estimator not in ("ipw", "sn", "dr"):
        raise DataError(f"estimator is {estimator!r}; expected 'ipw', 'sn' or 'dr'")
    n = len(y)
    w = np.ones(n) if weight is None else weight
    ratio = w * p_policy[np.arange(n), arm] / p_own
    paid = float(w @ (p_policy @ cost) / w.sum()) if cost is not None else 0.0
    if estimator == "ipw":
        return float(ratio @ y / w.sum()) - paid
    if estimator == "sn":
        return float(ratio @ y / ratio.sum()) - paid if ratio.sum() > 0 else float("nan")
    if expected is None:
        raise DataError(
            "policy value 'dr' needs expected outcomes; found none", "Pass expected=…, or use 'sn'."
        )
    direct = w @ (p_policy * expected).sum(axis=1)
    return float((direct + ratio @ (y - expected[np.arange(n), arm])) / w.sum()) - paid


def _check_policy(y: Array, arm: Whole, p_own: Array, p_policy: Array, weight: Array | None) -> None:
    parts = {"y": y, "arm": arm}
    stats.check("the value of a policy", numbers=parts, chances={"p_own": p_own}, weight=weight)
    faults = []
    if never := int((p_own <= 0).sum()):
        faults.append(f"p_own: {never} values are 0 for an arm that was given")
    if p_policy.ndim != 2 or len(p_policy) != len(y):
        faults.append(f"p_policy has shape {p_policy.shape}; expected ({len(y)}, arms)")
    else:
        if bad := int(
            (~((p_policy >= 0) & (np.abs(p_policy.sum(axis=1, keepdims=True) - 1) < 1e-6))).any(1).sum()
        ):
            faults.append(f"p_policy: {bad} rows are no probabilities that sum to 1")
        if bad := int(((arm < 0) | (arm >= p_policy.shape[1])).sum()):
            faults.append(f"arm: {bad} values are not among the {p_policy.shape[1]} columns of p_policy")
    if faults:
        raise listed(faults, "the value of a policy cannot be measured")


def interval(
    measure: Measure,
    n: int,
    rng: np.random.Generator,
    *,
    customers: ArrayLike | None = None,
    repeats: int = 200,
    level: float = 0.95,
) -> Interval:
    """Bootstrap any measure over customers: all rows of a customer are drawn together (Poisson weights).

    Args:
        measure: Gives the number for weights of shape (n,).
        n: Rows.
        rng: Source of the resampling.
        customers: Customer of each row, shape (n,); every row is its own if None.
        repeats: Resamples.
        level: Confidence level (percentile interval).

    Example:
        >>> y = np.arange(100.0)
        >>> found = interval(lambda w: float(w @ y / w.sum()), 100, np.random.default_rng(0))
        >>> bool(found.lower < 49.5 < found.upper), round(found.value, 1)
        (True, 49.5)
    """
    code, units = np.arange(n), n
    if customers is not None:
        names, code = np.unique(np.asarray(customers), return_inverse=True)
        units = len(names)
    value = measure(np.ones(n))
    draws = np.array([measure(rng.poisson(1.0, units)[code].astype(float)) for _ in range(repeats)])
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or len(draws) < max(2, repeats / 2):
        return Interval.unknown("the measure is not defined on these rows or most resamples of them", units)
    lower, upper = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(np.std(draws, ddof=1)), float(lower), float(upper), units)
