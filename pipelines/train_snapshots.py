"""Train the chance to buy: snapshots of the history to a model, logged, registered, and everyone's score."""

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from nba import plots, settings, tracking
from nba.errors import DataError, MissingError
from nba.features import examples as snapshot_examples
from nba.features import table as features
from nba.history import History
from nba.models import card, snapshots, tuning
from nba.settings import Settings
from pipelines.progress import Progress, silent
from pipelines.train import digest, search_told, study_of


@dataclass(frozen=True)
class SnapshotReport:
    """A model of purchases, judged on a snapshot later than all it was fitted on.

    Attributes:
        metrics: auc, log_loss, log_loss_constant, ece, calibration_slope, base_rate, n.
        cutoffs: Moments of the snapshots.
        scores: Table customer_id, as_of, p_response of every customer today.
        run_id: The MLflow run.
        model: Registered name and version.
        is_new: False if the same model was registered before: then nothing changed.
    """

    metrics: dict[str, float]
    cutoffs: tuple[datetime, ...]
    scores: pa.Table
    run_id: str
    model: str
    is_new: bool


def train_snapshot(
    workspace: Path,
    *,
    horizon_days: int = 30,
    cutoffs: int = 4,
    progress: Progress | None = None,
) -> SnapshotReport:
    """Learn who will buy in the days after a snapshot, from orders alone, and score everyone.

    Snapshots lie one horizon apart; the last ends with the history, so that its outcome is known. The
    model is judged on the last by one that has seen only the earlier. Writes the table `purchase_scores`. The
    same model is not registered twice, whichever version it is; what was trained last is the champion.

    Args:
        workspace: Folder of the workspace.
        horizon_days: Days after a snapshot in which a purchase counts.
        cutoffs: Snapshots to learn from, 2 or more.
        progress: Where to report.

    Raises:
        MissingError: when there are no orders.
        DataError: when the history is too short for that many snapshots.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    tracking.claim(config, workspace)
    history = History.read(workspace)
    moments = _cutoffs(history, horizon_days, cutoffs)
    step = progress.step(f"snapshots of {horizon_days} days", total=cutoffs + 3)
    parts = []
    for moment in moments[:-1]:
        parts.append(snapshot_examples.snapshots(history, [moment], horizon_days, moments[-1]))
        step(1)
    rows = pa.concat_tables(parts, promote_options="permissive")
    seed, asked = config.workspace.seed, config.models
    search = tuning.Search(
        asked, seed, study_of(workspace), search_told(progress, asked, "the chance to buy")
    )
    found = snapshots.fit(rows, seed, asked, search)
    step(1)
    with history.as_of(moments[-1]) as snapshot:
        now = features.build(snapshot)
    scores = now.select(["customer_id", "as_of"]).append_column("p_response", [found.scores(now)])
    history.commit(replace={"purchase_scores": scores})
    step(1)
    same = _same_purchases(tracking.purchases_name(config), found.model_id)
    registered = same or _log_snapshots(found, rows, config, horizon_days, moments[:-1])
    tracking.promote(registered, tracking.CHAMPION)
    step(1)
    named = f"{registered.name}@{registered.version}"
    return SnapshotReport(found.metrics, moments[:-1], scores, registered.run_id, named, same is None)


def _same_purchases(name: str, model_id: str) -> tracking.Registered | None:
    for row in tracking.versions(name):
        if row["tags"].get("model_id") == model_id and not row["is_deleted"]:
            return tracking.Registered(name, row["version"], row["run_id"])
    return None


def _log_snapshots(
    found: snapshots.Snapshots,
    rows: pa.Table,
    config: Settings,
    horizon_days: int,
    moments: tuple[datetime, ...],
) -> tracking.Registered:
    name = tracking.purchases_name(config)
    params = {
        "horizon_days": horizon_days,
        "cutoffs": len(moments),
        "n_features": len(found.names),
        "trees": found.model.trees_,
        "blend": round(found.model.blend_, 3),
        "calibration": found.model.calibration_,
    }
    trials: list[dict[str, Any]] = []
    if found.tuned is not None:
        params |= {f"tuned_{name}": value for name, value in found.tuned.parameters.items()}
        params["tuned_log_loss"] = found.tuned.loss
        trials = found.tuned.trials
    with tempfile.TemporaryDirectory() as folder:
        found.save(Path(folder) / "scorer")
        return tracking.log_training(
            tracking.Training(
                name=name,
                run_name=f"purchase within {horizon_days} days",
                folder=Path(folder) / "scorer",
                loader="nba.models.snapshots:Snapshots",
                example=rows.slice(0, 5),
                examples=rows,
                params=params,
                metrics={**found.metrics, "n_examples": float(rows.num_rows)},
                tags={
                    "model_id": found.model_id,
                    "config_hash": config.config_hash,
                    "at": moments[-1].isoformat(),
                    tracking.MEASURED_ON: digest(rows),
                },
                figures={"calibration.html": plots.calibration(found.calibration)},
                texts={"card.md": card.snapshots(found, rows, params, _leaks(rows))},
                trials=trials,
            )
        )


def _leaks(rows: pa.Table) -> list[str]:
    said = [
        f"Feature {row['feature']!r} nearly tells the response (AUC, by {row['by']}: {row['separates']:.3f}):"
        " is it known at the snapshot?"
        for row in snapshot_examples.suspects(rows).to_pylist()
    ]
    return said or ["No feature nearly tells the response."]


def _cutoffs(history: History, horizon_days: int, cutoffs: int) -> tuple[datetime, ...]:
    # The moments of the snapshots, oldest first, and then the end of the history.
    orders = history.sql(
        f"select min(ordered_at) as first, max(ordered_at) as last from ({_orders(history)})"
    )
    first, last = orders["first"][0].as_py(), orders["last"][0].as_py()
    if first is None:
        raise MissingError("the workspace has no orders", "Run `nba ingest` first.")
    end = last.astimezone(UTC) + timedelta(microseconds=1)
    moments = tuple(end - timedelta(days=horizon_days * i) for i in range(cutoffs, -1, -1))
    if cutoffs < 2 or moments[0] - timedelta(days=horizon_days) < first.astimezone(UTC):
        raise DataError(
            f"orders span {(last - first).days} days; {cutoffs} snapshots of {horizon_days} days need"
            f" {max(cutoffs, 2)} snapshots and {horizon_days * (cutoffs + 1)} days",
            "Ask for fewer snapshots (2 or more) or a shorter horizon.",
        )
    return moments


def _orders(history: History) -> str:
    history.paths("orders")
    return "select ordered_at from orders where not is_return"
