"""A classifier of responses to trust on any table: blended, calibrated, honest about time.

Gradient boosting and a penalised logistic regression see different things in the same data, and few data
favour the second. Both are fitted; their log-odds are blended and calibrated by what gives the
least log loss on rows that neither has seen: later ones if times are given, other folds else.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from nba import metrics
from nba.errors import DataError, MissingError, listed
from nba.models import response, trial

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Calibrator = Callable[[Array], Array]

_BLENDS = np.linspace(0, 1, 11)
_STEP_PRIOR = 20.0  # as if so many rows had been calibrated already


class ResponseClassifier(ClassifierMixin, BaseEstimator):
    """Boosted trees and logistic regression, blended and calibrated on unseen rows.

    Categories are coded by their order of frequency for the trees and one-hot for the regression; one
    that was not there in the fit counts as unknown. Classes are never reweighed, so that
    probabilities stay probabilities however rare the response.

    Args:
        trees: Most trees; early stopping on the unseen rows finds how many serve.
        leaves: Leaves of a tree.
        learning_rate: Of the boosting.
        min_leaf: Least rows of a leaf; smaller where rows are few.
        seeds: Boosters that are averaged, each with its own draws of rows and features.
        monotone: By column, +1, −1 or 0.
        folds: Folds where no times are given.
        random_state: Of folds and trees.

    Attributes:
        classes_: The two classes.
        blend_: Share of the trees in the log-odds.
        trees_: Trees of each booster.
        calibration_: "none", "platt" or "isotonic": the least log loss on unseen rows.
        losses_: Log loss of unseen rows by calibration, and of `trees` and `logistic` alone.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(1000, 2))
        >>> y = (rng.random(1000) < 1 / (1 + np.exp(-X[:, 0]))).astype(int)
        >>> model = ResponseClassifier().fit(X, y)
        >>> bool(np.abs(model.predict_proba(X)[:, 1].mean() - y.mean()) < 0.02)
        True
    """

    def __init__(
        self,
        *,
        trees: int = 400,
        leaves: int = 7,
        learning_rate: float = 0.04,
        min_leaf: int = 40,
        seeds: int = 3,
        monotone: Sequence[int] | None = None,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.min_leaf = min_leaf
        self.seeds = seeds
        self.monotone = monotone
        self.folds = folds
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike, *, at: ArrayLike | None = None) -> Self:
        """Learn.

        Args:
            X: Table, shape (n, p): numbers and categories (of a data frame); unknown is missing.
            y: Two classes, shape (n,).
            at: Moment of each row, shape (n,): models are then judged on later rows only.

        Raises:
            DataError: when there is one class only, a class with fewer than 2 rows, or infinite values.
        """
        self._coding = Columns.of(X)
        values, target = validate_data(
            self, X if self._coding.is_plain else self._coding.numbers(X), y, dtype=np.float64,
            ensure_all_finite=False, ensure_min_samples=2,
        )  # fmt: skip
        names = self._names(X)
        self._check(np.asarray(values), names)
        if not self._coding.is_plain:
            self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        check_classification_targets(target)
        kind = type_of_target(target)
        self.classes_ = np.unique(target)
        if kind == "multiclass" or len(self.classes_) > 2:
            raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")
        if len(self.classes_) < 2:
            raise DataError(f"y: one class only, {self.classes_[0]!r}; nothing can be learnt from it")
        positive = (target == self.classes_[1]).astype(np.float64)
        for j in trial.leaks(np.asarray(values), positive):
            said = f"feature {j if names is None else names[j]} tells the outcome almost exactly: is it known"
            warnings.warn(f"{said} before?", trial.LeakWarning, stacklevel=2)
        self._fit(np.asarray(values), positive, at)
        return self

    def _names(self, X: Any) -> list[str] | None:
        return [str(name) for name in X.columns] if isinstance(X, pd.DataFrame) else None

    def _check(self, values: Array, names: list[str] | None) -> None:
        if faults := trial.faults_of_features(values, names):
            raise listed(faults, "responses cannot be told from these rows", "Leave what is unknown empty.")

    def _fit(self, X: Array, y: Array, at: ArrayLike | None) -> None:
        if min(y.sum(), len(y) - y.sum()) < 2:
            raise DataError(f"y: {int(y.sum())} of {len(y)} rows respond; expected 2 or more of each class")
        splits = _splits(y, at, self.folds, self.random_state)
        boosted, linear, iterations = np.full(len(y), np.nan), np.full(len(y), np.nan), []
        for known, new in splits:
            scores, best = self._early(X, y, known, new)
            boosted[new] = scores
            iterations.append(best)
            linear[new] = _Linear(self._coding, X[known], y[known])(X[new])
        self.trees_ = max(10, int(np.median(iterations)))
        seen = np.isfinite(boosted)
        self._choose(boosted[seen], linear[seen], y[seen])
        every = np.arange(len(y))
        self._boosters = [self._grow(X, y, every, seed, self.trees_) for seed in range(self.seeds)]
        self._linear = _Linear(self._coding, X, y)

    def _early(self, X: Array, y: Array, known: Whole, new: Whole) -> tuple[Array, int]:
        # One curve of losses tells how many trees serve; the scores are those of that many.
        booster = self._grow(X, y, known, 0, self.trees)
        step = max(self.trees // 20, 1)
        best, found, total = np.inf, np.zeros(len(new)), np.zeros(len(new))
        chosen = step
        for begun in range(0, self.trees, step):
            total = total + booster.predict(X[new], raw_score=True, start_iteration=begun, num_iteration=step)
            loss = metrics.log_loss(y[new], expit(total))
            if loss < best:
                best, found, chosen = loss, total.copy(), begun + step
        return found, chosen

    def _grow(self, X: Array, y: Array, rows: Whole, seed: int, trees: int) -> lgb.Booster:
        params: dict[str, Any] = {
            "objective": "binary", "num_leaves": self.leaves, "learning_rate": self.learning_rate,
            "min_data_in_leaf": int(np.clip(len(rows) // 50, 1, self.min_leaf)), "lambda_l2": 5.0,
            "feature_fraction": 0.5, "bagging_fraction": 0.7, "bagging_freq": 1, "max_bin": 127,
            "seed": 1000 * self.random_state + seed, "deterministic": True, "force_col_wise": True,
            "verbose": -1, "num_threads": 1,
        }  # fmt: skip
        if self.monotone is not None:
            if len(self.monotone) != X.shape[1]:
                raise DataError(f"monotone has {len(self.monotone)} signs; expected {X.shape[1]}")
            params["monotone_constraints"] = list(self.monotone)
        return lgb.train(params, lgb.Dataset(X[rows], y[rows], params=params), trees)

    def _choose(self, boosted: Array, linear: Array, y: Array) -> None:
        # A monotone model must not be undone by a regression without constraints.
        blends = _BLENDS if self.monotone is None else np.ones(1)
        losses = [metrics.log_loss(y, expit(b * boosted + (1 - b) * linear)) for b in blends]
        self.blend_ = float(blends[int(np.argmin(losses))])
        score = self.blend_ * boosted + (1 - self.blend_) * linear
        self._calibrators: dict[str, Calibrator] = {
            "none": _same,
            "platt": _Platt(score, y),
            "isotonic": _Isotonic(score, y),
        }
        self.losses_ = {
            "trees": metrics.log_loss(y, expit(boosted)), "logistic": metrics.log_loss(y, expit(linear)),
            **_cross_validated(score, y, self.random_state),
        }  # fmt: skip
        kinds = ("none", "platt", "isotonic") if len(y) >= 200 else ("none", "platt")
        self.calibration_ = min(kinds, key=lambda kind: self.losses_[kind])

    def decision_function(self, X: Any) -> Array:
        """Give the calibrated log-odds of the second class, shape (n,)."""
        check_is_fitted(self, "classes_")
        if self._coding.is_plain:
            values = np.asarray(
                validate_data(self, X, dtype=np.float64, ensure_all_finite=False, reset=False)
            )
            self._check(values, self._names(X))
        else:
            values = self._coding.numbers(X)
            self._check(values, self._coding.names)
        trees = np.mean([response.raw(booster, values) for booster in self._boosters], axis=0)
        score = self.blend_ * trees + (1 - self.blend_) * self._linear(values)
        return np.asarray(self._calibrators[self.calibration_](score))

    def predict_proba(self, X: Any) -> Array:
        """Give the chance of both classes, shape (n, 2)."""
        p = expit(self.decision_function(X))
        return np.column_stack([1 - p, p])

    def predict(self, X: Any) -> NDArray[Any]:
        """Give the likelier class, shape (n,)."""
        likelier = (self.decision_function(X) > 0).astype(int)
        return np.asarray(self.classes_[likelier])

    def save(self, folder: Path) -> None:
        """Write the model as text: `classifier.json` and the trees; nothing is pickled."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.texts().items():
            (folder / name).write_text(text, encoding="utf-8")

    def texts(self) -> dict[str, str]:
        """Give the model as text by name of file: the same fit gives the same text."""
        check_is_fitted(self, "classes_")
        way = self._calibrators[self.calibration_]
        linear = {name.strip("_"): value for name, value in vars(self._linear).items()}
        state = {
            "parameters": self.get_params(), "classes": self.classes_.tolist(), "blend": self.blend_,
            "trees": self.trees_, "losses": self.losses_, "calibration": self.calibration_,
            "calibrator": vars(way) if self.calibration_ != "none" else {}, "linear": linear,
            "n_features": self.n_features_in_, "columns": [self._coding.names, self._coding.codes],
        }  # fmt: skip
        trees = {f"trees{k}.txt": booster.model_to_string() for k, booster in enumerate(self._boosters)}
        return {"classifier.json": json.dumps(state, default=lambda v: np.asarray(v).tolist()), **trees}

    @classmethod
    def load(cls, folder: Path) -> "ResponseClassifier":
        """Read a saved model.

        Raises:
            MissingError: when the folder holds none.
        """
        path = Path(folder) / "classifier.json"
        if not path.is_file():
            raise MissingError(f"{path} does not exist; expected a saved classifier", "Train it again.")
        state = json.loads(path.read_text(encoding="utf-8"))
        model = cls(**state["parameters"])
        model.classes_ = np.array(state["classes"])
        model.blend_, model.trees_, model.losses_ = state["blend"], state["trees"], state["losses"]
        model.calibration_, model.n_features_in_ = state["calibration"], state["n_features"]
        names, codes = state["columns"]
        model._coding = Columns(names, codes)
        model._linear = _Linear.__new__(_Linear)
        for name, value in state["linear"].items():
            if name == "levels":
                value = {int(j): size for j, size in value.items()}
            setattr(model._linear, f"_{name}", np.array(value) if isinstance(value, list) else value)
        model._linear._numeric = model._linear._numeric.astype(int)
        model._calibrators = {model.calibration_: _restored(model.calibration_, state["calibrator"])}
        files = sorted(Path(folder).glob("trees*.txt"))
        model._boosters = [lgb.Booster(model_str=file.read_text(encoding="utf-8")) for file in files]
        return model

    def __sklearn_tags__(self) -> Any:
        """Say what scikit-learn may expect: two classes, unknown values are fine."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = True
        return tags


class Columns:
    """Which columns of a data frame are categories, and their codes."""

    def __init__(self, names: list[str], codes: dict[str, dict[Any, int]]) -> None:
        self.names, self.codes = names, codes

    @classmethod
    def of(cls, X: Any) -> "Columns":
        """Read the columns; an array, or a frame of numbers, has no categories."""
        if not isinstance(X, pd.DataFrame):
            return cls([], {})
        codes = {}
        for name in X.columns:
            if not (pd.api.types.is_numeric_dtype(X[name]) or pd.api.types.is_bool_dtype(X[name])):
                counts = X[name].astype(object).value_counts()
                ordered = sorted(counts.index, key=lambda value: (-counts[value], str(value)))
                codes[str(name)] = {value: code for code, value in enumerate(ordered)}
        return cls([str(name) for name in X.columns], codes)

    @property
    def is_plain(self) -> bool:
        """Whether all columns are numbers."""
        return not self.codes

    @property
    def positions(self) -> dict[int, int]:
        """Number of categories by column position."""
        return {self.names.index(name): len(codes) for name, codes in self.codes.items()}

    def numbers(self, X: Any) -> Array:
        """Give the frame as numbers by name: other orders are fine, unseen categories are unknown.

        Raises:
            DataError: when columns are missing.
        """
        absent = [name for name in self.names if name not in getattr(X, "columns", [])]
        if absent:
            raise DataError(f"columns {absent} are missing; expected {self.names}", "Pass a data frame.")
        parts = []
        for name in self.names:
            if name in self.codes:
                parts.append(X[name].astype(object).map(self.codes[name]).to_numpy(dtype=np.float64))
            else:
                parts.append(X[name].to_numpy(dtype=np.float64, na_value=np.nan))
        return np.column_stack(parts)


class _Linear:
    """Logistic regression over standardised signed logarithms, flags of unknown, and one-hot categories."""

    def __init__(self, columns: Columns, X: Array, y: Array) -> None:
        self._levels = columns.positions
        self._numeric = np.array([j for j in range(X.shape[1]) if j not in self._levels], dtype=int)
        values = self._log(X)
        known = np.isfinite(values)
        n = np.maximum(known.sum(axis=0), 1)
        self._center = np.where(known, values, 0).sum(axis=0) / n
        scale = np.sqrt((np.where(known, values - self._center, 0) ** 2).sum(axis=0) / n)
        self._scale = np.where(scale > 1e-9, scale, np.inf)
        self._has_gaps = (~known).any(axis=0) & known.any(axis=0)
        inputs = self._inputs(X)
        strength = 0.3 if len(y) < 50 * max(inputs.shape[1], 1) else 1.0
        model = LogisticRegression(C=strength, max_iter=300).fit(inputs, y)
        self._coef, self._intercept = model.coef_[0], float(model.intercept_[0])

    def _log(self, X: Array) -> Array:
        part = X[:, self._numeric]
        return np.asarray(np.sign(part) * np.log1p(np.abs(part)))

    def _inputs(self, X: Array) -> Array:
        values = self._log(X)
        gaps = np.isnan(values[:, self._has_gaps]).astype(np.float64)
        parts = [np.clip(np.nan_to_num((values - self._center) / self._scale), -4, 4), gaps]
        for j, levels in self._levels.items():
            parts.append((X[:, [j]] == np.arange(levels)).astype(np.float64))
        return np.hstack([*parts, np.zeros((len(X), 1))])

    def __call__(self, X: Array) -> Array:
        return np.asarray(self._inputs(X) @ self._coef + self._intercept)


def _same(score: Array) -> Array:
    return score


class _Platt:
    def __init__(self, score: Array, y: Array) -> None:
        self.intercept, self.slope = response.calibrate(score, y, np.ones(len(y)))

    def __call__(self, score: Array) -> Array:
        return self.intercept + self.slope * score


class _Isotonic:
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
        inside = np.interp(score, self.x, self.value)
        beyond = np.minimum(score - self.x[0], 0) + np.maximum(score - self.x[-1], 0)
        return np.asarray(inside + beyond)


def _restored(kind: str, state: dict[str, Any]) -> Any:
    if kind == "none":
        return _same
    way: Any = object.__new__({"platt": _Platt, "isotonic": _Isotonic}[kind])
    for name, value in state.items():
        setattr(way, name, np.array(value) if isinstance(value, list) else value)
    return way


def _cross_validated(score: Array, y: Array, seed: int) -> dict[str, float]:
    # Calibrations are fitted on one half of the unseen rows and judged on the other.
    half = np.random.default_rng(seed).random(len(y)) < 0.5
    total = {"none": 0.0, "platt": 0.0, "isotonic": 0.0}
    for known, new in ((half, ~half), (~half, half)):
        if not (0 < y[known].sum() < known.sum() and new.any()):
            return {"none": 0.0, "platt": 1.0, "isotonic": 1.0}
        ways: dict[str, Calibrator] = {"none": _same, "platt": _Platt(score[known], y[known])}
        ways["isotonic"] = _Isotonic(score[known], y[known])
        for name, way in ways.items():
            total[name] += metrics.log_loss(y[new], expit(way(score[new]))) * new.mean()
    return total


def _splits(y: Array, at: ArrayLike | None, folds: int, seed: int) -> list[tuple[Whole, Whole]]:
    if at is None:
        k = int(min(folds, y.sum(), len(y) - y.sum()))
        return list(StratifiedKFold(k, shuffle=True, random_state=seed).split(y, y))
    moment = np.asarray(at)
    if len(moment) != len(y):
        raise DataError(f"at has {len(moment)} values; expected {len(y)}")
    order = np.argsort(moment, kind="stable")
    edges = np.unique(moment)
    if len(edges) == 1:
        return _splits(y, None, folds, seed)
    # Rolling origins: train on all before, judge on the next block of whole moments.
    starts = (
        edges[1:] if len(edges) <= folds else np.unique(moment[order[len(y) * np.arange(1, folds) // folds]])
    )
    out = []
    for j, start in enumerate(starts):
        known = moment < start
        new = (moment >= start) & ((moment < starts[j + 1]) if j + 1 < len(starts) else True)
        if 2 <= y[known].sum() <= known.sum() - 2 and new.any():
            out.append((np.flatnonzero(known), np.flatnonzero(new)))
    return out or _splits(y, None, folds, seed)
