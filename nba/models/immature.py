"""Decisions whose window is still open: what their outcome will be, as far as their age tells.

Of those who will respond, a share c(d) has responded d days after the decision. A decision of age d without
a response will have one with chance p (1 - c) / (1 - p c), p being the chance at the decision; it then counts
as that part of a response and the rest of none (expectation step of the delayed-feedback model, Chapelle
2014). p is of the customer and the treatment, as closed decisions tell: one chance for all would pull every
treatment to the mean. A decision, with a response or without, weighs c(d), for that is about what it tells
(at age 0 nothing); weights that depend on the age alone leave rates as they are.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Completeness(NamedTuple):
    """Share of the responses within the window that have come by an age.

    Attributes:
        days: Ages at which it is known, increasing, shape (m,).
        treated, none: Share by then, for contacted and others, shape (m,).
    """

    days: Array
    treated: Array
    none: Array

    def at(self, age: Array, is_treated: NDArray[np.bool_]) -> Array:
        """Give the share for ages in days, shape (n,)."""
        shares = (np.interp(age, self.days, part, left=0.0) for part in (self.treated, self.none))
        return np.where(is_treated, *shares)


def completeness(delay: Array, is_treated: NDArray[np.bool_], window: float) -> Completeness:
    """Learn from closed decisions how soon responses come.

    With fewer than 30 responses in a group both groups are taken together; with none at all, they come
    evenly.

    Args:
        delay: Days from the decision to its first response, one per response, shape (r,).
        is_treated: Whether the decision was a contact, shape (r,).
        window: Days of the reward window.

    Example:
        >>> found = completeness(np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, bool), 4.0)
        >>> found.at(np.array([2.0]), np.array([True])).tolist()
        [0.5]
    """
    days = np.linspace(0.0, window, 57)
    parts = []
    for group in (is_treated, ~is_treated):
        known = delay[group] if group.sum() >= 30 else delay
        if not len(known):
            parts.append(days / window)
            continue
        parts.append(np.searchsorted(np.sort(known), days, side="right") / len(known))
    return Completeness(days, *parts)


def expected(examples: pa.Table, age: Array, found: Completeness, p: Array) -> pa.Table:
    """Turn open decisions into weighted examples.

    Args:
        examples: The `examples` of open decisions, as known today, n rows.
        age: Days since each decision, shape (n,).
        found: How soon responses come.
        p: Chance of a response within the window of each decision's customer and treatment, shape (n,).

    Returns:
        Examples with a `weight`: with a response, the share known by then; of the others, a row without a
        response, and one with, whose weights sum to that share and whose ids end in `+`. Decisions of whose
        age nothing is known are left out. All are marked `is_open`.
    """
    is_treated = np.array([name != "none" for name in examples["treatment_id"].to_pylist()])
    known = found.at(age, is_treated)
    telling = known > 0
    examples, known, p = examples.filter(pa.array(telling)), known[telling], p[telling]
    later = p * (1 - known) / np.maximum(1 - p * known, 1e-12)
    responded = examples["is_response"].to_numpy(zero_copy_only=False)
    whole = known * np.where(responded, 1.0, 1 - later)
    kept = _with(examples, "weight", pa.array(whole))
    coming = np.flatnonzero(~responded & (later > 0))
    more = _with(examples.take(pa.array(coming)), "weight", pa.array((known * later)[coming]))
    more = _with(more, "is_response", pa.array(np.ones(len(coming), dtype=bool)))
    ids = [f"{name}+" for name in more["decision_id"].to_pylist()]
    every = pa.concat_tables([kept, _with(more, "decision_id", pa.array(ids, pa.string()))])
    return _with(every, "is_open", pa.array(np.ones(every.num_rows, dtype=bool)))


def closed(examples: pa.Table) -> NDArray[np.bool_]:
    """Tell which examples are decisions whose outcome is known, shape (n,): only these can judge a model.

    Open decisions that have a response already are not among them: beside those that have none yet and are
    left out, they would make responses look frequent.
    """
    if "is_open" not in examples.column_names:
        return np.ones(examples.num_rows, dtype=bool)
    return ~np.asarray(examples["is_open"].fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)
