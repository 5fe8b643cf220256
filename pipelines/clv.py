"""Write the lifetime value of every customer, as it was known at a moment."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from nba import plots, settings, tracking
from nba.history import History
from nba.models import clv as model
from nba.models import clv_counts, clv_groups
from nba.models.clv_estimators import LifetimeValue
from pipelines.progress import Progress


def clv(workspace: Path, at: datetime, *, progress: Progress) -> pa.Table:
    """Forecast lifetime value from the history before `at`; write the `clv` table and what it rests on.

    Raises:
        MissingError: when the workspace holds no orders yet.
        SettingsError: when `models.clv_strata` names no column of customers.
    """
    given = settings.read(workspace)
    history = History.read(workspace)
    history.paths("orders")
    history.check_before("orders", "ordered_at", at)
    done = progress.step("reading purchases", total=1)
    with history.as_of(at) as snapshot:
        ids, log, _ = model.read(snapshot, given.models.clv_strata)
        done(1)
        done = progress.step("choosing a model by backtest", total=1)
        estimator = LifetimeValue(
            at, given.models.clv_horizon_days, given.models.annual_discount, given.workspace.seed
        ).fit(log)
        done(1)
        done = progress.step(f"forecasting {len(ids):,} customers", total=1)
        table = estimator.forecast(log, ids)
        groups, grid = clv_groups.groups(snapshot, table), clv_groups.grid(snapshot, table)
        done(1)
    chosen = estimator.chosen_
    written = {
        "clv": table,
        "clv_backtest": chosen.backtest,
        "clv_scores": chosen.scores,
        "clv_deciles": chosen.deciles,
        "clv_groups": groups,
        "clv_grid": grid,
    }
    history.commit(replace=written)
    _log(given, workspace, estimator, written)
    return table


def _log(
    given: settings.Settings, workspace: Path, estimator: LifetimeValue, written: dict[str, pa.Table]
) -> None:
    fitted, chosen = estimator.model_, estimator.chosen_
    counts, currency = fitted.counts, given.workspace.currency
    params: dict[str, Any] = {
        "model_id": fitted.model_id,
        "counts": counts.kind,
        "is_converged": counts.is_converged,
        **{name: value for name, value in chosen.choice._asdict().items() if name != "kind"},
        "horizon_days": estimator.horizon_days,
        "at": estimator.at.isoformat(),
        "config_hash": given.config_hash,
        "reason": fitted.reason,
    }
    names = clv_counts.NAMES[counts.kind]
    metrics = {
        "log_likelihood": counts.log_likelihood,
        **dict(zip(names, counts.params)),
        **{f"se.{name}": value for name, value in zip(names, counts.se)},
        **{f"{row['part']}.{row['candidate']}".replace("+", "_"): row["loss"]
           for row in chosen.backtest.to_pylist()},
    }  # fmt: skip
    for row in chosen.scores.to_pylist():
        for name in ("mae", "rmse", "ratio", "ngini", "top_decile", "decile_mape", "cover", "above"):
            if row[name] is not None:
                metrics[f"{row['part']}.{name}.{row['origin_at']:%Y-%m-%d}"] = row[name]
    tracking.setup(given, workspace)
    figures = {
        "origins.html": plots.clv_origins(chosen.scores),
        "deciles_orders.html": plots.clv_deciles(chosen.deciles, "orders"),
        "deciles_value.html": plots.clv_deciles(chosen.deciles, "value", currency),
        "grid.html": plots.clv_grid(written["clv_grid"]),
    }
    tracking.log_run("clv", params=params, metrics=metrics, figures=figures)
