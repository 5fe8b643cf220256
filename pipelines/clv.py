"""Write the lifetime value of every customer, as it was known at a moment."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa

from nba import settings
from nba.history import History
from nba.models import clv as model
from pipelines.progress import Progress


def clv(workspace: Path, at: datetime, *, progress: Progress) -> pa.Table:
    """Forecast lifetime value from the history before `at` and write the `clv` table.

    Raises:
        MissingError: when the workspace holds no orders yet.
    """
    given = settings.read(workspace)
    history = History.read(workspace)
    history.paths("orders")
    done = progress.step("reading purchases", total=1)
    with history.as_of(at) as snapshot:
        ids, log, day = model.read(snapshot)
    done(1)
    horizon = given.models.clv_horizon_days
    done = progress.step("choosing a model by backtest", total=1)
    choice = model.choose(log, day, horizon)
    done(1)
    done = progress.step(f"forecasting {len(ids):,} customers", total=1)
    table = model.forecast(
        ids,
        log,
        at,
        model.fit(log, day, horizon, choice),
        horizon_days=horizon,
        annual_discount=given.models.annual_discount,
        seed=given.workspace.seed,
    )
    done(1)
    history.commit(replace={"clv": table, "clv_backtest": choice.backtest})
    return table
