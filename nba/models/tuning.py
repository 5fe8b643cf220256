"""Search of LightGBM's capacity with Optuna, for responses and for effects: seeded, pruned, resumable.

The policy's response model is searched on the log loss of later rows, all of them before those that
`nba.models.latest` judges on; a classifier of responses (`nba.models.classifier`) on that of later rows; the
effects of the stack (`nba.models.ensemble`) on what the stack itself weighs its candidates by: the
out-of-fold doubly robust loss.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.base import clone
from sklearn.utils.validation import check_consistent_length

from nba import metrics
from nba.catalog import Catalog
from nba.errors import DataError
from nba.models import candidates, classifier, crossfit, inputs, latest, response, trial
from nba.models.classifier import ResponseClassifier
from nba.models.ensemble import UpliftEnsemble
from nba.models.inputs import Coding
from nba.settings import Models

if TYPE_CHECKING:
    import optuna

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Told = Callable[[float], None]

_FOLDS = 3


class Range(NamedTuple):
    """Where a parameter is searched: whole numbers if the ends are whole."""

    low: float
    high: float
    is_log: bool = True


_RESPONSE = {
    "leaves": Range(4, 63), "min_leaf": Range(20, 1000), "learning_rate": Range(0.02, 0.3),
    "trees": Range(20, 300),
}  # fmt: skip
_CLASSIFIER = {
    "leaves": Range(3, 31), "min_leaf": Range(10, 300), "learning_rate": Range(0.02, 0.12),
    "penalty": Range(0.3, 50.0), "columns": Range(0.2, 1.0, is_log=False),
}  # fmt: skip
_EFFECTS = {
    "num_leaves": Range(2, 16), "min_child_samples": Range(50, 2000), "learning_rate": Range(0.02, 0.2),
    "n_estimators": Range(10, 200),
}  # fmt: skip

_EARLY = 0.3  # part of the rows on which a search of effects first tries a trial


@dataclass(frozen=True)
class Problem:
    """What is searched on.

    Attributes:
        X: Inputs, shape (n, p).
        y: Responses, shape (n,).
        splits: Rows to learn from, and those to judge on, part by part.
        names: Of the inputs, shape (p,).
    """

    X: Array
    y: Array
    splits: tuple[tuple[Whole, Whole], ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A search that is kept: interrupted, it goes on where it stopped.

    Attributes:
        name: What tells it from others in its database.
        database: SQLite file.
        trials: How many it shall have in all.
        seed: Of the sampler.
        told: Hears of every trial that ends.
    """

    name: str
    database: Path
    trials: int
    seed: int
    told: Told | None = field(default=None, compare=False)

    def minimise(
        self,
        suggest: "Callable[[optuna.Trial], dict[str, Any]]",
        losses: Callable[[Mapping[str, Any]], Iterator[float]],
        first: Mapping[str, Any],
    ) -> tuple[dict[str, Any], float]:
        """Find the parameters with the least loss.

        The sampler is TPE (Bergstra et al. 2011), seeded anew by seed and number of each trial: a search that
        was interrupted draws what it would have drawn as a whole. A trial is pruned once what it has shown is
        worse than the median of the trials before at the same step (Optuna's median rule).

        Args:
            suggest: Draws a trial's parameters.
            losses: Yields a trial's loss, better known at each step; the last counts.
            first: Parameters of the first trial, so that the result is never worse than they are.

        Returns:
            The best parameters and their loss.

        Raises:
            DataError: when it shall have no trials.
        """
        import optuna

        if self.trials < 1:
            raise DataError("a search of 0 trials finds nothing", "Set tune_trials to 1 or more.")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.database.parent.mkdir(parents=True, exist_ok=True)

        def objective(asked: "optuna.Trial") -> float:
            loss = np.nan
            for step, loss in enumerate(losses(suggest(asked)), start=1):
                asked.report(loss, step)
                if asked.should_prune():
                    raise optuna.TrialPruned
            return loss

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                study_name=self.name,
                storage=f"sqlite:///{self.database}",
                load_if_exists=True,
                direction="minimize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
            )
            done = len(_ended(study))
            if not done:
                study.enqueue_trial(dict(first))
            if self.told is not None:
                self.told(min(done, self.trials))
            for number in range(done, self.trials):
                study.sampler = optuna.samplers.TPESampler(seed=_seed(self.seed, number))
                study.optimize(objective, n_trials=1)
                if self.told is not None:
                    self.told(1)
        return dict(study.best_params), float(study.best_value)

    def finished(self) -> list[dict[str, Any]]:
        """List its trials: `params` and `loss`, None where it was pruned; empty before the search."""
        if not self.trials or not self.database.is_file():
            return []
        import optuna

        names = optuna.get_all_study_names(f"sqlite:///{self.database}")
        if self.name not in names:
            return []
        study = optuna.load_study(study_name=self.name, storage=f"sqlite:///{self.database}")
        complete = optuna.trial.TrialState.COMPLETE
        return [{"params": t.params, "loss": t.value if t.state == complete else None} for t in _ended(study)]


