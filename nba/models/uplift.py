"""Does contact change it: the effect of each treatment on each customer's chance of a response.

How it is learnt (rows are decisions; `none` rows tell the baseline, treated rows the effect):

1. A cross-fitted baseline m0(x), the chance of a response without contact. For a treated row,
   response − m0(x) has the effect as its mean if m0 is right. Given x, treatments were drawn with
   probabilities that depend on x only (every arm of the experiment draws from the features that are logged
   here, and the arm itself is hashed), so that pooling the arms leaves this mean what it is: no weighting by
   1/p_action, whose variance with ten treatments would drown effects of a few points. What the baseline
   misses is mended from the `none` rows within the effect model, as the R-learner does (Nie, Wager 2021),
   as far as that model can express it: where a policy picked customers by what is missed still, effects
   lean that way. The report's groups are weighted (`nba.models.balance`) and show it.
2. Candidates: one number of points per treatment (shrunk to its action and channel); one odds ratio per
   treatment; the Bayesian hierarchy of log-odds over features (`nba.models.hierarchy`); small LightGBM
   trees on the residuals; the response model's own difference.
3. A blend: constants plus the candidates' deviations from them, with non-negative weights fitted to
   out-of-fold residuals. The weights have a normal prior, so that few data neither ignore what the
   candidates have found nor take it at its word, and data without heterogeneity drive them to zero.

The standard error is the hierarchy's posterior, widened by a jackknife over customers
(`nba.models.jackknife`) and by how far the blended candidates disagree: it is in closed form, and large for
treatments that were rarely or never tried on such customers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import expit, logit

from nba.models import crossfit, hierarchy, jackknife, response, traverse
from nba.models.hierarchy import Hierarchy
from nba.models.inputs import Coding
from nba.models.traverse import Forest
from nba.settings import Models

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

CANDIDATES = ("odds", "hierarchy", "trees", "response")
# What each setting of the capacity may make of effects.
CAPACITIES: Mapping[str, tuple[str, ...]] = {
    "constant": (),
    "linear": ("odds", "hierarchy"),
    "trees": ("trees",),
    "blend": CANDIDATES,
}
PRIOR_WEIGHTS = (0.0, 0.25, 0.25, 0.25)
_PRIOR_SD = 0.5
_FOLDS = 3  # of the effect models; those of the baseline may be more
_TREES = 60
_ODDS_SCALE = 0.5  # a treatment that nothing is known of changes the odds by a factor of about e^±0.5


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
        constant: Effects in points that do not depend on x.
        odds: Effects in log-odds that do not depend on x.
        linear: Effects in log-odds that depend on x; their covariance is the posterior's, widened.
        trees: LightGBM on what the constants leave; None where there was too little to learn from.
        weights: Of the candidates' deviations from the constants, in the order of `CANDIDATES`.
        response_mean: Mean of the response model's difference by treatment, shape (T,).
    """

    coding: Coding
    scaling: Scaling
    constant: Hierarchy
    odds: Hierarchy
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
        ones = x[:, :1]
        base, _ = self.constant.effect(ones, treatments)
        odds, _ = self.odds.effect(ones, treatments)
        linear, linear_se = self.linear.effect(x, treatments)
        offset = (log_odds(p_response[:, 0]) + self.linear.nuisance(x))[:, None]
        p_none = expit(offset)
        known = self.coding.columns(treatments.treatment_ids) - 1
        mean = np.where(known >= 0, self.response_mean[known], self.response_mean.mean())
        parts = np.stack(
            [
                expit(offset + odds) - p_none - base,
                expit(offset + linear) - p_none - base,
                self._grown(X, p_response[:, 0], treatments),
                p_response[:, 1:] - p_response[:, :1] - mean,
            ]
        )
        blended = np.tensordot(self.weights, parts, axes=1)
        p_treated = np.clip(p_none + base + blended, 0.01, 0.5)
        variance = (linear_se * p_treated * (1 - p_treated)) ** 2
        if (total := self.weights.sum()) > 0:
            apart = (parts - blended / total) ** 2
            variance = variance + min(total, 1.0) ** 2 * np.tensordot(self.weights / total, apart, axes=1)
        return base + blended, np.sqrt(variance)

    def baseline(self, X: Array, p_none: Array) -> Array:
        """Give the chance of a response without contact as mended by the `none` rows, shape (n,)."""
        return np.asarray(expit(log_odds(p_none) + self.linear.nuisance(self.scaling.apply(X, p_none))))

    def _grown(self, X: Array, p_none: Array, treatments: Coding) -> Array:
        out = np.zeros((len(X), len(treatments.treatment_ids)))
        if self.trees is not None and self.weights[2] > 0:
            codes = self.coding.codes(treatments)[1:]
            return traverse.raw(self.trees, self.forest, np.column_stack([X, p_none]), codes)
        return out

    @cached_property
    def forest(self) -> Forest | None:
        """The trees as one walk per customer reads them; None where there are none to walk."""
        return None if self.trees is None else Forest.of(self.trees)


