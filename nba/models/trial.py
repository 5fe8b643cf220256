"""What effect models learn from: who got what, with which probability, and what came of it.

Every learner of effects reads its data here, so that faults are found once and named together. An arm is
a treatment or the control; arms are columns 0 (the control) to T of every matrix of this stage.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nba import draws, stats
from nba.catalog import NONE
from nba.errors import listed
from nba.models import leaking
from nba.models.leaking import CERTAIN

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

LEAST_PER_ARM = 5
_HINT = "Mend or leave out these rows; estimate probabilities with nba.models.overlap if none are known."
_RARE = 0.01  # probability below which a row weighs more than a hundred
_APART = 4.0  # standard errors that an arm's weights may lie from what its probabilities promise
_SLACK = 0.05  # and this much more, as estimated probabilities are not exact


class LeakWarning(UserWarning):
    """A feature tells the outcome almost exactly, or the treatment more than its probability allows."""


class CodingWarning(UserWarning):
    """Outcomes have two values, as responses have, but not 0 and 1: they are taken for money."""


class RareWarning(UserWarning):
    """Some rows could hardly have got an arm: what it does rests on few of them."""


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the warnings of leaks and small probabilities, for callers that report them themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakWarning)
        warnings.simplefilter("ignore", RareWarning)
        yield


@dataclass(frozen=True)
class Trial:
    """n customers, T treatments and a control.

    Attributes:
        X: Features, shape (n, p).
        y: Outcome, 0 or 1 or money, shape (n,).
        arm: Column of the arm of each row, 0 is the control, shape (n,).
        p: Probability of each arm, shape (n, 1 + T); NaN for arms other than the row's own where only
            that was logged.
        weight: Shape (n,).
        fold: Cross-fitting fold, shape (n,).
        arms: Names, the control first.
        customer: Code of the customer of each row, from 0, shape (n,); None where every row is another's.
    """

    X: Array
    y: Array
    arm: Whole
    p: Array
    weight: Array
    fold: Whole
    arms: tuple[Any, ...]
    customer: Whole | None = None

    @property
    def is_binary(self) -> bool:
        """Whether the outcome is 0 or 1."""
        return bool(np.isin(self.y, (0.0, 1.0)).all())

    @property
    def possible(self) -> NDArray[np.bool_]:
        """Whether a row could have got the treatment as well as the control, shape (n, T).

        What one of both does to the others is not in the data. Unknown probabilities count as possible,
        unless the row's own is 1.
        """
        could = ~(self.p <= 0)
        return np.asarray(could[:, 1:] & could[:, :1] & (self.p_own < CERTAIN)[:, None])

    @property
    def p_own(self) -> Array:
        """Probability of the arm that each row got, shape (n,)."""
        return self.p[np.arange(len(self.y)), self.arm]

    def scores(self, mu: Array) -> Array:
        """Give unbiased scores of each arm's outcome: mu + 1[got it] (y − mu) / p.

        Their mean over customers estimates what the arm would give to all of them (augmented inverse
        probability weighting; Robins, Rotnitzky, Zhao 1994), whatever mu is.

        Args:
            mu: Expected outcome by arm from models that have not seen the row, shape (n, 1 + T).

        Returns:
            Shape (n, 1 + T).
        """
        out = mu.copy()
        rows = np.arange(len(self.y))
        out[rows, self.arm] += (self.y - mu[rows, self.arm]) / self.p_own
        return out


def read(
    X: Array,
    y: ArrayLike,
    treatment: ArrayLike | None,
    p_action: Any,
    *,
    control: Any = NONE,
    weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
    names: Sequence[Any] | None = None,
    has_gaps: bool = False,
) -> Trial:
    """Check the data of a trial and gather it.

    Args:
        X: Features, shape (n, p); unknown is NaN, infinite is a fault.
        y: Outcome, shape (n,).
        treatment: Arm of each row, shape (n,).
        p_action: Probability of the row's own arm, shape (n,); or of each arm, control first and then the
            treatments in sorted order, shape (n, 1 + T), or by name as the columns of a data frame in any
            order; or one number per arm by name. Every arm must
            have been possible for every row, but with `has_gaps`. Over an arm's rows, 1/p must add up to
            the number of rows that could have got it, within chance.
        control: Name of the arm that others are compared with.
        weight: Shape (n,), 0 or more.
        groups: Customer of each row, shape (n,): a customer's rows share a fold, and count as one unit in
            every interval.
        folds: Number of folds.
        seed: Of the folds.
        names: Of the features, for errors; their numbers if None.
        has_gaps: Whether rows may be unable to get some arms: the caller then minds `Trial.possible`.

    Raises:
        DataError: naming every fault at once.
    """
    target = outcomes(y)
    if treatment is None:
        raise listed(["treatment is missing"], "effects cannot be learnt", "Pass treatment=…, one per row.")
    given = np.asarray(treatment)
    faults = lengths(len(X), y=target, treatment=given, weight=weight, groups=groups)
    if faults:
        raise listed(faults, "effects cannot be learnt from these rows")
    w, faults = _numbers("weight", np.ones(len(target)) if weight is None else weight)
    faults = [*faults, *_faults_of_outcome(target), *faults_of_features(X, names), *_faults_of_weight(w)]
    faults += faults_of_groups(groups)
    if missing := int(pd.isna(np.asarray(treatment, dtype=object)).sum()):
        raise listed([f"treatment: {missing} values are missing", *faults], "effects cannot be learnt", _HINT)
    labels = sorted(set(given.tolist()) - {control}, key=str)
    arms = (control, *labels)
    arm = np.array([arms.index(a) for a in given.tolist()], dtype=np.int64)
    p, found = _probabilities(p_action, arm, arms, has_gaps)
    customer = customers(groups)
    faults += [*_faults_of_arms(arm[w > 0], arms), *found]
    is_split = isinstance(folds, Integral) and folds > 0 and len(arm)
    fold = split(arm, target, groups, folds, seed) if is_split else np.zeros(len(arm), int)
    faults += _faults_of_folds(fold, folds, groups)
    data = Trial(X, target, arm, p, w, fold, arms, customer)
    if not faults:
        faults = [*contradictions(p, arm, arms, w, customer), *(_gaps(data) if has_gaps else [])]
    if faults:
        raise listed(faults, "effects cannot be learnt from these rows", _HINT)
    values = np.unique(target)
    if len(values) == 2 and values.all():
        said = f"y is {values[0]:g} or {values[1]:g}: taken for money; code a response as 1, and none as 0"
        warnings.warn(said, CodingWarning, stacklevel=3)
    told = leaking.leaks(X, target, arm)
    for j in told:
        said = f"feature {j if names is None else names[j]} tells the outcome almost exactly: is it known"
        warnings.warn(f"{said} before the treatment?", LeakWarning, stacklevel=3)
    # Every arm stands for all rows that could have got it, or `contradictions` had said so.
    for j in sorted(set(leaking.uneven(X, arm, p, w, customer)) - set(told)):
        said = f"feature {j if names is None else names[j]} differs between arms more than p_action allows"
        warnings.warn(f"{said}: is it known before the treatment?", LeakWarning, stacklevel=3)
    for said in _rare(p, arm, arms):
        warnings.warn(said, RareWarning, stacklevel=3)
    return data


def split(arm: Whole, y: Array, groups: ArrayLike | None, folds: int, seed: int) -> Whole:
    """Put rows into folds: by hash of the customer if known, else at random within arm and outcome.

    Returns:
        Shape (n,), from 0.
    """
    if groups is not None:
        names, code = np.unique(np.asarray(groups).astype(str), return_inverse=True)
        return draws.bucket(names.tolist(), np.full(folds, 1 / folds), f"cross-fitting|{seed}")[code]
    shuffled = np.random.default_rng(seed).permutation(len(y))
    # Dealt out in the order of arm and outcome, so that every fold gets its share of both.
    order = shuffled[np.lexsort((y[shuffled], arm[shuffled]))]
    out = np.empty(len(y), dtype=np.int64)
    out[order] = np.arange(len(y)) % folds
    return out


def outcomes(y: ArrayLike) -> Array:
    """Read outcomes as numbers.

    Raises:
        DataError: when they are none.
    """
    found, faults = _numbers("y", y)
    if faults:
        raise listed(faults, "effects cannot be learnt", "Code a response as 1 and no response as 0.")
    return found


def _numbers(name: str, values: Any) -> tuple[Array, list[str]]:
    # NaN in place of what are no numbers.
    try:
        return np.asarray(values, dtype=np.float64), []
    except (TypeError, ValueError):
        of = np.asarray(values, dtype=object)
        odd = next((v for v in of.ravel().tolist() if not isinstance(v, (int, float))), None)
        return np.full(of.shape, np.nan), [f"{name} holds {odd!r}; expected numbers"]


def lengths(n: int, **parts: Any) -> list[str]:
    """Name the parts, of those that are not None, that do not have one value for each of n rows."""
    sizes = {name: np.shape(part) for name, part in parts.items() if part is not None}
    return [f"{name} has shape {s}; expected ({n},)" for name, s in sizes.items() if s != (n,)]


def customers(groups: ArrayLike | None) -> Whole | None:
    """Give the code of each row's customer, from 0, shape (n,); None where every row is another's."""
    return None if groups is None else np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]


def faults_of_groups(groups: ArrayLike | None) -> list[str]:
    """Say how many rows have no customer: taken together as one they would share a fold and an interval."""
    missing = 0 if groups is None else int(pd.isna(np.asarray(groups, dtype=object)).sum())
    return [f"groups: {missing} values are missing"] if missing else []


def faults_of_missing(y: Any) -> list[str]:
    """Say how many outcomes are missing, of any type: a row whose outcome is unknown teaches nothing."""
    found = 0 if y is None else int(np.sum(pd.isna(np.asarray(y))))
    return [f"y: {found} of {np.size(np.asarray(y))} values are missing"] if found else []


def _faults_of_outcome(y: Array) -> list[str]:
    out = []
    if bad := int((~np.isfinite(y)).sum()):
        out.append(f"y: {bad} of {len(y)} values are missing or infinite")
    if len(y) < 2 * LEAST_PER_ARM:
        out.append(f"n_samples={len(y)}; expected {2 * LEAST_PER_ARM} or more rows")
    elif not bad and np.ptp(y) == 0:
        out.append(f"y: one class only, every outcome is {y[0]:g}; nothing can be learnt from it")
    return out


def _faults_of_arms(arm: Whole, arms: Sequence[Any]) -> list[str]:
    n = np.bincount(arm, minlength=len(arms))
    out = []
    if len(arms) == 1:
        out.append(f"treatment: nobody got anything but {arms[0]!r}; expected at least one treatment")
    return out + [
        f"treatment {name!r}: {size} rows; expected {LEAST_PER_ARM} or more"
        for name, size in zip(arms, n)
        if size < LEAST_PER_ARM
    ]


def check_numbers(X: Any) -> None:
    """Refuse a data frame with columns that are not numbers; anything else passes.

    Raises:
        DataError: naming all such columns.
    """
    if not isinstance(X, pd.DataFrame):
        return
    faults = [
        f"{name} holds {X.dtypes.iloc[j]}; expected numbers"
        for j, name in enumerate(X.columns)
        if not _counts(X.iloc[:, j])
    ]
    if faults:
        hint = "Make a 0/1 feature of each category and a number of each moment, or leave them out."
        raise listed(faults, "features are not numbers", hint)


def _counts(column: "pd.Series[Any]") -> bool:
    # Whether it is numbers, or objects that stand for some.
    if pd.api.types.is_numeric_dtype(column):
        return True
    if column.dtype.kind in "mM":
        return False
    try:
        np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return True


def faults_of_features(X: Array, names: Sequence[Any] | None = None) -> list[str]:
    """Name the columns with infinite values, by number where they have no names; empty if there are none."""
    at = np.flatnonzero(np.isinf(X).any(axis=0))[:10]
    found = [int(j) if names is None else str(names[j]) for j in at]
    return [f"X: infinite values in columns {found}"] if found else []


def _faults_of_weight(weight: Array) -> list[str]:
    parts = ((~np.isfinite(weight), "missing or infinite"), (weight < 0, "negative"))
    return [
        f"weight: {int(bad.sum())} of {len(weight)} values are {what}" for bad, what in parts if bad.any()
    ]


def _faults_of_folds(fold: Whole, folds: int, groups: ArrayLike | None) -> list[str]:
    if not isinstance(folds, Integral) or folds < 2:
        return [f"folds={folds}; expected a whole number, 2 or more"]
    if groups is None or len(np.unique(fold)) > 1:
        return []
    n = len(np.unique(np.asarray(groups).astype(str)))
    return [f"groups: {n} customers, all in one fold; expected enough for 2 folds or more"]


def _probabilities(p_action: Any, arm: Whole, arms: Sequence[Any], has_gaps: bool) -> tuple[Array, list[str]]:
    n, k = len(arm), len(arms)
    if p_action is None:
        return np.full((n, k), np.nan), ["p_action is missing"]
    if isinstance(p_action, Mapping) or _is_by_name(p_action, arms):
        absent = [name for name in arms if name not in p_action]
        nobody = [name for name in p_action if name not in arms and np.any(np.asarray(p_action[name]) != 0)]
        found = [f"p_action has no probability of {absent}"] if absent else []
        if nobody:
            found.append(f"p_action names {nobody}, which no row got; give the chances among {list(arms)}")
        if found:
            return np.full((n, k), np.nan), found
        is_one = isinstance(p_action, Mapping)  # for all rows
        p, found = _numbers("p_action", [p_action[name] for name in arms] if is_one else p_action[list(arms)])
        p = np.tile(p, (n, 1)) if is_one else p
    else:
        p, found = _numbers("p_action", p_action)
        if p.shape == (n,):
            own, p = p, np.full((n, k), np.nan)
            p[np.arange(n), arm] = own
    if p.shape != (n, k):
        return p, [f"p_action has shape {p.shape}; expected ({n},) or ({n}, {k}): {list(arms)}"]
    if found:
        return p, found
    return p, _faults_of_probabilities(p, arm, arms, has_gaps)


def _is_by_name(p_action: Any, arms: Sequence[Any]) -> bool:
    # A data frame without names of its own only counts its columns.
    if not isinstance(p_action, pd.DataFrame):
        return False
    return not isinstance(p_action.columns, pd.RangeIndex) or set(arms) <= set(p_action.columns)


def contradictions(
    p: Array,
    arm: Whole,
    arms: Sequence[Any],
    weight: Array | None = None,
    customer: Whole | None = None,
    has_gaps: bool = False,
) -> list[str]:
    """Name arms that the probabilities cannot have dealt out, one sentence each.

    Rows that got an arm, each for 1/p, must stand for all rows that could have got it: else p is not what
    dealt out the arms, or some could not have got it and nothing says who.

    Args:
        p: Probability of each arm, shape (n, 1 + T); above 0 of the row's own arm, NaN where not known.
        arm: Column of the arm of each row, shape (n,).
        arms: Names, the control first.
        weight: Shape (n,); all 1 if None.
        customer: Code of each row's customer, shape (n,); None where every row is another's.
        has_gaps: Whether rows may have been unable to get a treatment without a sign of it: then a treatment
            that stands for too few is no contradiction.
    """
    out, certain = [], p[np.arange(len(p)), arm] >= CERTAIN
    weight = np.ones(len(p)) if weight is None else weight / weight.mean()
    for k, name in enumerate(arms):
        chance, got = p[:, k], arm == k
        could = np.where(np.isnan(chance), ~certain, chance > 0)
        odds = np.divide(1.0, chance, out=np.zeros_like(chance), where=got)
        found = stats.mean(weight * (odds - could), unit=customer)
        # What the draws vary by, if p is right: the rows drawn say too little of it where p is small.
        known = np.divide(1.0, chance, out=np.ones_like(chance), where=chance > 0) - 1
        limit = _APART * max(found.se, np.sqrt((weight**2 * known).sum()) / len(p)) + _SLACK
        if abs(found.value) > limit and (found.value > 0 or k == 0 or not has_gaps):
            share = float((weight * could).mean())
            out.append(
                f"p_action contradicts the arms: rows that got {name!r}, weighed by 1/p, stand for"
                f" {found.value + share:.0%} of the rows; expected {share:.0%} within {limit:.0%}. Where some"
                " could not have got every arm, the probabilities of all arms are needed"
            )
    return out


def _gaps(data: Trial) -> list[str]:
    # An effect needs rows of both sides that could have been on the other.
    out = []
    for k, name in enumerate(data.arms[1:], start=1):
        arm = data.arm[data.possible[:, k - 1] & (data.weight > 0)]
        n = int((arm == k).sum()), int((arm == 0).sum())
        if min(n) < LEAST_PER_ARM:
            out.append(
                f"treatment {name!r}: {n[0]} rows with it and {n[1]} with {data.arms[0]!r} could have got"
                f" either; expected {LEAST_PER_ARM} or more of both"
            )
    return out


def _faults_of_probabilities(p: Array, arm: Whole, arms: Sequence[Any], has_gaps: bool) -> list[str]:
    own = p[np.arange(len(arm)), arm]
    parts = (
        (np.isnan(own), "are missing"),
        (own <= 0, "are 0 or less for an arm that was given"),
        (own > 1, "are above 1"),
    )
    out = [f"p_action: {int(bad.sum())} of {len(own)} values {what}" for bad, what in parts if bad.any()]
    out += [] if has_gaps else _faults_of_support(p, arm, arms)
    total = p.sum(axis=1)
    off = int((np.isfinite(total) & (np.abs(total - 1) > 1e-6)).sum())
    return [*out, f"p_action: {off} rows do not sum to 1"] if off else out


def _faults_of_support(p: Array, arm: Whole, arms: Sequence[Any]) -> list[str]:
    # Whoever could not have got an arm says nothing of it: models would guess, without a sign of it.
    own, others = p[np.arange(len(arm)), arm], p.copy()
    others[np.arange(len(arm)), arm] = np.nan
    out = [
        f"p_action: {n} of {len(own)} rows have 0 or less for {name!r}, which they did not get; leave out"
        " rows that could not get every arm"
        for name, n in zip(arms, (others <= 0).sum(axis=0).tolist())
        if n
    ]
    if not out and (sure := int(((own >= CERTAIN) & (own <= 1)).sum())):
        out.append(
            f"p_action: {sure} of {len(own)} values are 1; leave out rows that could not get every arm"
        )
    return out


def _rare(p: Array, arm: Whole, arms: Sequence[Any]) -> list[str]:
    # One sentence for each arm that some rows could hardly have got.
    out = []
    for k, name in enumerate(arms):
        low = p[(p[:, k] > 0) & (p[:, k] < _RARE), k]
        if len(low):
            w = 1 / p[arm == k, k]
            ess = stats.effective(w / w.max())
            out.append(
                f"p_action: {len(low)} of {len(arm)} rows have less than {_RARE:g} for {name!r} (down to"
                f" {low.min():.2g}); weighing leaves an effective {ess:.0f} of its {len(w)} rows"
            )
    return out
