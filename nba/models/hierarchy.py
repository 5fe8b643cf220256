"""A Bayesian model of effects that shares strength over treatments, actions and channels.

Rows carry inputs `x` with a leading 1, a column `c` (0 is `none`) and an offset (the log-odds that a
baseline model gives without contact). The log-odds of a response are

    offset + x'η + [c > 0] (x'β + x'β_action(c) + x'β_channel(c) + u_c),

where η mends what the baseline model missed (it is learnt from all rows, mostly from `none`), and the
rest is the effect of the treatment. Every block has a normal prior of mean zero; the variances of the
priors are learnt by maximising the evidence (MacKay 1992, "Bayesian Interpolation"; Tipping 2001 for
the relevance of single inputs), so that the effect of a rarely tried treatment borrows from its action
and channel, and slopes vanish where the data show no heterogeneity. The posterior is Laplace's, found
by Newton steps. It gives the standard errors: narrow where a treatment was tried on such customers, as
wide as the prior where it was not. All of it rests on one (q, q) matrix per treatment and fold. The same
with the identity link (`fit`) serves residuals.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.special import expit

from nba.models.inputs import Coding

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_ROUNDS = 24
_STEPS = 6  # Newton steps, each with a few rounds of the evidence
_PRIOR_WEIGHT = 2.0  # how many coefficients the prior scale of an intercept counts for
_RELEVANCE_WEIGHT = 20.0  # the same for the relevance of one input


@dataclass(frozen=True)
class Sums:
    """Sufficient statistics by treatment.

    Attributes:
        gram: Weighted x x', shape (k, q, q).
        moment: Weighted x r, shape (k, q).
        n: Rows, shape (k,).
    """

    gram: Array
    moment: Array
    n: Array

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.gram + other.gram, self.moment + other.moment, self.n + other.n)

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(self.gram - other.gram, self.moment - other.moment, self.n - other.n)


def sums(x: Array, residual: Array, weight: Array, column: Whole, k: int) -> Sums:
    """Sum rows by treatment.

    Args:
        x: Shape (n, q), first column 1.
        residual: Shape (n,).
        weight: Shape (n,).
        column: Shape (n,), 0 is `none`.
        k: Number of columns.
    """
    q = x.shape[1]
    out = Sums(np.zeros((k, q, q)), np.zeros((k, q)), np.zeros(k))
    for c in range(k):
        rows = _where(column == c)
        root = np.sqrt(weight[rows])
        weighted = x[rows] * root[:, None]
        out.gram[c] = weighted.T @ weighted
        out.moment[c] = weighted.T @ (root * residual[rows])
        out.n[c] = len(root)
    return out


def _where(mask: NDArray[np.bool_]) -> Whole | slice:
    # A slice where the rows are neighbours: it reads them without a copy.
    rows = np.flatnonzero(mask)
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


@dataclass(frozen=True)
class Layout:
    """Where each block of coefficients stands in the vector of all.

    Blocks are: nuisance η, common β, one per action, one per channel (q each), then one number per
    treatment.
    """

    coding: Coding
    q: int

    @property
    def size(self) -> int:
        """Number of coefficients."""
        blocks = 2 + len(self.coding.action_names) + len(self.coding.channel_names)
        return blocks * self.q + len(self.coding.treatment_ids)

    def effect_starts(self, action: str, channel: str) -> list[int]:
        """Give the starts of the q-blocks that make up the effect of an action on a channel."""
        out = [self.q]
        if action in self.coding.action_names:
            out.append((2 + self.coding.action_names.index(action)) * self.q)
        if channel in self.coding.channel_names:
            n_actions = len(self.coding.action_names)
            out.append((2 + n_actions + self.coding.channel_names.index(channel)) * self.q)
        return out

    def own(self, treatment_id: str) -> int | None:
        """Give the place of a treatment's own number; None if it is unknown."""
        if treatment_id not in self.coding.treatment_ids:
            return None
        own = self.coding.treatment_ids.index(treatment_id)
        return self.size - len(self.coding.treatment_ids) + own

    def groups(self) -> Iterator[tuple[str, Whole]]:
        """Give the groups of coefficients that share one prior variance."""
        q, n_actions = self.q, len(self.coding.action_names)
        starts = np.arange(2 + n_actions + len(self.coding.channel_names)) * q
        parts = {
            "nuisance": starts[:1],
            "common": starts[1:2],
            "action": starts[2 : 2 + n_actions],
            "channel": starts[2 + n_actions :],
        }
        for name, begin in parts.items():
            yield f"{name} intercept", begin
            yield f"{name} slope", (begin[:, None] + np.arange(1, q)).ravel()
        yield "treatment intercept", np.arange(len(starts) * q, self.size)


