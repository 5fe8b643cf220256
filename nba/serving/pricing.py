"""Pass 2 of a batch: prices of its limits, from a sample and corrected by sums over all customers."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nba.policy import streamed
from nba.policy.explore import Estimate
from nba.policy.limits import Limited, reachable, scaled
from nba.policy.streamed import Cut, Totals
from nba.serving.deciders import Rule
from nba.serving.engines import Engine
from nba.serving.jobs import Array, Drawn, Job, Scored, Whole

ROUNDS = 2


def find_prices(
    job: Job, engine: Engine, sample: Scored, customers: Whole, tell: Callable[[str, int], None]
) -> Drawn:
    """Solve the sample, and correct each limit by what all customers would use at its prices."""
    limited, k = job.limited, len(job.catalog.treatment_ids)
    m = len(limited.names)
    total = int(customers.sum())
    available = np.stack([scaled(limited, n / total).available for n in customers])
    active = sum(int(n) for n, rule in zip(customers, job.rules) if rule.policy is not None) or total
    share = np.bincount(sample.arm, minlength=len(customers)) / np.maximum(customers, 1)
    scale = np.ones((len(customers), m))

    def cuts() -> tuple[Cut, ...]:
        out = []
        for i, rule in enumerate(job.rules):
            if rule.policy is None or share[i] == 0:
                out.append(Cut.none(k, m))
                continue
            own = sample.take(np.flatnonzero(sample.arm == i))
            least = None if limited.least is None else limited.least * (share[i] * customers[i] / active)
            of_arm = limited._replace(available=available[i], least=least)
            out.append(_solved(rule, own, of_arm, share[i] * scale[i]))
        return tuple(out)

    found = cuts()
    if m and len(sample.arm) < total:
        sums = _totals(job, engine, found, tell)
        for _ in range(ROUNDS):
            corrected = np.array(
                [
                    streamed.corrected(scale[i], sums[i], limited.use, available[i])
                    if rule.policy is not None and customers[i]
                    else scale[i]
                    for i, rule in enumerate(job.rules)
                ]
            )
            if np.allclose(corrected, scale, rtol=2e-3):
                break
            scale = corrected
            found = cuts()
            sums = _totals(job, engine, found, tell)
        found = tuple(
            streamed.fitted(cut, sums[i], limited.use, available[i])
            if job.rules[i].policy is not None
            else cut
            for i, cut in enumerate(found)
        )
    return Drawn(found, np.zeros((len(customers), m), dtype=np.int64), customers, available)


def _solved(rule: Rule, own: Scored, limited: Limited, share: Array) -> Cut:
    assert rule.policy is not None
    belief, is_eligible = Estimate(own.mean, own.se), own.reason == 0
    least = reachable(limited._replace(available=limited.available * share), is_eligible)[0].least
    return streamed.first_cut(rule.policy, belief, is_eligible, limited.use, limited.available, share, least)


def _totals(job: Job, engine: Engine, cuts: Sequence[Cut], tell: Callable[[str, int], None]) -> list[Totals]:
    use = job.limited.use

    def work(part: Scored) -> list[Totals]:
        return _part_totals(probabilities_of(job, part, cuts), part.arm, use, len(cuts))

    out: list[Totals] | None = None
    for found in engine.each(work):
        out = found if out is None else [a + b for a, b in zip(out, found)]
        tell("pricing", 0)
    assert out is not None
    return out


def _part_totals(p: Array, arm: NDArray[np.int16], use: Array, arms: int) -> list[Totals]:
    return [Totals.of(p[arm == i], use) for i in range(arms)]


def probabilities_of(job: Job, part: Scored, cuts: Sequence[Cut]) -> Array:
    """Give each customer's probabilities to draw from, by the cut of its arm, shape (n, k)."""
    out = np.zeros(part.mean.shape)
    use = job.limited.use
    for i, rule in enumerate(job.rules):
        rows = np.flatnonzero(part.arm == i)
        if not len(rows):
            continue
        if rule.policy is None:
            out[rows, 0] = 1.0
        else:
            own = Estimate(part.mean[rows], part.se[rows])
            out[rows] = streamed.probabilities(rule.policy, own, part.reason[rows] == 0, use, cuts[i])
    return out


def logged_of(job: Job, part: Scored, p: Array, cuts: Sequence[Cut]) -> Array:
    """Give what trimming leaves of the probabilities drawn from, by the cut of its arm, shape (n, k)."""
    out = np.zeros(p.shape)
    for i, cut in enumerate(cuts):
        rows = np.flatnonzero(part.arm == i)
        out[rows] = streamed.logged(p[rows], job.limited.use, cut)
    return out


def in_order(parts: Sequence[Scored]) -> Scored:
    """Join parts and sort them by customer, so that their number and order change nothing."""
    ids = pa.concat_arrays([part.ids for part in parts])
    joined = Scored(
        ids,
        pa.concat_arrays([part.external for part in parts]),
        *(np.concatenate(arrays) for arrays in zip(*(part[2:] for part in parts))),
    )
    return joined.take(pc.sort_indices(ids).to_numpy())
