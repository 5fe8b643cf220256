"""Does contact change it: the effect of each treatment on each customer's chance of a response.

How it is learnt (rows are decisions; `none` rows tell the baseline, treated rows the effect):

1. Residuals of a cross-fitted baseline m0(x) = E[response | none, x]: for a treated row, response − m0(x)
   has the effect as its mean. Given x, treatments were drawn with probabilities that depend on x only
   (every arm of the experiment draws from the features that are logged here, and the arm itself is
   hashed), so that pooling the arms leaves this mean what it is: no weighting by 1/p_action, whose
   variance with ten treatments would drown effects of a few points. What the baseline misses linearly is
   mended from the `none` rows within the effect model, as in the R-learner (Nie and Wager 2021).
2. Candidates: one number per treatment (shrunk to its action and channel); the Bayesian hierarchy over
   features (`nba.models.hierarchy`); shallow LightGBM on the residuals; the response model's own
   difference.
3. A blend with non-negative weights, fitted to out-of-fold residuals and shrunk to the constant effects
   as far as the gain of the loss is not clear of its noise (positive-part James-Stein).

The standard error is the hierarchy's posterior, widened by how far the blended candidates disagree: it is
in closed form, and large for treatments that were rarely or never tried on such customers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import logit

from nba.models import crossfit, hierarchy, response
from nba.models.hierarchy import Hierarchy
from nba.models.inputs import Coding
from nba.settings import Models

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

CANDIDATES = ("hierarchy", "trees", "response")
_TREES = 60


@dataclass(frozen=True)
class Scaling:
    """Features as the linear model reads them: signed logarithms, standardised, unknown at the mean.

    Attributes:
        center, scale: Of the logarithms, shape (p,), after which the log-odds of the baseline follow.
    """

    center: Array
    scale: Array

    @classmethod
    def of(cls, X: Array, p_none: Array) -> "Scaling":
        """Learn centres and scales; a feature that does not vary is left out (scale infinite)."""
        values = _signed_log(X, p_none)
        known = np.isfinite(values)
        n = np.maximum(known.sum(axis=0), 1)
        center = np.where(known, values, 0).sum(axis=0) / n
        deviation = np.where(known, values - center, 0)
        scale = np.sqrt((deviation**2).sum(axis=0) / n)
        return cls(center, np.where(scale > 1e-9, scale, np.inf))

    def apply(self, X: Array, p_none: Array) -> Array:
        """Give the inputs of the linear model, shape (n, 1 + p + 1), first column 1."""
        values = (_signed_log(X, p_none) - self.center) / self.scale
        values = np.clip(np.nan_to_num(values, nan=0.0), -4, 4)
        return np.column_stack([np.ones(len(X)), values])


@dataclass(frozen=True)
class Uplift:
    """The joint effect model.

    Attributes:
        coding: Treatments it was fitted on.
        scaling: Of the linear model's inputs.
        constant: Effects that do not depend on x.
        linear: The hierarchy over features.
        trees: LightGBM on what the constants leave; None where there was nothing to learn.
        weights: Of the candidates' deviations from the constants, in the order of `CANDIDATES`.
        response_mean: Mean of the response model's difference by treatment, shape (T,).
    """

    coding: Coding
    scaling: Scaling
    constant: Hierarchy
    linear: Hierarchy
    trees: lgb.Booster | None
    weights: Array
    response_mean: Array

    def predict(self, X: Array, p_response: Array, treatments: Coding) -> tuple[Array, Array]:
        """Give effects and their standard errors.

        Args:
            X: Features, shape (n, p).
            p_response: Response model's chances, shape (n, 1 + T), column 0 `none`.
            treatments: T treatments, known or new.

        Returns:
            Two arrays of shape (n, T).
        """
        x = self.scaling.apply(X, p_response[:, 0])
        base, _ = self.constant.effect(x[:, :1], treatments)
        mean, se = self.linear.effect(x, treatments)
        parts = np.stack(
            [
                mean - base,
                self._tree_part(X, p_response[:, 0], treatments),
                self._response_part(p_response, treatments),
            ]
        )
        blend = np.tensordot(self.weights, parts, axes=1)
        total = self.weights.sum()
        spread = 0.0
        if total > 0:
            spread = np.tensordot(self.weights / total, (parts - blend / total) ** 2, axes=1)
        return base + blend, np.sqrt(se**2 + min(total, 1.0) ** 2 * spread)

    def _tree_part(self, X: Array, p_none: Array, treatments: Coding) -> Array:
        out = np.zeros((len(X), len(treatments.treatment_ids)))
        if self.trees is not None and self.weights[1] > 0:
            codes = self.coding.codes(treatments)[1:]
            full = np.empty((len(X), X.shape[1] + 1 + codes.shape[1]))
            full[:, : X.shape[1]] = X
            full[:, X.shape[1]] = p_none
            for t, code in enumerate(codes):
                full[:, X.shape[1] + 1 :] = code
                out[:, t] = response.raw(self.trees, full)
        return out

    def _response_part(self, p_response: Array, treatments: Coding) -> Array:
        known = self.coding.columns(treatments.treatment_ids) - 1
        mean = np.where(known >= 0, self.response_mean[known], self.response_mean.mean())
        return p_response[:, 1:] - p_response[:, :1] - mean


@dataclass(frozen=True)
class Learnt:
    """The effect model with what its report needs; everything but the model is out of fold.

    Attributes:
        model: Fitted on all rows.
        residual: Response less the mended baseline, shape (n,): on treated rows a noisy score, without
            bias, of the effect of the row's own treatment.
        effect: Predicted effect of the treatment that the row got or, for `none`, was paired with, (n,).
        losses: Weighted loss of treated rows by candidate, of `constant` and of the `blend`.
        kept: Part of the heterogeneity that the blend keeps, 0 to 1.
    """

    model: Uplift
    residual: Array
    effect: Array
    losses: Mapping[str, float]
    kept: float


def fit(
    X: Array,
    column: Whole,
    paired: Whole,
    y: Array,
    weight: Array,
    fold: Whole,
    crossed: "response.CrossFitted",
    coding: Coding,
    settings: Models,
    seed: int,
) -> Learnt:
    """Fit the effect model.

    Args:
        X: Features, shape (n, p).
        column: Treatment of each row, 0 is `none`, shape (n,).
        paired: The treatment by whose effect a row is ranked: its own or, for `none`, one drawn from
            the treatments given; shape (n,), 1 to T.
        y: 0 or 1, shape (n,).
        weight: Shape (n,).
        fold: Fold of each row, shape (n,).
        crossed: Out-of-fold chances under `none`, the own and the paired treatment.
        coding: The T treatments.
        settings: Capacity of the trees.
        seed: Of the trees.
    """
    is_treated = column > 0
    raw = y - crossed.p_none
    chance = np.clip(crossed.p_own, 0.02, 0.5)
    w = weight / (chance * (1 - chance))
    w /= np.average(w * raw**2, weights=weight) / np.average(np.ones(len(y)), weights=weight)
    scale = float(np.clip(0.5 * np.average(y, weights=weight), 0.005, 0.05))
    scaling = Scaling.of(X, crossed.p_none)
    x = scaling.apply(X, crossed.p_none)
    linear, mended, by_linear = _cross_linear(x, raw, w, column, paired, fold, coding, scale)
    ones = np.ones((len(y), 1))
    constant, _, by_constant = _cross_linear(ones, mended, w, column, paired, fold, coding, scale)

    left = mended - by_constant
    trees, by_trees = _cross_trees(
        X, crossed.p_none, left, w, is_treated, coding.codes()[paired], fold, settings, seed
    )
    difference = crossed.p_paired - crossed.p_none
    response_mean = _mean_by(difference, paired - 1, weight, len(coding.treatment_ids))
    parts = np.column_stack(
        [by_linear - by_constant, by_trees, difference - response_mean[paired - 1]]
    )
    weights, kept, losses = blend(parts[is_treated], left[is_treated], w[is_treated])
    model = Uplift(coding, scaling, constant, linear, trees, weights, response_mean)
    return Learnt(model, mended, by_constant + parts @ weights, losses, kept)


def blend(parts: Array, target: Array, weight: Array) -> tuple[Array, float, dict[str, float]]:
    """Weigh candidate deviations from the constant effect by their out-of-fold loss.

    Args:
        parts: Deviations by candidate, shape (n, m).
        target: Noisy deviations, shape (n,).
        weight: Inverse variances of the target, shape (n,).

    Returns:
        Weights (m,), the part that the shrinkage keeps (0 to 1), and the mean loss of each candidate,
        of `constant` and of `blend`.
    """
    names = CANDIDATES[: parts.shape[1]]
    if not len(target) or not parts.any():
        return np.zeros(parts.shape[1]), 0.0, {}
    total = weight.sum()
    losses = {"constant": float(weight @ target**2 / total)}
    losses |= {
        name: float(weight @ (target - parts[:, j]) ** 2 / total) for j, name in enumerate(names)
    }
    root = np.sqrt(weight)[:, None]
    weights, _ = nnls(np.vstack([parts * root]), target * root[:, 0])
    weights *= min(1.0, 1.25 / max(weights.sum(), 1e-12))
    gain = weight * (target**2 - (target - parts @ weights) ** 2)
    # Fitting the weights itself gains about one unit of noise each; twice that is taken off (AIC).
    clear = gain.sum() - 2 * np.count_nonzero(weights)
    t = clear / max(float(np.sqrt((gain**2).sum())), 1e-12)
    kept = max(0.0, 1 - 1 / t**2) if t > 0 else 0.0
    losses["blend"] = float(weight @ (target - parts @ (kept * weights)) ** 2 / total)
    return kept * weights, kept, losses


def _cross_linear(
    x: Array,
    residual: Array,
    w: Array,
    column: Whole,
    paired: Whole,
    fold: Whole,
    coding: Coding,
    scale: float,
) -> tuple[Hierarchy, Array, Array]:
    k = 1 + len(coding.treatment_ids)
    numbers = np.unique(fold)
    of_fold = [hierarchy.sums(x[r], residual[r], w[r], column[r], k) for r in _rows(fold, numbers)]
    total = sum(of_fold[1:], of_fold[0])
    model = hierarchy.fit(total, coding, scale)
    mended, effect = np.empty(len(x)), np.empty(len(x))
    for rows, own in zip(_rows(fold, numbers), of_fold):
        other = hierarchy.refit(model, total - own) if len(numbers) > 1 else model
        mended[rows] = residual[rows] - other.nuisance(x[rows])
        coefficients = other.coefficients(coding)
        effect[rows] = np.einsum("ij,ij->i", x[rows], coefficients[paired[rows] - 1])
    return model, mended, effect


def _rows(fold: Whole, numbers: Whole) -> list[Whole]:
    return [np.flatnonzero(fold == number) for number in numbers]


def _cross_trees(
    X: Array,
    p_none: Array,
    target: Array,
    w: Array,
    is_treated: NDArray[np.bool_],
    codes: Array,
    fold: Whole,
    settings: Models,
    seed: int,
) -> tuple[lgb.Booster | None, Array]:
    params = tree_parameters(settings, seed)
    full = np.column_stack([X, p_none, codes])
    if is_treated.sum() < 1000:
        return None, np.zeros(len(X))

    def fit_predict(known: Whole, new: Whole) -> Array:
        known = known[is_treated[known]]
        return response.raw(
            response.grow(full[known], target[known], w[known], params, _TREES), full[new]
        )

    predicted = crossfit.out_of_fold(fold, fit_predict)
    known = np.flatnonzero(is_treated)
    return response.grow(full[known], target[known], w[known], params, _TREES), predicted


def tree_parameters(settings: Models, seed: int) -> dict[str, Any]:
    """Give LightGBM's parameters for effects: much noise, little signal."""
    return response.parameters(
        settings,
        seed,
        objective="regression",
        boost_from_average=False,
        num_leaves=min(settings.leaves, 8),
        learning_rate=0.05,
        lambda_l2=500.0,
    )


def _mean_by(values: Array, number: Whole, weight: Array, size: int) -> Array:
    total = np.bincount(number, weight, minlength=size)
    return np.bincount(number, weight * values, minlength=size) / np.maximum(total, 1e-12)


def _signed_log(X: Array, p_none: Array) -> Array:
    odds = logit(np.clip(p_none, 1e-4, 1 - 1e-4))
    return np.column_stack([np.sign(X) * np.log1p(np.abs(X)), odds])
