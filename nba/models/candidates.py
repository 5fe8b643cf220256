"""What the ensemble of effects is made of: candidates fitted without one fold, and predictors of new rows.

A candidate learns the effect of every treatment from the rows of all folds but one, which then judges it: a
stack that weighs candidates by their loss must not be led astray by what leaked. `x_trees` and `t_trees`
know nothing of the judged fold's outcomes. Of the others something is left: `dr_trees`, `dr_ridge` and
`response` learn from scores of the other folds' rows, whose outcome models have seen the judged fold (the
scores' mean does not depend on them where probabilities are known), and `hierarchy` without a fold is one
Newton step from the fit to all rows.

- `hierarchy`: the Bayesian hierarchy over standardised features (`nba.models.hierarchy`), logistic for 0/1
  outcomes, linear for money;
- `x_trees`: the X-learner with LightGBM, trees of one split: what features add to an effect, each by itself;
  for 0/1 outcomes on the log-odds, since what contact adds in points goes with p (1 − p);
- `t_trees`: the difference of the outcome models;
- `dr_trees`, `dr_ridge`: regressions of doubly robust scores, the trees of more splits, for interactions;
- `response`: the same relative lift for everyone, so that effects rank as responses do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.linear_model import RidgeCV

from nba.models import hierarchy, learners
from nba.models.hierarchy import Hierarchy
from nba.models.inputs import Coding
from nba.models.learners import Fitted, Shifted
from nba.models.trial import Trial
from nba.models.uplift import log_odds

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

NAMES = ("hierarchy", "x_trees", "t_trees", "dr_trees", "dr_ridge", "response")
_TOTAL = 0.8  # weight of all before data: what is found on rows is a little less true of others
_EARNED = 2_500  # rows per arm at which trees are trusted as much as the hierarchy
# How effects' trees are by default. There is so little signal in effects that trees of one split, which
# leave out interactions, find more of it than larger ones.
TREES: Mapping[str, Any] = {
    "num_leaves": 2, "min_child_samples": 300, "learning_rate": 0.06, "n_estimators": 60,
}  # fmt: skip
_ALPHAS = 10.0 ** np.arange(1, 7)
_COEFFICIENTS = 600  # of the hierarchy, at most


def prior(names: Sequence[str], rows: float) -> Array:
    """Give each candidate's weight before data, shape (candidates,); their sum is always the same.

    Few rows favour the hierarchy, which shrinks what it cannot tell; trees earn trust with rows. The
    others are no better on any set that was looked at: data must speak for them, unless they are alone.

    Args:
        names: Of `NAMES`.
        rows: Rows per arm.

    Example:
        >>> prior(("hierarchy", "x_trees", "response"), 2_500).tolist()
        [0.4, 0.4, 0.0]
    """
    trees = rows / (rows + _EARNED)
    share = {"hierarchy": 1 - trees, "x_trees": trees}
    weight = np.array([share.get(name, 0.0) for name in names])
    weight = weight if weight.any() else np.ones(len(names))
    return _TOTAL * weight / weight.sum()


@dataclass(frozen=True)
class Scaling:
    """Features of the linear candidates: signed logarithms, standardised, unknown at the mean.

    Of more than `most` that vary, those are kept that go most with the outcome.

    Attributes:
        kept: Columns that vary, shape (q,).
        center, scale: Of their logarithms, shape (q,).
    """

    kept: Whole
    center: Array
    scale: Array

    @classmethod
    def of(cls, X: Array, y: Array, most: int = 400) -> "Scaling":
        """Learn centres and scales; `y` (n,) is the outcome."""
        known = np.isfinite(X)
        n = np.maximum(known.sum(axis=0), 1)
        values = _log(X)
        center = np.where(known, values, 0).sum(axis=0) / n
        centered = np.where(known, values - center, 0)
        scale = np.sqrt((centered**2).sum(axis=0) / n)
        kept = np.flatnonzero(scale > 1e-9)
        if len(kept) > most:
            together = np.abs((y - y.mean()) @ centered[:, kept]) / scale[kept]
            kept = np.sort(kept[np.argsort(-together, kind="stable")[:most]])
        return cls(kept, center[kept], scale[kept])

    def apply(self, X: Array) -> Array:
        """Give the inputs, shape (n, 1 + q), first column 1."""
        out = np.ones((len(X), 1 + len(self.kept)))
        values = (_log(X[:, self.kept]) - self.center) / self.scale
        out[:, 1:] = np.clip(np.nan_to_num(values, nan=0.0), -4, 4)
        return out


def _log(X: Array) -> Array:
    return np.asarray(np.sign(X) * np.log1p(np.abs(X)))


@dataclass(frozen=True)
class Fold:
    """What candidates of one fold learn from.

    Attributes:
        data: All rows.
        rows: Rows of the other folds.
        outcomes: One model per arm, fitted on `rows`.
        mu: Their predictions for all rows, shape (n, 1 + T).
        effects: Doubly robust scores of the effects, shape (n, T); rows of other folds count. Their outcome
            models lack the row's own fold, not this one.
        base: Model of effects (LightGBM) to clone.
    """

    data: Trial
    rows: Whole
    outcomes: list[Fitted]
    mu: Array
    effects: Array
    base: Any

    def supported(self, k: int) -> Whole:
        """Rows of the other folds that could have got treatment k (from 1) as well as the control."""
        return self.rows[self.data.possible[self.rows, k - 1]]


@dataclass(frozen=True)
class XTrees:
    """An X-learner: per treatment the model of those who got it, of the control, and its share."""

    sides: tuple[tuple[Fitted, Fitted, float], ...]

    @classmethod
    def fit(cls, fold: Fold) -> "XTrees":
        """Learn imputed effects: each side's come from the outcome model of the other side."""
        data, sides = fold.data, []
        for k in range(1, len(data.arms)):
            rows = fold.supported(k)
            none, got = rows[data.arm[rows] == 0], rows[data.arm[rows] == k]
            high = Fitted(fold.base, data.X[got], data.y[got] - fold.mu[got, 0], data.weight[got])
            low = Fitted(fold.base, data.X[none], fold.mu[none, k] - data.y[none], data.weight[none])
            sides.append((high, low, _share(data.weight, got, none)))
        return cls(tuple(sides))

    def __call__(self, X: Array, mu: Array) -> Array:
        """Predict, shape (n, T)."""
        del mu
        return np.column_stack([g * low(X) + (1 - g) * high(X) for high, low, g in self.sides])


