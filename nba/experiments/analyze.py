"""Fixed-horizon effects of arms against their control, from sufficient statistics alone.

Conventions, used everywhere: the difference of means per unit has Welch's interval (Welch 1947); the
relative effect is the ratio of the two (adjusted) means less 1, with an interval on the log scale; CUPED
(Deng et al. 2013) takes one theta from both arms together; ratios are linearised (delta method, Deng et
al. 2018). A mean is a ratio whose denominator is 1, so there is one formula for all. An arm in which nothing
varies (no conversion at all, or all of them) is given the variance of both arms together: its own, 0, would
make chance look like an effect.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nba.experiments.cube import Sums
from nba.stats import Interval

Array = NDArray[np.float64]

REASONS = (
    "",
    "an arm has no customers",
    "an arm has one customer; an interval needs 2 or more",
    "a value is unknown for a customer in it",
    "the denominator's mean is 0 in an arm",
    "the denominator's mean is too uncertain in an arm for a ratio",
    "no variance in either arm",
    "relative effect: a mean is not above 0",
)
# Relative standard error of a denominator up to which the delta method holds; Cochran (1977) asks for 0.1.
_LOOSEST = 0.15
# Customers on the scarcer side of a quantile: in simulations 95% intervals held it in 82% with one in four,
# in 96% and more with one and above.
_LEAST_BEYOND = 5.0
_NO_VARIANCE = REASONS.index("no variance in either arm")


class Effects(NamedTuple):
    """Effects of k metrics in c comparisons; every field has shape (k, c), NaN where unknown.

    Attributes:
        n, n_control: Units.
        mean, mean_control: Means, adjusted where there is a covariate, in the metric's unit.
        effect: mean - mean_control.
        se: Its standard error.
        df: Welch's degrees of freedom.
        lower, upper: Two-sided interval of the effect.
        relative_effect, relative_lower, relative_upper: Effect over the control's mean, a fraction; unknown
            where a mean is not above 0.
        p_value: Two-sided, against no effect.
        explained: Share of the variance that the covariate took away.
        reason: Number of the reason in `REASONS` for what is unknown; the last is of the relative effect
            alone.
    """

    n: Array
    n_control: Array
    mean: Array
    mean_control: Array
    effect: Array
    se: Array
    df: Array
    lower: Array
    upper: Array
    relative_effect: Array
    relative_lower: Array
    relative_upper: Array
    p_value: Array
    explained: Array
    reason: NDArray[np.int64]


def compare(
    sums: Sums,
    columns: NDArray[np.int64],
    treated: NDArray[np.int64],
    control: NDArray[np.int64],
    level: float = 0.95,
) -> Effects:
    """Compare cells of a cube with their controls, all metrics at once.

    Args:
        sums: Sums of m variables in the cells.
        columns: Variable numbers of numerator, denominator, covariate and its denominator, -1 for the
            constant 1, shape (k, 4).
        treated: Cell numbers of the arms, shape (c,), or by stratum, shape (c, s): each stratum then
            weighs by its units, and one without both arms counts nothing.
        control: Cell numbers of their controls, same shape.
        level: Confidence level.

    Example:
        >>> rows = np.array([[1.0], [3.0], [2.0], [6.0]])
        >>> sums = Sums.of(rows, np.array([0, 0, 1, 1]), 2)
        >>> compare(sums, np.array([[0, -1, -1, -1]]), np.array([1]), np.array([0])).effect.tolist()
        [[2.0]]
    """
    sums = _with_one(sums)
    treated, control = (x.reshape(len(x), -1) for x in (treated, control))
    shape = treated.shape
    one, other = treated.ravel(), control.ravel()
    pair = np.tile(np.arange(len(one)), 2)
    pooled = _pool(sums, np.concatenate([one, other]), pair, len(one))
    sides = [_side(sums, columns, cells) for cells in (one, other)]
    theta, center = _theta(pooled, columns, sides)
    together = _adjust(_linear(pooled.n, pooled.mean(), pooled.covariance(), columns), theta, center)
    parts = [_borrowed(_adjust(side, theta, center), together, sides) for side in sides]
    weight = _stratum_weights(parts[0][3], parts[1][3], shape)
    (mean_t, var_t, raw_t, n_t), (mean_c, var_c, raw_c, n_c) = (_gathered(x, weight, shape) for x in parts)
    reason = _reason(sums, columns, treated, control, var_t + var_c)
    out = welch(n_t, mean_t, var_t, n_c, mean_c, var_c, level)
    with np.errstate(invalid="ignore", divide="ignore"):
        explained = 1 - (var_t / n_t + var_c / n_c) / (raw_t / n_t + raw_c / n_c)
    hide = (reason > 0) & (reason <= _NO_VARIANCE)
    fields = {k: np.where(hide, np.nan, v) for k, v in out.items()}
    point = reason == _NO_VARIANCE
    reason = np.where((reason == 0) & np.isnan(fields["relative_effect"]), len(REASONS) - 1, reason)
    fields["effect"] = np.where(point, mean_t - mean_c, fields["effect"])
    return Effects(
        n=n_t, n_control=n_c, mean=mean_t, mean_control=mean_c,
        explained=np.where(hide, np.nan, explained), reason=reason, **fields,
    )  # fmt: skip


def welch(
    n_t: Array, mean_t: Array, var_t: Array, n_c: Array, mean_c: Array, var_c: Array, level: float
) -> dict[str, Array]:
    """Give difference, ratio and their intervals from means and variances, elementwise."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        part_t, part_c = var_t / n_t, var_c / n_c
        se = np.sqrt(part_t + part_c)
        df = (part_t + part_c) ** 2 / (part_t**2 / (n_t - 1) + part_c**2 / (n_c - 1))
        effect = mean_t - mean_c
        half = special.stdtrit(df, (1 + level) / 2) * se
        p_value = 2 * special.stdtr(df, -np.abs(effect) / se)
        positive = (mean_t > 0) & (mean_c > 0)
        scale = np.where(positive, mean_t / mean_c, np.nan)
        rel_t, rel_c = part_t / mean_t**2, part_c / mean_c**2
        rel_df = (rel_t + rel_c) ** 2 / (rel_t**2 / (n_t - 1) + rel_c**2 / (n_c - 1))
        spread = special.stdtrit(rel_df, (1 + level) / 2) * np.sqrt(rel_t + rel_c)
        return {
            "effect": effect, "se": se, "df": df, "lower": effect - half, "upper": effect + half,
            "relative_effect": scale - 1, "relative_lower": scale * np.exp(-spread) - 1,
            "relative_upper": scale * np.exp(spread) - 1, "p_value": p_value,
        }  # fmt: skip


