"""What each treatment earns: a belief in reward from a bandit's log, its capacity chosen by time.

Several learners of different capacity are fitted to what came before the latest part of the log and judged
on that part; their log-odds are then weighted by how well they did there (stacking, Wolpert 1992), and all
are fitted again to the whole log. A linear learner wins where rewards are rare or noisy, products of
features, smooth surfaces or trees where they are not; nobody has to know beforehand. Rewards are chances
(0 to 1); money is a chance times the worth of a response.

This is the belief for a plain bandit, in which no action is the baseline, as in `benchmarks/regret.py`. The
platform's own loop does not fit it: `nba.models.scorer` believes what contact changes against no contact.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from nba.errors import DataError
from nba.models import reward_linear

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_LATEST = 0.25  # part of the log that learners are judged on
_EDGE = 1e-3  # chances are kept this far from 0 and 1 before their log-odds are weighted
_HOLD = 2.0  # observations for which equal weights count
_GROWTH = 7 / 6  # of the log, until weights are found anew
_LEAST = 40  # rows of a log, below which one learner is taken as it is


class Log(NamedTuple):
    """What was done and what came of it, in the order of time.

    Attributes:
        X: Features, shape (n, p); NaN counts as the mean.
        column: Treatment of each row, 0 to k - 1, shape (n,).
        y: Reward, 0 to 1, shape (n,).
        k: Number of treatments.
    """

    X: Array
    column: Whole
    y: Array
    k: int

    def part(self, rows: slice) -> "Log":
        """Give some of the rows."""
        return Log(self.X[rows], self.column[rows], self.y[rows], self.k)


class Fitted(Protocol):
    """A fitted learner."""

    def predict(self, X: Array) -> tuple[Array, Array]:
        """Give each treatment's chance and the standard error of its log-odds (NaN: not known), (n, k)."""


class Learner(NamedTuple):
    """A learner to choose from.

    Attributes:
        name: How reports call it.
        kind: linear, products, smooth, trees (one joint model) or trees_each (one per treatment).
        penalty: Of linear kinds: prior precision of standardised coefficients.
    """

    name: str
    kind: str
    penalty: float = 1.0

    def fit(self, log: Log, seed: int) -> Fitted:
        """Fit to a log."""
        if self.kind == "trees":
            return _Joint.fit(log, seed)
        if self.kind == "trees_each":
            return _Each.fit(log, seed)
        return reward_linear.fit(log.X, log.column, log.y, log.k, self.kind, self.penalty, seed)


LEARNERS = (
    Learner("linear", "linear", 3.0),
    Learner("products", "products", 4.0),
    Learner("smooth", "smooth", 2.0),
    Learner("trees, joint", "trees"),
    Learner("trees, each", "trees_each"),
)


@dataclass(frozen=True)
class Belief:
    """The weighted learners.

    Attributes:
        learners, fitted: All of them, in order, and fitted to the whole log.
        weight: Of each one's log-odds, shape (l,).
        loss: Log loss of each on the latest part, and of the weighted whole last, shape (l + 1,); NaN
            where there was too little to judge by.
        chosen_at: Rows of the log by which the weights were found.
    """

    learners: tuple[Learner, ...]
    fitted: tuple[Fitted, ...]
    weight: Array
    loss: Array
    chosen_at: int

    def predict(self, X: Array) -> tuple[Array, Array]:
        """Give each treatment's mean reward and its standard error, shapes (n, k).

        The error holds the uncertainty of the coefficients and the disagreement of the learners.
        """
        live = [i for i, w in enumerate(self.weight) if w > 0.01]
        found = [self.fitted[i].predict(X) for i in live]
        weight = self.weight[live]
        odds = np.stack([_odds(chance) for chance, _ in found])
        mean = expit(np.tensordot(weight, odds, 1))
        share = weight / weight.sum()
        apart = np.tensordot(share, (expit(odds) - mean) ** 2, 1)
        within = _within(np.stack([se for _, se in found]), share)
        slope = np.maximum(mean * (1 - mean), _EDGE)
        return mean, np.sqrt(apart + (slope * within) ** 2)


def fit(
    log: Log, seed: int, learners: tuple[Learner, ...] = LEARNERS, before: Belief | None = None
) -> Belief:
    """Fit every learner, and weigh them by the latest part of the log.

    Args:
        log: In the order of time.
        seed: Of landmarks and trees.
        learners: What to choose from.
        before: Belief of an earlier night: its weights stay until the log has grown by a sixth.

    Raises:
        DataError: when the log is empty or a reward is not within 0 to 1.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X, column = rng.normal(size=(400, 2)), rng.integers(0, 2, 400)
        >>> y = (rng.random(400) < expit(3 * X[:, 0] * (2 * column - 1))).astype(float)
        >>> mean, _ = fit(Log(X, column, y, 2), 0, LEARNERS[:1]).predict(np.array([[1.0, 0.0]]))
        >>> bool(mean[0, 0] < 0.2 < 0.8 < mean[0, 1])
        True
    """
    _check(log)
    n, m = len(log.y), len(learners)
    weight, loss, chosen_at = np.full(m, 1 / m), np.full(m + 1, np.nan), n
    cut = n - int(_LATEST * n)
    if before is not None and before.learners == learners and n < before.chosen_at * _GROWTH:
        weight, loss, chosen_at = before.weight, before.loss, before.chosen_at
    elif m > 1 and n >= _LEAST:
        late = log.part(slice(cut, n))
        every = np.arange(n - cut)
        early = log.part(slice(0, cut))
        odds = np.column_stack(
            [_odds(learner.fit(early, seed).predict(late.X)[0])[every, late.column] for learner in learners]
        )
        weight = stack(odds, late.y)
        loss = np.array([_log_loss(z, late.y) for z in (*odds.T, odds @ weight)])
    fitted = tuple(learner.fit(log, seed) if w > 0.01 else _Nothing() for learner, w in zip(learners, weight))
    return Belief(learners, fitted, weight, loss, chosen_at)