@dataclass(frozen=True)
class OddsTrees:
    """An X-learner of 0/1 outcomes on the log-odds.

    Each side's outcomes are fitted by logistic loss, starting from the chance that the outcome model of the
    other side gives: rows count by their noise, and features add to the odds, so that effects in points
    are larger where a response is neither rare nor sure, without trees having to find that out.
    """

    sides: tuple[tuple[Shifted, Shifted, float], ...]

    @classmethod
    def fit(cls, fold: Fold) -> "OddsTrees":
        """Learn how far contact moves the log-odds, on both sides."""
        data, odds, sides = fold.data, log_odds(fold.mu), []
        for k in range(1, len(data.arms)):
            rows = fold.supported(k)
            none, got = rows[data.arm[rows] == 0], rows[data.arm[rows] == k]
            high = Shifted(fold.base, data.X[got], data.y[got], data.weight[got], odds[got, 0])
            # What contact would have added to the control: from its chance with contact, of no response.
            low = Shifted(fold.base, data.X[none], 1 - data.y[none], data.weight[none], -odds[none, k])
            sides.append((high, low, _share(data.weight, got, none)))
        return cls(tuple(sides))

    def __call__(self, X: Array, mu: Array) -> Array:
        """Predict, shape (n, T)."""
        odds = log_odds(mu[:, 0])
        moved = np.column_stack([g * low(X) + (1 - g) * high(X) for high, low, g in self.sides])
        return np.asarray(expit(odds[:, None] + moved) - expit(odds)[:, None])


def _share(weight: Array, got: Whole, none: Whole) -> float:
    treated = weight[got].sum()
    return float(treated / (treated + weight[none].sum()))


@dataclass(frozen=True)
class TTrees:
    """The difference of outcome models."""

    def __call__(self, X: Array, mu: Array) -> Array:
        """Predict, shape (n, T)."""
        del X
        return mu[:, 1:] - mu[:, :1]