class Linear(NamedTuple):
    """Metrics and their covariates in each cell, linearised if they are ratios; shapes (k, c).

    Attributes:
        n: Units, shape (c,).
        y, x: Ratio of the means of numerator and denominator, of the metric and of its covariate.
        yy, xx, xy: Variances and covariance per unit.
    """

    n: Array
    y: Array
    x: Array
    yy: Array
    xx: Array
    xy: Array


def linearised(sums: Sums, columns: NDArray[np.int64]) -> Linear:
    """Linearise metrics in every cell of a cube (delta method).

    Args:
        sums: Sums of the variables.
        columns: Column numbers, shape (k, 4), as in `compare`.
    """
    sums = _with_one(sums)
    return _linear(sums.n, sums.mean(), sums.covariance(), columns)


def _side(sums: Sums, columns: NDArray[np.int64], cells: NDArray[np.int64]) -> Linear:
    part = Sums(sums.n[cells], sums.shift, sums.first[cells], sums.second[cells])
    return _linear(part.n, part.mean(), part.covariance(), columns)


def _linear(n: Array, mean: Array, covariance: Array, columns: NDArray[np.int64]) -> Linear:
    at = mean[:, columns].transpose(1, 0, 2)  # (k, c, 4)
    cov = covariance[:, columns[:, :, None], columns[:, None, :]].transpose(1, 0, 2, 3)
    with np.errstate(invalid="ignore", divide="ignore"):
        y, x = at[..., 0] / at[..., 1], at[..., 2] / at[..., 3]
        zero = np.zeros_like(y)
        to_y = np.stack([1 / at[..., 1], -y / at[..., 1], zero, zero], axis=-1)
        to_x = np.stack([zero, zero, 1 / at[..., 3], -x / at[..., 3]], axis=-1)
        yy = np.einsum("kci,kcij,kcj->kc", to_y, cov, to_y)
        xx = np.einsum("kci,kcij,kcj->kc", to_x, cov, to_x)
        xy = np.einsum("kci,kcij,kcj->kc", to_y, cov, to_x)
    return Linear(n, y, x, yy, xx, xy)