@dataclass(frozen=True)
class Learnt:
    """The effect model with what its report needs; everything but the model is out of fold.

    Attributes:
        model: Fitted on all rows.
        residual: Response less the mended baseline, shape (n,): on treated rows a noisy score, without
            bias, of the effect of the row's own treatment.
        effect: Predicted effect of the treatment that the row got or, for `none`, was paired with, (n,).
        losses: Weighted loss of treated rows by candidate, of `constant` and of the `blend`.
        weights: Of the blend by capacity: a fit of another capacity is the same model with its weights.
        widening: What the posterior's standard errors were multiplied by (`nba.models.jackknife`).
    """

    model: Uplift
    residual: Array
    effect: Array
    losses: Mapping[str, float]
    weights: Mapping[str, Array]
    widening: float = 1.0


@dataclass(frozen=True)
class Rows:
    """The examples as arrays, n rows.

    Attributes:
        X: Features, shape (n, p).
        column: Treatment, 0 is `none`.
        paired: The treatment by whose effect a row is ranked: its own or, for `none`, one drawn from the
            treatments given; 1 to T.
        y: 0 or 1.
        weight: Weight in all losses.
        fold: Fold, by customer.
    """

    X: Array
    column: Whole
    paired: Whole
    y: Array
    weight: Array
    fold: Whole


def fit(rows: Rows, crossed: "response.CrossFitted", coding: Coding, settings: Models, seed: int) -> Learnt:
    """Fit the effect model.

    Args:
        rows: The examples.
        crossed: Out-of-fold chances under `none`, the own and the paired treatment.
        coding: The T treatments.
        settings: Capacity of the trees.
        seed: Of the trees.
    """
    rows = replace(rows, fold=rows.fold % _FOLDS)
    split = rows.column, rows.paired, rows.fold, coding
    scaling = Scaling.of(rows.X, crossed.p_none)
    x = scaling.apply(rows.X, crossed.p_none)
    offset = log_odds(crossed.p_none)
    linear = hierarchy.cross_fit_logit(x, rows.y, offset, rows.weight, *split, _ODDS_SCALE)
    wider = 1 + jackknife.excess(linear, x, rows.column, rows.fold)
    offset = offset + linear.nuisance
    ones = np.ones((len(x), 1))
    odds = hierarchy.cross_fit_logit(ones, rows.y, offset, rows.weight, *split, _ODDS_SCALE)
    residual = rows.y - expit(offset)
    precision = _precision(residual, crossed.p_own, rows.weight)
    scale = float(np.clip(0.5 * np.average(rows.y, weights=rows.weight), 0.005, 0.05))
    constant = hierarchy.cross_fit(ones, residual, precision, *split, scale)
    left = residual - constant.effect
    trees, grown = _grow(rows, crossed.p_none, left, precision, coding, settings, seed)

    p_none, base = expit(offset), constant.effect
    difference = crossed.p_paired - crossed.p_none
    response_mean = _mean_by(difference, rows.paired - 1, rows.weight, len(coding.treatment_ids))
    parts = np.column_stack(
        [
            expit(offset + odds.effect) - p_none - base,
            expit(offset + linear.effect) - p_none - base,
            grown,
            difference - response_mean[rows.paired - 1],
        ]
    )
    treated = rows.column > 0
    blends = {
        capacity: blend(parts[treated] * np.isin(CANDIDATES, used), left[treated], precision[treated])
        for capacity, used in CAPACITIES.items()
    }
    weights, losses = blends[settings.capacity]
    served = replace(linear.model, covariance=linear.model.covariance * wider)
    model = Uplift(coding, scaling, constant.model, odds.model, served, trees, weights, response_mean)
    by_capacity = {capacity: found for capacity, (found, _) in blends.items()}
    return Learnt(model, residual, base + parts @ weights, losses, by_capacity, wider**0.5)


