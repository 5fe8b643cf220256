"""A classifier of responses to trust on any table: blended, calibrated, honest about time.

Gradient boosting and a penalised logistic regression see different things in the same data, and few data
favour the second. Both are fitted; their log-odds are blended and calibrated by what gives the
least log loss on rows that neither has seen: later ones if times are given, other folds else. Its parameters
are searched by `nba.models.tuning.responses`.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from nba import metrics
from nba.errors import DataError, MissingError, listed
from nba.models import calibration, leaking, response, trial
from nba.models.logistic import Columns, Logistic

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_UNTOLD = "responses cannot be told from these rows"
_BLENDS = np.linspace(0, 1, 11)


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
        penalty: On the squares of leaves' values.
        columns: Share of the columns that each tree reads.
        seeds: Boosters that are averaged, each with its own draws of rows and features.
        monotone: By column, +1, −1 or 0.
        folds: Most folds where no times are given, and most blocks where they are, 2 or more; fewer where a
            class has fewer rows, or where else, without one fold of customers, a class would be lost.
        random_state: Of folds and trees.

    Attributes:
        classes_: The two classes.
        blend_: Share of the trees in the log-odds.
        trees_: Trees of each booster.
        calibration_: "none", "platt" or "isotonic": the least log loss on rows that it was not fitted to,
            later ones if times are given; "isotonic" only if better by a standard error.
        losses_: Log loss by calibration of such rows, and of unseen rows by `trees` and `logistic` alone;
            that of `trees` flatters a little: it is the least of about twenty numbers of trees on these rows.

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
        penalty: float = 5.0,
        columns: float = 0.5,
        seeds: int = 3,
        monotone: Sequence[int] | None = None,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.min_leaf = min_leaf
        self.penalty = penalty
        self.columns = columns
        self.seeds = seeds
        self.monotone = monotone
        self.folds = folds
        self.random_state = random_state

    def fit(
        self, X: Any, y: ArrayLike, *, at: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Self:
        """Learn.

        Args:
            X: Table, shape (n, p): numbers and categories (of a data frame); unknown is missing.
            y: Two classes, shape (n,).
            at: Moment of each row, shape (n,): models are then judged on later rows only. How long the window
                of an outcome is, is not known here: responses of earlier rows count as closed by then.
            groups: Customer of each row, shape (n,): models and calibrations are judged on rows of other
                customers than they were fitted to. Not where times are given: later rows judge, as in use,
                also those of customers that are known.

        Raises:
            DataError: when there is one class only, a class with fewer than 2 rows (or, outside of one of any
                two folds of customers, either), outcomes that are missing, infinite values, columns of
                moments, moments in `at` that are missing or text, customers that are missing, or parameters
                that cannot be.
        """
        values, positive = self._read(X, y)
        self._fit(self._validation(values, positive, at, groups))
        return self

    def validation(
        self, X: Any, y: ArrayLike, *, at: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> "Validation":
        """Prepare to judge parameters on rows that models have not seen; arguments and errors are `fit`'s."""
        model = clone(self)
        return model._validation(*model._read(X, y), at, groups)

    def _validation(self, X: Array, y: Array, at: ArrayLike | None, groups: ArrayLike | None) -> "Validation":
        if min(y.sum(), len(y) - y.sum()) < 2:
            raise DataError(f"y: {int(y.sum())} of {len(y)} rows respond; expected 2 or more of each class")
        if faults := trial.lengths(len(y), groups=groups) or trial.faults_of_groups(groups):
            raise listed(faults, _UNTOLD)
        splits, is_timed = _splits(y, at, groups, self.folds, self.random_state)
        linear = np.full(len(y), np.nan)
        for known, new in splits:
            linear[new] = Logistic(self._coding, X[known], y[known])(X[new])
        return Validation(self, X, y, linear, splits, is_timed, trial.customers(groups))

    def _faults(self) -> list[str]:
        least = {"trees": 1, "leaves": 2, "min_leaf": 1, "seeds": 1, "folds": 2}
        out = [
            f"{name}={value!r}; expected a whole number, {low} or more"
            for name, low in least.items()
            if not isinstance(value := getattr(self, name), Integral) or value < low
        ]
        if self.monotone is not None and not set(self.monotone) <= {-1, 0, 1}:
            out.append(f"monotone is {list(self.monotone)}; expected numbers of -1, 0 or 1")
        return out

    def _read(self, X: Any, y: ArrayLike) -> tuple[Array, Array]:
        if faults := self._faults():
            raise listed(faults, "the model cannot be fitted as it was asked for")
        if faults := trial.faults_of_missing(y):
            raise listed(faults, _UNTOLD, "Leave out rows whose outcome is unknown.")
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
            only = self.classes_.tolist()[0]
            raise DataError(f"y: one class only, {only!r}; nothing can be learnt from it")
        positive = (target == self.classes_[1]).astype(np.float64)
        for j in leaking.leaks(np.asarray(values), positive):
            said = f"feature {j if names is None else names[j]} tells the outcome almost exactly: is it known"
            warnings.warn(f"{said} before?", trial.LeakWarning, stacklevel=3)
        return np.asarray(values), positive

    def _names(self, X: Any) -> list[str] | None:
        return [str(name) for name in X.columns] if isinstance(X, pd.DataFrame) else None

    def _check(self, values: Array, names: list[str] | None) -> None:
        if faults := trial.faults_of_features(values, names):
            raise listed(faults, _UNTOLD, "Leave what is unknown empty.")

    def _fit(self, rows: "Validation") -> None:
        boosted, iterations = np.full(len(rows.y), np.nan), []
        for new, scores, best in rows.scores(self):
            boosted[new] = scores
            iterations.append(best)
        self.trees_ = max(10, int(np.median(iterations)))
        self._choose(boosted, rows)
        every = np.arange(len(rows.y))
        self._boosters = [self._grow(rows.X, rows.y, every, seed, self.trees_) for seed in range(self.seeds)]
        self._linear = Logistic(self._coding, rows.X, rows.y)

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
            "min_data_in_leaf": int(np.clip(len(rows) // 50, 1, self.min_leaf)), "lambda_l2": self.penalty,
            "feature_fraction": self.columns, "bagging_fraction": 0.7, "bagging_freq": 1, "max_bin": 127,
            "seed": 1000 * self.random_state + seed, "deterministic": True, "force_col_wise": True,
            "verbose": -1, "num_threads": 1,
        }  # fmt: skip
        if self.monotone is not None:
            if len(self.monotone) != X.shape[1]:
                raise DataError(f"monotone has {len(self.monotone)} signs; expected {X.shape[1]}")
            params["monotone_constraints"] = list(self.monotone)
        return lgb.train(params, lgb.Dataset(X[rows], y[rows], params=params), trees)

    def _choose(self, boosted: Array, rows: "Validation") -> None:
        seen = np.isfinite(boosted)
        boosted, linear, y = boosted[seen], rows.linear[seen], rows.y[seen]
        self.blend_, _ = self._blended(boosted, linear, y)
        score = self.blend_ * boosted + (1 - self.blend_) * linear
        block = rows.block[seen] if rows.is_timed else None
        customer = None if rows.customer is None else rows.customer[seen]
        judged = calibration.judge(score, y, block, self.random_state, customer)
        whose = None if customer is None else customer[judged.rows]
        self.calibration_ = calibration.choose(judged.losses, customer=whose)
        self._calibrator = calibration.fitted(self.calibration_, score, y)
        self.losses_ = {
            "trees": metrics.log_loss(y, expit(boosted)), "logistic": metrics.log_loss(y, expit(linear)),
            **{kind: float(found.mean()) for kind, found in judged.losses.items()},
        }  # fmt: skip

    def _blended(self, boosted: Array, linear: Array, y: Array) -> tuple[float, float]:
        # The share of the trees with the least log loss, and that loss. A monotone model must not be undone
        # by a regression without constraints.
        blends = _BLENDS if self.monotone is None else np.ones(1)
        losses = [metrics.log_loss(y, expit(b * boosted + (1 - b) * linear)) for b in blends]
        best = int(np.argmin(losses))
        return float(blends[best]), float(losses[best])

    def decision_function(self, X: Any) -> Array:
        """Give the calibrated log-odds of the second class, shape (n,)."""
        check_is_fitted(self, "classes_")
        if self._coding.is_plain:
            trial.check_numbers(X)
            values = np.asarray(
                validate_data(self, X, dtype=np.float64, ensure_all_finite=False, reset=False)
            )
            self._check(values, self._names(X))
        else:
            values = self._coding.numbers(X)
            self._check(values, self._coding.names)
        trees = np.mean([response.raw(booster, values) for booster in self._boosters], axis=0)
        score = self.blend_ * trees + (1 - self.blend_) * self._linear(values)
        return np.asarray(self._calibrator(score))

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
        """Give the model as text by name of file: the same fit gives the same text.

        Raises:
            DataError: when columns hold categories that are neither text nor numbers nor yes and no.
        """
        check_is_fitted(self, "classes_")
        linear = {name.strip("_"): value for name, value in vars(self._linear).items()}
        state = {
            "parameters": self.get_params(), "classes": self.classes_.tolist(), "blend": self.blend_,
            "trees": self.trees_, "losses": self.losses_, "calibration": self.calibration_,
            "calibrator": calibration.state(self._calibrator), "linear": linear,
            "n_features": self.n_features_in_, "columns": [self._coding.names, self._coding.saved()],
            "named": hasattr(self, "feature_names_in_"),
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
        model._coding = Columns.restored(*state["columns"])
        if state.get("named"):
            model.feature_names_in_ = np.asarray(model._coding.names, dtype=object)
        model._linear = Logistic.__new__(Logistic)
        for name, value in state["linear"].items():
            if name == "levels":
                value = {int(j): size for j, size in value.items()}
            setattr(model._linear, f"_{name}", np.array(value) if isinstance(value, list) else value)
        model._linear._numeric = model._linear._numeric.astype(int)
        model._calibrator = calibration.restored(model.calibration_, state["calibrator"])
        files = sorted(Path(folder).glob("trees*.txt"))
        model._boosters = [lgb.Booster(model_str=file.read_text(encoding="utf-8")) for file in files]
        return model

    def __sklearn_tags__(self) -> Any:
        """Say what scikit-learn may expect: two classes, unknown values are fine."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = True
        return tags


@dataclass(frozen=True)
class Validation:
    """Rows in parts, each judged by models that have not seen it; rolling origins where times are known.

    Attributes:
        model: Whose parameters count where none are given.
        X: Numbers, shape (n, p).
        y: 0 or 1, shape (n,).
        linear: Log-odds of the logistic regression, NaN where no part holds the row, shape (n,).
        splits: Rows to learn from, and those to judge on, part by part.
        is_timed: Whether a part is later than what its models learn from.
        customer: Code of the customer of each row, shape (n,); None where every row is another's.
    """

    model: ResponseClassifier
    X: Array
    y: Array
    linear: Array
    splits: list[tuple[Whole, Whole]]
    is_timed: bool
    customer: Whole | None = None

    @property
    def block(self) -> Whole:
        """Number of the part that holds each row, -1 where none does, shape (n,)."""
        out = np.full(len(self.y), -1)
        for number, (_, new) in enumerate(self.splits):
            out[new] = number
        return out

    def scores(self, model: ResponseClassifier) -> Iterator[tuple[Whole, Array, int]]:
        """Yield by part the rows, their log-odds by the trees, and how many trees early stopping kept."""
        for known, new in self.splits:
            yield new, *model._early(self.X, self.y, known, new)

    def losses(self, parameters: Mapping[str, Any]) -> Iterator[float]:
        """Yield, after each part, the log loss of the best blend on the parts so far."""
        model = clone(self.model).set_params(**parameters)
        boosted = np.full(len(self.y), np.nan)
        for new, scores, _ in self.scores(model):
            boosted[new] = scores
            seen = np.isfinite(boosted)
            yield model._blended(boosted[seen], self.linear[seen], self.y[seen])[1]


def moments(at: ArrayLike, n: int) -> NDArray[Any]:
    """Give the moment of each of n rows, checked: text sorts by its letters, and what is unknown nowhere.

    Raises:
        DataError: when they are not n, text, or missing.
    """
    moment = np.asarray(at)
    if moment.shape != (n,):
        raise DataError(f"at has shape {moment.shape}; expected ({n},)", "Pass the moment of each row.")
    if moment.dtype.kind in "USTb" or (
        moment.dtype.kind == "O" and any(isinstance(value, str | bytes) for value in moment.tolist())
    ):
        found = "text" if moment.dtype.kind != "b" else "yes and no"
        raise DataError(f"at holds {found}; expected moments or numbers", "Convert it: pd.to_datetime(at).")
    if missing := int(pd.isna(moment).sum()):
        raise DataError(
            f"at: {missing} of {len(moment)} values are missing; expected the moment of each row",
            "Leave out rows whose moment is unknown, or fit without `at`.",
        )
    return moment


def _splits(
    y: Array, at: ArrayLike | None, groups: ArrayLike | None, folds: int, seed: int
) -> tuple[list[tuple[Whole, Whole]], bool]:
    # Rows to learn from and to judge on, and whether the latter are later.
    if at is None and groups is not None:
        return _by_customer(y, groups, folds, seed), False
    if at is None:
        k = int(min(folds, y.sum(), len(y) - y.sum()))
        return list(StratifiedKFold(k, shuffle=True, random_state=seed).split(y, y)), False
    moment = moments(at, len(y))
    order = np.argsort(moment, kind="stable")
    edges = np.unique(moment)
    if len(edges) == 1:
        return _splits(y, None, groups, folds, seed)
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
    return (out, True) if out else _splits(y, None, groups, folds, seed)


def _by_customer(y: Array, groups: ArrayLike, folds: int, seed: int) -> list[tuple[Whole, Whole]]:
    # As many folds of customers as leave 2 rows of each class without any one of them: by hash, or else dealt
    # out among those who respond and among the others, as few may all be in one fold by chance.
    names, whose = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    whole, shuffled = y.astype(np.int64), np.random.default_rng(seed).permutation(len(names))
    order = shuffled[np.argsort((np.bincount(whose, y) > 0)[shuffled], kind="stable")]
    for n in range(min(folds, len(names)), 1, -1):
        dealt = np.empty(len(names), dtype=np.int64)
        dealt[order] = np.arange(len(names)) % n
        for fold in (trial.split(whole, y, groups, n, seed), dealt[whose]):
            left = [np.bincount(whole[fold != number], minlength=2) for number in np.unique(fold)]
            if len(left) > 1 and np.min(left) >= 2:
                return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in np.unique(fold)]
    raise DataError(
        "groups: without one fold of customers fewer than 2 rows of a class are left, however few the folds",
        "Fit with more customers of each class, or without `groups`.",
    )