def stack(odds: Array, y: Array) -> Array:
    """Weigh log-odds of several learners, 0 or more each, held near equal shares; shape (l,).

    Args:
        odds: Of rows that the learners have not seen, shape (n, l).
        y: 0 to 1, shape (n,).
    """
    even = np.full(odds.shape[1], 1 / odds.shape[1])

    def loss(w: Array) -> tuple[float, Array]:
        z = odds @ w
        value = (np.logaddexp(0, z) - y * z).sum() + _HOLD * ((w - even) ** 2).sum()
        return float(value), odds.T @ (expit(z) - y) + 2 * _HOLD * (w - even)

    found = minimize(loss, even, jac=True, method="L-BFGS-B", bounds=[(0.0, 1.2)] * len(even))
    return np.asarray(found.x) if found.x.sum() > 0 else even


def _check(log: Log) -> None:
    if not len(log.y):
        raise DataError(
            "there is no decision with a reward to learn from", "Decide and gather feedback first."
        )
    if not ((log.y >= 0) & (log.y <= 1)).all():
        raise DataError(
            f"rewards run from {np.nanmin(log.y):g} to {np.nanmax(log.y):g}; expected 0 to 1, none unknown",
            "Divide money by the worth of a response.",
        )


def _odds(chance: Array) -> Array:
    return np.asarray(logit(np.clip(chance, _EDGE, 1 - _EDGE)))


def _log_loss(odds: Array, y: Array) -> float:
    return float((np.logaddexp(0, odds) - y * odds).mean())


def _within(se: Array, share: Array) -> Array:
    # Mean standard error of the log-odds over the learners that know theirs; 1 where none does.
    known = ~np.isnan(se)
    total = np.tensordot(share, np.where(known, se, 0.0), 1)
    counted = np.tensordot(share, known.astype(np.float64), 1)
    return np.where(counted > 0, total / np.maximum(counted, 1e-12), 1.0)


class _Nothing:
    # Stands for a learner whose weight is nothing.
    def predict(self, X: Array) -> tuple[Array, Array]:  # noqa: ARG002
        raise AssertionError("a learner without weight is not asked")


_TREES = {
    "objective": "cross_entropy",
    "learning_rate": 0.1,
    "lambda_l2": 1.0,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbose": -1,
}


@dataclass(frozen=True)
class _Joint:
    booster: lgb.Booster
    k: int

    @classmethod
    def fit(cls, log: Log, seed: int) -> "_Joint":
        full = np.column_stack([log.X, log.column])
        params = {**_TREES, "num_leaves": 31, "min_data_in_leaf": 10, "seed": seed}
        data = lgb.Dataset(full, log.y, categorical_feature=[log.X.shape[1]], params=params)
        return cls(lgb.train(params, data, 150), log.k)

    def predict(self, X: Array) -> tuple[Array, Array]:
        n = len(X)
        full = np.column_stack([np.repeat(X, self.k, axis=0), np.tile(np.arange(self.k), n)])
        chance = np.asarray(self.booster.predict(full, num_threads=1)).reshape(n, self.k)
        return chance, np.full((n, self.k), np.nan)


def _asked(booster: lgb.Booster, X: Array) -> Array:
    return np.asarray(booster.predict(X, num_threads=1), dtype=np.float64)


@dataclass(frozen=True)
class _Each:
    boosters: tuple[lgb.Booster | float, ...]

    @classmethod
    def fit(cls, log: Log, seed: int) -> "_Each":
        params = {**_TREES, "num_leaves": 7, "min_data_in_leaf": 5, "feature_fraction": 0.5, "seed": seed}
        base = float(log.y.mean())
        out: list[lgb.Booster | float] = []
        for j in range(log.k):
            own = log.column == j
            y = log.y[own]
            if min(y.sum(), (1 - y).sum()) < 2:
                out.append(float((y.sum() + base) / (len(y) + 1)))
            else:
                out.append(lgb.train(params, lgb.Dataset(log.X[own], y, params=params), 60))
        return cls(tuple(out))

    def predict(self, X: Array) -> tuple[Array, Array]:
        chance = np.empty((len(X), len(self.boosters)))
        for j, booster in enumerate(self.boosters):
            chance[:, j] = booster if isinstance(booster, float) else _asked(booster, X)
        return chance, np.full(chance.shape, np.nan)