def _theta(pooled: Sums, columns: NDArray[np.int64], sides: list[Linear]) -> tuple[Array, Array]:
    side = _linear(pooled.n, pooled.mean(), pooled.covariance(), columns)
    # Without a past in an arm (nothing to divide by before the assignment) the metric stands as it is.
    usable = np.isfinite(sides[0].x) & np.isfinite(sides[1].x) & (side.xx > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        theta = np.where(usable, side.xy / side.xx, 0.0)
    return theta, side.x


def _adjust(side: Linear, theta: Array, center: Array) -> tuple[Array, Array, Array, Array]:
    adjusted = side.y - theta * (side.x - center)
    mean = np.where(theta == 0, side.y, adjusted)
    reduced = side.yy + theta**2 * side.xx - 2 * theta * side.xy
    variance = np.maximum(np.where(theta == 0, side.yy, reduced), 0.0)
    return mean, variance, side.yy, np.broadcast_to(side.n, mean.shape)


def _borrowed(
    part: tuple[Array, Array, Array, Array],
    together: tuple[Array, Array, Array, Array],
    sides: list[Linear],
) -> tuple[Array, Array, Array, Array]:
    mean, variance, raw, n = part
    still = (raw == 0) & (sides[0].yy + sides[1].yy > 0)
    return mean, np.where(still, together[1], variance), np.where(still, together[2], raw), n


def _stratum_weights(n_t: Array, n_c: Array, shape: tuple[int, ...]) -> Array:
    # Units of strata that hold both arms, as shares; a single stratum has all.
    both = np.where((n_t > 0) & (n_c > 0), n_t + n_c, 0.0).reshape(-1, *shape)
    total = both.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(both, total, out=np.ones_like(both) / shape[-1], where=total > 0))


