"""S, T, X, R and DR learners: effects of several treatments at once, over any scikit-learn regressor.

All are scikit-learn estimators with `fit(X, y, treatment, p_action)`; `effect` gives one column per
treatment, `predict` the same (a vector if there is one treatment). Outcomes are cross-fitted: no row is
judged by a model that has seen its customer. With outcome models μ_a(x), assignment probabilities p_a(x)
and arm 0 the control:

- **S**: one outcome model over features and arm; the effect is its difference between arms.
- **T**: one outcome model per arm; μ_k − μ_0.
- **X** (Künzel et al. 2019): τ1 learns y − μ_0 on those who got k, τ0 learns μ_k − y on the control;
  the effect is g τ0 + (1 − g) τ1 with g the share of k among both.
- **R** (Nie, Wager 2021): minimises Σ (y − m − (1[k] − e) τ)² on those who got k or nothing, with
  e = p_k / (p_k + p_0) and m = e μ_k + (1 − e) μ_0.
- **DR** (Kennedy 2023): regresses the score μ_k − μ_0 + 1[k](y − μ_k)/p_k − 1[0](y − μ_0)/p_0, whose mean
  given x is the effect even if μ is wrong, as p is known.

Assignment probabilities come from the log and may differ from customer to customer; for observational
data `nba.models.overlap` estimates them, with diagnostics.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import lightgbm as lgb
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.utils.validation import check_is_fitted, validate_data

from nba.catalog import NONE
from nba.errors import DataError, listed
from nba.models import crossfit, trial
from nba.models.trial import Trial

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_LEAST = 20  # rows below which an arm's outcome is its mean
_NEWTON = 10
_QUIET: dict[str, Any] = {
    "verbosity": -1, "n_jobs": 1, "deterministic": True, "force_col_wise": True, "max_bin": 63,
}  # fmt: skip


def outcome_model(is_binary: bool, seed: int, **more: Any) -> Any:
    """Give the default model of outcomes: LightGBM, small trees, strongly regularised."""
    kind = lgb.LGBMClassifier if is_binary else lgb.LGBMRegressor
    found = {
        "n_estimators": 80, "learning_rate": 0.06, "num_leaves": 8, "min_child_samples": 100,
        "reg_lambda": 10.0, "colsample_bytree": 0.7, "random_state": seed, **_QUIET, **more,
    }  # fmt: skip
    return kind(**found)


def effect_model(seed: int, **more: Any) -> Any:
    """Give the default model of effects: LightGBM, fewer and smaller trees, as there is little signal."""
    found = {
        "n_estimators": 60, "learning_rate": 0.06, "num_leaves": 4, "min_child_samples": 300,
        "reg_lambda": 10.0, "colsample_bytree": 0.7, "random_state": seed, **_QUIET, **more,
    }  # fmt: skip
    return lgb.LGBMRegressor(**found)


class Fitted:
    """A regressor or classifier fitted to some rows; the mean where rows, columns or variety are too few."""

    def __init__(self, base: Any, X: Array, y: Array, weight: Array) -> None:
        self.mean = float(np.average(y, weights=weight)) if len(y) and weight.sum() > 0 else 0.0
        self.model: Any = None
        if len(y) < 2 or not X.shape[1] or np.ptp(y) == 0 or (len(y) < _LEAST and is_classifier(base)):
            return
        model = clone(base)
        if "min_child_samples" in model.get_params():
            model.set_params(min_child_samples=_least_leaf(model, len(y)))
        target = y.astype(int) if is_classifier(base) else y
        if len(y) and np.allclose(weight, weight[0]):
            self.model = model.fit(X, target)
        else:
            self.model = model.fit(X, target, **_weighted(model, weight))

    def __call__(self, X: Array) -> Array:
        """Predict, shape (n,)."""
        if self.model is None:
            return np.full(len(X), self.mean)
        if isinstance(self.model, lgb.LGBMModel):
            return np.asarray(self.model.booster_.predict(X), dtype=np.float64)
        if is_classifier(self.model):
            return np.asarray(self.model.predict_proba(X)[:, 1], dtype=np.float64)
        return np.asarray(self.model.predict(X), dtype=np.float64)


class Shifted:
    """What moves 0/1 outcomes from given log-odds: one number, and trees of what it leaves.

    The number has a normal prior of standard deviation 1, so that few rows of one outcome give a finite one.

    Args:
        base: LightGBM whose parameters the trees have.
        X: Features, shape (n, p).
        y: 0 or 1, shape (n,).
        weight: Shape (n,).
        offset: Log-odds to start from, shape (n,).
    """

    def __init__(self, base: Any, X: Array, y: Array, weight: Array, offset: Array) -> None:
        self.shift, self.model = 0.0, None
        for _ in range(_NEWTON):
            p = expit(offset + self.shift)
            step = (weight @ (y - p) - self.shift) / (weight @ (p * (1 - p)) + 1)
            self.shift += float(np.clip(step, -1, 1))
        if len(y) < _LEAST or np.ptp(y) == 0:
            return
        model = lgb.LGBMClassifier(**base.get_params())
        model.set_params(min_child_samples=_least_leaf(model, len(y)))
        self.model = model.fit(X, y.astype(int), sample_weight=weight, init_score=offset + self.shift)

    def __call__(self, X: Array) -> Array:
        """Give by how much the log-odds move, shape (n,)."""
        if self.model is None:
            return np.full(len(X), self.shift)
        return self.shift + np.asarray(self.model.booster_.predict(X, raw_score=True), dtype=np.float64)


def _least_leaf(model: Any, n: int) -> int:
    # Few rows must be able to split at all.
    return int(np.clip(n // 20, 1, model.get_params()["min_child_samples"]))


def _weighted(model: Any, weight: Array) -> dict[str, Any]:
    # A pipeline takes the weights of its last step.
    steps = getattr(model, "steps", None)
    return {f"{steps[-1][0]}__sample_weight" if steps else "sample_weight": weight}


def cross_fit_outcomes(data: Trial, base: Any) -> Array:
    """Predict every arm's outcome for every row by models that have not seen its fold.

    Args:
        data: The trial.
        base: A regressor, or a classifier of 0/1 outcomes.

    Returns:
        Shape (n, 1 + T).
    """

    def fit_predict(known: Whole, new: Whole) -> Array:
        models = fit_outcomes(data, base, known)
        return np.column_stack([model(data.X[new]) for model in models])

    return crossfit.out_of_fold(data.fold, fit_predict)


def fit_outcomes(data: Trial, base: Any, rows: Whole) -> list[Fitted]:
    """Fit one outcome model per arm on some rows."""
    out = []
    for k in range(len(data.arms)):
        own = rows[data.arm[rows] == k]
        out.append(Fitted(base, data.X[own], data.y[own], data.weight[own]))
    return out


class _Learner(BaseEstimator):
    """What the learners share.

    Args:
        outcome: Regressor, or classifier of 0/1 outcomes; LightGBM if None.
        control: Name of the arm that the others are compared with.
        folds: Cross-fitting folds.
        random_state: Of folds and of the default models.

    Attributes:
        treatments_: Names of the T treatments, sorted; the columns of `effect`.
    """

    _has_gaps = False  # whether the learner minds which arms a row could have got

    def __init__(
        self, outcome: Any = None, *, control: Any = NONE, folds: int = 5, random_state: int = 0
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.folds = folds
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        treatment: ArrayLike | None = None,
        p_action: Any = None,
        *,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Learn the effects.

        Args:
            X: Features, shape (n, p), numbers; NaN is unknown.
            y: Outcome, 0/1 or money, shape (n,).
            treatment: Arm of each row, shape (n,).
            p_action: Known assignment probabilities; see `nba.models.trial.read`.
            sample_weight: Shape (n,).
            groups: Customer of each row; their rows share a fold and count as one unit in intervals.

        Raises:
            DataError: for data that cannot be learnt from, every fault named at once.
        """
        trial.check_numbers(X)
        if np.asarray(y).dtype.kind in "OSU":
            trial.outcomes(y)
        if faults := trial.faults_of_missing(y):
            raise listed(faults, "effects cannot be learnt", "Leave out rows whose outcome is unknown.")
        # Infinite values are left to `trial.read`, which names their columns.
        X, y = validate_data(
            self, X, y, dtype=np.float64, ensure_all_finite=False, ensure_min_samples=2, y_numeric=True
        )
        more = {"control": self.control, "weight": sample_weight, "groups": groups}
        more |= {"names": getattr(self, "feature_names_in_", None), "has_gaps": self._has_gaps}
        data = trial.read(
            np.asarray(X), y, treatment, p_action, **more, folds=self.folds, seed=self.random_state
        )
        self.treatments_ = data.arms[1:]
        self._fit(data)
        return self

    def effect(self, X: ArrayLike) -> Array:
        """Give the effect of every treatment, shape (n, T), in the unit of the outcome."""
        check_is_fitted(self, "treatments_")
        found = self._features(X)
        return self._effect(found) if len(found) else np.empty((0, len(self.treatments_)))

    def predict(self, X: ArrayLike) -> Array:
        """Give `effect`; a vector if there is one treatment."""
        found = self.effect(X)
        return found[:, 0] if found.shape[1] == 1 else found

    def __sklearn_tags__(self) -> Any:
        """Say what scikit-learn may expect: unknown values are fine, targets are needed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        tags.target_tags.single_output = True
        return tags

    def _features(self, X: ArrayLike) -> Array:
        trial.check_numbers(X)
        found = np.asarray(
            validate_data(
                self, X, dtype=np.float64, ensure_all_finite=False, ensure_min_samples=0, reset=False
            )
        )
        if faults := trial.faults_of_features(found, getattr(self, "feature_names_in_", None)):
            raise listed(faults, "effects of these rows cannot be told")
        return found

    def _base(self, data: Trial) -> Any:
        if self.outcome is None:
            return outcome_model(data.is_binary, self.random_state)
        if is_classifier(self.outcome) and not data.is_binary:
            raise DataError(
                f"outcome is {type(self.outcome).__name__}, a classifier, but y is no response (0 or 1)",
                "Pass a regressor, or code responses as 0 and 1.",
            )
        return self.outcome

    def _fit(self, data: Trial) -> None:
        raise NotImplementedError

    def _effect(self, X: Array) -> Array:
        raise NotImplementedError


class _Final(_Learner):
    """A learner with a second model, of the effect itself.

    Args:
        outcome: As in the other learners.
        final: Regressor of the effect; LightGBM if None.
        monotone: By feature, +1 where the effect may only rise with it, −1 where only fall, 0 free; for
            the default final.
        control: As in the other learners.
        folds: Cross-fitting folds.
        random_state: Of folds and of the default models.
    """

    def __init__(
        self,
        outcome: Any = None,
        final: Any = None,
        *,
        monotone: Sequence[int] | None = None,
        control: Any = NONE,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        super().__init__(outcome, control=control, folds=folds, random_state=random_state)
        self.final = final
        self.monotone = monotone

    def _final(self, n_features: int) -> Any:
        if self.monotone is None:
            return self.final if self.final is not None else effect_model(self.random_state)
        return effect_model(
            self.random_state, monotone_constraints=constraints(self.monotone, self.final, n_features)
        )


def constraints(monotone: Sequence[int], final: Any, n_features: int) -> list[int]:
    """Check monotone constraints of the effect.

    Raises:
        DataError: when they do not fit the features, or the final model is not the default one.
    """
    if final is not None:
        raise DataError(
            "monotone is for the default final model; another final was given", "Constrain that model itself."
        )
    if len(monotone) != n_features or not set(monotone) <= {-1, 0, 1}:
        raise DataError(f"monotone is {list(monotone)}; expected {n_features} numbers of -1, 0 or 1")
    return [int(sign) for sign in monotone]


class SLearner(_Learner):
    """One outcome model over features, arm and their products.

    Args:
        outcome: As in the other learners.
        interactions: Whether products of features and arms are inputs too; a linear model finds no
            heterogeneity without them.
        control: As in the other learners.
        folds: Not used: nothing is cross-fitted.
        random_state: Of the default model.
    """

    def __init__(
        self,
        outcome: Any = None,
        *,
        interactions: bool = True,
        control: Any = NONE,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        super().__init__(outcome, control=control, folds=folds, random_state=random_state)
        self.interactions = interactions

    def _fit(self, data: Trial) -> None:
        base = self._base(data)
        self._model = Fitted(base, self._inputs(data.X, data.arm), data.y, data.weight)

    def _inputs(self, X: Array, arm: Whole) -> Array:
        got = np.eye(1 + len(self.treatments_))[arm][:, 1:]
        if not self.interactions:
            return np.hstack([X, got])
        return np.hstack([X, got, *(X * got[:, [k]] for k in range(got.shape[1]))])

    def _effect(self, X: Array) -> Array:
        every = [np.full(len(X), k) for k in range(1 + len(self.treatments_))]
        found = np.column_stack([self._model(self._inputs(X, arm)) for arm in every])
        return found[:, 1:] - found[:, :1]


class TLearner(_Learner):
    """One outcome model per arm."""

    def _fit(self, data: Trial) -> None:
        self._models = fit_outcomes(data, self._base(data), np.arange(len(data.y)))

    def _effect(self, X: Array) -> Array:
        found = np.column_stack([model(X) for model in self._models])
        return found[:, 1:] - found[:, :1]


class XLearner(_Final):
    """Imputed effects on both sides, weighed by the share of the treatment."""

    def _fit(self, data: Trial) -> None:
        mu = cross_fit_outcomes(data, self._base(data))
        self._sides: list[tuple[Fitted, Fitted, float]] = []
        final = self._final(data.X.shape[1])
        none = np.flatnonzero(data.arm == 0)
        for k in range(1, len(data.arms)):
            got = np.flatnonzero(data.arm == k)
            treated = Fitted(final, data.X[got], data.y[got] - mu[got, 0], data.weight[got])
            control = Fitted(final, data.X[none], mu[none, k] - data.y[none], data.weight[none])
            share = data.weight[got].sum() / (data.weight[got].sum() + data.weight[none].sum())
            self._sides.append((treated, control, float(share)))

    def _effect(self, X: Array) -> Array:
        return np.column_stack([g * low(X) + (1 - g) * high(X) for high, low, g in self._sides])


class RLearner(_Final):
    """Robinson's residuals, one regression per treatment against the control."""

    def _fit(self, data: Trial) -> None:
        if not np.isfinite(data.p).all():
            raise DataError(
                "the R-learner needs the probabilities of all arms; found the own arm's only",
                "Pass p_action with one column per arm, or use the DR learner, which needs no more.",
            )
        mu = cross_fit_outcomes(data, self._base(data))
        final = self._final(data.X.shape[1])
        self._models = []
        for k in range(1, len(data.arms)):
            rows = np.flatnonzero((data.arm == k) | (data.arm == 0))
            e = data.p[rows, k] / (data.p[rows, k] + data.p[rows, 0])
            surprise = (data.arm[rows] == k) - e
            expected = e * mu[rows, k] + (1 - e) * mu[rows, 0]
            target = (data.y[rows] - expected) / surprise
            self._models.append(Fitted(final, data.X[rows], target, data.weight[rows] * surprise**2))

    def _effect(self, X: Array) -> Array:
        return np.column_stack([model(X) for model in self._models])


