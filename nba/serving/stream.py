"""One batch of any number of customers, part by part: memory does not grow with them.

1. *Score*: each part's features become belief and eligibility, kept on disk.
2. *Price*: a hashed sample is solved like a small batch; its limits are then corrected by what all customers
   would use at its prices, summed part by part.
3. *Draw*: each customer alone, from the cut that the limits leave (`nba.policy.streamed.Cut`).
4. *Write*: what a draw put over a limit is trimmed by hash, and rows, reasons and counts go out in order.

Everything that couples customers is a sum of whole numbers, so that parts of any size, in any order and on
any engine give the same rows.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nba import draws
from nba.errors import DataError
from nba.history import Snapshot
from nba.serving import delivery
from nba.serving.deciders import check_features
from nba.serving.drawing import draw_all
from nba.serving.engines import Engine, Local, Source
from nba.serving.jobs import Job, Named, Scored, Whole
from nba.serving.pricing import find_prices, in_order
from nba.serving.writing import Result, write_all

SAMPLE = 20_000


def run(
    job: Job,
    snapshot: Snapshot,
    features: Sequence[Path],
    root: Path,
    *,
    engine: "Engine | None" = None,
    log: bool = True,
    advance: Callable[[str, int], None] | None = None,
) -> Result:
    """Decide a batch from files of features, and stage it below a folder.

    Args:
        job: What is the same for all customers.
        snapshot: What was known.
        features: Parquet files of the features table; customers do not repeat. Sorted by customer_id, rules
            are looked up fastest.
        root: Folder of all batches.
        engine: What does the work; this machine's cores if absent.
        log: Whether to write decisions, choices and assignments for the history.
        advance: Told the pass and the customers done.

    Raises:
        DataError: when there is no customer, a feature that the models need is missing, or there is no room.
    """
    total = sum(pq.ParquetFile(path).metadata.num_rows for path in features)
    if not total:
        raise DataError(f"no customer is known at {job.at}", "Ingest customers first.")
    check_features(job.models, pq.read_schema(features[0]).names)
    tell = advance or (lambda _pass, _n: None)
    work = work_folder(root, job.batch_id)
    shutil.rmtree(work, ignore_errors=True)
    with delivery.full_disk(work):
        work.mkdir(parents=True)
        try:
            engine = engine or Local()
            sample, customers = _score(job, snapshot, features, engine, work, total, tell)
            # Models have done their part: what follows needs their names only.
            job = replace(job, models={alias: Named(m.model_id) for alias, m in job.models.items()})
            drawn = find_prices(job, engine, sample, customers, tell)
            drawn = draw_all(job, engine, drawn, tell)
            return write_all(job, engine, drawn, root, work, log, tell)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def work_folder(root: Path, batch_id: str) -> Path:
    """Give the folder of what a batch keeps on disk while it runs."""
    return root / f".work.batch_id={batch_id}"


def _score(
    job: Job,
    snapshot: Snapshot,
    features: Sequence[Path],
    engine: Engine,
    work: Path,
    total: int,
    tell: Callable[[str, int], None],
) -> tuple[Scored, Whole]:
    # The sample that prices are solved on, in the order of the ids; and the customers by arm.
    below = min(1.0, SAMPLE / total) * 2.0**64
    salt = f"price|{job.batch_id}"

    def some(part: Scored) -> tuple[NDArray[np.int16], Scored]:
        hashed = draws.hashed(part.ids, salt)
        return part.arm, part.take(np.flatnonzero(hashed.astype(np.float64) < below))

    customers = np.zeros(len(job.rules), dtype=np.int64)
    sampled: list[Scored] = []
    for arm, few in engine.score(Source(job, snapshot, features, work), some):
        customers += np.bincount(arm, minlength=len(customers))
        sampled.append(few)
        tell("scoring", len(arm))
    return in_order(sampled), customers
