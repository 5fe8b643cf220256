"""Why candidates of a batch were removed, and what each business weight costs in expected value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from nba import settings, tables
from nba.catalog import Catalog
from nba.errors import MissingError
from nba.history import History
from nba.policy import levers
from nba.serving.deciders import strategy
from nba.serving.whatif import Stored
from pipelines import scenario
from pipelines.progress import Progress, silent

MOST = 20_000  # customers that prices are solved on, by hash


@dataclass(frozen=True)
class CandidatesReport:
    """What became of a batch's candidates.

    Attributes:
        batch_id: The batch.
        removed: Rows of `removals`; none for batches decided before these were logged.
        costs: Rows of `lever_costs`; none where all levers are 1.
    """

    batch_id: str
    removed: list[dict[str, Any]]
    costs: list[dict[str, Any]]


def candidates(
    workspace: Path, batch_id: str | None = None, *, progress: Progress | None = None
) -> CandidatesReport:
    """Solve a stored batch without each lever, and write what each costs to `lever_costs`.

    Weights are those of the settings and the catalog now, belief and eligibility those of the batch;
    everybody but the holdout is decided by the workspace's strategy. Large batches are solved on a random
    part and written large.

    Args:
        workspace: Folder of the workspace.
        batch_id: The batch; the last one decided by a model if absent.
        progress: Where to report.

    Raises:
        MissingError: when no batch was decided by a model.
        DataError: when the batch is not known.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    catalog = settings.read_catalog(workspace, config)
    history = History.read(workspace)
    step = progress.step("what levers cost", total=2)
    stored = scenario.read(history, catalog, config, batch_id, MOST)
    step(1)
    rows = costs(stored, catalog, config)
    removed = []
    if history.has("removals"):
        logged = history.table("removals")
        removed = logged.filter(pc.equal(logged["batch_id"], stored.batch_id)).to_pylist()
    kept = history.table("lever_costs").to_pylist() if history.has("lever_costs") else []
    others = [row for row in kept if row["batch_id"] != stored.batch_id]
    history.commit(replace={"lever_costs": tables.LEVER_COSTS.build([*others, *rows])})
    step(1)
    return CandidatesReport(stored.batch_id, removed, rows)


def costs(stored: Stored, catalog: Catalog, config: settings.Settings) -> list[dict[str, Any]]:
    """Give the `lever_costs` rows of a stored batch; none where all levers are 1.

    Args:
        stored: Candidates, or a random part of them.
        catalog: Gives the actions' levers.
        config: Gives limits, strategy and the levers by context.
    """
    own = levers.by_name(stored.context, config.policy.levers, catalog)
    weight = {name: of for name, of in own.items() if (of != 1).any()}
    if not weight:
        return []
    limited = stored.limited(catalog, config.limits)
    found = levers.costs(
        strategy(config.policy), stored.gain(catalog), catalog.cost + stored.nuisance, weight,
        stored.is_eligible, limited,
    )  # fmt: skip
    n, scale = len(stored.is_eligible), stored.stands_for
    return [
        {
            "batch_id": stored.batch_id,
            "lever": one.lever,
            "weight": float(weight[one.lever][weight[one.lever] != 1][0]) if one.lever in weight else None,
            "n_customers": round(_weighed(weight, one.lever, n) * scale),
            "value": one.value * scale,
            "without": one.without * scale,
            "cost": one.cost * scale,
            "moved": one.moved * scale,
        }
        for one in found
    ]


def _weighed(weight: dict[str, Any], lever: str, n: int) -> int:
    some = [of for name, of in weight.items() if lever in (name, "all")]
    return int(np.any([np.broadcast_to((of != 1).any(axis=1), n) for of in some], axis=0).sum())


def recent(workspace: Path) -> int:
    """Write what levers cost in the last batch that a model decided; the number of rows, 0 without one."""
    try:
        return len(candidates(workspace).costs)
    except MissingError:
        return 0