def blend(parts: Array, target: Array, weight: Array) -> tuple[Array, dict[str, float]]:
    """Weigh candidate deviations from the constant effect by their out-of-fold loss.

    The weights are the non-negative maximum of the posterior under a normal prior with mean
    `PRIOR_WEIGHTS` and standard deviation 0.5; the noise of the target has variance 1 / weight.

    Args:
        parts: Deviations by candidate, shape (n, m).
        target: Noisy deviations, shape (n,).
        weight: Inverse variances of the target, shape (n,).

    Returns:
        Weights (m,), and the mean loss of each candidate, of `constant` and of `blend`.
    """
    m = parts.shape[1]
    if not len(target) or not parts.any():
        return np.zeros(m), {}
    root = np.sqrt(weight)[:, None]
    prior = np.array(PRIOR_WEIGHTS[:m])
    design = np.vstack([parts * root, np.eye(m) / _PRIOR_SD])
    weights, _ = nnls(design, np.concatenate([target * root[:, 0], prior / _PRIOR_SD]))
    weights = np.where(parts.any(axis=0), weights, 0.0)
    weights *= min(1.0, 1.25 / max(weights.sum(), 1e-12))
    total = weight.sum()
    losses = {"constant": float(weight @ target**2 / total)}
    for j, name in enumerate(CANDIDATES[:m]):
        losses[name] = float(weight @ (target - parts[:, j]) ** 2 / total)
    losses["blend"] = float(weight @ (target - parts @ weights) ** 2 / total)
    return weights, losses


def _precision(residual: Array, p_own: Array, weight: Array) -> Array:
    # Inverse variance of a 0/1 response, scaled so that the residuals have variance 1 as measured.
    chance = np.clip(p_own, 0.02, 0.5)
    w = weight / (chance * (1 - chance))
    return w * (weight.sum() / max(float(w @ residual**2), 1e-12))


def _grow(
    rows: Rows, p_none: Array, left: Array, precision: Array, coding: Coding, settings: Models, seed: int
) -> tuple[lgb.Booster | None, Array]:
    treated = rows.column > 0
    if treated.sum() < 1000 or rows.y[treated].sum() < 20:
        return None, np.zeros(len(rows.y))
    full = np.column_stack([rows.X, p_none, coding.codes()[rows.paired]])
    weight = precision / precision.mean()
    plan = response.Plan(full, left, weight, tree_parameters(settings, seed), _TREES)

    def fit_predict(known: Whole, new: Whole) -> Array:
        return response.raw(plan.grow(known[treated[known]], threads=1), full[new], threads=1)

    predicted = crossfit.out_of_fold(rows.fold, fit_predict, threads=traverse.allowed_threads())
    return plan.grow(np.flatnonzero(treated)), predicted


def tree_parameters(settings: Models, seed: int) -> dict[str, Any]:
    """Give LightGBM's parameters for effects: much noise, little signal."""
    return response.parameters(
        settings,
        seed,
        objective="regression",
        boost_from_average=False,
        num_leaves=min(settings.leaves, 8),
        learning_rate=0.05,
        lambda_l2=30.0,
    )


def _mean_by(values: Array, number: Whole, weight: Array, size: int) -> Array:
    total = np.bincount(number, weight, minlength=size)
    return np.bincount(number, weight * values, minlength=size) / np.maximum(total, 1e-12)


def log_odds(p: Array) -> Array:
    """Give log-odds of chances, within ±9.2; any shape."""
    return np.asarray(logit(np.clip(p, 1e-4, 1 - 1e-4)))


def _signed_log(X: Array, p_none: Array) -> Array:
    return np.column_stack([np.sign(X) * np.log1p(np.abs(X)), log_odds(p_none)])
