"""Warm start: what an earlier experiment taught, as a prior that the own outcomes outgrow.

The earlier experiment's closed decisions enter the fit beside the own ones, each at a share of an own one's
weight (the power prior, Ibrahim and Chen 2000). Where nothing has closed yet the belief is the earlier
experiment's alone: its effects by customer and treatment, its standard errors. As own outcomes close they
outweigh it, and the share itself is chosen on the latest of them: a prior that does not fit is dropped. A
treatment that the earlier experiment did not try borrows from its action and channel and stays wide.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nba import tables
from nba.catalog import NONE, Catalog
from nba.errors import listed
from nba.models import belief, inputs
from nba.models.scorer import Scorer
from nba.settings import Models

Array = NDArray[np.float64]

SHARES = (1.0, 0.3, 0.1, 0.03, 0.0)
_CLEARLY = 1.0  # paired standard errors by which a smaller share must be better than the whole
_MARK = "earlier/"  # begins ids of earlier decisions and arms


class Candidate(NamedTuple):
    """A share that was tried.

    Attributes:
        share: Weight of an earlier decision beside an own one.
        loss: Mean squared error of the effect on the latest own contacts.
        gain_se: How much better than the largest share, in paired standard errors clustered by customer.
        n: Contacts judged on.
    """

    share: float
    loss: float
    gain_se: float
    n: int


class Choice(NamedTuple):
    """The share to learn with, and how it was found; no candidates where there was too little."""

    share: float
    candidates: tuple[Candidate, ...]
    reason: str


def mapped(earlier: pa.Table, names: Mapping[str, str], catalog: Catalog) -> pa.Table:
    """Give an earlier experiment's examples by the treatments of this catalog.

    Args:
        earlier: Its `examples`.
        names: Own treatment of an earlier one, where their ids differ; several may become one.
        catalog: The own treatments; rows of others are left out.

    Returns:
        The `examples`, with ids that no own decision has.

    Raises:
        DataError: when a name is unknown on either side, or no treatment of the catalog was given, all named.
    """
    given = np.array(earlier["treatment_id"].to_pylist(), dtype=object)
    faults = [
        f"treatment {name!r} is not among those of the earlier experiment, {sorted(set(given) - {NONE})}"
        for name in sorted(set(names) - set(given))
    ]
    faults += [
        f"treatment {names[name]!r}, for {name!r}, is not in the catalog, which has"
        f" {list(catalog.treatment_ids[1:])}"
        for name in sorted(names)
        if names[name] not in catalog.treatment_ids
    ]
    own = np.array([names.get(name, name) for name in given], dtype=object)
    known = np.isin(own, catalog.treatment_ids)
    if not faults and not (own[known] != NONE).any():
        faults = [f"none of its treatments {sorted(set(given) - {NONE})} is in the catalog"]
    if faults:
        hint = "Map earlier ids to own ones in [models] warm_treatments."
        raise listed(faults, "the earlier experiment does not fit", hint)
    marked = {
        name: [f"{_MARK}{value}" for value in earlier[name].to_pylist()] for name in ("decision_id", "arm")
    }
    changed = {**marked, "treatment_id": list(own)}
    for name, values in changed.items():
        column = pa.array(values, earlier.schema.field(name).type)
        earlier = earlier.set_column(earlier.column_names.index(name), name, column)
    return earlier.filter(pa.array(known))


def pooled(own: pa.Table, earlier: pa.Table, share: float, names: Sequence[str] = ()) -> pa.Table:
    """Set an earlier experiment's examples beside the own ones.

    Args:
        own: The `examples` of this workspace, which may be none.
        earlier: Those of the earlier experiment (`mapped`).
        share: Weight of an earlier decision beside an own one; 0 leaves them out where there are own ones.
        names: The features of this workspace, where its examples have none to tell by.

    Returns:
        The `examples`. Features are the own ones: what the earlier experiment did not know is unknown there,
        what only it knew is left out.
    """
    if own.num_rows and share == 0:
        return own
    if read := inputs.feature_names(own) or tuple(names):
        earlier = earlier.drop_columns([n for n in inputs.feature_names(earlier) if n not in read])
    weight = pc.multiply(_weight(earlier), share if own.num_rows else 1.0)
    earlier = earlier.drop_columns([n for n in earlier.column_names if n == "weight"])
    earlier = earlier.append_column("weight", weight)
    parts = [earlier, own] if own.num_rows else [earlier]
    return tables.EXAMPLES.conform(pa.concat_tables(parts, promote_options="permissive"))


def counted(examples: pa.Table) -> tuple[int, float]:
    """Give how many of the examples are an earlier experiment's, and what one of them weighs at most."""
    is_earlier = pc.starts_with(examples["decision_id"], _MARK)
    n = int(pc.sum(is_earlier).as_py() or 0)
    return n, float(pc.max(_weight(examples.filter(is_earlier))).as_py()) if n else 0.0


def choose(
    own: pa.Table, earlier: pa.Table, catalog: Catalog, settings: Models, seed: int, window_days: int
) -> Choice:
    """Choose how much an earlier decision weighs, by the latest own ones.

    Each share is fitted to what had closed before the latest own decisions were made, and judged by its
    squared error of the effect on their contacts. The whole stays unless a smaller share is better by a
    paired standard error: what a prior costs that fits is little, what it gives where own outcomes are few
    is much.

    Args:
        own: The `examples` of this workspace, in the order of their moments.
        earlier: Those of the earlier experiment (`mapped`).
        catalog: The own treatments.
        settings: To fit with.
        seed: Of samples, folds and trees.
        window_days: Days after a decision in which orders count.
    """
    whole = SHARES[0]
    early, late = belief.split(own, window_days) if own.num_rows else (own, None)
    if late is None:
        return Choice(
            whole, (), "too few own batches or contacts to choose by: earlier decisions count in full"
        )
    errors: dict[float, Array] = {}
    for share in SHARES:
        rows = pooled(early, earlier, share)
        if share == 0 and belief.too_few(rows, catalog):
            continue
        with threadpool_limits(limits=1, user_api="blas"):
            errors[share], unit = belief.errors(Scorer.fit(rows, catalog, settings, seed), late, catalog)
    candidates = tuple(_candidate(share, error, errors[whole], unit) for share, error in errors.items())
    better = [candidate for candidate in candidates if candidate.gain_se > _CLEARLY]
    if not better:
        return Choice(
            whole, candidates, "no smaller share is clearly better: earlier decisions count in full"
        )
    best = min(better, key=lambda candidate: candidate.loss)
    return Choice(
        best.share,
        candidates,
        f"an earlier decision counts {best.share:g}: better than in full by {best.gain_se:.1f} errors",
    )


def rows(choice: Choice, learnt_at: Any) -> list[dict[str, Any]]:
    """Give the rows of the `warm_starts` table."""
    return [
        {**found._asdict(), "learnt_at": learnt_at, "is_chosen": found.share == choice.share}
        for found in choice.candidates
    ]


def _weight(examples: pa.Table) -> pa.ChunkedArray:
    if "weight" in examples.column_names:
        return examples["weight"].fill_null(1.0)
    return pa.chunked_array([pa.array(np.ones(examples.num_rows))])


def _candidate(share: float, error: Array, whole: Array, unit: NDArray[np.int64]) -> Candidate:
    gain_se = belief.gain(whole - error, unit)
    return Candidate(share, float(error.mean()), gain_se, len(error))
