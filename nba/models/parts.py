"""What each input adds to the served effect of contact, in chance of a response, summing to it exactly.

The served effect blends several models (`nba.models.uplift`); what an input adds is the sum over them, each
with its weight. Trees are split by TreeSHAP (Lundberg et al. 2020), linear models by coefficient times
distance from the mean customer. Both live on log-odds; a difference of chances follows from them through the
logistic curve, of which each input gets its share by the slope of the chord: the rescale rule by which
contributions pass through a series of models (Chen, Lundberg, Lee 2022, "Explaining a series of models by
propagating Shapley values"). All is measured against the mean customer under the same treatment.
"""

from dataclasses import dataclass

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from nba.models import calibration
from nba.models.calibration import Calibrator
from nba.models.response import Response
from nba.models.scorer import Scorer
from nba.models.uplift import Uplift, log_odds

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_TOLERANCE = 1e-6
_STEP = 1e-4  # of log-odds, over which a slope is taken


@dataclass(frozen=True)
class Parts:
    """The served effect of one treatment on each of n customers, by input, in chance of a response.

    Attributes:
        features: What each feature adds, shape (n, p).
        baseline: What the customer's chance without contact adds, shape (n,).
        rest: The effect on the mean customer, shape (n,): all three sum to the effect.
        log_odds: Of a response without contact, shape (n,).
        gap: Largest difference of a sum from the served effect.
    """

    features: Array
    baseline: Array
    rest: Array
    log_odds: Array
    gap: float


def split(scorer: Scorer, X: Array, column: Whole) -> Parts:
    """Split the served effect of each row's treatment.

    Args:
        scorer: The served model.
        X: Its features, shape (n, p).
        column: Treatment of each row, 0 is `none` (no effect, all zeros), shape (n,).

    Raises:
        ArithmeticError: when the parts do not sum to the effect within 1e-6.
    """
    p_response = scorer.response.predict(X, scorer.coding.codes())
    p_none = p_response[:, 0]
    weight = scorer.effect.weights
    sides = _Sides.of(scorer.effect, X, p_none, np.maximum(column - 1, 0))
    total = np.zeros((len(X), X.shape[1] + 2))
    codes = scorer.coding.codes()[column]
    if weight[0] > 0:
        total += weight[0] * (through(sides.odds) - through(sides.none))
    if weight[1] > 0:
        total += weight[1] * (through(sides.linear) - through(sides.none))
    if weight[2] > 0 and scorer.effect.trees is not None:
        total += weight[2] * _trees(scorer.effect.trees, np.column_stack([X, p_none, codes]), X.shape[1] + 1)
    if weight[3] > 0:
        total += weight[3] * (_chance(scorer.response, X, codes) - _chance(scorer.response, X, 0 * codes))
        total[:, 0] -= weight[3] * scorer.effect.response_mean[np.maximum(column - 1, 0)]
    base, _ = scorer.effect.constant.effect(np.ones((1, 1)), scorer.coding)
    # The odds' and the hierarchy's parts are deviations from the constant effect.
    total[:, 0] += (1 - weight[0] - weight[1]) * base[0, np.maximum(column - 1, 0)]
    total[column == 0] = 0
    served = np.hstack([np.zeros((len(X), 1)), scorer.effect.predict(X, p_response, scorer.coding)[0]])
    gap = float(np.abs(total.sum(axis=1) - served[np.arange(len(X)), column]).max(initial=0.0))
    if gap > _TOLERANCE:
        raise ArithmeticError(f"contributions miss the served effect by {gap}; expected {_TOLERANCE} or less")
    return Parts(total[:, 1:-1], total[:, -1], total[:, 0], log_odds(p_none), gap)


def through(logits: Array, calibrator: Calibrator = calibration.same) -> Array:
    """Pass contributions to log-odds through the logistic curve.

    Args:
        logits: Shape (n, m), whose rows sum to log-odds; the first column is where the others start.
        calibrator: What the sum passes through before.

    Returns:
        Shape (n, m): rows sum to the chance, the first column is the chance at the start.

    Example:
        >>> out = through(np.array([[0.0, 1.0, 1.0], [0.0, 1.0, -1.0]]))
        >>> out.round(3).tolist()
        [[0.5, 0.19, 0.19], [0.5, 0.25, -0.25]]
    """
    start, moved = logits[:, 0], logits[:, 1:].sum(axis=1)
    at, end = expit(calibrator(start)), expit(calibrator(start + moved))
    flat = np.abs(moved) < 1e-7
    near = expit(calibrator(start + _STEP)) - expit(calibrator(start - _STEP))
    slope = np.where(flat, near / (2 * _STEP), (end - at) / np.where(flat, 1.0, moved))
    return np.column_stack([at, logits[:, 1:] * slope[:, None]])


@dataclass(frozen=True)
class _Sides:
    # Log-odds without contact and under the treatment, by the hierarchy and by one odds ratio, split over
    # start, features and the chance without contact: shape (n, 1 + p + 1) each.
    none: Array
    linear: Array
    odds: Array

    @classmethod
    def of(cls, effect: Uplift, X: Array, p_none: Array, number: Whole) -> "_Sides":
        x = effect.scaling.apply(X, p_none)
        mean = effect.scaling.center[-1]
        none = x * effect.linear.mean[: x.shape[1]]
        none[:, 0] += mean
        none[:, -1] += log_odds(p_none) - mean
        odds = none.copy()
        odds[:, 0] += effect.odds.coefficients(effect.coding)[number, 0]
        return cls(none, none + x * effect.linear.coefficients(effect.coding)[number], odds)


def _trees(booster: lgb.Booster, inputs: Array, m: int) -> Array:
    # TreeSHAP of the first m inputs; those of the codes, and the base, are where they start.
    found = np.asarray(booster.predict(inputs, pred_contrib=True), dtype=np.float64)
    return np.column_stack([found[:, m:].sum(axis=1), found[:, :m]])


def _chance(response: Response, X: Array, codes: Array) -> Array:
    logits = _trees(response.booster, np.hstack([X, codes]), X.shape[1])
    return np.column_stack([through(logits, response.calibrator), np.zeros(len(X))])