@dataclass(frozen=True)
class Hierarchy:
    """The fitted model.

    Attributes:
        layout: Blocks of the coefficients.
        mean: Posterior mean, shape (d,).
        covariance: Posterior covariance, shape (d, d).
        variance: Prior variances, shape (d,).
        scale: Prior standard deviation of an effect that nothing is known of.
    """

    layout: Layout
    mean: Array
    covariance: Array
    variance: Array
    scale: float

    def nuisance(self, x: Array) -> Array:
        """Give x'η, shape (n,)."""
        return x @ self.mean[: self.layout.q]

    def effect(self, x: Array, treatments: Coding) -> tuple[Array, Array]:
        """Give posterior means and standard errors of the effects.

        Args:
            x: Shape (n, q), first column 1.
            treatments: T treatments, known or new.

        Returns:
            Two arrays of shape (n, T).
        """
        mean = np.empty((len(x), len(treatments.treatment_ids)))
        se = np.empty_like(mean)
        for t, names in enumerate(zip(treatments.treatment_ids, treatments.action_ids, treatments.channels)):
            coefficients, covariance = self.of(*names)
            mean[:, t] = x @ coefficients
            se[:, t] = np.sqrt(np.maximum(np.einsum("ij,ij->i", x @ covariance, x), 0))
        return mean, se

    def coefficients(self, treatments: Coding) -> Array:
        """Give the mean coefficients of the effect of each treatment, shape (T, q)."""
        names = zip(treatments.treatment_ids, treatments.action_ids, treatments.channels)
        return np.array([self.of(*name)[0] for name in names])

    def of(self, treatment_id: str, action: str, channel: str) -> tuple[Array, Array]:
        """Give the mean (q,) and covariance (q, q) of one treatment's coefficients."""
        layout, q = self.layout, self.layout.q
        starts = layout.effect_starts(action, channel)
        mean = sum((self.mean[s : s + q] for s in starts), np.zeros(q))
        covariance = np.zeros((q, q))
        for a in starts:
            for b in starts:
                covariance += self.covariance[a : a + q, b : b + q]
        own = layout.own(treatment_id)
        if own is not None:
            mean[0] += self.mean[own]
            cross = np.array([self.covariance[s : s + q, own] for s in starts]).sum(axis=0)
            covariance[0] += cross
            covariance[:, 0] += cross
            covariance[0, 0] += self.covariance[own, own]
        unknown = 3 - len(starts) + (own is None)  # blocks that it lacks count with their prior
        covariance[0, 0] += unknown * self.scale**2
        return mean, covariance


def fit(
    data: Sums, coding: Coding, scale: float, *, start: Array | None = None, rounds: int = _ROUNDS
) -> Hierarchy:
    """Learn the prior variances and the posterior of a linear model with noise of variance 1.

    Args:
        data: Sums of all rows.
        coding: The T = k - 1 treatments of its columns.
        scale: Prior guess of how much effects of treatments differ (in units of the residual).
        start: Prior variances to begin with.
        rounds: Most updates of the prior variances.

    Returns:
        The model.
    """
    layout = Layout(coding, data.gram.shape[1])
    precision, target = _assemble(data, layout)
    groups = [(name, index) for name, index in layout.groups() if len(index)]
    if start is None:
        start = np.empty(layout.size)
        for name, index in groups:
            start[index] = _start(name, scale)
    variance = start
    for _ in range(rounds):
        mean, spread = _marginal(precision, target, variance)
        updated = _evidence_step(groups, layout, mean, spread, variance, scale)
        done = np.max(np.abs(np.log(updated / variance))) < 0.05
        variance = updated
        if done:
            break
    mean, covariance = _posterior(precision, target, variance)
    return Hierarchy(layout, mean, covariance, variance, scale)


