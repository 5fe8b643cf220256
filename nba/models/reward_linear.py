"""Logistic reward models, one per treatment on shared inputs: linear, with products, or smooth.

Each treatment's coefficients are pulled towards those of all treatments together, so that a rare treatment
starts from what is common. Standard errors are those of the Laplace approximation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.special import expit

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_PRODUCTS = 28  # features that are multiplied with one another, the strongest ones where there are more
_LANDMARKS = 200  # points that smooth surfaces are spanned by
_WIDTH = 2.0  # inverse width of the kernel, over the median squared distance
_ITERATIONS = 10
_CLOSE = 1e-2  # gain in log-likelihood, twice, below which steps end


@dataclass(frozen=True)
class Inputs:
    """The map from features to inputs, learnt once.

    Attributes:
        mean, sd: Of the features, shape (p,).
        strongest: Features that are multiplied, or None.
        landmarks, root, width: Of the kernel (Nystrom), or None.
        shift, scale, kept: Standardise the inputs and leave out constant ones.
    """

    mean: Array
    sd: Array
    strongest: Whole | None
    landmarks: Array | None
    root: Array | None
    width: float
    shift: Array
    scale: Array
    kept: NDArray[np.bool_]

    def __call__(self, X: Array) -> Array:
        """Give the inputs with a leading 1, shape (n, d)."""
        raw = _raw(X, self.mean, self.sd, self.strongest, self.landmarks, self.root, self.width)
        out = np.empty((len(X), int(self.kept.sum()) + 1))
        out[:, 0] = 1.0
        np.divide(raw[:, self.kept] - self.shift, self.scale, out=out[:, 1:])
        return out


def inputs(X: Array, y: Array, kind: str, seed: int) -> Inputs:
    """Learn a map: `linear`, `products` of features, or `smooth` (radial basis functions)."""
    mean = np.nan_to_num(np.nanmean(X, axis=0))
    sd = np.nan_to_num(np.nanstd(X, axis=0))
    sd[sd < 1e-9] = 1.0
    Z = _standard(X, mean, sd)
    strongest = landmarks = root = None
    width = 0.0
    if kind == "products":
        strength = np.abs(Z.T @ (y - y.mean()))
        strongest = np.sort(np.argsort(-strength, kind="stable")[:_PRODUCTS])
    elif kind == "smooth":
        rows = np.random.default_rng(seed).choice(len(Z), min(_LANDMARKS, len(Z)), replace=False)
        landmarks = Z[rows]
        distance = _squared(landmarks, landmarks)
        apart = distance[distance > 1e-9]
        width = _WIDTH / (float(np.median(apart)) if len(apart) else 1.0)
        values, vectors = np.linalg.eigh(np.exp(-width * distance) + 1e-6 * np.eye(len(rows)))
        root = vectors / np.sqrt(values)
    raw = _raw(X, mean, sd, strongest, landmarks, root, width)
    shift, scale = raw.mean(axis=0), raw.std(axis=0)
    kept = scale > 1e-9
    scale = scale[kept]
    if kind == "smooth":  # a kernel's inputs have sizes that mean something
        scale = np.full(len(scale), np.sqrt((scale**2).mean()) if len(scale) else 1.0)
    return Inputs(mean, sd, strongest, landmarks, root, width, shift[kept], scale, kept)


@dataclass(frozen=True)
class Logistic:
    """One logistic regression per treatment.

    Attributes:
        inputs: From features.
        coefficients: Shape (d, k).
        factors: Cholesky factor of each posterior precision, k of shape (d, d).
    """

    inputs: Inputs
    coefficients: Array
    factors: tuple[Array, ...]

    def predict(self, X: Array) -> tuple[Array, Array]:
        """Give each treatment's chance and the standard error of its log-odds, shapes (n, k)."""
        F = self.inputs(X)
        z = F @ self.coefficients
        se = np.empty_like(z)
        for j, factor in enumerate(self.factors):
            se[:, j] = np.sqrt(
                (solve_triangular(factor, F.T, lower=True, check_finite=False) ** 2).sum(axis=0)
            )
        return expit(z), se


def fit(X: Array, column: Whole, y: Array, k: int, kind: str, penalty: float, seed: int) -> Logistic:
    """Fit one regression per treatment, pulled towards that of all.

    Args:
        X: Features, shape (n, p).
        column: Treatment of each row, shape (n,).
        y: 0 to 1, shape (n,).
        k: Number of treatments.
        kind: linear, products or smooth.
        penalty: Prior precision of standardised coefficients.
        seed: Of the landmarks.
    """
    chosen = inputs(X, y, kind, seed)
    F = chosen(X)
    common = np.zeros(F.shape[1])
    common[0] = np.log((y.sum() + 0.5) / (len(y) - y.sum() + 0.5))
    if kind == "linear":
        common, _ = _newton(F, y, 3 * penalty, common)
    found = [_newton(F[column == j], y[column == j], penalty, common) for j in range(k)]
    return Logistic(chosen, np.column_stack([w for w, _ in found]), tuple(factor for _, factor in found))


def _newton(F: Array, y: Array, penalty: float, prior: Array) -> tuple[Array, Array]:
    # Penalised Newton steps, damped far from the optimum; returns coefficients and the Cholesky factor.
    w, d = prior.copy(), len(prior)
    precision = np.full(d, penalty)
    precision[0] = min(penalty, 0.3)
    for _ in range(_ITERATIONS):
        p = expit(F @ w)
        slope = F.T @ (p - y) + precision * (w - prior)
        rooted = F * np.sqrt(np.maximum(p * (1 - p), 1e-6))[:, None]
        curve = dsyrk(1.0, rooted, trans=1, lower=1)  # the lower half is all that is read
        curve[np.diag_indices(d)] += precision
        factor = cho_factor(curve, lower=True, check_finite=False)
        step = cho_solve(factor, slope, check_finite=False)
        decrement = float(slope @ step)
        w = w - step * (1.0 if decrement <= 9 else 3 / np.sqrt(decrement))
        if decrement < _CLOSE:
            break
    return w, np.asarray(factor[0])


def _raw(
    X: Array,
    mean: Array,
    sd: Array,
    strongest: Whole | None,
    landmarks: Array | None,
    root: Array | None,
    width: float,
) -> Array:
    Z = _standard(X, mean, sd)
    if strongest is not None:
        i, j = np.triu_indices(len(strongest))
        chosen = Z[:, strongest]
        return np.hstack([Z, chosen[:, i] * chosen[:, j]])
    if landmarks is not None and root is not None:
        return np.hstack([0.3 * Z, np.exp(-width * _squared(Z, landmarks)) @ root])
    return Z


def _standard(X: Array, mean: Array, sd: Array) -> Array:
    return np.nan_to_num((X - mean) / sd)


def _squared(A: Array, B: Array) -> Array:
    return np.maximum((A**2).sum(axis=1)[:, None] + (B**2).sum(axis=1) - 2 * A @ B.T, 0.0)