def _gathered(
    part: tuple[Array, Array, Array, Array], weight: Array, shape: tuple[int, ...]
) -> tuple[Array, Array, Array, Array]:
    mean, variance, raw, n = (x.reshape(-1, *shape) for x in part)
    if shape[-1] == 1:
        return mean[..., 0], variance[..., 0], raw[..., 0], n[..., 0]
    used = weight > 0
    total = np.where(used, n, 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = np.where(used, weight * mean, 0.0).sum(axis=-1)
        of_mean = np.where(used, weight**2 * variance / n, 0.0).sum(axis=-1)
        of_raw = np.where(used, weight**2 * raw / n, 0.0).sum(axis=-1)
    return middle, of_mean * total, of_raw * total, total


def _pool(sums: Sums, cells: NDArray[np.int64], groups: NDArray[np.int64], n_groups: int) -> Sums:
    part = Sums(sums.n[cells], sums.shift, sums.first[cells], sums.second[cells])
    return part.gather(groups, n_groups)


def _with_one(sums: Sums) -> Sums:
    # The constant 1 as the last variable, which column number -1 then means.
    c, m = sums.first.shape
    second = np.zeros((c, m + 1, m + 1))
    second[:, :m, :m] = sums.second
    first = np.hstack([sums.first, np.zeros((c, 1))])
    return Sums(sums.n, np.append(sums.shift, 1.0), first, second)


def _reason(
    sums: Sums,
    columns: NDArray[np.int64],
    treated: NDArray[np.int64],
    control: NDArray[np.int64],
    variance: Array,
) -> NDArray[np.int64]:
    used = (sums.n[treated] > 0) & (sums.n[control] > 0)
    used |= ~used.any(axis=1, keepdims=True)
    fewest = np.where(used, np.minimum(sums.n[treated], sums.n[control]), 0).sum(axis=1)
    mean = sums.mean()
    both = np.stack([mean[treated], mean[control]])[:, :, :, columns]  # (2, c, s, k, 4)
    counts = used[None, :, :, None, None]
    unknown = (np.isnan(both) & counts).any(axis=(0, 2, 4)).T
    empty = ((both[..., [1]] == 0) & counts).any(axis=(0, 2, 4)).T
    with np.errstate(invalid="ignore", divide="ignore"):
        square = np.diagonal(sums.covariance(), axis1=1, axis2=2) / sums.n[:, None] / mean**2
    parts = np.stack([square[treated], square[control]])[..., columns[:, 1]]  # (2, c, s, k)
    loose = ((parts > _LOOSEST**2) & counts[..., 0]).any(axis=(0, 2)).T
    few = [np.broadcast_to(fewest < least, variance.shape) for least in (1, 2)]
    cases = [*few, *(np.asarray(case) for case in (unknown, empty, loose, ~(variance > 0)))]
    return np.select(cases, range(1, _NO_VARIANCE + 1), 0).astype(np.int64)


class Corrected(NamedTuple):
    """p-values corrected over a declared scope.

    Attributes:
        p_value: Corrected, same shape as given; NaN where it was unknown, which counts nothing.
        method: holm or bh.
    """

    p_value: Array
    method: str


def correct(p_value: Array, method: str = "holm") -> Corrected:
    """Correct p-values of one scope: Holm (1979) for any false claim, BH (1995) for the share of them.

    Args:
        p_value: All claims of the scope, any shape.
        method: holm or bh.

    Example:
        >>> correct(np.array([0.01, 0.04, 0.03])).p_value.tolist()
        [0.03, 0.06, 0.06]
    """
    out = np.full(p_value.shape, np.nan)
    known = ~np.isnan(p_value)
    if known.any():
        p = p_value[known]
        order = np.argsort(p)
        rank = np.arange(1, len(p) + 1)
        if method == "holm":
            raised = np.maximum.accumulate(p[order] * (len(p) + 1 - rank))
        else:
            raised = np.minimum.accumulate((p[order] * len(p) / rank)[::-1])[::-1]
        back = np.empty_like(p)
        back[order] = np.minimum(raised, 1.0)
        out[known] = back
    return Corrected(out, method)


def heterogeneity(effect: Array, se: Array) -> float:
    """Give the chance of effects this different if all segments share one (Cochran 1954).

    Args:
        effect: Effect by segment, shape (g,).
        se: Standard errors, shape (g,); a segment without one counts nothing.
    """
    known = se > 0
    if known.sum() < 2:
        return float("nan")
    weight = 1 / se[known] ** 2
    middle = (weight @ effect[known]) / weight.sum()
    q = float(weight @ (effect[known] - middle) ** 2)
    return float(special.chdtrc(int(known.sum()) - 1, q))


def quantile_effect(
    treated: Array,
    control: Array,
    quantile: float,
    rng: np.random.Generator,
    level: float = 0.95,
    n_resamples: int = 1000,
) -> Interval:
    """Estimate the difference of a quantile by the percentile bootstrap (Efron 1979, through SciPy).

    Args:
        treated: Values per unit, shape (n,).
        control: The same, shape (m,).
        quantile: Which, in 0-1.
        rng: Randomness of the resampling.
        level: Confidence level.
        n_resamples: Resamples.
    """
    n = len(treated) + len(control)
    least = round(_LEAST_BEYOND / min(quantile, 1 - quantile))
    if min(len(treated), len(control)) < least:
        return Interval.unknown(f"a group has fewer than {least} customers", n)

    def gap(x: Array, y: Array, axis: int = -1) -> Array:
        return np.asarray(np.quantile(x, quantile, axis=axis) - np.quantile(y, quantile, axis=axis))

    # Here alone, since importing it takes longer and more memory than a whole page.
    from scipy.stats import bootstrap

    found = bootstrap(
        (treated, control), gap, n_resamples=n_resamples, batch=50, vectorized=True,
        confidence_level=level, method="percentile", rng=rng,
    )  # fmt: skip
    ends = found.confidence_interval
    value = float(gap(treated, control))
    if not found.standard_error > 0:
        return Interval(value, np.nan, np.nan, np.nan, n, "the quantile does not vary between resamples")
    return Interval(value, float(found.standard_error), float(ends.low), float(ends.high), n)