@dataclass(frozen=True)
class Crossed:
    """A model with its parts for rows that it has not seen.

    Attributes:
        model: Fitted on all rows.
        nuisance: x'η, shape (n,), out of fold.
        effect: Effect of the treatment each row is paired with, shape (n,), out of fold.
        others: Model of all other folds, by fold.
    """

    model: Hierarchy
    nuisance: Array
    effect: Array
    others: Mapping[int, Hierarchy]


def cross_fit(
    x: Array,
    residual: Array,
    weight: Array,
    column: Whole,
    paired: Whole,
    fold: Whole,
    coding: Coding,
    scale: float,
) -> Crossed:
    """Fit to residuals, and predict each fold by a fit to the others.

    Args:
        x: Shape (n, q), first column 1.
        residual: Shape (n,).
        weight: Inverse variances of the residuals, shape (n,).
        column: Treatment of each row, 0 is `none`, shape (n,).
        paired: Treatment whose effect is predicted, 1 to T, shape (n,).
        fold: Shape (n,).
        coding: The T treatments.
        scale: As in `fit`.
    """
    parts = _by_fold(x, residual, weight, column, fold, coding)
    model = fit(sum(parts[1:], parts[0]), coding, scale)
    return _crossed(model, parts, x, paired, fold)


def cross_fit_logit(
    x: Array,
    y: Array,
    offset: Array,
    weight: Array,
    column: Whole,
    paired: Whole,
    fold: Whole,
    coding: Coding,
    scale: float,
) -> Crossed:
    """Fit log-odds to 0/1 responses; the arguments are as in `cross_fit`, with y and offset, shape (n,).

    The fit without a fold is one Newton step from the fit to all, with priors learnt without the fold.
    """
    # Rows of one fold and treatment become neighbours, so that summing them copies nothing.
    order = np.lexsort((column, fold))
    x, y, offset, weight = x[order], y[order], offset[order], weight[order]
    column, paired, fold = column[order], paired[order], fold[order]
    linear, variance = np.zeros(len(x)), None
    for step in range(_STEPS):
        p = expit(offset + linear)
        curvature = np.maximum(p * (1 - p), 1e-4)
        parts = _by_fold(x, linear + (y - p) / curvature, weight * curvature, column, fold, coding)
        total = sum(parts[1:], parts[0])
        model = fit(total, coding, scale, start=variance, rounds=_ROUNDS // _STEPS)
        variance = model.variance
        before = linear
        by_column = np.vstack([np.zeros(x.shape[1]), model.coefficients(coding)])
        by_column += model.mean[: x.shape[1]]
        linear = np.clip(_rowwise(x, by_column, column), -4, 4)
        if step and np.abs(linear - before).max() < 0.01:
            break
    found = _crossed(model, parts, x, paired, fold)
    back = np.argsort(order)
    return replace(found, nuisance=found.nuisance[back], effect=found.effect[back])


def _by_fold(
    x: Array, residual: Array, weight: Array, column: Whole, fold: Whole, coding: Coding
) -> list[Sums]:
    k = 1 + len(coding.treatment_ids)
    rows = [_where(fold == number) for number in np.unique(fold)]
    return [sums(x[r], residual[r], weight[r], column[r], k) for r in rows]


def _crossed(model: Hierarchy, parts: list[Sums], x: Array, paired: Whole, fold: Whole) -> Crossed:
    # Priors are learnt anew without the fold: shared ones would let it tell how far to trust slopes.
    total, coding = sum(parts[1:], parts[0]), model.layout.coding
    nuisance, effect = np.empty(len(x)), np.empty(len(x))
    others = {}
    for number, own in zip(np.unique(fold), parts):
        rows = np.flatnonzero(fold == number)
        other = fit(total - own, coding, model.scale) if len(parts) > 1 else model
        others[int(number)] = other
        nuisance[rows] = other.nuisance(x[rows])
        effect[rows] = _rowwise(x[rows], other.coefficients(coding), paired[rows] - 1)
    return Crossed(model, nuisance, effect, others)


def _rowwise(x: Array, coefficients: Array, number: Whole) -> Array:
    return np.asarray(np.einsum("ij,ij->i", x, coefficients[number]))


def _start(name: str, scale: float) -> float:
    if name == "nuisance intercept":
        return 1.0
    if name == "common intercept":
        return (2 * scale) ** 2
    return scale**2 if name.endswith("intercept") else (0.2 * scale) ** 2


def _evidence_step(
    groups: list[tuple[str, Whole]],
    layout: Layout,
    mean: Array,
    spread: Array,
    variance: Array,
    scale: float,
) -> Array:
    known = np.clip(1 - spread / variance, 1e-9, 1)  # how far the data determine each
    out = variance.copy()
    for name, index in groups:
        if name in ("nuisance intercept", "common intercept"):
            continue
        if name.endswith("intercept"):
            total = (mean[index] ** 2).sum() + _PRIOR_WEIGHT * scale**2
            out[index] = total / (known[index].sum() + _PRIOR_WEIGHT)
        else:
            # Tipping's relevance, in two factors: this group's, and (below) each input's.
            ratio = ((mean[index] ** 2 / variance[index]).sum() + 1e-3) / (known[index].sum() + 1e-3)
            out[index] = np.clip(variance[index] * np.clip(ratio, 0.1, 10), 1e-12, scale**2 * 4)
    if layout.q > 1:
        _relevance_step(groups, layout, mean, known, variance, out)
    return out


def _relevance_step(
    groups: list[tuple[str, Whole]],
    layout: Layout,
    mean: Array,
    known: Array,
    variance: Array,
    out: Array,
) -> None:
    p = layout.q - 1
    index = np.concatenate(
        [i for name, i in groups if name.endswith("slope") and not name.startswith("nuisance")]
    ).reshape(-1, p)
    fit_of_input = (mean[index] ** 2 / variance[index]).sum(axis=0)
    ratio = (fit_of_input + _RELEVANCE_WEIGHT) / (known[index].sum(axis=0) + _RELEVANCE_WEIGHT)
    ratio /= np.exp(np.log(ratio).mean())
    out[index] = np.maximum(out[index] * ratio**0.5, 1e-14)


def _assemble(data: Sums, layout: Layout) -> tuple[Array, Array]:
    q = layout.q
    precision = np.zeros((layout.size, layout.size))
    target = np.zeros(layout.size)
    coding = layout.coding
    names = [None, *zip(coding.treatment_ids, coding.action_ids, coding.channels)]
    for c, name in enumerate(names):
        starts = [0] if name is None else [0, *layout.effect_starts(*name[1:])]
        for a in starts:
            target[a : a + q] += data.moment[c]
            for b in starts:
                precision[a : a + q, b : b + q] += data.gram[c]
        own = layout.own(name[0]) if name else None
        if own is not None:
            target[own] += data.moment[c, 0]
            precision[own, own] += data.gram[c, 0, 0]
            for a in starts:
                precision[a : a + q, own] += data.gram[c, 0]
                precision[own, a : a + q] += data.gram[c, 0]
    return precision, target


def _factor(precision: Array, variance: Array) -> tuple[Array, Array]:
    # Scaled to a unit prior, so that the factorisation is well conditioned whatever the variances. The
    # matrix is symmetric: LAPACK reads its transpose as Fortran wants it, without a copy.
    s = np.sqrt(variance)
    scaled = precision * s[:, None] * s
    scaled[np.diag_indices_from(scaled)] += 1
    factor, _ = linalg.lapack.dpotrf(scaled.T, lower=1, overwrite_a=1)
    return factor, s


def _marginal(precision: Array, target: Array, variance: Array) -> tuple[Array, Array]:
    # Posterior means and variances alone: the inverse of the triangle is a third of the work.
    factor, s = _factor(precision, variance)
    root, _ = linalg.lapack.dtrtri(factor, lower=1, overwrite_c=1)
    root = np.tril(root)
    return s * (root.T @ (root @ (s * target))), s**2 * np.einsum("ij,ij->j", root, root)


def _posterior(precision: Array, target: Array, variance: Array) -> tuple[Array, Array]:
    factor, s = _factor(precision, variance)
    inverse, _ = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    covariance = inverse * s[:, None] * s
    return covariance @ target, covariance
