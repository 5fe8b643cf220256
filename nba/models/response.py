"""Will they respond: one LightGBM over features, action and channel, calibrated on unseen customers.

One model serves all treatments and `none`, so that rare treatments learn from common ones and all
treatments of a customer are scored with the same trees. How many trees serve, and how they are calibrated, is
told by the log loss of customers that they have not seen. What the trees leave of a treatment's rate is
shrunk: its own examples count as far as they go, then its action's and its channel's, then all; so a new
treatment scores sensibly on its first day. Purchases without treatments are the matter of
`nba.models.snapshots`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from nba.errors import DataError
from nba.models import calibration, crossfit, hierarchy, traverse
from nba.models.calibration import Calibrator
from nba.models.hierarchy import Hierarchy
from nba.models.inputs import Coding
from nba.models.traverse import Forest
from nba.settings import Models

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_MOST_ROWS = 90_000  # that trees are grown on
_BLOCKS = 3  # of time, at most
_STOPS = 10  # numbers of trees that early stopping chooses among
_RATE_SCALE = 0.3  # what the trees leave of a treatment is a factor of about e^±0.3 of its odds


@dataclass(frozen=True)
class Response:
    """A calibrated classifier.

    Attributes:
        booster: The trees; their inputs are the features, then the codes of the treatment.
        n_features: Number of features.
        kind: Of the calibration: "none", "platt" or "isotonic".
        calibrator: The calibration on the log-odds.
        rates: What the trees leave of the treatments' rates, in log-odds; None without contacts.
    """

    booster: lgb.Booster
    n_features: int
    kind: str = "none"
    calibrator: Calibrator = calibration.same
    rates: Hierarchy | None = None

    def predict(self, X: Array, codes: Array) -> Array:
        """Give the chance of a response of each row under each treatment.

        Args:
            X: Features, shape (n, p).
            codes: Codes of k treatments, shape (k, m).

        Returns:
            Shape (n, k), probabilities.
        """
        return self.calibrated(traverse.raw(self.booster, self.forest, X, codes))

    def at_rates(self, p: Array, treatments: Coding) -> Array:
        """Move chances to the rates that treatments were seen to have.

        Args:
            p: What `predict` gives for `none` and T treatments, shape (n, 1 + T).
            treatments: The T treatments, known or new.

        Returns:
            Shape (n, 1 + T); column 0 stays.
        """
        if self.rates is None:
            return p
        one = np.ones((1, 1))
        shift = self.rates.nuisance(one) + self.rates.effect(one, treatments)[0]
        return np.hstack([p[:, :1], times_odds(p[:, 1:], np.exp(shift))])

    @cached_property
    def forest(self) -> Forest | None:
        """The trees as one walk per customer reads them; None where only LightGBM can."""
        return Forest.of(self.booster)

    def predict_own(self, X: Array, codes: Array) -> Array:
        """Give the chance of each row under its own treatment: X (n, p), codes (n, m) to shape (n,)."""
        return self.calibrated(raw(self.booster, np.hstack([X, codes])))

    def calibrated(self, score: Array) -> Array:
        """Turn log-odds of the trees into probabilities."""
        return np.asarray(expit(self.calibrator(score)))


def signs(names: Sequence[str], settings: Models) -> list[int]:
    """Give the sign of each input's slope, 0 if free.

    Args:
        names: Features, then codes of treatments.
        settings: `monotone` counts.

    Raises:
        DataError: when it names features that are not there.
    """
    absent = sorted(set(settings.monotone) - set(names))
    if absent:
        raise DataError(
            f"models.monotone names {absent}; the examples have no such feature",
            "docs/features.md lists the features.",
        )
    return [settings.monotone.get(name, 0) for name in names]


def parameters(settings: Models, seed: int, **more: Any) -> dict[str, Any]:
    """Give LightGBM's parameters: shallow, slow and regularised, never its defaults."""
    return {
        "objective": "binary",
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": settings.min_leaf,
        "feature_fraction": 0.3,
        "lambda_l2": 10.0,
        "max_bin": 63,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "verbose": -1,
        **more,
    }


def raw(booster: lgb.Booster, X: Array, *, threads: int = 0) -> Array:
    """Predict the sum of the leaves, shape (n,)."""
    return np.asarray(booster.predict(X, raw_score=True, num_threads=threads), dtype=np.float64)


def stops(trees: int) -> Whole:
    """Give the numbers of trees that early stopping chooses among, the last being all.

    Example:
        >>> stops(80).tolist()
        [8, 16, 24, 32, 40, 48, 56, 64, 72, 80]
    """
    return np.unique(np.ceil(trees * np.arange(1, _STOPS + 1) / _STOPS).astype(np.int64))


def staged(booster: lgb.Booster, X: Array, trees: int, *, threads: int = 0) -> Array:
    """Predict the sum of the leaves of the first trees at each of `stops`, shape (n, stops)."""
    parts = [
        booster.predict(
            X, raw_score=True, start_iteration=begin, num_iteration=end - begin, num_threads=threads
        )
        for begin, end in pairwise((0, *stops(trees).tolist()))
    ]
    return np.cumsum(np.column_stack(parts), axis=1)


