"""How much capacity, how long a memory: chosen on the latest decisions by models that have not seen them.

The latest batches stand for tomorrow: a candidate is fitted on what came before, as the refit would fit it,
and judged by its squared error of the effect on contacted customers of the latest batches, response −
baseline being a noisy score of it. As tomorrow, what is learnt from had closed when the latest batches were
decided: windows that reach into them would share purchases with what is judged on. The default stays unless
another is better by more standard errors, clustered by customer, than the best of so many would be by chance
one time in twenty (Bonferroni's bound).
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import norm as normal

from nba import stats
from nba.catalog import Catalog
from nba.models import inputs
from nba.models.inputs import Coding
from nba.models.response import check_responses
from nba.models.scorer import Scorer, check_contacts
from nba.settings import Models

Array = NDArray[np.float64]

HALF_LIVES: tuple[float | None, ...] = (None, 120.0, 45.0)
_LATEST = 0.2  # part of the examples that is judged on
_LEAST_CONTACTS, _LEAST_BATCHES = 300, 3
_MOST_ROWS = 60_000
_BY_CHANCE = 0.05


class Candidate(NamedTuple):
    """What was tried.

    Attributes:
        loss: Mean squared error of the effect on the latest contacts.
        gain_se: How much better than the default, in paired standard errors clustered by customer.
        n: Contacts judged on.
    """

    capacity: str
    half_life_days: float | None
    loss: float
    gain_se: float
    n: int


class Choice(NamedTuple):
    """The settings to fit with, and how they were found; no candidates where there was too little."""

    settings: Models
    candidates: tuple[Candidate, ...]
    reason: str


def choose(examples: pa.Table, catalog: Catalog, settings: Models, seed: int, window_days: int) -> Choice:
    """Choose capacity and half-life by the latest examples.

    Args:
        examples: The `examples`, in the order of their moments.
        catalog: Its treatments.
        settings: The default, which stays unless another is clearly better.
        seed: Of samples, folds and trees.
        window_days: Days after a decision in which orders count.
    """
    early, late = split(examples, window_days)
    if late is None or too_few(early, catalog):
        return Choice(settings, (), "too few batches or contacts to choose by: the settings stand")
    rng = np.random.default_rng(seed)
    if early.num_rows > _MOST_ROWS:
        early = early.take(pa.array(np.sort(rng.choice(early.num_rows, _MOST_ROWS, replace=False))))
    losses: dict[tuple[str, float | None], Array] = {}
    half_lives = dict.fromkeys((settings.half_life_days, *HALF_LIVES))
    for half_life in half_lives:
        tried = settings.model_copy(update={"half_life_days": half_life})
        for capacity, scorer in Scorer.by_capacity(early, catalog, tried, seed).items():
            losses[capacity, half_life], unit = errors(scorer, late, catalog)
    default = losses[settings.capacity, settings.half_life_days]
    candidates = tuple(_candidate(key, error, default, unit) for key, error in losses.items())
    bar = float(normal.ppf(1 - _BY_CHANCE / (len(candidates) - 1)))
    better = [candidate for candidate in candidates if candidate.gain_se > bar]
    if not better:
        reason = f"no candidate is better by {bar:.1f} standard errors: the settings stand"
        return Choice(settings, candidates, reason)
    best = min(better, key=lambda candidate: candidate.loss)
    found = {"capacity": best.capacity, "half_life_days": best.half_life_days}
    return Choice(
        settings.model_copy(update=found), candidates, f"better by {best.gain_se:.1f} standard errors"
    )


def split(examples: pa.Table, window_days: int) -> tuple[pa.Table, pa.Table | None]:
    """Split examples by time: those of windows that had ended by then, and the latest moments.

    The latest moments, a fifth of the rows, are judged on; None if too few.
    """
    at = examples["as_of"].cast(pa.int64()).to_numpy()
    moments, counts = np.unique(at, return_counts=True)
    if len(moments) < _LEAST_BATCHES:
        return examples, None
    later = np.cumsum(counts[::-1])[::-1] <= max(_LATEST * len(at), counts[-1])
    begin = moments[later].min()
    late = examples.filter(pa.array(at >= begin))
    early = examples.filter(pa.array(at + int(window_days * 86400e6) <= begin))
    contacts = sum(name != "none" for name in late["treatment_id"].to_pylist())
    return early, late if contacts >= _LEAST_CONTACTS else None


def too_few(examples: pa.Table, catalog: Catalog) -> bool:
    """Say whether a scorer could not be fitted to examples."""
    column = Coding.of(catalog).columns(examples["treatment_id"].to_pylist())
    known = column >= 0
    y = examples["is_response"].to_numpy(zero_copy_only=False)[known]
    return bool(check_responses(y) or check_contacts(column[known]))


def chances(closed: pa.Table, waiting: pa.Table, catalog: Catalog, settings: Models, seed: int) -> Array:
    """Give the chance of a response of open decisions, by a model of the closed ones.

    Args:
        closed: The `examples` of decisions whose outcome is known.
        waiting: The `examples` of others, n rows.
        catalog: Its treatments.
        settings: To fit with.
        seed: Of folds and trees.

    Returns:
        Shape (n,), each of its own customer and treatment.

    Raises:
        DataError: when there are too few closed examples to learn from.
    """
    p = Scorer.fit(closed, catalog, settings, seed).scores(waiting, catalog).p_response
    column = Coding.of(catalog).columns(waiting["treatment_id"].to_pylist())
    # Treatments that the catalog no longer has are not learnt from: whatever they are given.
    return np.asarray(p[np.arange(len(p)), np.maximum(column, 0)])


def errors(scorer: Scorer, late: pa.Table, catalog: Catalog) -> tuple[Array, NDArray[np.int64]]:
    """Give squared errors of the effect, one per contact of later batches, and the number of its customer."""
    column = Coding.of(catalog).columns(late["treatment_id"].to_pylist())
    contacts = np.flatnonzero(column > 0)
    rows = late.take(pa.array(contacts))
    every, given = np.arange(len(contacts)), column[contacts]
    y = rows["is_response"].to_numpy(zero_copy_only=False).astype(np.float64)
    X = inputs.matrix(rows, scorer.names)
    coding = Coding.of(catalog)
    p_response = scorer.response.predict(X, scorer.coding.codes(coding))
    baseline = scorer.effect.baseline(X, p_response[:, 0])
    mean, _ = scorer.effect.predict(X, p_response, coding)
    unit = np.unique(rows["customer_id"].to_pylist(), return_inverse=True)[1]
    return (y - baseline - mean[every, given - 1]) ** 2, unit


def _candidate(
    key: tuple[str, float | None], error: Array, default: Array, unit: NDArray[np.int64]
) -> Candidate:
    return Candidate(*key, float(error.mean()), gain(default - error, unit), len(error))


def gain(gap: Array, unit: NDArray[np.int64]) -> float:
    """Give the mean of gains, shape (n,), in standard errors clustered by customer; 0 where all are 0."""
    se = stats.clustered(gap - gap.mean(), unit, corrected=False)[0] / len(gap)
    return float(gap.mean() / se) if se > 0 else 0.0


def rows(choice: Choice, learnt_at: Any) -> list[dict[str, Any]]:
    """Give the rows of the `learning` table."""
    chosen = choice.settings.capacity, choice.settings.half_life_days
    return [
        {
            "learnt_at": learnt_at,
            "capacity": found.capacity,
            "half_life_days": found.half_life_days or 0.0,
            "loss": found.loss,
            "gain_se": found.gain_se,
            "is_chosen": (found.capacity, found.half_life_days) == chosen,
            "n": found.n,
        }
        for found in choice.candidates
    ]
