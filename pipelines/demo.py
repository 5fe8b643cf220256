"""The whole loop on a simulated world: from raw files to incremental value, measured and true."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from nba import settings, stats
from nba.histories.simulated import World
from nba.history import History
from pipelines import analyze, attribute, clv, decide, evaluate, feedback, ingest, overview, simulate, train
from pipelines.progress import Progress, silent


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
    run_loop(workspace, customers, batches, seed, progress=progress)
    return _result(workspace, batches, progress)


def run_loop(workspace: Path, customers: int, batches: int, seed: int, *, progress: Progress) -> None:
    """Make the world if it is not there, and play its batches through the delivery contract."""
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
        if feedback.feedback(workspace, at, progress=silent()).n_closed:
            train.train(workspace, at, progress=silent())
        step(2)
        decide.decide(workspace, at, batch_id, progress=silent())
        step(1)
        simulate.respond(workspace, batch_id, progress=silent())
        step(1)
    end = start + timedelta(weeks=batches)
    ingest.ingest(workspace, progress=progress)
    feedback.feedback(workspace, end, progress=progress)
    analyze.analyze(workspace, end, progress=progress)
    attribute.attribute(workspace, end, progress=progress)
    clv.clv(workspace, end, progress=progress)
    evaluate.evaluate(workspace, end, progress=progress)
    overview.overview(workspace, end, progress=progress)
