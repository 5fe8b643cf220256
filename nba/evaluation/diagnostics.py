"""Whether a log can be trusted: logged probabilities against what was drawn."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

Array = NDArray[np.float64]


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
