"""Write the lifetime value of every customer, as it was known at a moment."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa

from nba import settings, tracking
from nba.history import History
from nba.models import clv as model
from nba.models import clv_counts
from pipelines.progress import Progress


def clv(workspace: Path, at: datetime, *, progress: Progress) -> pa.Table:
    """Forecast lifetime value from the history before `at` and write the `clv` table.

    Raises:
        MissingError: when the workspace holds no orders yet.
    """
    given = settings.read(workspace)
    history = History.read(workspace)
    history.paths("orders")
    history.check_before("orders", "ordered_at", at)
    done = progress.step("reading purchases", total=1)
    with history.as_of(at) as snapshot:
        ids, log, day = model.read(snapshot)
    done(1)
    horizon = given.models.clv_horizon_days
    done = progress.step("choosing a model by backtest", total=1)
    choice = model.choose(log, day, horizon)
    done(1)
    done = progress.step(f"forecasting {len(ids):,} customers", total=1)
    fitted = model.fit(log, day, horizon, choice)
    table = model.forecast(
        ids,
        log,
        at,
        fitted,
        horizon_days=horizon,
        annual_discount=given.models.annual_discount,
        seed=given.workspace.seed,
    )
    done(1)
    history.commit(replace={"clv": table, "clv_backtest": choice.backtest})
    tracking.setup(given, workspace)
    names = clv_counts.NAMES[fitted.counts.kind]
    tracking.log_run(
        "clv",
        params={
            "model_id": fitted.model_id,
            "counts": fitted.counts.kind,
            "spend": choice.spend,
            "value": choice.value,
            "trees": choice.trees,
            "horizon_days": horizon,
            "at": at.isoformat(),
            "config_hash": given.config_hash,
            "reason": fitted.reason,
        },
        metrics={
            "log_likelihood": fitted.counts.log_likelihood,
            **dict(zip(names, fitted.counts.params)),
            **{f"{row['part']}.{row['candidate']}".replace("+", "_"): row["loss"]
               for row in choice.backtest.to_pylist()},
        },
    )  # fmt: skip
    return table
