"""The whole loop on a simulated world: from raw files to incremental value, measured and true."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nba import settings, stats, tracking
from nba.errors import MissingError
from nba.histories.simulated import World
from nba.history import History
from pipelines import (
    alerts,
    analyze,
    attribute,
    candidates,
    clv,
    decide,
    evaluate,
    feedback,
    ingest,
    overview,
    promote,
    simulate,
    train,
)
from pipelines.progress import Progress, silent

MEMORY_DAYS = 28  # of the challenger, where the champion's examples never age


@dataclass(frozen=True)
class DemoResult:
    """What the loop was worth.

    Attributes:
        rows: One per policy: measured against the holdout and true, money per customer.
        currency: Of all money.
        note: How the policy compares, in words.
    """

    rows: list[dict[str, Any]]
    currency: str
    note: str


def demo(
    workspace: Path, customers: int, batches: int, seed: int, *, progress: Progress | None = None
) -> DemoResult:
    """Run the loop, batch by batch, then every reader; an interrupted run goes on where it stopped."""
    progress = progress or silent()
    last = _play(workspace, customers, batches, seed, progress)
    _challenge(workspace, last, progress)
    _read(workspace, last + timedelta(weeks=1), progress)
    return _result(workspace, batches, progress)


def run_loop(workspace: Path, customers: int, batches: int, seed: int, *, progress: Progress) -> None:
    """Make the world if it is not there, play its batches through the delivery contract, and read them."""
    last = _play(workspace, customers, batches, seed, progress)
    _read(workspace, last + timedelta(weeks=1), progress)


def _play(workspace: Path, customers: int, batches: int, seed: int, progress: Progress) -> datetime:
    # Gives the moment of the last batch.
    simulate.simulate(workspace, customers, seed, batches, progress=progress)
    start = World.load(workspace / simulate.FOLDER).start
    for number in range(batches):
        at = start + timedelta(weeks=number)
        batch_id = decide.batch_name(at)
        if simulate.has_responded(workspace, batch_id):
            continue
        step = progress.step(f"batch {number + 1} of {batches}, {at:%Y-%m-%d}", total=5)
        ingest.ingest(workspace, progress=silent())
        step(1)
        feedback.feedback(workspace, at, progress=silent())
        # Not only when this run closed something: an interrupted one may have, and not come to train.
        if History.read(workspace).has("outcomes"):
            _renew(workspace, at)
        step(2)
        decide.decide(workspace, at, batch_id, progress=silent())
        step(1)
        simulate.respond(workspace, batch_id, progress=silent())
        step(1)
    return start + timedelta(weeks=batches - 1)


def _read(workspace: Path, end: datetime, progress: Progress) -> None:
    ingest.ingest(workspace, progress=progress)
    feedback.feedback(workspace, end, progress=progress)
    analyze.analyze(workspace, end, progress=progress)
    attribute.attribute(workspace, end, progress=progress)
    clv.clv(workspace, end, progress=progress)
    evaluate.evaluate(workspace, end, progress=progress)
    with suppress(MissingError):  # no challenger stands beside the champion
        promote.promote(workspace, end, progress=progress)
    candidates.recent(workspace)
    alerts.alerts(workspace, end)
    overview.overview(workspace, end, progress=progress)


def _challenge(workspace: Path, at: datetime, progress: Progress) -> None:
    # Taught by the last weeks alone; it has decided nothing, and waits for somebody's word.
    models = settings.read(workspace).models.model_copy(update={"half_life_days": float(MEMORY_DAYS)})
    rows = train.examples(History.read(workspace), at)
    since = pa.scalar(at - timedelta(days=MEMORY_DAYS), rows["as_of"].type)
    rows = rows.filter(pc.greater_equal(rows["as_of"], since))
    train.train(workspace, at, models=models, rows=rows, progress=progress)


def _renew(workspace: Path, at: datetime) -> None:
    # Nobody is there to look at evidence; the record says so.
    if train.train(workspace, at, progress=silent()).alias == tracking.CHALLENGER:
        note = "a week's refit of the same settings; in the simulated world no evidence is asked for"
        promote.overrule(workspace, at, approver="nba demo", note=note)


def true_values(workspace: Path) -> dict[str, stats.Interval]:
    """Give the true incremental value per customer of each arm, over all batches.

    The world tells it as the expectation behind each decision; the interval is over customers.
    """
    world = World.load(workspace / simulate.FOLDER)
    decisions = History.read(workspace).table("decisions")
    decisions = decisions.append_column("true_value", [world.true_value(decisions)])
    per_customer = decisions.group_by(["arm", "external_id"]).aggregate([("true_value", "sum")])
    arms = pc.unique(per_customer["arm"]).to_pylist()
    return {
        arm: stats.mean(per_customer.filter(pc.equal(per_customer["arm"], arm))["true_value_sum"].to_numpy())
        for arm in arms
    }


def oracle_value(workspace: Path) -> stats.Interval:
    """Give the value per customer that the oracle would have earned on the same world and limits."""
    limits = settings.read(workspace).limits
    return World.load(workspace / simulate.FOLDER).play_oracle(limits.capacity, limits.budget).total


def _result(workspace: Path, batches: int, progress: Progress) -> DemoResult:
    step = progress.step("the truth: what the decisions were worth, and the oracle's", total=2)
    true = true_values(workspace)
    step(1)
    oracle = oracle_value(workspace)
    step(1)
    standing = settings.read(workspace).experiment.experiment_id
    headline = (standing, "margin", "all")
    effects = {
        row["arm"]: row
        for row in History.read(workspace).table("effects").to_pylist()
        if (row["experiment_id"], row["metric"], row["segment"]) == headline
    }
    names = {"policy": "the policy", "random": "random eligible", "response": "response-greedy"}
    rows = [_row(names[arm], effects.get(arm), true[arm]) for arm in names if arm in true]
    rows.append(_row("the oracle (knows every effect)", None, oracle))
    share = true["policy"].value / oracle.value if oracle.value > 0 else np.nan
    note = (
        f"Measured: margin less contact cost per customer against the holdout over {batches} weeks, "
        "with its 95% interval. "
        "True: what the world knows it was worth, later purchases and the cost of opt-outs included. "
        f"The policy earned {share:.0%} of the oracle's value, "
        "the weeks included in which it had no data and chose at random."
    )
    return DemoResult(rows, settings.read(workspace).workspace.currency, note)


def _row(name: str, effect: dict[str, Any] | None, true: stats.Interval) -> dict[str, Any]:
    measured = effect or {}
    return {
        "who decides": name,
        "measured": measured.get("effect"),
        "measured from": measured.get("lower"),
        "measured to": measured.get("upper"),
        "true": true.value,
        "true from": true.lower,
        "true to": true.upper,
    }
