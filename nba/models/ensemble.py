"""The default model of effects: candidates, a stack shrunk to the average effect, and a gate.

1. Candidates (`nba.models.candidates`) are fitted without each fold and predict it.
2. A stack weighs their deviations from the average effect by the doubly robust loss, the mean square of
   score less prediction (Kennedy 2023; Schuler et al. 2018), in which the noise that all effects of a row
   share with its control counts once: weights are non-negative, with a normal prior, so that data in which
   there is nothing to find pull them to zero and few data neither trust nor ignore a candidate.
3. Predictions are averages over the folds' models: nothing is fitted again, and averaging steadies trees.
4. The **gate** (`nba.models.gate`) says whether choosing by customer pays.

The standard error of a customer's effect joins the hierarchy's posterior, the jackknife over the folds'
models, and how far the candidates lie apart. Intervals of groups do not rest on it: they come from the
scores (`nba.models.ensemble.UpliftEnsemble.group_effects`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from nba import stats
from nba.catalog import NONE
from nba.errors import DataError, listed
from nba.models import candidates, learners
from nba.models.candidates import NAMES, ByTreatment, Fold, Linear, OddsTrees, Relative, TTrees, XTrees
from nba.models.gate import HALF, Evidence, decide, levelled, raising, ranking, shown
from nba.models.inputs import Coding
from nba.models.learners import _Learner
from nba.models.trial import Trial

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_PRIOR_SD = 0.05  # of each weight on its own
_SIGNED = ("x_trees", "dr_trees")  # candidates that keep monotone
_TOTAL_SD = 0.6  # of all weights together, as a part of their prior: how much heterogeneity there is


@dataclass(frozen=True)
class Member:
    """All candidates of one fold."""

    outcomes: list[learners.Fitted]
    effects: tuple[Any, ...]

    def __call__(self, X: Array, mu: Array | None = None) -> Array:
        """Predict, shape (n, T, candidates)."""
        if mu is None:
            mu = np.column_stack([model(X) for model in self.outcomes])
        return np.stack([effect(X, mu) for effect in self.effects], axis=2)


class UpliftEnsemble(_Learner):
    """Stacked effects of several treatments with standard errors and a recommendation.

    Args:
        outcome: Regressor, or classifier of 0/1 outcomes; LightGBM if None.
        names: Candidates, of `candidates.NAMES`.
        value: Money per unit of the outcome; by treatment where it differs.
        cost: Money per customer by treatment; 0 if absent.
        parts: By treatment, its action and channel: the hierarchy then shares strength over both.
        monotone: By feature, the sign of the effect's slope, 0 if free. Only trees of effects keep it: of the
            default's candidates these are left.
        trees: Parameters of LightGBM for the trees of effects, instead of the default's;
            `nba.models.tuning` finds some.
        control: Name of the arm that the others are compared with.
        folds: Cross-fitting folds.
        random_state: Of folds and trees.

    Attributes:
        treatments_: Names of the T treatments, sorted.
        names_: Candidates that were fitted.
        average_: Table treatment, n, effect, se, lower, upper: average effects (AIPW, 95%).
        candidates_: Table candidate, weight, gain, gain_lower, gain_upper (of the doubly robust loss over
            the constant effect's, 95%), rate, rate_lower, rate_upper (Qini-weighted RATE), all with every
            fold at the mean of all.
        gate_: What to do.
        oof_: Effects of the training rows by models that have not seen them, shape (n, T).
        customer_: Code of the customer of each training row, shape (n,); all different without `groups`.
            Intervals rest on customers: what a customer's rows share counts once.
        weight_: Sample weight of each training row, shape (n,): everything above counts rows by it.
        fold_: Cross-fitting fold of each training row, shape (n,).
        loss_: Doubly robust loss of `oof_`, over the scores' variance.
        scores_: Doubly robust scores of each arm's outcome, shape (n, 1 + T).
        possible_: Which treatments each row could have got as well as the control, shape (n, T). Of others
            it says nothing: averages, losses and intervals are of rows that could, and the gate's "everyone"
            is everyone who can.
        support_: Share of the rows that could, shape (T,).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X, arm = rng.normal(size=(2000, 3)), rng.integers(0, 2, 2000)
        >>> y = X[:, 1] + arm * (1 + X[:, 0]) + rng.normal(size=2000)
        >>> model = UpliftEnsemble(control=0).fit(X, y, arm, {0: 0.5, 1: 0.5})
        >>> bool(np.corrcoef(model.predict(X), X[:, 0])[0, 1] > 0.9), model.gate_.rule
        (True, 'personalise')
    """

    _has_gaps = True

    def __init__(
        self,
        outcome: Any = None,
        *,
        names: Sequence[str] = NAMES,
        value: float | Mapping[Any, float] = 1.0,
        cost: Mapping[Any, float] | None = None,
        parts: Mapping[Any, tuple[str, str]] | None = None,
        monotone: Sequence[int] | None = None,
        trees: Mapping[str, Any] | None = None,
        control: Any = NONE,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        super().__init__(outcome, control=control, folds=folds, random_state=random_state)
        self.names = names
        self.value = value
        self.cost = cost
        self.parts = parts
        self.monotone = monotone
        self.trees = trees

    def _fit(self, data: Trial) -> None:
        if faults := self._misread():
            raise listed(faults, "the model cannot be fitted as it was asked for")
        # The default's others would undo what is asked of the slopes.
        is_default = tuple(self.names) == NAMES
        self.names_ = _SIGNED if is_default and self.monotone is not None else tuple(self.names)
        if faults := self._faults(data.arms[1:]):
            raise listed(faults, "the model cannot be fitted as it was asked for")
        with threadpool_limits(limits=1, user_api="blas"):
            mu, outcomes = self._outcomes(data)
            self.scores_ = data.scores(mu)
            w = data.weight / data.weight.sum()
            self.possible_ = data.possible
            self.support_ = w @ self.possible_
            share = w[:, None] * self.possible_ / self.support_
            effects = self.scores_[:, 1:] - self.scores_[:, :1]
            average = (share * effects).sum(axis=0)
            # Who could not have got a treatment says nothing of it: neither better nor worse than average.
            effects = np.where(self.possible_, effects, average)
            self._linear, members = self._candidates(data, outcomes, effects)
        deviations = np.empty((*effects.shape, len(self.names_)))
        for number, member in members.items():
            new = np.flatnonzero(data.fold == number)
            deviations[new] = member(data.X[new], mu[new])
        self._members = tuple(members.values())
        self._center = np.einsum("it,itc->tc", share, deviations)
        deviations -= self._center
        apart = share * (effects - average)
        noise = np.sqrt(np.maximum((by_customer(apart, data.customer) ** 2).sum(axis=0), 1e-300))
        self._average = shrink(average, noise)
        prior = candidates.prior(self.names_, len(data.y) / len(data.arms))
        # What is left of a score beside its model's prediction is noise: of the row's own arm alone.
        left = self.scores_ - mu
        arm_noise = w @ left**2 * repetition(w[:, None] * left, data.customer)
        known = np.where(self.possible_[..., None], deviations, 0.0)
        self._weights = stack(known, effects - average, data.weight, prior, arm_noise)
        self.oof_ = self._average + deviations @ self._weights
        missed = (effects - np.where(self.possible_, self.oof_, average)) ** 2
        self.loss_ = float((w @ (missed / _spread(effects, w))).mean())
        # Chosen by averages that the row is part of, the best of several would look good by its own luck.
        unseen = averages_without(effects, share, data) + deviations @ self._weights
        self._report(data, effects, deviations, unseen, average, noise)

    def _misread(self) -> list[str]:
        # What is no list or mapping where one is asked for: anything else would be read letter by letter.
        out = []
        if isinstance(self.names, str) or not isinstance(self.names, Sequence):
            out.append(f"names is {self.names!r}; expected a sequence of names, such as ('hierarchy',)")
        if self.cost is not None and not isinstance(self.cost, Mapping):
            out.append(f"cost is {self.cost!r}; expected money by treatment, such as {{'mail': 0.5}}")
        if isinstance(self.monotone, Mapping | str):
            out.append(f"monotone is {self.monotone!r}; expected one of -1, 0 or 1 per feature, in order")
        return out

    def _faults(self, treatments: Sequence[Any]) -> list[str]:
        # Of the arguments, before anything is fitted.
        unknown = sorted(set(self.names) - set(NAMES))
        out = []
        if (self.cost or {}).get(self.control):
            out.append(
                f"cost of the control {self.control!r} is {(self.cost or {})[self.control]!r}; expected none:"
                " give what a treatment costs more than it"
            )
        if unknown or not len(self.names):
            out.append(f"names has {unknown}; expected some of {list(NAMES)}")
        if lost := self.monotone is not None and sorted(set(self.names_) - set(_SIGNED) - set(unknown)):
            out.append(f"names has {lost}, which cannot keep monotone; expected some of {list(_SIGNED)}")
        known = learners.effect_model(0).get_params()
        if odd := [name for name in self.trees or {} if name not in known]:
            out.append(f"trees names {odd}; expected some of {sorted(known)}")
        for what, told in (("value", self.value), ("parts", self.parts)):
            absent = [t for t in treatments if isinstance(told, Mapping) and t not in told]
            if absent:
                say = "is worth" if what == "value" else "are made of"
                out.append(f"{what} does not say what {absent} {say}; expected every treatment")
        if nobody := [name for name in self.cost or {} if name not in (self.control, *treatments)]:
            out.append(f"cost names {nobody}, which no row got; expected some of {list(treatments)}")
        worth = self.value if isinstance(self.value, Mapping) else {None: self.value}
        for what, money in (("value", worth), ("cost", self.cost or {})):
            for name, one in money.items():
                if not isinstance(one, Real) or not np.isfinite(float(one)):
                    of = "" if name is None else f" of {name!r}"
                    out.append(f"{what}{of} is {one!r}; expected a finite number")
        return out

    def _outcomes(self, data: Trial) -> tuple[Array, dict[int, tuple[Whole, list[learners.Fitted], Array]]]:
        base = self._base(data)
        mu, models = np.empty((len(data.y), len(data.arms))), {}
        for number in np.unique(data.fold):
            known, new = np.flatnonzero(data.fold != number), data.fold == number
            fitted = learners.fit_outcomes(data, base, known)
            full = np.column_stack([model(data.X) for model in fitted])
            mu[new] = full[new]
            models[int(number)] = (known, fitted, full)
        return mu, models

    def _candidates(
        self, data: Trial, outcomes: Mapping[int, Any], effects: Array
    ) -> tuple[Linear, dict[int, Member]]:
        monotone = None
        if self.monotone is not None:
            monotone = learners.constraints(self.monotone, None, data.X.shape[1])
        base = candidates.base_effect(self.random_state, monotone, self.trees)
        whole, linear = candidates.fit_linear(data, self._coding(data))
        members = {}
        for number, (known, fitted, full) in outcomes.items():
            fold = Fold(data, known, fitted, full, effects, base)
            made = tuple(self._candidate(name, fold, linear[number]) for name in self.names_)
            members[number] = Member(fitted, made)
        return whole, members

    def _candidate(self, name: str, fold: Fold, linear: Linear) -> Any:
        if name == "hierarchy":
            return linear
        if name == "x_trees":
            # Signs are asked of effects in points, which those on the log-odds need not have.
            return (OddsTrees if fold.data.is_binary and self.monotone is None else XTrees).fit(fold)
        if name == "t_trees":
            return TTrees()
        if name == "dr_trees":
            return ByTreatment.trees(fold)
        if name == "dr_ridge":
            return ByTreatment.ridge(fold)
        weight = fold.data.weight[fold.rows]
        average = np.average(fold.effects[fold.rows], axis=0, weights=weight)
        return Relative(average, float(np.average(fold.mu[fold.rows, 0], weights=weight)))

    def _coding(self, data: Trial) -> Coding:
        names = tuple(str(name) for name in data.arms[1:])
        if self.parts is None:
            return Coding(names, names, ("",) * len(names))
        made = [self.parts[name] for name in data.arms[1:]]
        return Coding(names, tuple(a for a, _ in made), tuple(c for _, c in made))

    def _report(
        self,
        data: Trial,
        effects: Array,
        deviations: Array,
        unseen: Array,
        average: Array,
        noise: Array,
    ) -> None:
        could = self.possible_
        n = [int((data.arm[could[:, k]] == k + 1).sum()) for k in range(could.shape[1])]
        half = HALF * noise
        customer = data.customer
        self.customer_ = np.arange(len(data.y)) if customer is None else customer
        self.weight_, self.fold_ = data.weight, data.fold
        self.average_ = pa.table(
            {
                "treatment": [str(name) for name in self.treatments_], "n": n, "effect": average, "se": noise,
                "lower": average - half, "upper": average + half,
            }
        )  # fmt: skip
        parts = {name: average + deviations[..., j] for j, name in enumerate(self.names_)}
        constant = np.broadcast_to(average, effects.shape)
        parts["stack"] = self.oof_
        parts = {
            name: levelled(part, data.fold, data.weight[:, None] * could) for name, part in parts.items()
        }
        parts = {"none": 0 * effects, "constant": constant, **parts}
        parts = {name: np.where(could, part, average) for name, part in parts.items()}
        weights = dict(zip(self.names_, self._weights))
        alike: dict[str, Any] = {"customer": customer, "possible": could, "weight": data.weight}
        rows = [
            judge(name, part, effects, average, **alike) | {"weight": weights.get(name)}
            for name, part in parts.items()
        ]
        self.candidates_ = pa.Table.from_pylist(rows)
        self.gate_ = decide(
            np.where(could, self._worth(unseen), -np.inf),
            np.where(could, self._worth(effects), 0.0),
            data.arms,
            data.weight,
            customer,
            Evidence(
                ranking(parts["stack"], effects, **alike),
                shown(rows, int(self.customer_.max()) + 1),
                raising(average, noise),
                float(data.weight @ np.abs(data.y) / data.weight.sum()) * float(np.mean(self._per_unit())),
                stats.effective(data.weight * could.any(axis=1) / data.p_own),
            ),
        )

    def judged(self, name: str, part: Array) -> dict[str, Any]:
        """Judge other effects of the training rows as `candidates_` judges the stack's.

        Args:
            name: What to call them.
            part: Effects by models that have not seen the row, shape (n, T); NaN is the average effect.

        Returns:
            A row of `candidates_`.
        """
        average = self.average_["effect"].to_numpy()
        effects = np.where(self.possible_, self.scores_[:, 1:] - self.scores_[:, :1], average)
        known = self.possible_ & np.isfinite(part)
        part = levelled(np.where(known, part, 0.0), self.fold_, self.weight_[:, None] * known)
        part = np.where(known, part, average)
        return judge(name, part, effects, average, self.customer_, self.possible_, self.weight_)

    def _per_unit(self) -> Any:
        value = self.value
        return [float(value[t]) for t in self.treatments_] if isinstance(value, Mapping) else float(value)

    def _worth(self, effect: Array) -> Array:
        cost = self.cost or {}
        return effect * self._per_unit() - [float(cost.get(name, 0.0)) for name in self.treatments_]

    def _effect(self, X: Array) -> Array:
        return self._predict(X)[0]

    def effect_se(self, X: ArrayLike) -> Array:
        """Give the standard error of every effect, shape (n, T), in the unit of the outcome."""
        return self.effect_with_se(X)[1]

    def effect_with_se(self, X: ArrayLike) -> tuple[Array, Array]:
        """Give effects and their standard errors, both of shape (n, T)."""
        check_is_fitted(self, "treatments_")
        found = self._features(X)
        none = np.empty((0, len(self.treatments_)))
        return self._predict(found) if len(found) else (none, none.copy())

    def _predict(self, X: Array) -> tuple[Array, Array]:
        found = np.stack([member(X) - self._center for member in self._members])
        by_fold = found @ self._weights
        by_candidate = found.mean(axis=0)
        total = max(float(self._weights.sum()), 1e-12)
        apart = ((by_candidate - (by_candidate @ self._weights)[..., None] / total) ** 2) @ (
            self._weights / total
        )
        posterior = self._linear.with_error(X)[1] ** 2
        # Each fold's models lack a fifth of the rows: the jackknife of a group at a time (Shao, Wu 1989).
        jackknife = by_fold.var(axis=0) * (len(by_fold) - 1)
        mean = by_fold.mean(axis=0)
        return self._average + mean, np.sqrt(posterior + jackknife + min(total, 1.0) ** 2 * apart)

    def recommend(self, X: ArrayLike) -> NDArray[Any]:
        """Name the arm for every row, following the gate, shape (n,)."""
        effect = self.effect(X)
        arms = np.array([self.control, *self.treatments_], dtype=object)
        if self.gate_.rule != "personalise":
            return np.full(len(effect), self.gate_.rule, dtype=object)
        worth = np.column_stack([np.zeros(len(effect)), self._worth(effect)])
        return arms[worth.argmax(axis=1)]

    def group_effects(self, group: ArrayLike, level: float = 0.9) -> pa.Table:
        """Estimate average effects of groups of the training rows from their scores (AIPW).

        Args:
            group: Group of each training row, shape (n,); must not depend on outcomes beyond what
                `oof_` tells.
            level: Confidence level.

        Returns:
            Columns group, treatment, n, predicted, effect, se, lower, upper.

        Raises:
            DataError: when the groups are not one per training row.
        """
        effects = self.scores_[:, 1:] - self.scores_[:, :1]
        given = np.asarray(group)
        if given.shape != (len(effects),):
            raise DataError(
                f"group has shape {given.shape}; expected ({len(effects)},): one per training row"
            )
        rows = []
        for name in np.unique(given):
            at = given == name
            for t, treatment in enumerate(self.treatments_):
                could = at & self.possible_[:, t] & (self.weight_ > 0)
                if not could.any():
                    continue
                w = self.weight_[could]
                found = stats.mean(stats.weighed(effects[could, t], w), level, self.customer_[could])
                predicted = float(np.average(self.oof_[could, t], weights=w))
                rows.append(
                    (name, treatment, found.n, predicted, found.value, found.se, found.lower, found.upper)
                )
        names = ("group", "treatment", "n", "predicted", "effect", "se", "lower", "upper")
        return pa.table({n: [str(v) if n in names[:2] else v for v in c] for n, c in zip(names, zip(*rows))})


def averages_without(effects: Array, share: Array, data: Trial) -> Array:
    """Give the shrunken average effects as the rows of other folds tell them, shape (n, T).

    Args:
        effects: Unbiased scores of the effects, shape (n, T).
        share: Of each row in the averages, columns sum to 1, shape (n, T).
        data: Folds and customers.
    """
    out = np.empty_like(effects)
    for number in np.unique(data.fold):
        others = share * (data.fold != number)[:, None]
        others = others / np.maximum(others.sum(axis=0), 1e-300)
        average = (others * effects).sum(axis=0)
        noise = (by_customer(others * (effects - average), data.customer) ** 2).sum(axis=0)
        out[data.fold == number] = shrink(average, np.sqrt(np.maximum(noise, 1e-300)))
    return out


def by_customer(values: Array, customer: Whole | None) -> Array:
    """Sum the rows of each customer, shape (customers, ...); as they are where every row is another's."""
    return values if customer is None else stats.sums(values, customer)[0]


def repetition(values: Array, customer: Whole | None) -> Array:
    """Say how much more the sum of values varies than with independent rows (the design effect, Kish 1965).

    Args:
        values: Without a mean, shape (n, m).
        customer: Code of each row's customer, shape (n,); None where every row is another's.

    Returns:
        Shape (m,), at least 1.
    """
    rows = np.maximum((values**2).sum(axis=0), 1e-300)
    return np.maximum((by_customer(values, customer) ** 2).sum(axis=0) / rows, 1.0)


def shrink(average: Array, se: Array) -> Array:
    """Shrink averages of several treatments to their mean as far as noise explains that they differ.

    Empirical Bayes with a normal prior; the variance of the prior is what the averages' spread leaves
    over their noise (DerSimonian, Laird 1986). With fewer than three treatments nothing is shrunk.

    Example:
        >>> shrink(np.array([0.0, 1.0, 2.0]), np.array([10.0, 10.0, 10.0])).tolist()
        [1.0, 1.0, 1.0]
    """
    if len(average) < 3:
        return average
    w = 1 / se**2
    center = w @ average / w.sum()
    spread = w @ (average - center) ** 2 - (len(average) - 1)
    tau2 = max(0.0, spread / (w.sum() - (w**2).sum() / w.sum()))
    return np.asarray(center + (average - center) * tau2 / (tau2 + se**2))


def stack(
    deviations: Array, target: Array, weight: Array, prior: Array, arm_noise: Array | None = None
) -> Array:
    """Weigh candidates' deviations from the average effect by their doubly robust loss.

    Args:
        deviations: Out of fold, shape (n, T, candidates).
        target: Scores of the effects less their average, shape (n, T).
        weight: Shape (n,).
        prior: Weights before data, shape (candidates,).
        arm_noise: Variances of the scores of the control and the treatments, shape (1 + T,). All effects
            of a row share the control's noise: the loss is that of generalised least squares (Aitken
            1936), under which differences between treatments, which are free of it, count for more. None:
            effects count by the inverse of their own variance.

    Returns:
        Non-negative weights, shape (candidates,): the maximum of the posterior under a normal prior that
        is loose along the total (standard deviation 60% of it) and tight across (0.05): how much
        heterogeneity there is comes from the data, whose candidate finds it rather from experience.
    """
    m = deviations.shape[2]
    if arm_noise is None:
        precise = np.diag(1 / _or_one((weight @ target**2) / weight.sum()))
    else:
        h = 1 / _or_one(arm_noise)
        precise = np.diag(h[1:]) - np.outer(h[1:], h[1:]) / h.sum()
    whiten = np.linalg.cholesky(precise)
    root = np.sqrt(weight)[:, None]
    design = np.einsum("itc,ts->isc", root[..., None] * deviations, whiten).reshape(-1, m)
    aim = ((root * target) @ whiten).ravel()
    # The normal equations are enough: nnls on their Cholesky factor has the same minimum.
    precision = np.linalg.inv(_PRIOR_SD**2 * np.eye(m) + _TOTAL_SD**2 * np.outer(prior, prior))
    gram = design.T @ design + precision
    moment = design.T @ aim + precision @ prior
    factor = np.linalg.cholesky(gram)
    found, _ = nnls(factor.T, np.linalg.solve(factor, moment))
    return np.asarray(found)


def _or_one(variance: Array) -> Array:
    # Scores without any variance (tiny trials) weigh as they stand.
    return np.where(variance > 1e-12 * max(float(variance.max()), 1e-12), variance, 1.0)


def _spread(effects: Array, weight: Array) -> Array:
    # Variance of the scores of each treatment.
    apart = effects - np.average(effects, axis=0, weights=weight)
    return _or_one(np.average(apart**2, axis=0, weights=weight))


def judge(
    name: str,
    part: Array,
    effects: Array,
    average: Array,
    customer: Whole | None = None,
    possible: NDArray[np.bool_] | None = None,
    weight: Array | None = None,
) -> dict[str, Any]:
    """Judge one candidate's out-of-fold effects by doubly robust loss and RATE; its weight is left open."""
    w = np.ones(len(part)) if weight is None else weight
    gain = (((effects - average) ** 2 - (effects - part) ** 2) / _spread(effects, w)).mean(axis=1)
    found = stats.mean(stats.weighed(gain, w), unit=customer)
    ranked = ranking(part, effects, customer=customer, possible=possible, weight=w)
    return {
        "candidate": name, "weight": None, "gain": found.value, "gain_lower": found.lower,
        "gain_upper": found.upper, "rate": ranked.value, "rate_lower": ranked.lower,
        "rate_upper": ranked.upper,
    }  # fmt: skip