class DRLearner(_Final):
    """A regression of doubly robust scores, by treatment or jointly over actions and channels.

    Args:
        outcome: As in the other learners.
        final: Regressor of the effect; LightGBM if None.
        parts: By treatment, what it is made of, such as `("loan", "email")`. Given these, one final model
            learns all treatments jointly from features and parts, so that a rare treatment borrows from
            its action and its channel, and effects of unseen combinations can be asked for.
        monotone: As in the other learners.
        control: As in the other learners.
        folds: Cross-fitting folds.
        random_state: Of folds and of the default models.
    """

    def __init__(
        self,
        outcome: Any = None,
        final: Any = None,
        *,
        parts: Mapping[Any, Sequence[str]] | None = None,
        monotone: Sequence[int] | None = None,
        control: Any = NONE,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        super().__init__(
            outcome, final, monotone=monotone, control=control, folds=folds, random_state=random_state
        )
        self.parts = parts

    def _fit(self, data: Trial) -> None:
        scores = data.scores(cross_fit_outcomes(data, self._base(data)))
        effects = scores[:, 1:] - scores[:, :1]
        p = data.X.shape[1]
        if self.parts is None:
            final = self._final(p)
            self._models = [Fitted(final, data.X, target, data.weight) for target in effects.T]
            return
        absent = [name for name in self.treatments_ if name not in self.parts]
        if absent:
            raise DataError(f"parts does not say what {absent} are made of", "Name every treatment.")
        names = dict.fromkeys((i, w) for t in self.treatments_ for i, w in enumerate(self.parts[t]))
        self._names = tuple(names)
        if self.monotone is None:
            final = self.final if self.final is not None else effect_model(self.random_state)
        else:
            signs = [*constraints(self.monotone, self.final, p), *(0,) * len(self._names)]
            final = effect_model(self.random_state, monotone_constraints=signs)
        X = np.vstack([self._coded(data.X, self.parts[t]) for t in self.treatments_])
        self._joint = Fitted(final, X, effects.T.ravel(), self._precision(data))

    def _precision(self, data: Trial) -> Array:
        # A treatment that few got has noisy scores; they weigh by the inverse of their variance.
        n = np.bincount(data.arm, data.weight, minlength=len(data.arms))
        return np.concatenate([data.weight * n[k] / (n[k] + n[0]) for k in range(1, len(n))])

    def _coded(self, X: Array, parts: Sequence[str]) -> Array:
        code = np.array([name in enumerate(parts) for name in self._names], dtype=np.float64)
        return np.hstack([X, np.tile(code, (len(X), 1))])

    def _effect(self, X: Array) -> Array:
        if self.parts is None:
            return np.column_stack([model(X) for model in self._models])
        return np.column_stack([self._joint(self._coded(X, self.parts[t])) for t in self.treatments_])

    def effect_of(self, X: ArrayLike, parts: Sequence[str]) -> Array:
        """Give the effect of any combination of known parts, shape (n,); needs `parts`."""
        check_is_fitted(self, "_joint")
        found = self._features(X)
        return self._joint(self._coded(found, parts)) if len(found) else np.empty(0)
