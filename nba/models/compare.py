"""Whether the served model holds up: the stack of learners on the same examples, and what it says.

Training serves one joint model, because it scores all treatments of a customer in one pass. This
step fits the stack (`nba.models.ensemble`) on the same examples and measures what the served model
loses against it, whether personalising pays, and whether the log can tell at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba.catalog import NONE, Catalog
from nba.models import inputs, trial, tuning
from nba.models.ensemble import Gate, UpliftEnsemble
from nba.models.inputs import Coding
from nba.models.scorer import Scorer
from nba.models.tuning import Found, Search

Array = NDArray[np.float64]

LEAST = 200  # rows below which a treatment is left out of the comparison
_RARE = 0.01


@dataclass(frozen=True)
class Comparison:
    """What the stack says of the same examples.

    Attributes:
        candidates: Table candidate, weight, gain and rate with their 95% intervals; see `UpliftEnsemble`.
        averages: Table treatment, n, effect, se, lower, upper (95%), in chance of a response.
        deciles: Table decile, n, predicted, observed, lower, upper of the stack's out-of-fold effects,
            observed ones from doubly robust scores.
        gate: What to do, in words, worth in money net of contact costs; None where nothing could be compared.
        agreement: Correlation of the served model's effects with the stack's, over customers, mean over
            treatments.
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
    seed: int,
    most: int = 60_000,
    search: Search | None = None,
) -> Comparison:
    """Fit the stack on the examples and hold the served model against it.

    Args:
        scorer: The served model.
        examples: What it was fitted on: treatment_id, p_action, is_response, customer_id and f_*.
        catalog: Its treatments.
        seed: Of the sample, folds and trees.
        most: Examples that are read; a sample of more.
        search: How to search the capacity of the stack's trees; the default's if None or without trials.
    """
    coding = Coding.of(catalog)
    column = coding.columns(examples["treatment_id"].to_pylist())
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
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    kept = examples.take(pa.array(rows))
    X = inputs.matrix(kept, scorer.names)
    y = kept["is_response"].to_numpy().astype(float)
    if y.min() == y.max():
        return _nothing([*found, "Every response is the same."])
    names = np.array([NONE, *coding.treatment_ids], dtype=object)
    parts = {t: (a, c) for t, a, c in zip(coding.treatment_ids, coding.action_ids, coding.channels)}
    value, cost = worth(scorer, kept, catalog)
    model = UpliftEnsemble(parts=parts, value=value, cost=cost, random_state=seed)
    p = kept["p_action"].to_numpy()
    found += checks(scorer.names, X, y, p)
    given = names[column[rows]], p
    customers = kept["customer_id"].to_pylist()
    tuned = None
    if search is not None and search.settings.tune_trials:
        tuned = tuning.effects(model, X, y, *given, search, groups=customers)
        model.set_params(trees=tuned.trees)
    with trial.quiet():
        model.fit(X, y, *given, groups=customers)
    at = [1 + coding.treatment_ids.index(name) for name in model.treatments_]
    served = scorer.scores(kept, catalog).uplift[:, at]
    together = [np.corrcoef(a, b)[0, 1] for a, b in zip(served.T, model.oof_.T) if np.ptp(a) and np.ptp(b)]
    return Comparison(
        model.candidates_,
        model.average_,
        _deciles(model),
        model.gate_,
        float(np.mean(together)) if together else float("nan"),
        float(np.sqrt(np.mean((served - model.oof_) ** 2))),
        found,
        tuned,
    )


def worth(scorer: Scorer, examples: pa.Table, catalog: Catalog) -> tuple[dict[str, float], dict[str, float]]:
    """Give money per response, the mean over the examples' customers, and per contact, by treatment."""
    margin = scorer.scores(examples, catalog).margin_per_response.mean(axis=0)
    return (
        dict(zip(catalog.treatment_ids[1:], margin[1:].tolist())),
        dict(zip(catalog.treatment_ids[1:], catalog.cost[1:].tolist())),
    )


def examined(scorer: Scorer, examples: pa.Table, most: int = 60_000) -> list[str]:
    """Name leaks and gaps of a model's examples, as `checks` does, from at most `most` rows of them."""
    known = np.flatnonzero(scorer.coding.columns(examples["treatment_id"].to_pylist()) >= 0)
    rows = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), most)).astype(np.int64))]
    kept = examples.take(pa.array(rows))
    y = kept["is_response"].to_numpy().astype(float)
    return checks(scorer.names, inputs.matrix(kept, scorer.names), y, kept["p_action"].to_numpy())


def checks(names: tuple[str, ...], X: Array, y: Array, p: Array) -> list[str]:
    """Name leaks and gaps of the examples, one sentence each; says so if there are none."""
    out = [
        f"Feature {names[j]!r} tells the outcome almost exactly: is it known at the decision?"
        for j in trial.leaks(X, y)
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
    ess = float((1 / p).sum() ** 2 / (1 / p**2).sum() / len(p))
    out.append(
        f"Logged probabilities reach from {p.min():.2g} to {p.max():.2g}; {share:.1%} of the decisions"
        f" were taken with less than {_RARE:.0%}; weighing by them leaves an effective {ess:.0%} of the rows."
    )
    return out


def _deciles(model: UpliftEnsemble) -> pa.Table:
    from nba import metrics

    effects = model.scores_[:, 1:] - model.scores_[:, :1]
    # A row has an effect of every treatment, a customer several rows: neither is news twice.
    customer = np.repeat(model.customer_, effects.shape[1])
    return metrics.by_decile(model.oof_.ravel(), effects.ravel(), customer=customer)


def _nothing(findings: list[str]) -> Comparison:
    empty = pa.table({})
    return Comparison(empty, empty, empty, None, float("nan"), float("nan"), findings)
