"""A registered policy in the shadow of the one that decides: the same batch, and nothing is delivered."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nba import tables
from nba.errors import DataError, MissingError
from nba.history import History
from pipelines import replay
from pipelines.progress import Progress, silent
from pipelines.replay import Context, Model


class Shadowed(NamedTuple):
    """What another version would have decided.

    Attributes:
        rows: The rows of `shadows`.
        n_left_out: Decisions of the batch whose candidates were not stored, by hash: nothing is said of them.
    """

    rows: pa.Table
    n_left_out: int


def shadow(
    workspace: Path,
    at: datetime,
    batch_id: str,
    alias: str = "challenger",
    *,
    progress: Progress | None = None,
) -> Shadowed:
    """Log what another version would have decided in a batch; again changes nothing.

    Args:
        workspace: Folder of the workspace.
        at: The moment; the batch was decided before it.
        batch_id: The batch.
        alias: The version that decides in the shadow.
        progress: Where to report.

    Raises:
        MissingError: when nothing has the alias.
        DataError: when the batch is not known, or none of its candidates are stored.
    """
    progress = progress or silent()
    context = Context.read(workspace, at)
    model = Model.find(context, alias)
    if model is None:
        raise MissingError(f"no version is called {alias!r}", "Run `nba learn`: it registers a challenger.")
    step = progress.step(f"{alias} in the shadow of {batch_id}", total=2)
    part = replay.read(context, batch_id, closed=False, most=10**9, held=True)
    ids = context.history.sql(
        "select customer_id, decision_id from decisions where batch_id = $b and policy_id <> 'outside'",
        {"b": batch_id},
    )
    if not ids.num_rows:
        raise DataError(f"batch {batch_id!r} is not known", "Decide it first.")
    if part is None:
        raise DataError(
            f"batch {batch_id!r} has no stored candidates: what could have been sent is not known",
            "Set log_choices under [delivery] above 0 for later batches.",
        )
    step(1)
    player = replay.champion_player(context, model)
    mean = replay.believed(context, model, part).mean
    played = player.play(part)
    p, column = played.final, played.column(part)
    every = np.arange(len(column))
    decision = dict(zip(ids["customer_id"].to_pylist(), ids["decision_id"].to_pylist(), strict=True))
    known = part.column < p.shape[1]
    decided = np.where(known, p[every, np.minimum(part.column, p.shape[1] - 1)], 0.0)
    rows = tables.SHADOWS.conform(
        pa.table(
            {
                "decision_id": [decision[name] for name in part.ids],
                "batch_id": [batch_id] * len(part.ids),
                "customer_id": part.ids,
                "policy_id": [player.policy_id] * len(part.ids),
                "treatment_id": [context.catalog.treatment_ids[c] for c in column],
                "p_action": p[every, column],
                "p_decided": decided,
                "expected_value": mean[every, column],
            }
        )
    )
    history = History.read(workspace)
    before = history.table("shadows") if history.has("shadows") else tables.SHADOWS.empty()
    kept = [
        row
        for row in before.to_pylist()
        if (row["batch_id"], row["policy_id"]) != (batch_id, player.policy_id)
    ]
    history.commit(replace={"shadows": pa.concat_tables([tables.SHADOWS.build(kept), rows])})
    step(1)
    return Shadowed(rows, ids.num_rows - rows.num_rows)
