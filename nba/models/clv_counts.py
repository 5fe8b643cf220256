"""How often customers buy again: BG/NBD, MBG/NBD, Pareto/NBD and NBD by maximum likelihood.

Customers who look alike (same repeats, recency and age) are one weighted row, and every likelihood has
an analytic gradient, so a fit is a few dozen passes over small arrays. There is no random start: the
same data give the same bits. Sources: Fader, Hardie and Lee (2005) for BG/NBD, Batislam, Denizel and
Filiztekin (2007) for MBG/NBD, Schmittlein, Morrison and Colombo (1987) for Pareto/NBD, here with
the integral over the moment of dropout done by Gauss-Legendre quadrature instead of by 2F1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import digamma, gammaln, roots_jacobi
from threadpoolctl import ThreadpoolController

Array = NDArray[np.float64]
Kind = Literal["bg_nbd", "mbg_nbd", "pareto_nbd", "nbd"]
KINDS: tuple[Kind, ...] = ("bg_nbd", "mbg_nbd", "pareto_nbd")
NAMES: dict[str, tuple[str, ...]] = {
    "bg_nbd": ("r", "alpha", "a", "b"),
    "mbg_nbd": ("r", "alpha", "a", "b"),
    "pareto_nbd": ("r", "alpha", "s", "beta"),
    "nbd": ("r", "alpha"),
}
MIN_REPEATERS = 10
_EDGE = 14.0  # logarithms of parameters beyond this are a limit of the model, not an estimate
_NODES = 24


class Rows(NamedTuple):
    """Customers in compressed form.

    Attributes:
        n_repeat: Purchase occasions after the first, shape (u,).
        recency: First to last purchase, in any one unit of time, shape (u,).
        age: First purchase to the moment of the forecast, same unit, shape (u,).
        weight: Customers that share the row, shape (u,).
        inverse: Row of each customer, shape (n,).
    """

    n_repeat: Array
    recency: Array
    age: Array
    weight: Array
    inverse: NDArray[np.int64]


@dataclass(frozen=True)
class CountModel:
    """A fitted model of repeat purchases.

    Attributes:
        kind: Which model.
        params: In the order of `NAMES[kind]`; alpha and beta in the unit of time of the data.
        se: Standard errors of the parameters (delta method on the logarithms), NaN where unknown.
        log_likelihood: At the optimum.
        n: Customers.
        is_converged: Whether the gradient vanished at an interior optimum.
        reason: What limits the fit, where something does; else empty.
    """

    kind: Kind
    params: tuple[float, ...]
    se: tuple[float, ...]
    log_likelihood: float
    n: int
    is_converged: bool
    reason: str = ""

    def p_alive(self, n_repeat: Array, recency: Array, age: Array) -> Array:
        """Give the chance of still being a customer, shape of the inputs."""
        theta = np.log(self.params)
        if self.kind == "nbd":
            return np.ones(np.shape(n_repeat))
        if self.kind == "pareto_nbd":
            alive, dead, _ = _pareto_terms(theta, Rows(n_repeat, recency, age, *_none()))
            return np.asarray(1 / (1 + np.exp(np.minimum(dead - alive, 700))))
        gone = _bg_terms(theta, Rows(n_repeat, recency, age, *_none()), self._shift)[2]
        return np.asarray(1 - gone)

    def expected(self, n_repeat: Array, recency: Array, age: Array, horizon: Array | float) -> Array:
        """Expect purchases in (age, age + horizon].

        Args:
            n_repeat: Purchases after the first, shape (n,).
            recency: First to last purchase, shape (n,).
            age: First purchase to now, shape (n,).
            horizon: Length, in the data's unit of time; a scalar or shape (n,).

        Returns:
            Shape (n,).
        """
        if self.kind == "nbd":
            r, alpha = self.params
            return np.asarray((r + n_repeat) / (alpha + age) * horizon)
        alive = self.p_alive(n_repeat, recency, age)
        if self.kind == "pareto_nbd":
            r, alpha, s, beta = self.params
            q = np.log1p(horizon / (beta + age))
            away = q if abs(s - 1) < 1e-9 else -np.expm1((1 - s) * q) / (s - 1)
            return np.asarray(alive * (r + n_repeat) * (beta + age) / (alpha + age) * away)
        return np.asarray(alive * self._expected_alive(n_repeat, age, horizon))

    def discounted(self, n_repeat: Array, recency: Array, age: Array, days: Array, rate: float) -> Array:
        """Expect purchases over the steps of a grid, each discounted to now at its middle.

        Args:
            n_repeat: Purchases after the first, shape (n,).
            recency: First to last purchase, shape (n,).
            age: First purchase to now, shape (n,).
            days: Edges of the steps from 0 to the horizon, shape (m + 1,), in the unit of time.
            rate: Continuous discount rate per unit of time.

        Returns:
            Shape (n,).
        """
        total = np.zeros(np.shape(n_repeat))
        before = np.zeros(np.shape(n_repeat))
        for left, right in pairwise(days):
            upto = self.expected(n_repeat, recency, age, float(right))
            total += (upto - before) * np.exp(-rate * (left + right) / 2)
            before = upto
        return total

    def next_within(self, n_repeat: Array, recency: Array, age: Array, horizon: float) -> Array:
        """Give the chance of at least one purchase within the horizon, shape (n,)."""
        r, alpha = self.params[:2]
        alive = self.p_alive(n_repeat, recency, age)
        shape = r + n_repeat
        if self.kind != "pareto_nbd":  # dropout comes only after a purchase
            return np.asarray(alive * -np.expm1(-shape * np.log1p(horizon / (alpha + age))))
        s, beta = self.params[2:]
        node, weight = _legendre(10)
        u = horizon * (node + 1) / 2
        log = np.log(shape / (alpha + age))[:, None]
        log = log - (shape[:, None] + 1) * np.log1p(u / (alpha + age)[:, None])
        log = log - s * np.log1p(u / (beta + age)[:, None])
        return np.asarray(alive * (np.exp(log) @ weight) * horizon / 2)

    def draw(
        self, rng: np.random.Generator, rows: "Rows", horizon: float, factor: Array | float = 1.0,
        size: int = 1,
    ) -> NDArray[np.int32]:  # fmt: skip
        """Draw futures for each row: purchases within the horizon.

        Args:
            rng: Source of randomness.
            rows: Customers.
            horizon: In the data's unit of time.
            factor: On the rate of purchases, a scalar or shape (u,).
            size: Futures of each row.

        Returns:
            Shape (u, size).
        """
        p_alive = self.p_alive(rows.n_repeat, rows.recency, rows.age)
        out = np.empty((len(rows.n_repeat), size), dtype=np.int32)
        for i in range(size):
            out[:, i] = self._future(rng, rows, horizon, factor, p_alive)
        return out

    def _future(
        self, rng: np.random.Generator, rows: "Rows", horizon: float, factor: Array | float, p_alive: Array
    ) -> NDArray[np.int64]:
        r, alpha = self.params[:2]
        n_repeat, _, age = rows[:3]
        n = len(n_repeat)
        rate = rng.gamma(r + n_repeat, 1 / (alpha + age)) * factor
        if self.kind == "nbd":
            return rng.poisson(rate * horizon)
        is_alive = rng.random(n) < p_alive
        if self.kind == "pareto_nbd":
            s, beta = self.params[2:]
            gone = rng.standard_exponential(n) / np.maximum(rng.gamma(s, 1 / (beta + age)), 1e-300)
            return rng.poisson(rate * np.minimum(gone, horizon)) * is_alive
        a, b = self.params[2:]
        drop = np.clip(rng.beta(a, b + n_repeat + self._shift), 1e-12, 1)
        until = rng.geometric(drop)  # the purchase after which the customer leaves
        return np.minimum(rng.poisson(rate * horizon), until) * is_alive

    @property
    def _shift(self) -> int:
        return int(self.kind == "mbg_nbd")

    def _expected_alive(self, n_repeat: Array, age: Array, horizon: Array | float) -> Array:
        # E over p ~ Beta(a, b + m) of (1 - (1 + p t / (alpha + T))^-(r + x)) / p: bounded for every a > 0,
        # where the closed form with 2F1 breaks down at a = 1 and at a / b -> 0.
        r, alpha, a, b = self.params
        out = np.empty(len(n_repeat))
        length = np.broadcast_to(np.asarray(horizon, dtype=float), out.shape)
        order = np.argsort(n_repeat, kind="stable")
        repeats, begins = np.unique(n_repeat[order], return_index=True)
        for x, rows in zip(repeats, np.split(order, begins[1:])):
            p, weight = _beta_nodes(a, b + x + self._shift)
            ratio = length[rows] / (alpha + age[rows])
            out[rows] = -np.expm1(-(r + x) * np.log1p(np.multiply.outer(ratio, p))) @ (weight / p)
        return out


def compress(n_repeat: Array, recency: Array, age: Array) -> Rows:
    """Gather customers who look alike.

    Args:
        n_repeat: Purchases after the first, shape (n,).
        recency: First to last purchase, shape (n,).
        age: First purchase to now, in the same unit of time, shape (n,).

    Example:
        >>> compress(np.array([1, 0, 1]), np.array([2.0, 0, 2]), np.array([5.0, 5, 5])).weight.tolist()
        [1.0, 2.0]
    """
    codes = np.zeros(len(n_repeat), dtype=np.int64)
    levels = []
    for column in (n_repeat, recency, age):
        level, code = np.unique(np.asarray(column, dtype=float), return_inverse=True)
        levels.append(level)
        codes = codes * len(level) + code
    keys, inverse, count = np.unique(codes, return_inverse=True, return_counts=True)
    rest, third = np.divmod(keys, len(levels[2])) if len(keys) else (keys, keys)
    first, second = np.divmod(rest, len(levels[1])) if len(keys) else (keys, keys)
    return Rows(levels[0][first], levels[1][second], levels[2][third], count.astype(float), inverse)


def fit(rows: Rows, kind: Kind) -> CountModel:
    """Fit one model by maximum likelihood, from deterministic starts.

    Args:
        rows: Compressed customers.
        kind: Which model; one whose optimum is its limit without dropout comes back as `nbd`.

    Returns:
        The model; its reason says where the data do not carry it. With fewer than `MIN_REPEATERS`
        customers who bought again all parameters are NaN.
    """
    n = int(rows.weight.sum())
    repeaters = int(rows.weight[rows.n_repeat > 0].sum())
    if repeaters < MIN_REPEATERS:
        nan = (np.nan,) * len(NAMES[kind])
        found = f"{repeaters} of {n} customers bought again; {MIN_REPEATERS} are needed"
        return CountModel(kind, nan, nan, np.nan, n, False, found)
    unit = float(np.average(rows.age, weights=rows.weight)) / 32 or 1.0
    scaled = rows._replace(recency=rows.recency / unit, age=rows.age / unit)
    with _blas().limit(limits=1, user_api="blas"):  # four parameters: threads would only get in the way
        plain = _optimum(scaled, "nbd")
        best = plain if kind == "nbd" else _optimum(scaled, kind, plain.log_likelihood)
    if kind != "nbd" and not best.is_converged and best.log_likelihood < plain.log_likelihood + 0.05:
        reason = f"no dropout can be seen: {kind} is at its limit, NBD is used"
        best = CountModel("nbd", plain.params, plain.se, plain.log_likelihood, n, True, reason)
    size = np.where([name in ("alpha", "beta") for name in NAMES[best.kind]], unit, 1.0)
    jacobian = np.log(unit) * float((rows.weight * rows.n_repeat).sum())  # density per unit of time
    return CountModel(
        best.kind,
        tuple(float(p) for p in np.asarray(best.params) * size),
        tuple(float(e) for e in np.asarray(best.se) * size),
        best.log_likelihood - jacobian,
        n,
        best.is_converged,
        best.reason,
    )


def fit_strata(groups: list[Rows], pooled: CountModel, rounds: int = 4) -> tuple[CountModel, ...]:
    """Fit each stratum, its log-parameters drawn to those of all customers (hierarchical, empirical Bayes).

    log theta_s ~ N(log theta, diag(spread^2)); the spread is found by EM with Laplace's approximation,
    so that strata that do not differ, or hold few customers, get the parameters of all.

    Args:
        groups: Compressed customers of each stratum; one without customers gets the pooled model.
        pooled: The model of all, same unit of time.
        rounds: Of EM.
    """
    if not np.isfinite(pooled.params).all() or not groups:
        return (pooled,) * len(groups)
    center, size = np.log(pooled.params), len(pooled.params)
    spread = np.full(size, 0.5)
    theta = np.tile(center, (len(groups), 1))
    variance = np.zeros((len(groups), size))
    filled = [i for i, rows in enumerate(groups) if len(rows.weight)]
    with _blas().limit(limits=1, user_api="blas"):
        for _ in range(rounds):
            for i in filled:
                theta[i], variance[i] = _drawn_to(groups[i], pooled.kind, center, spread, theta[i])
            moved = ((theta[filled] - center) ** 2 + variance[filled]).mean(axis=0)
            spread = np.clip(np.sqrt(moved), 0.01, 1.0)
    out = []
    for i, rows in enumerate(groups):
        params = np.exp(theta[i])
        value = _OBJECTIVES[pooled.kind](theta[i], rows)[0] if i in filled else 0.0
        se = params * np.sqrt(variance[i])
        out.append(
            CountModel(
                pooled.kind, tuple(map(float, params)), tuple(map(float, se)), float(value),
                int(rows.weight.sum()), pooled.is_converged, pooled.reason,
            )
        )  # fmt: skip
    return tuple(out)


def _drawn_to(rows: Rows, kind: Kind, center: Array, spread: Array, start: Array) -> tuple[Array, Array]:
    # Mode of one stratum and the diagonal of its covariance, from the Hessian of the analytic gradient.
    n = float(rows.weight.sum())

    def loss(theta: Array) -> tuple[float, Array]:
        value, slope = _OBJECTIVES[kind](theta, rows)
        away = (theta - center) / spread
        return (-value + 0.5 * float(away @ away)) / n, (-slope + away / spread) / n

    bounds = [(c - 4, c + 4) for c in center]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"gtol": 1e-7})
    step = 1e-4
    columns = [(loss(found.x + step * e)[1] - loss(found.x - step * e)[1]) for e in np.eye(len(center))]
    hessian = n * (np.array(columns) + np.array(columns).T) / (4 * step)
    if np.linalg.eigvalsh(hessian)[0] <= 0:
        return found.x, spread**2
    return found.x, np.diag(np.linalg.inv(hessian))


def log_likelihood(rows: Rows, kind: Kind, params: tuple[float, ...]) -> float:
    """Give the log-likelihood of a model at given parameters."""
    return float(_OBJECTIVES[kind](np.log(params), rows)[0])


def _optimum(rows: Rows, kind: Kind, floor: float = -np.inf) -> CountModel:
    # `floor` is the likelihood of NBD: an optimum at an edge that is no better is NBD, and ends the search.
    objective = _OBJECTIVES[kind]
    n = float(rows.weight.sum())

    def loss(theta: Array) -> tuple[float, Array]:
        value, slope = objective(theta, rows)
        return -value / n, -slope / n

    starts = sorted((np.log(s) for s in _starts(rows, kind)), key=lambda s: loss(s)[0])
    bounds = [(-_EDGE, _EDGE)] * len(NAMES[kind])
    best, value = None, np.inf
    for start in starts[:3]:
        found = minimize(
            loss, start, jac=True, method="L-BFGS-B", bounds=bounds,
            options={"maxiter": 200, "ftol": 1e-13, "gtol": 1e-8, "maxcor": 20},
        )  # fmt: skip
        done = bool(np.abs(found.x).max() < _EDGE - 1e-6 and np.abs(found.jac).max() < 1e-5)
        if found.fun < value - 1e-12:
            best, value, is_interior = found.x, float(found.fun), done
        if done or abs(-found.fun * n - floor) < 0.05:
            break
    assert best is not None
    theta, se = _polish(loss, best, n) if is_interior else (best, np.full(len(best), np.nan))
    is_interior = is_interior and bool(np.isfinite(se).all())
    reason = "" if is_interior else f"{kind} has no interior optimum on these data"
    params = np.exp(theta)
    value = float(-loss(theta)[0] * n)
    return CountModel(kind, tuple(params), tuple(params * se), value, int(n), is_interior, reason)


def _polish(loss: Callable[[Array], tuple[float, Array]], theta: Array, n: float) -> tuple[Array, Array]:
    # One Newton step on the finite-difference Hessian of the analytic gradient, and standard errors.
    step = 1e-4
    columns = [
        (loss(theta + step * e)[1] - loss(theta - step * e)[1]) / (2 * step) for e in np.eye(len(theta))
    ]
    hessian = (np.array(columns) + np.array(columns).T) / 2
    if np.linalg.eigvalsh(hessian)[0] <= 1e-10:
        return theta, np.full(len(theta), np.nan)
    value, slope = loss(theta)
    moved = theta - np.linalg.solve(hessian, slope)
    if np.abs(moved - theta).max() < 0.05 and loss(moved)[0] <= value + 1e-14:
        theta = moved
    return theta, np.sqrt(np.diag(np.linalg.inv(hessian)) / n)


def _starts(rows: Rows, kind: Kind) -> list[Array]:
    rate = (rows.weight * rows.n_repeat).sum() / max((rows.weight * rows.age).sum(), 1e-12)
    out = []
    for r in (0.3, 1.0, 3.0):
        for second in ((0.8, 2.5), (0.2, 3.0), (0.6, 12.0)):
            faster = rate * (1.5 if kind != "nbd" else 1.0)
            tail = (second[0], second[1] * (6 if kind == "pareto_nbd" else 1))
            out.append(np.array([r, r / faster, *tail][: len(NAMES[kind])]))
    return out


def _bg_terms(theta: Array, rows: Rows, shift: int) -> tuple[Array, Array, Array]:
    _, alpha, a, b = np.exp(theta)
    shape = np.exp(theta[0]) + rows.n_repeat
    m = rows.n_repeat + shift
    stay = -shape * np.log(alpha + rows.age)
    with np.errstate(divide="ignore", invalid="ignore"):
        leave = np.log(a / (b + m - 1)) - shape * np.log(alpha + rows.recency)
    leave = np.where(m > 0, leave, -np.inf)
    top = np.maximum(stay, leave)
    kept, gone = np.exp(stay - top), np.exp(leave - top)
    return top + np.log(kept + gone), m, gone / (kept + gone)


def _bg(shift: int) -> Callable[[Array, Rows], tuple[float, Array]]:
    def objective(theta: Array, rows: Rows) -> tuple[float, Array]:
        r, alpha, a, b = np.exp(theta)
        weight, total, (x, at) = rows.weight, rows.weight.sum(), _levels(rows)
        counts = np.bincount(at, weight, len(x))
        level = x + shift
        fixed = gammaln(r + x) + gammaln(b + level) - gammaln(a + b + level)
        const = gammaln(a + b) - gammaln(b) - gammaln(r) + r * theta[1]
        mixed, m, gone = _bg_terms(theta, rows, shift)
        value = _dot(counts, fixed) + total * const + _dot(weight, mixed)
        log_age, log_last = np.log(alpha + rows.age), np.log(alpha + rows.recency)
        out = weight * gone
        stay, shape = weight - out, r + rows.n_repeat
        slope = np.array(
            [
                _dot(counts, digamma(r + x))
                + total * (theta[1] - digamma(r))
                - _dot(stay, log_age)
                - _dot(out, log_last),
                total * r / alpha
                - _dot(stay, shape / (alpha + rows.age))
                - _dot(out, shape / (alpha + rows.recency)),
                total * digamma(a + b) - _dot(counts, digamma(a + b + level)) + out.sum() / a,
                total * (digamma(a + b) - digamma(b))
                + _dot(counts, digamma(b + level) - digamma(a + b + level))
                - np.where(m > 0, out / np.where(m > 0, b + m - 1, 1), 0).sum(),
            ]
        )
        return float(value), slope * np.exp(theta)

    return objective


def _nbd(theta: Array, rows: Rows) -> tuple[float, Array]:
    r, alpha = np.exp(theta)
    weight, shape = rows.weight, r + rows.n_repeat
    log_age = np.log(alpha + rows.age)
    value = _dot(weight, gammaln(shape) - gammaln(r) + r * theta[1] - shape * log_age)
    slope = np.array(
        [
            _dot(weight, digamma(shape) - digamma(r) + theta[1] - log_age),
            _dot(weight, r / alpha - shape / (alpha + rows.age)),
        ]
    )
    return float(value), slope * np.exp(theta)


def _pareto_terms(theta: Array, rows: Rows) -> tuple[Array, Array, tuple[Array, Array, Array]]:
    # log of the two terms without Gamma(r + x) alpha^r beta^s / Gamma(r): alive at T, and gone at some
    # y in [recency, T]: s * integral of (alpha + y)^-(r + x) (beta + y)^-(s + 1) dy, in u = log(c + y).
    r, alpha, s, beta = np.exp(theta)
    shape = r + rows.n_repeat
    alive = -shape * np.log(alpha + rows.age) - s * np.log(beta + rows.age)
    node, weight = _legendre()
    c = min(alpha, beta)
    low, high = np.log(c + rows.recency), np.log(c + rows.age)
    half = (high - low) / 2
    u = ((high + low) / 2)[:, None] + half[:, None] * node
    y = np.exp(u) - c
    log_alpha = u if c == alpha else np.log(alpha + y)
    log_beta = u if c == beta else np.log(beta + y)
    log = u - shape[:, None] * log_alpha - (s + 1) * log_beta
    top = log.max(axis=1)
    part = np.exp(log - top[:, None]) * weight
    mass = part.sum(axis=1)
    with np.errstate(divide="ignore"):
        dead = np.log(s * half) + top + np.log(mass)
    return alive, dead, (part / mass[:, None], log_alpha, log_beta)


def _pareto(theta: Array, rows: Rows) -> tuple[float, Array]:
    r, alpha, s, beta = np.exp(theta)
    weight, total, (x, at) = rows.weight, rows.weight.sum(), _levels(rows)
    counts = np.bincount(at, weight, len(x))
    shape = r + rows.n_repeat
    alive, dead, (part, log_alpha, log_beta) = _pareto_terms(theta, rows)
    both = np.logaddexp(alive, dead)
    value = (
        _dot(counts, gammaln(r + x)) + total * (r * theta[1] + s * theta[3] - gammaln(r)) + _dot(weight, both)
    )
    out = weight * np.exp(dead - both)
    stay = weight - out
    mean_log_alpha, mean_log_beta = (part * log_alpha).sum(1), (part * log_beta).sum(1)
    mean_alpha, mean_beta = (part * np.exp(-log_alpha)).sum(1), (part * np.exp(-log_beta)).sum(1)
    slope = np.array(
        [
            _dot(counts, digamma(r + x))
            + total * (theta[1] - digamma(r))
            - _dot(stay, np.log(alpha + rows.age))
            - _dot(out, mean_log_alpha),
            total * r / alpha - _dot(stay * shape, 1 / (alpha + rows.age)) - _dot(out * shape, mean_alpha),
            total * theta[3] - _dot(stay, np.log(beta + rows.age)) + out.sum() / s - _dot(out, mean_log_beta),
            total * s / beta - s * _dot(stay, 1 / (beta + rows.age)) - (s + 1) * _dot(out, mean_beta),
        ]
    )
    return float(value), slope * np.exp(theta)


_OBJECTIVES: dict[str, Callable[[Array, Rows], tuple[float, Array]]] = {
    "bg_nbd": _bg(0),
    "mbg_nbd": _bg(1),
    "pareto_nbd": _pareto,
    "nbd": _nbd,
}


def _dot(a: NDArray[Any], b: NDArray[Any]) -> float:
    # Not BLAS: its threads cost more than they save at this size, and einsum sums in one fixed order.
    return float(np.einsum("i,i->", a, b))


def _levels(rows: Rows) -> tuple[Array, NDArray[np.int64]]:
    at = rows.n_repeat.astype(np.int64)
    return np.arange(int(at.max()) + 1, dtype=float), at


def _none() -> tuple[Array, NDArray[np.int64]]:
    return np.empty(0), np.empty(0, dtype=np.int64)


@lru_cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@lru_cache
def _legendre(nodes: int = _NODES) -> tuple[Array, Array]:
    node, weight = leggauss(nodes)
    return node, weight


@lru_cache(maxsize=4096)
def _beta_nodes(a: float, b: float) -> tuple[Array, Array]:
    if a + b > 500:  # so narrow that its mean and spread say everything
        mean = a / (a + b)
        spread = np.sqrt(mean * (1 - mean) / (a + b + 1))
        return np.maximum(mean + spread * np.array([-1.0, 1.0]), 1e-300), np.array([0.5, 0.5])
    node, weight = roots_jacobi(40, b - 1, a - 1)
    return np.maximum((1 + node) / 2, 1e-300), weight / weight.sum()
