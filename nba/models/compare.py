"""Whether the served model holds up: the stack of learners on the same examples, and what it says.

Training serves one joint model, because it scores all treatments of a customer in one pass. This
step fits the stack (`nba.models.ensemble`) on the same examples and measures what the served model
loses against it, whether personalising pays, and whether the log can tell at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nba import stats
from nba.catalog import NONE, Catalog
from nba.errors import DataError
from nba.models import crossfit, immature, inputs, leaking, trial, tuning
from nba.models.ensemble import UpliftEnsemble
from nba.models.gate import Gate
from nba.models.inputs import Coding
from nba.models.scorer import Scorer
from nba.models.tuning import Found, Search
from nba.settings import Models

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
# Gives decision_id, treatment_id and p_action of every candidate of decisions, as far as they were logged.
Logged = Callable[[pa.ChunkedArray], pa.Table]

LEAST = 200  # rows below which a treatment is left out of the comparison
_RARE = 0.01
_MOST = 60_000  # examples that are read; a sample of more
_FOLDS = 3  # of customers, for effects of the served kind of model
_SUPPORTED = 50  # rows on either side below which a treatment is left out of the comparison


@dataclass(frozen=True)
class Comparison:
    """What the stack says of the same examples.

    Attributes:
        candidates: Table candidate, weight, gain and rate with their 95% intervals; see `UpliftEnsemble`. The
            last row, `served`, is the kind of model that is served.
        averages: Table treatment, n, effect, se, lower, upper (95%), in chance of a response.
        deciles: Table decile, n, predicted, observed, lower, upper of the stack's out-of-fold effects,
            observed ones from doubly robust scores.
        gate: What to do, in words, worth in money net of contact costs; None where nothing could be compared.
        agreement: Correlation of the served model's effects with the stack's, mean over treatments. Here and
            in `candidates` both are of customers that their models have not seen, out of the compared
            rows: the stack's models know four fifths of the customers, the served kind's two thirds.
        distance: Root mean square difference of both, in chance of a response.
        findings: Leaks, overlap and gaps, one sentence each.
        tuned: The search of the stack's trees; None if there was none.
        stability: Share of the strongest reasons that resampling customers leaves, by kind.
    """

    candidates: pa.Table
    averages: pa.Table
    deciles: pa.Table
    gate: Gate | None
    agreement: float
    distance: float
    findings: list[str] = field(default_factory=list)
    tuned: Found | None = None
    stability: Mapping[str, float] = field(default_factory=dict)

    def with_stability(self, found: Mapping[str, float]) -> "Comparison":
        """Add how far reasons agree between models of resampled customers, and say so; NaN says nothing."""
        said = [
            f"Of the three strongest reasons for the {kind}, {share:.0%} stay when customers are drawn anew."
            for kind, share in found.items()
            if np.isfinite(share)
        ]
        return replace(self, findings=[*self.findings, *said], stability=found)


def compare(
    scorer: Scorer,
    examples: pa.Table,
    catalog: Catalog,
    settings: Models,
    seed: int,
    search: Search | None = None,
    logged: Logged | None = None,
) -> Comparison:
    """Fit the stack on the examples and hold the served model against it.

    Args:
        scorer: The served model.
        examples: What it was fitted on: treatment_id, p_action, is_response, customer_id and f_*.
        catalog: Its treatments.
        settings: How the served model is fitted, here without the customers that judge it.
        seed: Of the sample, folds and trees.
        search: How to search the capacity of the stack's trees; the default's if None or without trials.
        logged: Looks up the probabilities of all candidates of decisions. Of a treatment, decisions tell
            that could have had it as well as no contact; without a look-up all are taken for such but those
            whose own probability is 1.
    """
    coding = Coding.of(catalog)
    column = coding.columns(examples["treatment_id"].to_pylist())
    own = examples["p_action"].to_numpy()
    column = np.where(own > 0, column, -1)
    n = np.bincount(column[column >= 0], minlength=1 + len(coding.treatment_ids))
    enough = (n >= LEAST) & (column >= 0).any()
    rows = np.flatnonzero((column >= 0) & enough[np.maximum(column, 0)])
    left_out = [name for name, size in zip(coding.treatment_ids, n[1:]) if size < LEAST]
    found = (
        [f"Fewer than {LEAST} examples, left out of the comparison: {', '.join(left_out)}."]
        if left_out
        else []
    )
    if not enough[0] or enough.sum() < 2:
        return _nothing([*found, f"Fewer than {LEAST} examples without contact or of every treatment."])
    if len(rows) > _MOST:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST, replace=False))
    kept = examples.take(pa.array(rows))
    X = inputs.matrix(kept, scorer.names)
    y = kept["is_response"].to_numpy().astype(float)
    if y.min() == y.max():
        return _nothing([*found, "Every response is the same."])
    found += checks(scorer.names, X, y, own[rows], column[rows])
    given = Given.of(kept, column[rows], coding, logged)
    found += given.told(coding)
    if len(given.arms) < 2:
        return _nothing(found)
    X, y, kept = X[given.rows], y[given.rows], kept.take(pa.array(given.rows))
    found += _uneven(scorer.names, X, given.arm, given.p, inputs.customers(kept))
    asked = settings.monotone_effects
    if absent := sorted(set(asked) - set(scorer.names)):
        said = f"models.monotone_effects names {absent}; the examples have no such feature"
        raise DataError(said, f"Features are {', '.join(scorer.names)}.")
    signs = [asked.get(name, 0) for name in scorer.names] if asked else None
    if asked:
        told = ", ".join(f"{name} {sign:+d}" for name, sign in asked.items())
        found.append(f"Signs asked of effects ({told}) are kept by the stack; what is served does not.")
    parts = {t: (a, c) for t, a, c in zip(coding.treatment_ids, coding.action_ids, coding.channels)}
    compared = [coding.treatment_ids[k - 1] for k in given.arms[1:].tolist()]
    value, cost = ({t: money[t] for t in compared} for money in worth(scorer, kept, catalog))
    model = UpliftEnsemble(parts=parts, value=value, cost=cost, monotone=signs, random_state=seed)
    customers = kept["customer_id"].to_pylist()
    tuned = None
    try:
        if search is not None and search.settings.tune_trials:
            tuned = tuning.effects(model, X, y, given.names, given.p, search, groups=customers)
            model.set_params(trees=tuned.trees)
        with trial.quiet():
            model.fit(X, y, given.names, given.p, groups=customers)
    except DataError as error:  # what is wrong with the log must not keep its model from being registered
        return _nothing([*found, " ".join(str(error).split())])
    at = [coding.treatment_ids.index(name) for name in model.treatments_]
    served = unseen(examples.take(pa.array(rows)), kept, catalog, settings, seed)[:, at]
    agreement, distance = together(served, model.oof_)
    return Comparison(
        pa.Table.from_pylist([*model.candidates_.to_pylist(), model.judged("served", served)]),
        model.average_,
        _deciles(model),
        replace(model.gate_, reason=f"{caveat(found)} {model.gate_.reason}".strip()),
        agreement,
        distance,
        found,
        tuned,
    )


def unfitted(scorer: Scorer, examples: pa.Table, logged: Logged | None = None) -> Comparison:
    """Give what the log alone tells, for a model beside which no stack was fitted."""
    told = (
        "The stack was not fitted for this model: whether personalising pays is not judged here; `nba train`"
        " on the same examples adds it."
    )
    return _nothing(examined(scorer, examples, logged), told)


def unseen(examples: pa.Table, asked: pa.Table, catalog: Catalog, settings: Models, seed: int) -> Array:
    """Give the effects that the served kind of model predicts for customers that it has not seen.

    Args:
        examples: What it may learn from, without the customers that are asked for: a third of all at a time.
        asked: Some of the examples, m rows.
        catalog: The treatments.
        settings: Capacity.
        seed: Of folds and trees.

    Returns:
        Shape (m, T); NaN where the others do not suffice to learn from.
    """
    out = np.full((asked.num_rows, len(catalog.treatment_ids) - 1), np.nan)
    # Another seed than that of the fits, whose own folds would else be these.
    fold, of = (crossfit.folds(rows["customer_id"], _FOLDS, seed + 1) for rows in (examples, asked))
    for number in np.unique(of):
        try:
            one = Scorer.fit(examples.filter(pa.array(fold != number)), catalog, settings, seed)
        except DataError:
            continue
        new = of == number
        out[new] = one.scores(asked.filter(pa.array(new)), catalog).uplift[:, 1:]
    return out


def together(served: Array, stack: Array) -> tuple[float, float]:
    """Give the correlation of effects, mean over treatments, and their root mean square difference.

    Args:
        served: Shape (n, T); NaN is left out.
        stack: The same of the other, shape (n, T).
    """
    known = np.isfinite(served)
    pairs = [(a[at], b[at]) for a, b, at in zip(served.T, stack.T, known.T) if at.any()]
    found = [np.corrcoef(a, b)[0, 1] for a, b in pairs if np.ptp(a) and np.ptp(b)]
    apart = (served - stack)[known]
    return (
        float(np.mean(found)) if found else float("nan"),
        float(np.sqrt(np.mean(apart**2))) if len(apart) else float("nan"),
    )


@dataclass(frozen=True)
class Given:
    """Who got what, and what could have been got.

    Attributes:
        rows: Rows of the examples that are compared, shape (m,).
        arms: Columns of the arms that are compared: 0, and treatments that enough rows could have got.
        names: Arm of each row, shape (m,).
        arm: The same as a number, 0 is the control, shape (m,).
        p: Probability of the row's own arm, shape (m,); of every arm, control first and then the treatments
            in sorted order, shape (m, arms), NaN where it was not logged; given that it is one of these.
        support: Share of all rows that could have got the treatment as well as no contact, shape (T,).
        few: Columns of the treatments that some got, but too few could as well have gone without, or with.
    """

    rows: Whole
    arms: Whole
    names: NDArray[Any]
    arm: Whole
    p: Array
    support: Array
    few: Whole

    @classmethod
    def of(cls, examples: pa.Table, column: Whole, coding: Coding, logged: Logged | None) -> "Given":
        """Look up probabilities and keep the treatments that enough rows could, and could not, have got."""
        p = probabilities(examples, column, coding, logged)
        if (whole := ~np.isnan(p).any(axis=1)).any():  # what is logged in part is logged of a part, by hash
            p[~whole] = 0.0
        own = p[np.arange(len(p)), column]
        could = ~(p[:, 1:] <= 0) & ~(p[:, :1] <= 0) & (own < 1 - 1e-9)[:, None]
        ids = np.arange(1, p.shape[1])
        sides = [((column == k) & could[:, k - 1]).sum() for k in ids], could[column == 0].sum(axis=0)
        kept = ids[np.minimum(*sides) >= _SUPPORTED]
        arms = np.array([0, *sorted(kept, key=lambda k: coding.treatment_ids[k - 1])])
        rows = np.flatnonzero(np.isin(column, arms) & could[:, kept - 1].any(axis=1))
        among = p[np.ix_(rows, arms)]
        total = among.sum(axis=1)
        among = np.where(np.isnan(total)[:, None], among, among / np.where(total > 0, total, 1)[:, None])
        names = np.array([NONE, *coding.treatment_ids], dtype=object)[column[rows]]
        few = np.setdiff1d(np.unique(column), arms)
        number = np.argsort(arms)[np.searchsorted(np.sort(arms), column[rows])]
        return cls(rows, arms, names, number, among, could.mean(axis=0), few)

    def told(self, coding: Coding) -> list[str]:
        """Say of whom the comparison tells."""
        names = coding.treatment_ids
        shares = ", ".join(f"{names[k - 1]} {self.support[k - 1]:.0%}" for k in self.arms[1:])
        out = [
            "Decisions that could have had the treatment as well as no contact, by chance within their arm of"
            f" the experiment: {shares or 'too few of any'}. Of each, the comparison rests on these alone;"
            " decisions without a choice (a holdout's, p_action 1) do not count: what other arms would have"
            " given those customers is not logged."
        ]
        few = ", ".join(names[k - 1] for k in self.few)
        return [*out, f"Fewer than {_SUPPORTED} such decisions on either side: {few}."] if few else out


def probabilities(examples: pa.Table, column: Whole, coding: Coding, logged: Logged | None) -> Array:
    """Give the probability of every arm for every row, shape (n, 1 + T); NaN where it was not logged.

    Args:
        examples: decision_id and p_action, n rows.
        column: Arm of each row, shape (n,).
        coding: The treatments.
        logged: The look-up; None for the own arm's probability alone.
    """
    n = examples.num_rows
    p = np.full((n, 1 + len(coding.treatment_ids)), np.nan)
    p[np.arange(n), column] = examples["p_action"].to_numpy()
    if logged is None:
        return p
    found = logged(examples["decision_id"])
    ids = pa.array(examples["decision_id"].to_pylist())
    row = pc.index_in(found["decision_id"], value_set=ids).to_numpy()
    arm = coding.columns(found["treatment_id"].to_pylist())
    known = np.unique(row)
    all_of = np.zeros_like(p)
    all_of[row[arm >= 0], arm[arm >= 0]] = found["p_action"].to_numpy()[arm >= 0]
    # A log that gives the row's own arm another chance than the decision is not about that decision.
    own = p[known, column[known]]
    known = known[np.abs(all_of[known, column[known]] - own) < 1e-9]
    p[known] = all_of[known]
    return p


def worth(scorer: Scorer, examples: pa.Table, catalog: Catalog) -> tuple[dict[str, float], dict[str, float]]:
    """Give money per response, the mean over the examples' customers, and per contact, by treatment."""
    margin = scorer.scores(examples, catalog).margin_per_response.mean(axis=0)
    return (
        dict(zip(catalog.treatment_ids[1:], margin[1:].tolist())),
        dict(zip(catalog.treatment_ids[1:], catalog.cost[1:].tolist())),
    )


