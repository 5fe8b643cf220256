"""Simulated logs whose truth is known: five settings in which estimators of policy value are compared.

Two are built as Open Bandit Pipeline's synthetic data (Saito et al. 2021): normal contexts, a logistic reward
with context, action and interaction terms, a logging policy that is a softmax of the true reward at inverse
temperature `beta`, and an epsilon-greedy policy to be judged. Three are as a company's campaign log: few
responses (5% if sent at random, 22% at best), 21 actions, and a logging policy that is sure of itself but for
a uniform part of 20% (soft) or 5% (hard), so that weights reach 95 or 380.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[np.float64]


class World(NamedTuple):
    """A population: how rewards come about, who logs, who is judged.

    Attributes:
        n: Rows of a log.
        truth: Value of the judged policy, reward per row.
    """

    name: str
    n: int
    context: Array
    action: Array
    cross: Array
    intercept: float
    logging: tuple[str, float, float]
    target: tuple[float, float]
    noise: Array
    scale: float
    truth: float


class Draw(NamedTuple):
    """One log: features (n, d), column given, reward, probabilities of logging and of the judged (n, k)."""

    X: Array
    column: NDArray[np.int64]
    reward: Array
    p_logged: Array
    p_target: Array


SETTINGS = {
    "crm_soft_5k": ("crm", 5000, 0.20),
    "crm_soft_20k": ("crm", 20000, 0.20),
    "crm_hard_5k": ("crm", 5000, 0.05),
    "obp_k10": ("obp", 2000, -2.0),
    "obp_k20": ("obp", 5000, 2.0),
}


def world(name: str) -> World:
    """Make one of the five settings; its truth is the mean of 300,000 contexts."""
    kind, n, number = SETTINGS[name]
    made = _crm(name, n, number) if kind == "crm" else _obp(name, n, number)
    rng = np.random.default_rng(999)
    parts = []
    for _ in range(30):
        X = rng.standard_normal((10_000, made.context.shape[0]))
        q = expected(made, X)
        parts.append((_target(made, X, q) * q).sum(axis=1).mean())
    return made._replace(truth=float(np.mean(parts)))


def draw(made: World, rng: np.random.Generator) -> Draw:
    """Draw one log."""
    X = rng.standard_normal((made.n, made.context.shape[0]))
    q = expected(made, X)
    p = _logging(made, X, q)
    column = (rng.random(made.n)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(0, p.shape[1] - 1)
    reward = (rng.random(made.n) < q[np.arange(made.n), column]).astype(np.float64)
    return Draw(X, column, reward, p, _target(made, X, q))


def expected(made: World, X: Array) -> Array:
    """Give the true expected reward of every action, shape (n, k)."""
    linear = (X @ made.context)[:, None] + made.action + X @ made.cross
    return np.asarray(expit(made.intercept + made.scale * linear), dtype=np.float64)


def _obp(name: str, n: int, beta: float) -> World:
    k, d = (10, 5) if beta < 0 else (20, 5)
    rng = np.random.default_rng(12345)
    context, action = rng.uniform(-1, 1, d), rng.uniform(-1, 1, k)
    cross = rng.uniform(-1, 1, (d, k))
    action = (action - action.mean()) / np.sqrt(k)
    linear_sd = np.sqrt((context**2).sum() + action.var() + (cross**2).sum(axis=0).mean())
    return World(
        name, n, context, action, cross, 0.0, ("softmax", beta, 0.0), (0.2, 0.0), np.zeros((d, k)),
        1 / linear_sd, np.nan,
    )  # fmt: skip


def _crm(name: str, n: int, uniform: float) -> World:
    # Sparse tastes; the intercept and the scale give 5% at random and 22% at best.
    k, d = 21, 20
    rng = np.random.default_rng(2021)
    cross = rng.standard_normal((d, k)) * (rng.random((d, k)) < 0.35)
    context, action = 0.6 * rng.standard_normal(d) / np.sqrt(d), 0.8 * rng.standard_normal(k)
    cross *= 0.8 / np.sqrt((cross**2).sum(axis=0).mean())
    noise = rng.standard_normal((d, k)) / np.sqrt(d)
    return World(
        name, n, context, action, cross, -3.75, ("noisy", 7.0, uniform), (0.1, 2.2), noise, 1.0, np.nan
    )


def _logging(made: World, X: Array, q: Array) -> Array:
    how, sharpness, uniform = made.logging
    if how == "softmax":
        return _softmax(sharpness * q)
    believed = X @ made.noise  # sure of itself, and wrong
    return (1 - uniform) * _softmax(sharpness * believed) + uniform / q.shape[1]


def _target(made: World, X: Array, q: Array) -> Array:
    epsilon, noise = made.target
    k = q.shape[1]
    believed = q if noise == 0 else X @ (made.cross + 0.25 * noise * made.noise) + made.action
    best = np.eye(k)[believed.argmax(axis=1)]
    return (1 - epsilon) * best + epsilon / k


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))
