"""Search of LightGBM's capacity for the response model with Optuna: seeded, pruned, resumable."""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import expit

from nba import metrics
from nba.catalog import Catalog
from nba.models import crossfit, inputs, response
from nba.models.inputs import Coding
from nba.settings import Models

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_FOLDS = 3


@dataclass(frozen=True)
class Problem:
    """What is searched on: inputs (n, p), responses (n,), folds (n,)."""

    X: Array
    y: Array
    fold: Whole


def tuned(
    examples: pa.Table, catalog: Catalog, settings: Models, seed: int, database: Path
) -> tuple[Models, Mapping[str, float]]:
    """Replace the capacity in the settings by the best found; unchanged if no trials are asked for.

    Args:
        examples: The `examples` table.
        catalog: Its treatments.
        settings: `tune_trials` says how many trials the study shall have in all; `tune_rows` on how many
            rows they run.
        seed: Of sampler, folds and trees.
        database: SQLite file of the study: a search that was interrupted goes on where it stopped.

    Returns:
        The settings to fit with, and what was found (empty without a search).
    """
    if settings.tune_trials == 0:
        return settings, {}
    problem = _problem(examples, catalog, settings.tune_rows, seed)
    found = search(problem, settings, seed, database)
    return settings.model_copy(update={k: v for k, v in found.items() if k != "log_loss"}), found


def trials(
    examples: pa.Table, catalog: Catalog, settings: Models, seed: int, database: Path
) -> list[dict[str, Any]]:
    """List the trials of the study of these examples; the arguments are those of `tuned`.

    Returns:
        Per trial `params` and `loss`, None where it was pruned. Empty without a search.
    """
    if settings.tune_trials == 0 or not database.is_file():
        return []
    import optuna

    problem = _problem(examples, catalog, settings.tune_rows, seed)
    study = optuna.load_study(study_name=_study_name(problem, seed), storage=f"sqlite:///{database}")
    done = [trial for trial in study.trials if trial.state.is_finished()]
    complete = optuna.trial.TrialState.COMPLETE
    return [{"params": t.params, "loss": t.value if t.state == complete else None} for t in done]


def search(problem: Problem, settings: Models, seed: int, database: Path) -> dict[str, float]:
    """Minimise the cross-validated log loss over leaves, leaf size, learning rate and trees.

    Trials are pruned after a fold whose running mean is worse than the median of the trials before
    (Optuna's median rule); the sampler is TPE (Bergstra et al. 2011). The settings' own capacity is the
    first trial, so that the result is never worse on these folds.

    Returns:
        leaves, min_leaf, learning_rate, trees, and the log_loss they reached.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    database.parent.mkdir(parents=True, exist_ok=True)

    def objective(trial: "optuna.Trial") -> float:
        capacity = settings.model_copy(
            update={
                "leaves": trial.suggest_int("leaves", 4, 63, log=True),
                "min_leaf": trial.suggest_int("min_leaf", 20, 1000, log=True),
                "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
                "trees": trial.suggest_int("trees", 20, 300, log=True),
            }
        )
        losses: list[float] = []
        for loss in _losses(problem, capacity, seed):
            losses.append(loss)
            trial.report(float(np.mean(losses)), len(losses))
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(losses))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            study_name=_study_name(problem, seed),
            storage=f"sqlite:///{database}",
            load_if_exists=True,
            direction="minimize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
        )
        if not study.trials:
            names = ("leaves", "min_leaf", "learning_rate", "trees")
            study.enqueue_trial({name: getattr(settings, name) for name in names}, skip_if_exists=True)
        done = sum(trial.state.is_finished() for trial in study.trials)
        study.optimize(objective, n_trials=max(settings.tune_trials - done, 0))
    return {**study.best_params, "log_loss": float(study.best_value)}


def _losses(problem: Problem, capacity: Models, seed: int) -> Iterator[float]:
    plan = response.Plan(
        problem.X, problem.y, np.ones(len(problem.y)), response.parameters(capacity, seed), capacity.trees
    )
    for number in np.unique(problem.fold):
        new = problem.fold == number
        booster = plan.grow(np.flatnonzero(~new))
        yield metrics.log_loss(problem.y[new], expit(response.raw(booster, problem.X[new])))


def _problem(examples: pa.Table, catalog: Catalog, most: int, seed: int) -> Problem:
    coding = Coding.of(catalog)
    column = coding.columns(examples["treatment_id"].to_pylist())
    known = np.flatnonzero(column >= 0)
    if len(known) > most:
        known = np.sort(np.random.default_rng(seed).choice(known, most, replace=False))
    rows = examples.take(pa.array(known))
    X = np.hstack([inputs.matrix(rows, inputs.feature_names(rows)), coding.codes()[column[known]]])
    y = rows["is_response"].to_numpy().astype(float)
    return Problem(X, y, crossfit.folds(rows["customer_id"], _FOLDS, seed))


def _study_name(problem: Problem, seed: int) -> str:
    # Another data set or seed is another study; the same goes on.
    digest = hashlib.sha256(np.ascontiguousarray(problem.X).tobytes())
    digest.update(problem.y.tobytes() + problem.fold.tobytes())
    return f"response-{seed}-{digest.hexdigest()[:12]}"