def examined(scorer: Scorer, examples: pa.Table, logged: Logged | None = None) -> list[str]:
    """Name leaks, gaps and contradictions of a model's closed examples, from at most 60,000 of them."""
    column = scorer.coding.columns(examples["treatment_id"].to_pylist())
    known = np.flatnonzero((column >= 0) & immature.closed(examples))
    rows = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), _MOST)).astype(np.int64))]
    kept = examples.take(pa.array(rows))
    y, own = kept["is_response"].to_numpy().astype(float), kept["p_action"].to_numpy()
    found = checks(scorer.names, inputs.matrix(kept, scorer.names), y, own, column[rows])
    usable = np.flatnonzero(own > 0)
    part = kept.take(pa.array(usable))
    return [*found, *_contradictions(part, column[rows][usable], scorer, logged)]


def _contradictions(examples: pa.Table, column: Whole, scorer: Scorer, logged: Logged | None) -> list[str]:
    # Of arms (`trial.contradictions`) and of features with what was logged, whole if anything was, and of
    # treatments that some got.
    p = probabilities(examples, column, scorer.coding, logged)
    whole = ~np.isnan(p).any(axis=1)
    at = np.flatnonzero(whole) if whole.any() else np.arange(len(p))
    got, arm = np.unique(column[at], return_inverse=True)
    names = np.array([NONE, *scorer.coding.treatment_ids], dtype=object)[got]
    customer = inputs.customers(examples)[at]
    part, has_gaps = p[np.ix_(at, got)], not whole.any()
    X = inputs.matrix(examples.take(pa.array(at)), scorer.names)
    return [
        *trial.contradictions(part, arm, names.tolist(), customer=customer, has_gaps=has_gaps),
        *_uneven(scorer.names, X, arm, part, customer),
    ]