def stopped(scores: Array, y: Array, weight: Array) -> int:
    """Number the stop with the least log loss: scores (n, stops) of unseen rows, y (n,), weight (n,)."""
    losses = weight @ (np.logaddexp(0, scores) - y[:, None] * scores)
    return int(np.argmin(losses))


def cut(booster: lgb.Booster, trees: int) -> lgb.Booster:
    """Keep the first trees alone."""
    return lgb.Booster(model_str=booster.model_to_string(num_iteration=trees))


class Plan:
    """Rows binned once, to grow trees on any part of them.

    Args:
        X: Inputs, shape (n, p).
        y: 0 or 1, shape (n,).
        weight: Shape (n,).
        params: LightGBM's parameters.
        trees: Number of trees.
    """

    def __init__(
        self,
        X: Array,
        y: Array,
        weight: Array,
        params: Mapping[str, Any],
        trees: int,
    ) -> None:
        self._rows = X, y, weight
        self._params = {**params, "feature_pre_filter": False}
        self._trees = trees
        self._bins = self._data(np.arange(len(y)), None).construct()

    def grow(self, rows: Whole | None = None, *, threads: int = 0, trees: int | None = None) -> lgb.Booster:
        """Fit to some rows, or to all, all trees or the first; leaves may be smaller where rows are few.

        Of many rows a sample is taken: more of them made trees no better, only slower. The trees do not
        depend on the threads (0 is all cores): one each where several fits run at once.
        """
        n = len(self._rows[1]) if rows is None else len(rows)
        if n > _MOST_ROWS:
            rows = np.arange(n) if rows is None else rows
            rng = np.random.default_rng(self._params["seed"])
            rows, n = np.sort(rng.choice(rows, _MOST_ROWS, replace=False)), _MOST_ROWS
        least = int(np.clip(n // 50, 1, self._params["min_data_in_leaf"]))
        data = self._bins if rows is None else self._data(rows, self._bins)
        params = {**self._params, "min_data_in_leaf": least, "num_threads": threads}
        return lgb.train(params, data, self._trees if trees is None else trees)

    def _data(self, rows: Whole, bins: lgb.Dataset | None) -> lgb.Dataset:
        # Not `Dataset.subset`: training on subsets crashed inside LightGBM 4.7 on a large log.
        X, y, weight = self._rows
        return lgb.Dataset(X[rows], y[rows], weight=weight[rows], reference=bins, params=self._params)


def later(day: Array, y: Array, gap_days: float) -> tuple[tuple[Whole, Whole], ...]:
    """Split rows by time: blocks of whole moments, each judged by models of what had closed before.

    Args:
        day: Moment of each row in days, shape (n,).
        y: 0 or 1, shape (n,).
        gap_days: Days until an outcome closes.

    Returns:
        Rows to learn from and rows to judge on, block by block, at most three; none where no block has
        enough before it to learn from.
    """
    moments = np.unique(day)
    if len(moments) <= 1 + _BLOCKS:
        starts = moments[1:]
    else:
        at = len(day) * np.arange(1, 1 + _BLOCKS) // (1 + _BLOCKS)
        starts = np.unique(np.sort(day)[at])
    out = []
    for start, end in zip(starts, [*starts[1:], np.inf]):
        known = np.flatnonzero((day + gap_days <= start) & (day < start))
        new = (day >= start) & (day < end)
        if not check_responses(y[known]):
            out.append((known, np.flatnonzero(new)))
    return tuple(out)


@dataclass(frozen=True)
class CrossFitted:
    """The response model with its predictions for rows whose customers it had not seen.

    Attributes:
        model: Fitted on all rows.
        p_none: Chance without contact, shape (n,), out of fold.
        p_own: Chance under the row's own treatment, shape (n,), out of fold.
        p_paired: Chance under the treatment it is paired with, shape (n,), out of fold.
        p_served: As p_own, but calibrated by the other folds alone, shape (n,); with the treatments' rates
            after `with_rates`.
        losses: Log loss of each kind of calibration, fitted to the other folds. The number of trees, one of
            ten, was chosen on the same rows, which flatters all of them a little.
        blocks: Of later rows that stopped and calibrated the trees; 0 where other customers did.
    """

    model: Response
    p_none: Array
    p_own: Array
    p_paired: Array
    p_served: Array
    losses: Mapping[str, float] = field(default_factory=dict)
    blocks: int = 0


def fit(
    X: Array,
    own: Array,
    paired: Array,
    y: Array,
    weight: Array,
    fold: Whole,
    params: Mapping[str, Any],
    trees: int,
    customer: Whole | None = None,
    parts: Sequence[tuple[Whole, Whole]] = (),
) -> CrossFitted:
    """Fit the joint response model and its out-of-fold predictions.

    Args:
        X: Features, shape (n, p).
        own: Codes of each row's own treatment, shape (n, m); zeros are `none`.
        paired: Codes of the treatment it is paired with, shape (n, m); its own where treated.
        y: 0 or 1, shape (n,).
        weight: Shape (n,).
        fold: Fold of each row, shape (n,).
        params: LightGBM's, as `parameters` gives them.
        trees: Most trees; early stopping on the unseen rows finds how many serve.
        customer: Code of each row's customer, from 0, shape (n,), whom the choice of the calibration counts;
            None where every row is another's.
        parts: As `later` gives them: the trees are stopped and calibrated by those rows, not by the folds of
            customers, which still give every row a chance by trees that have not seen it.
    """
    full = np.hstack([X, own])
    is_treated = own[:, 0] > 0
    plan = Plan(full, y, weight, params, trees)

    def fit_predict(known: Whole, new: Whole) -> Array:
        booster = plan.grow(known, threads=1)
        rows = full[new]
        rows[:, X.shape[1] :] = 0
        none = staged(booster, rows, trees, threads=1)
        rows[:, X.shape[1] :] = paired[new]
        with_paired = staged(booster, rows, trees, threads=1)
        return np.stack([none, with_paired], axis=2)

    every = crossfit.out_of_fold(fold, fit_predict, threads=traverse.allowed_threads())
    by_stop = np.where(is_treated[:, None], every[..., 1], every[..., 0])
    ahead = _ahead(plan, full, parts, trees)
    stop = stopped(by_stop, y, weight)
    if ahead is not None:
        stop = stopped(ahead.scores, y[ahead.rows], weight[ahead.rows])
    none, with_paired = every[:, stop].T
    scores = np.column_stack([none, np.where(is_treated, with_paired, none), with_paired])
    if ahead is None:
        way = calibration.cross_fit(scores[:, 1], y, weight, fold, customer)
    else:
        seen = calibration.Ahead(ahead.rows, ahead.scores[:, stop], ahead.block)
        way = calibration.over_time(seen, scores[:, 1], y, weight, fold, customer)
    model = Response(plan.grow(trees=int(stops(trees)[stop])), X.shape[1], way.kind, way.way)
    p_none, p_own, p_paired = model.calibrated(scores).T
    return CrossFitted(model, p_none, p_own, p_paired, expit(way.unseen), way.losses, len(parts))


class _Ahead(NamedTuple):
    # Rows that were predicted by trees of earlier ones, their log-odds (m, stops), and their blocks of time.
    rows: Whole
    scores: Array
    block: Whole


def _ahead(plan: Plan, full: Array, parts: Sequence[tuple[Whole, Whole]], trees: int) -> _Ahead | None:
    if not parts:
        return None
    scores = [staged(plan.grow(known, threads=1), full[new], trees, threads=1) for known, new in parts]
    block = np.repeat(np.arange(len(parts)), [len(new) for _, new in parts])
    return _Ahead(np.concatenate([new for _, new in parts]), np.concatenate(scores), block)


def with_rates(
    crossed: CrossFitted, column: Whole, y: Array, weight: Array, fold: Whole, coding: Coding
) -> CrossFitted:
    """Learn what the trees leave of the treatments' rates, shrunk to action, channel and all.

    The log-odds of a contacted row are those of the trees plus a level, plus one number each of its action,
    its channel and its treatment. All have normal priors of mean zero whose variances the data choose
    (empirical Bayes; `nba.models.hierarchy`), so that few examples of a treatment move it little.

    Args:
        crossed: The trees, and their out-of-fold chances.
        column: Treatment of each row, 0 is `none`, shape (n,).
        y: 0 or 1, shape (n,).
        weight: Shape (n,).
        fold: Shape (n,).
        coding: The T treatments.
    """
    at = np.flatnonzero(column > 0)
    if not len(at):
        return crossed
    offset = logit(np.clip(crossed.p_own[at], 1e-6, 1 - 1e-6))
    split = column[at], column[at], fold[at], coding
    found = hierarchy.cross_fit_logit(np.ones((len(at), 1)), y[at], offset, weight[at], *split, _RATE_SCALE)
    served = crossed.p_served.copy()
    served[at] = times_odds(served[at], np.exp(found.nuisance + found.effect))
    return replace(crossed, model=replace(crossed.model, rates=found.model), p_served=served)


def times_odds(p: Array, ratio: Array) -> Array:
    """Multiply the odds of chances.

    Example:
        >>> times_odds(np.array([0.5, 0.2]), np.array([3.0, 1.0])).tolist()
        [0.75, 0.2]
    """
    return np.asarray(p * ratio / (1 - p + p * ratio))


def check_responses(y: Array) -> list[str]:
    """Name what keeps these responses from being learnt; empty if nothing."""
    faults = []
    if len(y) < 100:
        faults.append(f"{len(y)} examples; expected 100 or more")
    if y.sum() < 5:
        faults.append(f"{int(y.sum())} responses; expected 5 or more")
    if len(y) - y.sum() < 5:
        faults.append(f"{int(len(y) - y.sum())} examples without a response; expected 5 or more")
    return faults
