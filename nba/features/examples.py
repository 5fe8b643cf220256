"""Training examples from snapshots: what was known at a moment, and what followed in a closed window.

A snapshot counts only if its window had closed by the end of what is known: the outcome of a later one is
censored, and a customer without a purchase in half a window is no customer without a purchase.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import rankdata

from nba.errors import DataError
from nba.features import table
from nba.history import History

NEAR = 0.98
MOST_ROWS = 50_000
SUSPECTS = pa.schema(
    [("feature", pa.string()), ("separates", pa.float64()), ("by", pa.string()), ("n", pa.int64())]
)


def snapshots(history: History, cutoffs: Sequence[datetime], horizon_days: int, until: datetime) -> pa.Table:
    """Give everybody's features at each cut-off and whether a purchase followed within the horizon.

    Cut-offs are taken one after the other: the memory of one, whatever their number.

    Args:
        history: Of the workspace.
        cutoffs: Moments to look back from.
        horizon_days: Length of the window after each.
        until: End of what is known; windows must have closed by then.

    Returns:
        The `features` tables with `is_response`, cut-off by cut-off; a feature that is not there at one of
        them is null.

    Raises:
        DataError: when a window has not closed, naming the cut-offs.
    """
    horizon = timedelta(days=horizon_days)
    late = [at for at in cutoffs if at + horizon > until]
    if late or not cutoffs:
        named = ", ".join(f"{at:%Y-%m-%d}" for at in late) or "no cut-off"
        raise DataError(
            f"{named}: the window of {horizon_days} days has not closed by {until:%Y-%m-%d %H:%M}",
            "Name earlier cut-offs or a shorter horizon.",
        )
    return pa.concat_tables(
        [_snapshot(history, at, at + horizon) for at in cutoffs], promote_options="permissive"
    )


def _snapshot(history: History, at: datetime, closes: datetime) -> pa.Table:
    with history.as_of(at) as snapshot:
        known = table.build(snapshot)
    bought = history.sql(
        "select distinct customer_id from orders"
        " where not is_return and ordered_at >= $at and ordered_at < $until",
        {"at": at, "until": closes},
    )
    # Who went into another since bought what the other did.
    who = known["customer_id"].combine_chunks()
    if history.has("aliases"):
        gone = history.table("aliases")
        now = pc.index_in(who, value_set=gone["alias_id"].combine_chunks())
        who = pc.coalesce(gone["customer_id"].combine_chunks().take(now), who)
    flag = pc.is_in(who, value_set=bought["customer_id"].combine_chunks())
    return known.append_column("is_response", flag)


def suspects(examples: pa.Table, label: str = "is_response", near: float = NEAR) -> pa.Table:
    """Name features that nearly determine the label by themselves: most likely they know the future.

    A feature separates by its values (area under the ROC curve, in either direction, where it is known)
    or by being known at all. Of more than `MOST_ROWS` rows, as many are taken evenly.

    Args:
        examples: Rows with features `f_*` and the label.
        label: Flag that is learnt.
        near: Area from which on a feature is suspect.

    Returns:
        feature, separates (the area, 0.5 to 1), by (`value` or `being known`), n; the worst first.

    Example:
        >>> rows = pa.table({"is_response": [True, False, True, False], "f_a": [5.0, 1.0, 4.0, 2.0]})
        >>> suspects(rows).to_pylist()
        [{'feature': 'f_a', 'separates': 1.0, 'by': 'value', 'n': 4}]
    """
    if examples.num_rows > MOST_ROWS:
        examples = examples.take(pa.array(np.linspace(0, examples.num_rows - 1, MOST_ROWS).astype(np.int64)))
    y = np.asarray(examples[label].to_numpy(zero_copy_only=False), dtype=bool)
    out = []
    for name in examples.column_names:
        if not name.startswith("f_"):
            continue
        x = np.asarray(examples[name].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
        known = ~np.isnan(x)
        for by, values, labels in (
            ("value", x[known], y[known]),
            ("being known", known.astype(np.float64), y),
        ):
            area = _separation(values, labels)
            if area >= near:
                out.append({"feature": name, "separates": area, "by": by, "n": len(labels)})
    return pa.Table.from_pylist(sorted(out, key=lambda row: (-row["separates"], row["feature"])), SUSPECTS)


def _separation(values: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    n_yes = int(labels.sum())
    n_no = len(labels) - n_yes
    if not n_yes or not n_no:
        return 0.5
    area = (rankdata(values)[labels].sum() - n_yes * (n_yes + 1) / 2) / (n_yes * n_no)
    return float(max(area, 1 - area))