def _uneven(names: tuple[str, ...], X: Array, arm: Whole, p: Array, customer: Whole) -> list[str]:
    if np.isnan(p).any() and trial.contradictions(p, arm, range(p.shape[1]), customer=customer):
        return [
            "Whether features differ between arms could not be checked: not everybody could have got every"
            " arm, and who could is not logged."
        ]
    return [
        f"Feature {names[j]!r} differs between arms by more than p_action allows: is it known at the"
        " decision, and is p_action what dealt out the arms?"
        for j in leaking.uneven(X, arm, p, None, customer)
    ]


def caveat(findings: Sequence[str]) -> str:
    """Say what a verdict on effects is worth where features may know what came later; empty where none may.

    Args:
        findings: Of `checks` and of what differs between arms.

    Example:
        >>> caveat(["Feature 'f_a' tells the outcome almost exactly: is it known at the decision?"])[:43]
        "Only if 'f_a' is known before the decision:"
    """
    said = ("tells the outcome", "differs between arms")
    of = [text for text in findings if text.startswith("Feature '")]
    named = [text.split("'")[1] for text in of if any(s in text for s in said)]
    if not named:
        return ""
    which = ", ".join(repr(name) for name in dict.fromkeys(named))
    return (
        f"Only if {which} {'is' if len(set(named)) == 1 else 'are'} known before the decision: a feature that"
        " knows what came later makes effects and their intervals false, so that no rule is recommended until"
        " that is settled. As the data stand:"
    )


