"""Pass 3 of a batch: each customer's own draw, and the trim of what it puts over a limit."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import draws
from nba.policy import streamed
from nba.policy.streamed import Cut, Totals
from nba.serving.engines import Engine
from nba.serving.jobs import Array, Drawn, Job, Scored, Whole
from nba.serving.pricing import _part_totals, probabilities_of


def draw_all(job: Job, engine: Engine, drawn: Drawn, tell: Callable[[str, int], None]) -> Drawn:
    """Draw for every customer, trim what exceeds a limit, and say what was used."""
    limited = job.limited
    amounts = streamed.micro(limited.use)
    arms = len(job.rules)

    def work(part: Scored) -> tuple[list[Totals], Whole]:
        p = probabilities_of(job, part, drawn.cuts)
        column = draw_of(job, part, p)
        used = np.stack([amounts[column[part.arm == i]].sum(axis=0) for i in range(arms)])
        return _part_totals(p, part.arm, limited.use, arms), used

    sums: list[Totals] | None = None
    used = np.zeros_like(drawn.used)
    for found, part_used in engine.each(work):
        sums = found if sums is None else [a + b for a, b in zip(sums, found)]
        used += part_used
        tell("drawing", 0)
    assert sums is not None
    cuts = [
        streamed.trimmed(cut, sums[i], limited.use, drawn.available[i]) for i, cut in enumerate(drawn.cuts)
    ]
    cuts = _replayed(job, engine, cuts, sums, drawn)
    for j in range(len(limited.names)):
        for i in range(arms):
            if used[i, j] > drawn.available[i, j] * 1e6 * (1 + 1e-12):
                last = cuts[i].last.copy()
                last[j] = _trim(job, engine, cuts, (i, j), drawn.available[i, j])
                cuts[i] = cuts[i]._replace(last=last)
                used = draws_used(job, engine, cuts)
    return Drawn(tuple(cuts), used, drawn.customers, drawn.available)


def _replayed(job: Job, engine: Engine, cuts: list[Cut], sums: Sequence[Totals], drawn: Drawn) -> list[Cut]:
    # Arms of few customers have no need of formulas where these are none too near.
    use, out = job.limited.use, list(cuts)
    asked = zip(sums, drawn.available, drawn.customers)
    limits = [streamed.together(part, use, room, int(many)) for part, room, many in asked]
    few = [i for i in range(len(out)) if limits[i].any()]
    if not few:
        return out

    def work(part: Scored) -> list[Array]:
        p = probabilities_of(job, part, cuts)
        return [p[part.arm == i] for i in few]

    for i, parts in zip(few, zip(*engine.each(work))):
        p = np.concatenate(parts)
        out[i] = streamed.replay(out[i], p, use, drawn.available[i], limits[i])
    return out


def draw_of(job: Job, part: Scored, p: Array) -> Whole:
    """Draw each customer's column by its hash, shape (n,)."""
    return draws.pick(p, draws.uniform(part.ids, f"decision|{job.batch_id}"))


def dropped_of(job: Job, part: Scored, column: Whole, cuts: Sequence[Cut]) -> Whole:
    """Say for which limit each draw was dropped, -1 where it was kept, shape (n,)."""
    dropped = np.full(len(column), -1)
    use = job.limited.use
    for i, cut in enumerate(cuts):
        for j in np.flatnonzero(cut.last < 1 << streamed.TRIM_BITS):
            rows = np.flatnonzero((part.arm == i) & (use[column, j] > 0) & (dropped < 0))
            number = _trim_number(job, part.ids.take(pa.array(rows)), int(j))
            over = (number >> np.uint64(64 - streamed.TRIM_BITS)).astype(np.int64) >= cut.last[j]
            dropped[rows[over]] = j
    return dropped


def _trim(job: Job, engine: Engine, cuts: Sequence[Cut], where: tuple[int, int], limit: float) -> int:
    arm, j = where
    amounts = streamed.micro(job.limited.use)[:, j]

    def work(part: Scored) -> Whole:
        column = draw_of(job, part, probabilities_of(job, part, cuts))
        dropped = dropped_of(job, part, column, cuts)
        rows = np.flatnonzero((part.arm == arm) & (amounts[column] > 0) & (dropped < 0))
        return streamed.trim_counts(
            _trim_number(job, part.ids.take(pa.array(rows)), j), amounts[column[rows]]
        )

    counts = np.zeros(1 << streamed.TRIM_BITS, dtype=np.int64)
    for found in engine.each(work):
        counts += found
    return streamed.trim_from(counts, limit)


def draws_used(job: Job, engine: Engine, cuts: Sequence[Cut]) -> Whole:
    """Count what the draws use of each limit, shape (arms, m), in millionths."""
    amounts = streamed.micro(job.limited.use)

    def work(part: Scored) -> Whole:
        column = draw_of(job, part, probabilities_of(job, part, cuts))
        final = np.where(dropped_of(job, part, column, cuts) >= 0, 0, column)
        return np.stack([amounts[final[part.arm == i]].sum(axis=0) for i in range(len(cuts))])

    return np.sum(list(engine.each(work)), axis=0)


def _trim_number(job: Job, ids: pa.Array, j: int) -> NDArray[np.uint64]:
    return draws.hashed(ids, f"decision|{job.batch_id}|trim|{j}")
