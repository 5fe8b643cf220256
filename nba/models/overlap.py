"""Observational data: estimated assignment probabilities, and whether the arms can be compared at all.

In an experiment p_action is known and is used as it stands. Where it is not, who got what may depend on
what else moves the outcome; estimated probabilities undo the part that the features tell, and nothing
undoes the rest. So the estimate comes with diagnostics and a plain warning.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from nba import metrics, stats
from nba.catalog import NONE
from nba.errors import listed
from nba.models import crossfit, trial

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_CANNOT = "assignment probabilities cannot be estimated from these rows"
_FLOOR = 0.01
_RARE = 0.05  # probability below which a row has hardly a counterpart
_BALANCED = 0.1  # standardised difference below which an arm counts as balanced (Austin 2009)


class ObservationalWarning(UserWarning):
    """Effects rest on estimated assignment probabilities."""


@dataclass(frozen=True)
class Overlap:
    """Estimated assignment probabilities and what they say about the comparison.

    Attributes:
        p: Probability of each arm, control first, shape (n, 1 + T), at least 0.01, rows sum to 1.
        arms: Names, the control first.
        table: Per arm: n, auc (0.5: assigned as if at random), p_min (before
            the floor), share_rare (rows of all whose
            probability of the arm is below 0.05), ess_share (effective sample size of the weighted arm,
            as a share of its rows), smd_before and smd_after (largest standardised difference of a
            feature between the arm and everyone, before and after weighting).
        warning: What a reader must know, one sentence per finding.
    """

    p: Array
    arms: tuple[Any, ...]
    table: pa.Table
    warning: str

    @property
    def is_comparable(self) -> bool:
        """Whether every arm is balanced after weighting and has counterparts."""
        found = self.table.to_pydict()
        return max(found["smd_after"]) <= _BALANCED and max(found["share_rare"]) <= _RARE


def estimate(
    X: ArrayLike,
    treatment: ArrayLike,
    *,
    control: Any = NONE,
    groups: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Overlap:
    """Estimate assignment probabilities out of fold, and warn.

    Args:
        X: Features known before the assignment, shape (n, p).
        treatment: Arm of each row, shape (n,).
        control: Name of the control.
        groups: Customer of each row, shape (n,): a customer's rows share a fold.
        folds: Cross-fitting folds.
        seed: Of folds and trees.

    Raises:
        DataError: when an arm has fewer than 5 rows, the control is absent, treatments or groups are missing,
            features are no numbers or infinite, or lengths differ.
    """
    trial.check_numbers(X)
    features = np.asarray(X, dtype=np.float64)
    given = np.asarray(treatment, dtype=object)
    names = list(X.columns) if isinstance(X, pd.DataFrame) else None
    faults = trial.lengths(len(features), treatment=given, groups=groups)
    faults += [*trial.faults_of_features(features, names), *trial.faults_of_groups(groups)]
    if missing := int(pd.isna(given).sum()):
        faults.append(f"treatment: {missing} values are missing")
    if faults:
        raise listed(faults, _CANNOT)
    arms = (control, *sorted(set(given.tolist()) - {control}, key=str))
    arm = np.array([arms.index(a) for a in given.tolist()], dtype=np.int64)
    sizes = np.bincount(arm, minlength=len(arms))
    few = [f"arm {a!r}: {s} rows; expected 5 or more" for a, s in zip(arms, sizes) if s < 5]
    if few or len(arms) < 2:
        raise listed(few or ["only one arm"], _CANNOT)
    fold = trial.split(arm, arm.astype(float), groups, folds, seed)
    p = crossfit.out_of_fold(fold, lambda known, new: _fit(features, arm, known, len(arms), seed)(new))
    least = p.min(axis=0)
    p = np.maximum(p, _FLOOR)
    p /= p.sum(axis=1, keepdims=True)
    table = diagnose(features, arm, p, arms)
    at = table.column_names.index("p_min")
    table = table.set_column(at, "p_min", pa.array(least))
    said = _words(table)
    warnings.warn(said, ObservationalWarning, stacklevel=2)
    return Overlap(p, arms, table, said)


def _fit(X: Array, arm: Whole, known: Whole, k: int, seed: int) -> Any:
    params = {
        "objective": "multiclass", "num_class": k, "num_leaves": 8, "learning_rate": 0.06,
        "min_data_in_leaf": int(np.clip(len(known) // 50, 5, 100)), "lambda_l2": 10.0, "seed": seed,
        "deterministic": True, "force_col_wise": True, "verbose": -1, "num_threads": 1,
    }  # fmt: skip
    booster = lgb.train(params, lgb.Dataset(X[known], arm[known], params=params), 60)
    return lambda new: np.asarray(booster.predict(X[new]))


def diagnose(X: Array, arm: Whole, p: Array, arms: tuple[Any, ...]) -> pa.Table:
    """Measure overlap and balance of given probabilities; the columns are those of `Overlap.table`.

    Serves known probabilities as well: in an experiment the AUC is what the design says, and the
    weighted differences are small.
    """
    X = X[:, np.isfinite(X).any(axis=0)]
    mean, scale = np.nanmean(X, axis=0), np.nanstd(X, axis=0)
    usable = scale > 1e-12
    z = np.nan_to_num((X[:, usable] - mean[usable]) / scale[usable])
    rows = []
    for k, name in enumerate(arms):
        own = arm == k
        weight = 1 / p[own, k]
        apart = z[own].mean(axis=0), np.average(z[own], axis=0, weights=weight)
        largest = [float(np.abs(part).max()) if part.size else 0.0 for part in apart]
        ess = stats.effective(weight) / float(own.sum())
        auc = metrics.auc(own.astype(float), p[:, k])
        rare = float((p[:, k] < _RARE).mean())
        rows.append((str(name), int(own.sum()), auc, float(p[:, k].min()), rare, ess, *largest))
    names = ("arm", "n", "auc", "p_min", "share_rare", "ess_share", "smd_before", "smd_after")
    return pa.table(dict(zip(names, zip(*rows))))


def _words(table: pa.Table) -> str:
    said = [
        "Assignment probabilities were estimated, not known: effects are causal only if nothing but these"
        " features decided both who got what and what came of it."
    ]
    for row in table.to_pylist():
        if row["share_rare"] > _RARE:
            said.append(
                f"Arm {row['arm']!r}: {row['share_rare']:.0%} of the customers had a chance below"
                f" {_RARE:.0%} of getting it; what it does to them is a guess."
            )
        if row["smd_after"] > _BALANCED:
            said.append(
                f"Arm {row['arm']!r} differs from the rest by {row['smd_after']:.2f} standard deviations of a"
                f" feature even after weighting ({row['smd_before']:.2f} before)."
            )
    return " ".join(said)