def checks(names: tuple[str, ...], X: Array, y: Array, p: Array, arm: Whole | None = None) -> list[str]:
    """Name leaks and gaps of the examples, one sentence each; says so if there are none."""
    out = [
        f"Feature {names[j]!r} tells the outcome almost exactly: is it known at the decision?"
        for j in leaking.leaks(X, y, arm)
    ]
    out += [
        f"Feature {names[j]!r} tells the outcome suspiciously well (AUC {area:.2f}, all others {rest:.2f} at"
        " most): is it known at the decision?"
        for j, area, rest in leaking.suspected(X, y)
    ]
    out = out or ["No feature tells the outcome almost exactly."]
    empty = [name for j, name in enumerate(names) if np.isnan(X[:, j]).all()]
    if empty:
        out.append(f"Features without any value: {', '.join(empty)}.")
    unknown = float((~(p > 0)).mean())
    if unknown:
        out.append(f"{unknown:.1%} of the decisions have no logged probability.")
    p = p[p > 0]
    if not len(p):
        return out
    share = float((p < _RARE).mean())
    ess = stats.effective(1 / p) / len(p)
    out.append(
        f"Logged probabilities reach from {p.min():.2g} to {p.max():.2g}; {share:.1%} of the decisions"
        f" were taken with less than {_RARE:.0%}; weighing by them leaves an effective {ess:.0%} of the rows."
    )
    return out


def _deciles(model: UpliftEnsemble) -> pa.Table:
    from nba import metrics

    effects = model.scores_[:, 1:] - model.scores_[:, :1]
    # A row has an effect of every treatment, a customer several rows: neither is news twice.
    customer = np.broadcast_to(model.customer_[:, None], effects.shape)
    weight = np.broadcast_to(model.weight_[:, None], effects.shape)
    could = model.possible_ & (weight > 0)
    return metrics.by_decile(
        model.oof_[could], effects[could], customer=customer[could], weight=weight[could]
    )


def _nothing(findings: list[str], told: str = "The stack could not be fitted: see above.") -> Comparison:
    empty = pa.table({})
    return Comparison(empty, empty, empty, None, float("nan"), float("nan"), [*findings, told])