def _ended(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    # A trial that was interrupted does not count: it is tried again.
    from optuna.trial import TrialState

    return [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def tuned(
    examples: pa.Table,
    catalog: Catalog,
    settings: Models,
    seed: int,
    database: Path,
    told: Told | None = None,
    *,
    window_days: float = 0.0,
) -> tuple[Models, Mapping[str, float]]:
    """Replace the capacity in the settings by the best found; unchanged if no trials are asked for.

    The search reads the decisions that `latest.judge` learns from, so that what that says of the latest
    stays unseen; all of them where it has too few to judge. Trials are judged on later rows than they learn
    from, on other customers where all were decided at one moment.

    Args:
        examples: The `examples` table.
        catalog: Its treatments.
        settings: `tune_trials` says how many trials the study shall have in all; `tune_rows` on how many
            rows they run.
        seed: Of sampler, folds and trees.
        database: SQLite file of the study: a search that was interrupted goes on where it stopped.
        told: Hears of every trial that ends.
        window_days: Days until an outcome closes.

    Returns:
        The settings to fit with, and what was found (empty without a search).
    """
    if settings.tune_trials == 0:
        return settings, {}
    problem = _problem(examples, catalog, settings.tune_rows, seed, window_days)
    found = search(problem, settings, seed, database, told)
    return settings.model_copy(update={k: v for k, v in found.items() if k != "log_loss"}), found


def trials(
    examples: pa.Table,
    catalog: Catalog,
    settings: Models,
    seed: int,
    database: Path,
    *,
    window_days: float = 0.0,
) -> list[dict[str, Any]]:
    """List the trials of the study of these examples; the arguments are those of `tuned`.

    Returns:
        Per trial `params` and `loss`, None where it was pruned. Empty without a search.
    """
    if settings.tune_trials == 0 or not database.is_file():
        return []
    problem = _problem(examples, catalog, settings.tune_rows, seed, window_days)
    return _response_study(problem, settings, seed, database).finished()


def search(
    problem: Problem, settings: Models, seed: int, database: Path, told: Told | None = None
) -> dict[str, float]:
    """Minimise the log loss of unseen rows over leaves, leaf size, learning rate and trees.

    The settings' own capacity is the first trial; a trial is judged part by part, by the mean so far.

    Returns:
        leaves, min_leaf, learning_rate, trees, and the log_loss they reached.
    """
    first = {name: getattr(settings, name) for name in _RESPONSE}

    def losses(params: Mapping[str, Any]) -> Iterator[float]:
        found: list[float] = []
        for loss in _losses(problem, settings.model_copy(update=dict(params)), seed):
            found.append(loss)
            yield float(np.mean(found))

    study = _response_study(problem, settings, seed, database, told)
    best, loss = study.minimise(_suggests(_RESPONSE, first), losses, first)
    return {**best, "log_loss": loss}


@dataclass(frozen=True)
class Search:
    """How responses or effects are searched.

    Attributes:
        settings: `tune_trials` and `tune_rows` count.
        seed: Of sampler and sample.
        database: SQLite file of the study.
        told: Hears of every trial that ends.
    """

    settings: Models
    seed: int
    database: Path
    told: Told | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Found:
    """What a search of effects found.

    Attributes:
        trees: What to give as `UpliftEnsemble(trees=…)`.
        loss: The doubly robust loss it reached on the rows of the search.
        trials: As `Study.finished`.
    """

    trees: dict[str, Any]
    loss: float
    trials: list[dict[str, Any]]


@dataclass(frozen=True)
class FoundResponses:
    """What a search of a classifier of responses found.

    Attributes:
        parameters: What to give as `ResponseClassifier(…)`.
        loss: The log loss of unseen rows it reached, before calibration; later rows where times were given.
        trials: As `Study.finished`.
    """

    parameters: dict[str, Any]
    loss: float
    trials: list[dict[str, Any]]


def responses(
    model: ResponseClassifier,
    X: Any,
    y: ArrayLike,
    search: Search,
    *,
    at: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> FoundResponses:
    """Minimise a classifier's log loss on unseen rows over the capacity of its trees.

    Every trial is judged part by part, by the best blend of its trees with the logistic regression on the
    parts so far: rolling origins if times are given, other folds else. Early stopping finds the number of
    trees. The model's own parameters are the first trial. What the best of many trials reached flatters it:
    judge it on other rows.

    Args:
        model: Its other parameters count; it is not fitted.
        X: As for `fit`, shape (n, p).
        y: As for `fit`, shape (n,).
        search: How long, on how many rows, and where the study is kept.
        at: As for `fit`, moment of each row, shape (n,).
        groups: As for `fit`, customer of each row, shape (n,).

    Raises:
        DataError: as `fit`.
    """
    n = np.shape(y)[0]
    kept = np.sort(np.random.default_rng(search.seed).permutation(n)[: search.settings.tune_rows])
    check_consistent_length(X, y, groups)
    moment = None if at is None else classifier.moments(at, n)[kept]
    part = _taken(X, kept)
    with trial.quiet():
        customer = None if groups is None else np.asarray(groups, dtype=object)[kept]
        rows = model.validation(part, np.asarray(y)[kept], at=moment, groups=customer)

    first = {name: model.get_params()[name] for name in _CLASSIFIER}
    parts = (np.ascontiguousarray(rows.X).tobytes(), rows.y.tobytes(), rows.block.tobytes())
    name = f"classifier-{search.seed}-{_digest(*parts, _parameters(model))}"
    study = Study(name, search.database, search.settings.tune_trials, search.seed, search.told)
    best, loss = study.minimise(_suggests(_CLASSIFIER, first), rows.losses, first)
    return FoundResponses(best, loss, study.finished())


def effects(
    model: UpliftEnsemble, X: Array, y: Array, treatment: Any, p_action: Any, search: Search, **more: Any
) -> Found:
    """Minimise the stack's out-of-fold doubly robust loss over the capacity of its trees of effects.

    Every trial fits the stack to the same folds and is judged by the same scores: mean square of score less
    prediction, over the scores' variance; the average effect alone has about 1. A trial is first tried on
    three tenths of the rows. The default capacity is the first trial. What the best of many trials reached
    flatters it: judge it on other rows.

    Args:
        model: The stack to fit; its `trees` are what is searched for.
        X: As for `fit`, shape (n, p).
        y: As for `fit`, shape (n,).
        treatment: As for `fit`, shape (n,).
        p_action: As for `fit`, by row or by arm.
        search: How long, on how many rows, and where the study is kept.
        more: More of what `fit` takes by row: groups, sample_weight.
    """
    n, rng = len(y), np.random.default_rng(search.seed)
    kept = rng.permutation(n)[: search.settings.tune_rows]
    parts = [np.sort(kept[: int(_EARLY * len(kept))]), np.sort(kept)]
    arm = np.asarray(treatment)

    def losses(params: Mapping[str, Any]) -> Iterator[float]:
        for rows in parts:
            p = p_action if isinstance(p_action, Mapping) else _taken(p_action, rows)
            given = {name: np.asarray(part)[rows] for name, part in more.items()}
            fitted = clone(model).set_params(trees=dict(params))
            with trial.quiet():
                fitted.fit(X[rows], y[rows], arm[rows], p, **given)
            yield fitted.loss_

    p = [sorted(p_action.items(), key=str)] if isinstance(p_action, Mapping) else np.asarray(p_action)[kept]
    given = [np.asarray(more[name])[kept].astype(str) for name in sorted(more)]
    fixed = _parameters(model, {"trees"}), "|".join(sorted(more)).encode()
    columns = [np.asarray(part).astype(str).tolist() for part in (arm[kept], p, *given)]
    name = _digest(X[kept].tobytes(), y[kept].tobytes(), json.dumps(columns).encode(), *fixed)
    settings = search.settings
    study = Study(
        f"effects-{search.seed}-{name}", search.database, settings.tune_trials, search.seed, search.told
    )
    best, loss = study.minimise(_suggests(_EFFECTS, candidates.TREES), losses, candidates.TREES)
    return Found(best, loss, study.finished())


def _taken(table: Any, rows: NDArray[np.int64]) -> Any:
    # Rows of an array or, names kept, of a data frame.
    return table.iloc[rows] if isinstance(table, pd.DataFrame) else np.asarray(table)[rows]


def _losses(problem: Problem, capacity: Models, seed: int) -> Iterator[float]:
    params = response.parameters(capacity, seed)
    if capacity.monotone:
        params["monotone_constraints"] = response.signs(problem.names, capacity)
    plan = response.Plan(problem.X, problem.y, np.ones(len(problem.y)), params, capacity.trees)
    for known, new in problem.splits:
        booster = plan.grow(known)
        yield metrics.log_loss(problem.y[new], expit(response.raw(booster, problem.X[new])))


def _suggests(
    ranges: Mapping[str, Range], first: Mapping[str, Any]
) -> "Callable[[optuna.Trial], dict[str, Any]]":
    # Ranges are widened to hold the first trial.
    def suggest(asked: "optuna.Trial") -> dict[str, Any]:
        found = {}
        for name, (low, high, is_log) in ranges.items():
            draw: Any = asked.suggest_int if isinstance(low, int) else asked.suggest_float
            low, high = min(low, first[name]), max(high, first[name])
            found[name] = draw(name, low, high, log=is_log and low > 0)
        return found

    return suggest


def _problem(examples: pa.Table, catalog: Catalog, most: int, seed: int, window_days: float) -> Problem:
    coding = Coding.of(catalog)
    column = coding.columns(examples["treatment_id"].to_pylist())
    known, _ = latest.parts(examples, column, window_days)
    if not len(known):
        known = np.flatnonzero(column >= 0)
    if len(known) > most:
        known = np.sort(np.random.default_rng(seed).choice(known, most, replace=False))
    rows = examples.take(pa.array(known))
    names = inputs.feature_names(rows)
    X = np.hstack([inputs.matrix(rows, names), coding.codes()[column[known]]])
    y = rows["is_response"].to_numpy().astype(float)
    splits = response.later(latest.days(rows), y, window_days) or _others(rows["customer_id"], seed)
    return Problem(X, y, splits, (*names, *coding.names))


def _others(customer: pa.ChunkedArray, seed: int) -> tuple[tuple[Whole, Whole], ...]:
    fold = crossfit.folds(customer, _FOLDS, seed)
    return tuple(
        (np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in np.unique(fold)
    )


def _response_study(
    problem: Problem, settings: Models, seed: int, database: Path, told: Told | None = None
) -> Study:
    # Other data, another seed, other constraints or another capacity to begin with are another study.
    parts = [np.ascontiguousarray(part).tobytes() for part in (problem.X, problem.y)]
    parts += [part.tobytes() for split in problem.splits for part in split]
    fixed = sorted(settings.monotone.items()), [getattr(settings, name) for name in _RESPONSE]
    parts += [repr((problem.names, fixed)).encode()]
    return Study(f"response-{seed}-{_digest(*parts)}", database, settings.tune_trials, seed, told)


def _parameters(model: Any, without: Collection[str] = ()) -> bytes:
    # All parameters of an estimator, also of estimators that it holds; `repr` of an array may be shortened.
    found = {name: _plain(value) for name, value in model.get_params().items() if name not in without}
    return repr(sorted(found.items())).encode()


def _plain(value: Any) -> Any:
    if hasattr(value, "get_params"):
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return sorted(((repr(key), _plain(part)) for key, part in value.items()), key=str)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:12]
