"""Calibration of log-odds on rows that no model has seen: nothing, Platt's logistic, or isotonic regression.

Which one serves is told by log loss on rows that it was not fitted to; isotonic regression must be better by
a standard error, which counts customers, as the rows of one answer alike. For a classifier whose rows have
times these are later ones: all rows of a month share its level, and what is fitted to one half of a month
suits the other half whether or not it suits the next month. For the served model they are other customers
(`cross_fit`).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from nba import stats
from nba.models import crossfit

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Flags = NDArray[np.bool_]
Calibrator = Callable[[Array], Array]

_STEP_PRIOR = 20.0  # as if so many rows had been calibrated already
_LEAST_ISOTONIC = 200  # rows of a fit


def same(score: Array) -> Array:
    """Leave log-odds as they are."""
    return score


class Platt:
    """A straight line on the log-odds (Platt 1999), held near the identity if rows are few."""

    def __init__(self, score: Array, y: Array, weight: Array) -> None:
        self.intercept, self.slope = line(score, y, weight)

    def __call__(self, score: Array) -> Array:
        """Give calibrated log-odds, any shape."""
        return np.asarray(self.intercept + self.slope * score)


def line(score: Array, y: Array, weight: Array) -> tuple[float, float]:
    """Fit intercept and slope on the log-odds of unseen rows (Platt 1999), held near (0, 1) if rows are few.

    Args:
        score: Log-odds of rows that the model has not seen, shape (n,).
        y: 0 or 1, shape (n,).
        weight: Shape (n,).
    """

    def loss(theta: Array) -> tuple[float, Array]:
        z = theta[0] + theta[1] * score
        p = expit(z)
        penalty = 2.0 * ((theta[1] - 1) ** 2) + 0.1 * theta[0] ** 2
        value = float((weight * (np.logaddexp(0, z) - y * z)).sum() + penalty)
        slope = weight * (p - y)
        gradient = np.array([slope.sum() + 0.2 * theta[0], slope @ score + 4.0 * (theta[1] - 1)])
        return value / len(y), gradient / len(y)

    found = minimize(loss, np.array([0.0, 1.0]), jac=True, method="L-BFGS-B", bounds=[(-5, 5), (0.1, 3)])
    return float(found.x[0]), float(found.x[1])


class Isotonic:
    """Isotonic regression, kept off 0 and 1 by a few rows of prior at each step."""

    def __init__(self, score: Array, y: Array, weight: Array) -> None:
        fitted = IsotonicRegression(out_of_bounds="clip").fit(score, y, weight)
        p = fitted.predict(score)
        _, step = np.unique(p, return_inverse=True)
        size = np.bincount(step, weight)
        mean = np.bincount(step, weight * expit(score)) / size
        rate = (np.bincount(step, weight * y) + _STEP_PRIOR * mean) / (size + _STEP_PRIOR)
        # Knots at the middle of each step: straight in between, so that ranks survive.
        x = np.bincount(step, weight * score) / size
        order = np.argsort(x)
        self.x, self.value = x[order], logit(np.clip(np.maximum.accumulate(rate[order]), 1e-6, 1 - 1e-6))

    def __call__(self, score: Array) -> Array:
        """Give calibrated log-odds, any shape."""
        inside = np.interp(score, self.x, self.value)
        beyond = np.minimum(score - self.x[0], 0) + np.maximum(score - self.x[-1], 0)
        return np.asarray(inside + beyond)


_KINDS: dict[str, Any] = {"platt": Platt, "isotonic": Isotonic}


def fitted(kind: str, score: Array, y: Array, weight: Array | None = None) -> Calibrator:
    """Fit a calibration.

    Args:
        kind: "none", "platt" or "isotonic".
        score: Log-odds of rows that the model has not seen, shape (n,).
        y: 0 or 1, shape (n,).
        weight: 0 or more, shape (n,); all 1 if None.
    """
    if kind == "none":
        return same
    w = np.ones(len(y)) if weight is None else weight
    return _KINDS[kind](score[w > 0], y[w > 0], w[w > 0])


def state(way: Calibrator) -> dict[str, Any]:
    """Give what `restored` needs of a fitted calibration, as numbers and lists of them."""
    return {} if way is same else {name: np.asarray(value).tolist() for name, value in vars(way).items()}


def restored(kind: str, state: Mapping[str, Any]) -> Calibrator:
    """Make a calibration of its `state`."""
    if kind == "none":
        return same
    way: Any = object.__new__(_KINDS[kind])
    for name, value in state.items():
        setattr(way, name, np.array(value) if isinstance(value, list) else value)
    return way


class Judged(NamedTuple):
    """Calibrations side by side, on rows that they were not fitted to.

    Attributes:
        losses: Log loss of each row by kind, of the same rows each, shape (judged,).
        rows: Their numbers, shape (judged,).
    """

    losses: dict[str, Array]
    rows: Whole


def judge(score: Array, y: Array, block: Whole | None, seed: int, customer: Whole | None = None) -> Judged:
    """Give the log loss of each calibration on rows that it was not fitted to, row by row.

    Args:
        score: Log-odds of rows that the model has not seen, shape (n,).
        y: 0 or 1, shape (n,).
        block: Where rows have times, the number of each row's block of time, shape (n,): calibrations are
            fitted to the blocks before and judged on the next. None: fitted to one half, judged on the other.
        seed: Of the halves.
        customer: Code of each row's customer, from 0, shape (n,), whose rows are in the same half; None where
            every row is another's.

    Returns:
        "isotonic" only where each fit has 200 rows; "none" alone, of all rows, where nothing else could be
        judged: one block, or one class.
    """
    parts = [
        (known, new)
        for known, new in (_halves(len(y), seed, customer) if block is None else _rolling(block))
        if 0 < y[known].sum() < known.sum() and new.any()
    ]
    if not parts:
        return Judged({"none": _loss(score, y)}, np.arange(len(y)))
    ways = ["none", "platt"]
    if min(known.sum() for known, _ in parts) >= _LEAST_ISOTONIC:
        ways.append("isotonic")
    losses = {
        kind: np.concatenate(
            [_loss(fitted(kind, score[known], y[known])(score[new]), y[new]) for known, new in parts]
        )
        for kind in ways
    }
    return Judged(losses, np.concatenate([np.flatnonzero(new) for _, new in parts]))


class Crossed(NamedTuple):
    """A calibration that was chosen across folds.

    Attributes:
        kind: "none", "platt" or "isotonic".
        way: Fitted to all rows.
        unseen: Log-odds by the same kind fitted to the other folds, shape (n,).
        losses: Mean log loss of each kind, fitted to the other folds.
    """

    kind: str
    way: Calibrator
    unseen: Array
    losses: dict[str, float]


def cross_fit(score: Array, y: Array, weight: Array, fold: Whole, customer: Whole | None = None) -> Crossed:
    """Choose a calibration by what each kind, fitted to the other folds, loses on a fold.

    Args:
        score: Log-odds of rows that the model has not seen, shape (n,).
        y: 0 or 1, shape (n,).
        weight: 0 or more, shape (n,).
        fold: Of each row, shape (n,). With one alone nothing can be judged: Platt's line, which is held near
            the identity.
        customer: Code of each row's customer, from 0, shape (n,); None where every row is another's.
    """
    if len(np.unique(fold)) < 2:
        way = fitted("platt", score, y, weight)
        return Crossed("platt", way, way(score), {})

    def by_others(kind: str) -> Array:
        def calibrated(known: Whole, new: Whole) -> Array:
            return fitted(kind, score[known], y[known], weight[known])(score[new])

        return crossfit.out_of_fold(fold, calibrated)

    left = [fold != number for number in np.unique(fold)]
    ways = ["none", "platt"]
    if all(known.sum() >= _LEAST_ISOTONIC and 0 < y[known].sum() < known.sum() for known in left):
        ways.append("isotonic")
    unseen = {kind: by_others(kind) for kind in ways}
    judged = {kind: _loss(found, y) for kind, found in unseen.items()}
    kind = choose(judged, weight, customer)
    losses = {name: float(np.average(loss, weights=weight)) for name, loss in judged.items()}
    return Crossed(kind, fitted(kind, score, y, weight), unseen[kind], losses)


class Ahead(NamedTuple):
    """Rows that were predicted by models of earlier ones.

    Attributes:
        rows: Their numbers, shape (m,).
        score: Their log-odds by those models, shape (m,).
        block: Number of the block of time of each, shape (m,).
    """

    rows: Whole
    score: Array
    block: Whole


def over_time(
    ahead: Ahead, score: Array, y: Array, weight: Array, fold: Whole, customer: Whole | None = None
) -> Crossed:
    """Choose a calibration by what each kind, fitted to earlier blocks of time, loses on the next.

    Args:
        ahead: Rows that tell, of the n. With one block alone nothing can be judged: Platt's line, which is
            held near the identity.
        score: Log-odds by models of other customers, which are calibrated, shape (n,).
        y: 0 or 1, shape (n,).
        weight: 0 or more, shape (n,).
        fold: Of each row, shape (n,): a row's calibration in `unseen` rests on rows of other folds.
        customer: Code of each row's customer, from 0, shape (n,); None where every row is another's.
    """
    at, w = ahead.rows, weight[ahead.rows]
    judged = judge(ahead.score, y[at], ahead.block, 0, None)
    whose = None if customer is None else customer[at][judged.rows]
    is_judged = len(judged.losses) > 1
    kind = choose(judged.losses, w[judged.rows], whose) if is_judged else "platt"
    unseen = np.empty(len(y))
    for number in np.unique(fold):
        others, new = fold[at] != number, fold == number
        unseen[new] = fitted(kind, ahead.score[others], y[at][others], w[others])(score[new])
    losses = {name: float(np.average(loss, weights=w[judged.rows])) for name, loss in judged.losses.items()}
    way = fitted(kind, ahead.score, y[at], w)
    return Crossed(kind, way, unseen, losses if is_judged else {})


def choose(judged: Mapping[str, Array], weight: Array | None = None, customer: Whole | None = None) -> str:
    """Name the calibration with the least loss; isotonic regression only if better by a standard error.

    A line that is held near the identity costs next to nothing where it is not needed; a curve of many steps
    follows noise.

    Args:
        judged: Losses, as `judge` gives them.
        weight: Of the rows, shape (judged,); all 1 if None.
        customer: Code of each row's customer, from 0, shape (judged,): the standard error counts customers.
            None where every row is another's.

    Example:
        >>> choose({"none": np.array([0.7, 0.7, 0.7]), "isotonic": np.array([0.5, 0.6, 0.9])})
        'none'
        >>> choose({"none": np.array([0.7, 0.7, 0.7]), "isotonic": np.array([0.5, 0.6, 0.5])})
        'isotonic'
    """
    mean = {kind: float(np.average(loss, weights=weight)) for kind, loss in judged.items()}
    plain = min((kind for kind in judged if kind != "isotonic"), key=mean.__getitem__)
    if "isotonic" in judged:
        gain = judged[plain] - judged["isotonic"]
        found = stats.mean(gain if weight is None else stats.weighed(gain, weight), unit=customer)
        if found.value > found.se:
            return "isotonic"
    return plain


def _loss(score: Array, y: Array) -> Array:
    return np.asarray(np.logaddexp(0, score) - y * score)


def _halves(n: int, seed: int, customer: Whole | None) -> Iterator[tuple[Flags, Flags]]:
    unit = np.arange(n) if customer is None else customer
    half = (np.random.default_rng(seed).random(int(unit.max()) + 1) < 0.5)[unit]
    yield half, ~half
    yield ~half, half


def _rolling(block: Whole) -> Iterator[tuple[Flags, Flags]]:
    for number in np.unique(block)[1:]:
        yield block < number, block == number