@dataclass(frozen=True)
class ByTreatment:
    """One regression of doubly robust scores per treatment."""

    models: tuple[Fitted, ...]
    scaling: Scaling | None = None

    @classmethod
    def trees(cls, fold: Fold) -> "ByTreatment":
        """Fit half as many trees of twice the leaves, and twice the rows in each."""
        known, base = fold.base.get_params(), clone(fold.base)
        base.set_params(
            num_leaves=2 * known["num_leaves"],
            min_child_samples=2 * known["min_child_samples"],
            n_estimators=max(known["n_estimators"] // 2, 1),
        )
        data, models = fold.data, []
        for k in range(1, len(data.arms)):
            rows = fold.supported(k)
            models.append(Fitted(base, data.X[rows], fold.effects[rows, k - 1], data.weight[rows]))
        return cls(tuple(models))

    @classmethod
    def ridge(cls, fold: Fold) -> "ByTreatment":
        """Fit a ridge regression whose penalty generalised cross-validation chooses."""
        scaling = Scaling.of(fold.data.X[fold.rows], fold.data.y[fold.rows])
        data, models = fold.data, []
        for k in range(1, len(data.arms)):
            rows = fold.supported(k)
            x = scaling.apply(data.X[rows])[:, 1:]
            models.append(Fitted(RidgeCV(_ALPHAS), x, fold.effects[rows, k - 1], data.weight[rows]))
        return cls(tuple(models), scaling)

    def __call__(self, X: Array, mu: Array) -> Array:
        """Predict, shape (n, T)."""
        del mu
        x = X if self.scaling is None else self.scaling.apply(X)[:, 1:]
        return np.column_stack([model(x) for model in self.models])


@dataclass(frozen=True)
class Relative:
    """The same relative lift for everyone: effects in proportion to the response without contact.

    Attributes:
        average: Average effects, shape (T,).
        level: Average outcome of the control.
    """

    average: Array
    level: float

    def __call__(self, X: Array, mu: Array) -> Array:
        """Predict, shape (n, T)."""
        del X
        return (
            np.outer(mu[:, 0] / self.level, self.average)
            if self.level
            else np.tile(self.average, (len(mu), 1))
        )


@dataclass(frozen=True)
class Linear:
    """The hierarchy without one fold.

    Attributes:
        scaling: Of the features.
        model: Coefficients.
        offset: Log-odds that x'η is added to; NaN for a linear outcome.
        unit: What one unit of the linear model is, in the outcome's unit.
    """

    scaling: Scaling
    model: Hierarchy
    offset: float
    unit: float

    def __call__(self, X: Array, mu: Array) -> Array:
        """Predict, shape (n, T)."""
        del mu
        return self.with_error(X)[0]

    def with_error(self, X: Array) -> tuple[Array, Array]:
        """Predict with posterior standard errors, both of shape (n, T)."""
        x = self.scaling.apply(X)
        coding = self.model.layout.coding
        mean, se = self.model.effect(x, coding)
        if np.isnan(self.offset):
            return mean * self.unit, se * self.unit
        none = (self.offset + self.model.nuisance(x))[:, None]
        p = expit(none + mean)
        return p - expit(none), se * p * (1 - p)


def fit_linear(data: Trial, coding: Coding) -> tuple[Linear, dict[int, Linear]]:
    """Fit the hierarchy to all rows, and without each fold.

    Args:
        data: The trial.
        coding: What the treatments are made of.
    """
    blocks = 2 + len(coding.action_names) + len(coding.channel_names)
    scaling = Scaling.of(data.X, data.y, most=_COEFFICIENTS // blocks)
    x = scaling.apply(data.X)
    split = data.arm, np.maximum(data.arm, 1), data.fold, coding
    none = data.arm == 0
    level = float(np.average(data.y[none], weights=data.weight[none]))
    if data.is_binary:
        offset = float(logit(np.clip(level, 1e-4, 1 - 1e-4)))
        start = np.full(len(x), offset)
        crossed = hierarchy.cross_fit_logit(x, data.y, start, data.weight, *split, 0.3)
        unit = 1.0
    else:
        offset, unit = np.nan, float(data.y.std())
        crossed = hierarchy.cross_fit(x, (data.y - level) / unit, data.weight, *split, 0.05)
    whole = Linear(scaling, crossed.model, offset, unit)
    return whole, {k: Linear(scaling, model, offset, unit) for k, model in crossed.others.items()}


def base_effect(seed: int, monotone: list[int] | None, more: Mapping[str, Any] | None = None) -> Any:
    """Give the model of effects that candidates clone; `more` are parameters of LightGBM."""
    signs = {"monotone_constraints": monotone} if monotone else {}
    return learners.effect_model(seed, **{**TREES, **signs, **(more or {})})
