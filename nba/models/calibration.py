"""Calibration of log-odds on rows that no model has seen: nothing, Platt's logistic, or isotonic regression.

Which one serves is told by log loss on rows that it was not fitted to; isotonic regression must be better by
a standard error. Where rows have times these are later ones: all rows of a month share its level, and what is
fitted to one half of a month suits the other half whether or not it suits the next month.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from nba.models import response

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

    def __init__(self, score: Array, y: Array) -> None:
        self.intercept, self.slope = response.calibrate(score, y, np.ones(len(y)))

    def __call__(self, score: Array) -> Array:
        """Give calibrated log-odds, shape (n,)."""
        return self.intercept + self.slope * score


class Isotonic:
    """Isotonic regression, kept off 0 and 1 by a few rows of prior at each step."""

    def __init__(self, score: Array, y: Array) -> None:
        fitted = IsotonicRegression(out_of_bounds="clip").fit(score, y)
        p = fitted.predict(score)
        _, step, size = np.unique(p, return_inverse=True, return_counts=True)
        mean = np.bincount(step, expit(score)) / size
        rate = (np.bincount(step, y) + _STEP_PRIOR * mean) / (size + _STEP_PRIOR)
        # Knots at the middle of each step: straight in between, so that ranks survive.
        x = np.bincount(step, score) / size
        order = np.argsort(x)
        self.x, self.value = x[order], logit(np.clip(np.maximum.accumulate(rate[order]), 1e-6, 1 - 1e-6))

    def __call__(self, score: Array) -> Array:
        """Give calibrated log-odds, shape (n,)."""
        inside = np.interp(score, self.x, self.value)
        beyond = np.minimum(score - self.x[0], 0) + np.maximum(score - self.x[-1], 0)
        return np.asarray(inside + beyond)


_KINDS: dict[str, Any] = {"platt": Platt, "isotonic": Isotonic}


def fitted(kind: str, score: Array, y: Array) -> Calibrator:
    """Fit "none", "platt" or "isotonic": score (n,) are log-odds of unseen rows, y (n,) is 0 or 1."""
    return same if kind == "none" else _KINDS[kind](score, y)


def restored(kind: str, state: dict[str, Any]) -> Calibrator:
    """Make a calibration of what `vars` gave of a fitted one."""
    if kind == "none":
        return same
    way: Any = object.__new__(_KINDS[kind])
    for name, value in state.items():
        setattr(way, name, np.array(value) if isinstance(value, list) else value)
    return way


def judge(score: Array, y: Array, block: Whole | None, seed: int) -> dict[str, Array]:
    """Give the log loss of each calibration on rows that it was not fitted to, row by row.

    Args:
        score: Log-odds of rows that the model has not seen, shape (n,).
        y: 0 or 1, shape (n,).
        block: Where rows have times, the number of each row's block of time, shape (n,): calibrations are
            fitted to the blocks before and judged on the next. None: fitted to one half, judged on the other.
        seed: Of the halves.

    Returns:
        By kind, of the same rows each, shape (judged,); "isotonic" only where each fit has 200 rows; "none"
        alone, of all rows, where nothing else could be judged: one block, or one class.
    """
    parts = [
        (known, new)
        for known, new in (_halves(len(y), seed) if block is None else _rolling(block))
        if 0 < y[known].sum() < known.sum() and new.any()
    ]
    if not parts:
        return {"none": _loss(score, y)}
    ways = ["none", "platt"]
    if min(known.sum() for known, _ in parts) >= _LEAST_ISOTONIC:
        ways.append("isotonic")
    return {
        kind: np.concatenate(
            [_loss(fitted(kind, score[known], y[known])(score[new]), y[new]) for known, new in parts]
        )
        for kind in ways
    }


def choose(judged: Mapping[str, Array]) -> str:
    """Name the calibration with the least loss; isotonic regression only if better by a standard error.

    A line that is held near the identity costs next to nothing where it is not needed; a curve of many steps
    follows noise.

    Args:
        judged: As `judge` gives it.

    Example:
        >>> choose({"none": np.array([0.7, 0.7, 0.7]), "isotonic": np.array([0.5, 0.6, 0.9])})
        'none'
        >>> choose({"none": np.array([0.7, 0.7, 0.7]), "isotonic": np.array([0.5, 0.6, 0.5])})
        'isotonic'
    """
    plain = min((kind for kind in judged if kind != "isotonic"), key=lambda kind: judged[kind].mean())
    if "isotonic" in judged:
        gain = judged[plain] - judged["isotonic"]
        if gain.mean() > gain.std() / np.sqrt(len(gain)):
            return "isotonic"
    return plain


def _loss(score: Array, y: Array) -> Array:
    return np.asarray(np.logaddexp(0, score) - y * score)


def _halves(n: int, seed: int) -> Iterator[tuple[Flags, Flags]]:
    half = np.random.default_rng(seed).random(n) < 0.5
    yield half, ~half
    yield ~half, half


def _rolling(block: Whole) -> Iterator[tuple[Flags, Flags]]:
    for number in np.unique(block)[1:]:
        yield block < number, block == number
