"""Whether a log can be trusted: logged probabilities against what was drawn."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from nba import stats

Array = NDArray[np.float64]

# Where a finding is no longer ok; the first three are also where estimates refuse.
MISSING, ESS, MEAN_Z = 0.01, 50.0, 5.0
MEAN_WARNS = 3.0  # errors by which the mean weight is off where it is not refused yet, but no longer ok
LARGEST, HEAVY, P_VALUE = 200.0, 0.5, 1e-4


class Calibration(NamedTuple):
    """Logged probabilities against realised counts.

    Attributes:
        expected: Sum of the logged probabilities by treatment, shape (k,).
        observed: Decisions by treatment, shape (k,).
        z: Difference in standard deviations, shape (k,); NaN where nothing is random.
        chi_square: Of all differences together.
        freedom: Its degrees of freedom.
        p_value: Chance of a worse fit if the probabilities are true; NaN if nothing is random.
    """

    expected: Array
    observed: Array
    z: Array
    chi_square: float
    freedom: int
    p_value: float


def calibration(column: NDArray[np.int64], p: Array) -> Calibration:
    """Compare counts with logged probabilities (a chi-square with the draws' own covariance).

    Limits make counts vary less than independent draws do, so under binding limits the test is mild.

    Args:
        column: Treatment given, shape (n,).
        p: Logged probabilities, shape (n, k).

    Example:
        >>> fit = calibration(np.array([0] * 480 + [1] * 520), np.full((1000, 2), 0.5))
        >>> fit.expected.tolist(), fit.freedom, round(fit.p_value, 3)
        ([500.0, 500.0], 1, 0.206)
    """
    k = p.shape[1]
    expected, observed = p.sum(axis=0), np.bincount(column, minlength=k).astype(np.float64)
    covariance = np.diag(expected) - p.T @ p
    variance = np.diag(covariance)
    gap = observed - expected
    random = variance > 1e-9
    z = np.full(k, np.nan)
    z[random] = gap[random] / np.sqrt(variance[random])
    freedom = int(np.linalg.matrix_rank(covariance, tol=1e-9 * max(len(column), 1), hermitian=True))
    if freedom == 0:
        return Calibration(expected, observed, z, np.nan, 0, np.nan)
    inverse = np.linalg.pinv(covariance, rcond=1e-9, hermitian=True)
    chi_square = float(gap @ inverse @ gap)
    p_value = float(scipy_stats.chi2.sf(chi_square, freedom))
    return Calibration(expected, observed, z, chi_square, freedom, p_value)


class Finding(NamedTuple):
    """One property of a log that an off-policy estimate rests on.

    Attributes:
        check: What was looked at.
        status: ok, warning, or refused: no estimate may rest on it.
        value, limit: What was found, and from where on it is not ok.
        note: In words.
        side: Where the value is ok: `at_least`, `at_most` or `below` the limit.
        is_count: Whether value and limit are whole numbers of decisions.
    """

    check: str
    status: str
    value: float
    limit: float
    note: str
    side: str = "at_most"
    is_count: bool = False


def examine(column: NDArray[np.int64], p_logged: Array, p_target: Array) -> list[Finding]:
    """Look at what an off-policy estimate rests on: support, weights, tails, calibration.

    Args:
        column: Treatment given, shape (n,).
        p_logged: Logged probabilities, shape (n, k).
        p_target: Probabilities of the judged policy, shape (n, k).
    """
    n = len(column)
    every = np.arange(n)
    weight = p_target[every, column] / p_logged[every, column]
    missing = float(np.where(p_logged > 0, 0.0, p_target).sum(axis=1).mean())
    ess = stats.effective(weight)
    error = float(weight.std() / np.sqrt(n))
    z = abs(float(weight.mean()) - 1) / error if error > 0 else 0.0
    heavy = float(np.sort(weight)[::-1][: max(n // 100, 1)].sum() / max(weight.sum(), 1e-300))
    fit = calibration(column, p_logged)
    share = f"{heavy:.0%} of the weight is on 1% of decisions"
    against = f"chi-square {fit.chi_square:.1f} of counts against them, {fit.freedom} degrees of freedom"
    return [
        _finding("support", missing, MISSING, f"{missing:.2%} of the choices judged could not be logged"),
        _finding(
            "effective sample size", ess, ESS, f"{ess:,.0f} of {n:,} decisions", "at_least", is_count=True
        ),
        _finding(
            "mean weight",
            z,
            MEAN_WARNS,
            f"the weights average {weight.mean():.3f}, expected 1",
            bad="refused" if z > MEAN_Z else "warning",
        ),
        _finding("largest weight", float(weight.max(initial=0.0)), LARGEST, "of one decision", bad="warning"),
        _finding("weight tails", heavy, HEAVY, share, bad="warning"),
        _finding("logged probabilities", fit.p_value, P_VALUE, against, "at_least"),
    ]


def _finding(
    check: str,
    value: float,
    limit: float,
    note: str,
    side: str = "at_most",
    *,
    bad: str = "refused",
    is_count: bool = False,
) -> Finding:
    if np.isnan(value):
        return Finding(check, "ok", value, limit, "nothing in the log is random", side, is_count)
    good = value >= limit if side == "at_least" else value <= limit
    return Finding(check, "ok" if good else bad, float(value), limit, note, side, is_count)
