"""What a purchase is worth: Gamma-Gamma by maximum likelihood, and a shrunk mean where it does not apply.

Source: Fader and Hardie (2013), "The Gamma-Gamma Model of Monetary Value". The first purchase counts
like every other: the model has no reason to leave it out, and for most customers it is all there is.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import digamma, gammaln

Array = NDArray[np.float64]
MIN_BUYERS = 10
_EDGE = 9.0


@dataclass(frozen=True)
class SpendModel:
    """A fitted model of margin per purchase.

    Attributes:
        kind: `gamma_gamma`, or `shrunk_mean` where margins do not admit it.
        params: (p, q, v) of Gamma-Gamma, v in money; NaN for the shrunk mean.
        se: Their standard errors; NaN where unknown.
        log_likelihood: Of Gamma-Gamma; NaN for the shrunk mean.
        mean: Mean margin per purchase over all customers, money.
        between: Variance of customers' true means, money squared.
        within: Variance of one purchase around its customer's mean, money squared.
        n: Customers fitted on.
        reason: Why it is not Gamma-Gamma, where it is not; else empty.
    """

    kind: Literal["gamma_gamma", "shrunk_mean"]
    params: tuple[float, float, float]
    se: tuple[float, float, float]
    log_likelihood: float
    mean: float
    between: float
    within: float
    n: int
    reason: str = ""

    def expected(self, n: Array, mean: Array) -> Array:
        """Expect the margin of a future purchase.

        Args:
            n: Purchases seen, shape (n,).
            mean: Mean margin over them, money, shape (n,); read only where n > 0.

        Returns:
            Money, shape (n,). Customers whose mean is not positive are outside Gamma-Gamma and get the
            shrunk mean.
        """
        shrunk = self._shrunk(n, mean)
        if self.kind == "shrunk_mean":
            return shrunk
        p, q, v = self.params
        with np.errstate(invalid="ignore"):
            inside = p * (v + np.where(n > 0, n * mean, 0)) / (p * n + q - 1)
        return np.asarray(np.where((n == 0) | (mean > 0), inside, shrunk))

    def draw(self, rng: np.random.Generator, n: Array, mean: Array, count: NDArray[Any]) -> Array:
        """Draw the margin of future purchases, each customer's own mean being drawn too.

        Args:
            rng: Source of randomness.
            n: Purchases seen, shape (u,).
            mean: Mean margin over them, money, shape (u,); read only where n > 0.
            count: Purchases in each future, shape (u, m).

        Returns:
            Money of each future, shape (u, m). The shrunk mean draws from normal distributions.
        """
        out = np.zeros(count.shape)
        is_normal = (n > 0) & ~(mean > 0) | (self.kind == "shrunk_mean")
        inside, outside = np.flatnonzero(~is_normal), np.flatnonzero(is_normal)
        if len(inside):
            p, q, v = self.params
            seen, total = n[inside, None], np.where(n > 0, n * mean, 0.0)[inside, None]
            size = len(inside), count.shape[1]
            rate = rng.standard_gamma(np.broadcast_to(p * seen + q, size)) / (v + total)
            out[inside] = rng.standard_gamma(p * count[inside]) / rate
        if len(outside):
            seen, future = np.maximum(n[outside], 1), count[outside]
            known = self.between + self.within / seen
            left = np.divide(
                self.between * self.within / seen, known, out=np.zeros_like(known), where=known > 0
            )
            left = np.where(n[outside] > 0, left, self.between)
            own = self._shrunk(n[outside], mean[outside])[:, None]
            own = own + np.sqrt(left)[:, None] * rng.standard_normal(future.shape)
            out[outside] = future * own + np.sqrt(future * self.within) * rng.standard_normal(future.shape)
        return out

    def _shrunk(self, n: Array, mean: Array) -> Array:
        spread = self.between + self.within / np.maximum(n, 1)
        part = np.where(n > 0, self.between / spread if self.within or self.between else 0.0, 0.0)
        return np.asarray(self.mean + part * (np.where(n > 0, mean, self.mean) - self.mean))


def fit(n: Array, mean: Array, square: Array | None = None) -> SpendModel:
    """Fit Gamma-Gamma by maximum likelihood, or say why a shrunk mean stands in for it.

    Args:
        n: Purchases of each customer, shape (n,).
        mean: Mean margin over them, money, shape (n,).
        square: Mean squared margin over them, shape (n,); gives the spread within a customer. Without
            it, that spread is taken from the spread of means.

    Returns:
        The model. Fewer than `MIN_BUYERS` positive means, no spread, or an optimum at the edge of the
        model give the shrunk mean (method of moments) with its reason; no customers at all give NaN.
    """
    keep = (n > 0) & np.isfinite(mean)
    n, mean = n[keep].astype(float), mean[keep]
    nan = (np.nan, np.nan, np.nan)
    if not len(n):
        return SpendModel("shrunk_mean", nan, nan, np.nan, np.nan, 0.0, 0.0, 0, "nobody has bought")
    overall, between, within = _moments(n, mean, None if square is None else square[keep])
    positive = mean > 0
    reason = ""
    if positive.sum() < MIN_BUYERS:
        reason = f"{int(positive.sum())} customers with a positive margin; {MIN_BUYERS} are needed"
    elif np.ptp(mean[positive]) <= 1e-9 * np.abs(mean[positive]).max():
        reason = "all margins per purchase are equal"
    elif positive.mean() < 0.9:
        reason = f"{1 - positive.mean():.0%} of customers have no positive margin; Gamma-Gamma needs it"
    shrunk = SpendModel("shrunk_mean", nan, nan, np.nan, overall, between, within, len(n), reason)
    if reason:
        return shrunk
    scale = float(np.average(mean[positive], weights=n[positive]))
    theta, se, value = _optimum(n[positive], mean[positive] / scale)
    p, q, v = np.exp(theta)
    if np.abs(theta).max() > _EDGE - 1e-6 or q <= 1:
        reason = f"Gamma-Gamma has no usable optimum (p {p:.3g}, q {q:.3g})"
        return SpendModel("shrunk_mean", nan, nan, np.nan, overall, between, within, len(n), reason)
    params = (float(p), float(q), float(v * scale))
    errors = (float(p * se[0]), float(q * se[1]), float(v * scale * se[2]))
    value -= np.log(scale) * positive.sum()
    return SpendModel("gamma_gamma", params, errors, float(value), overall, between, within, len(n))


def log_likelihood(n: Array, mean: Array, params: tuple[float, float, float]) -> float:
    """Give the log-likelihood of Gamma-Gamma, for positive means."""
    return _objective(np.log(params), n.astype(float), mean)[0]


def _moments(n: Array, mean: Array, square: Array | None) -> tuple[float, float, float]:
    total = n.sum()
    overall = float((n * mean).sum() / total)
    customers = len(n)
    if square is not None and total > customers:
        within = float((n * (square - mean**2)).sum() / (total - customers))
    else:
        within = float(np.var(mean)) if customers > 1 else 0.0
    if customers < 2:
        return overall, 0.0, max(within, 0.0)
    weight = total - (n**2).sum() / total
    between = ((n * (mean - overall) ** 2).sum() - (customers - 1) * within) / max(weight, 1e-12)
    return overall, float(max(between, 0.0)), max(within, 0.0)


def _objective(theta: Array, n: Array, mean: Array) -> tuple[float, Array]:
    p, q, v = np.exp(theta)
    shape = p * n
    total = n * mean
    log_sum, log_mean = np.log(v + total), np.log(mean)
    value = (
        gammaln(shape + q) - gammaln(shape) - gammaln(q) + q * theta[2]
        + (shape - 1) * log_mean + shape * np.log(n) - (shape + q) * log_sum
    ).sum()  # fmt: skip
    both = digamma(shape + q)
    slope = np.array(
        [
            (n * (both - digamma(shape) + log_mean + np.log(n) - log_sum)).sum(),
            (both - log_sum).sum() + len(n) * (theta[2] - digamma(q)),
            (q / v - (shape + q) / (v + total)).sum(),
        ]
    )
    return float(value), slope * np.exp(theta)


def _optimum(n: Array, mean: Array) -> tuple[Array, Array, float]:
    size = len(n)

    def loss(theta: Array) -> tuple[float, Array]:
        value, slope = _objective(theta, n, mean)
        return -value / size, -slope / size

    starts = [np.log([p, q, max(q - 1, 0.5) / p]) for p in (1.0, 4.0, 12.0) for q in (2.0, 4.0)]
    start = min(starts, key=lambda s: loss(s)[0])
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(-_EDGE, _EDGE)] * 3,
        options={"maxiter": 500, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    step = 1e-4
    hessian = np.array(
        [(loss(found.x + step * e)[1] - loss(found.x - step * e)[1]) / (2 * step) for e in np.eye(3)]
    )
    hessian = (hessian + hessian.T) / 2
    theta = found.x
    se = np.full(3, np.nan)
    if np.linalg.eigvalsh(hessian)[0] > 1e-12:
        moved = theta - np.linalg.solve(hessian, loss(theta)[1])
        if loss(moved)[0] <= loss(theta)[0] + 1e-14:
            theta = moved
        se = np.sqrt(np.diag(np.linalg.inv(hessian)) / size)
    return theta, se, -loss(theta)[0] * size
