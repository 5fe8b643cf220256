"""How often the gate promotes what is no better, when it is asked every night."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from benchmarks.record import Row, row

SIMULATIONS = int(os.environ.get("NBA_PROMOTION_WORLDS", "1000"))  # fewer on a machine without time
NIGHTS, PER_NIGHT, CUSTOMERS = 40, 150, 1500
LIFT = 0.35  # money per decision, for the power


def false_promotions() -> list[Row]:
    """Ask the gate each of 40 nights; promoted is who passes on any of them."""
    for library in ("OMP", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        rates = list(pool.map(_rate, [(0.0, SIMULATIONS), (LIFT, SIMULATIONS // 5)]))
    more = {"n": NIGHTS * PER_NIGHT}
    return [
        row("promotion.false_rate", rates[0], "fraction", 0.05, "<=", seeds=SIMULATIONS,
            conditions=f"challenger worth the same, asked on each of {NIGHTS} nights, money of 5% responders",
            **more),
        row("promotion.power", rates[1], "fraction", None, ">=", seeds=SIMULATIONS // 5,
            conditions=f"challenger worth {LIFT} more per decision", **more),
    ]  # fmt: skip


def _rate(task: tuple[float, int]) -> float:
    lift, repeats = task
    return float(np.mean([_promoted(seed, lift) for seed in range(repeats)]))


def _promoted(seed: int, lift: float) -> bool:
    from nba.evaluation import promotion
    from nba.evaluation.offpolicy import Log

    rng = np.random.default_rng([seed, 17])
    n, k = NIGHTS * PER_NIGHT, 4
    X = rng.normal(size=(n, 2))
    p_logged = _soft(X @ rng.normal(size=(2, k)), 0.2)
    one, other = (_soft(2 * X @ rng.normal(size=(2, k)), 0.05) for _ in range(2))
    column = (rng.random((n, 1)) > p_logged.cumsum(axis=1)).sum(axis=1).clip(0, k - 1)
    # The same for every treatment, so that all policies are worth the same; the lift is added after.
    reward = np.where(rng.random(n) < 0.05, rng.lognormal(3.0, 0.6, n), 0.0)
    gap = one - other
    effect = lift * gap / np.mean((gap**2).sum(axis=1))
    reward = reward + effect[np.arange(n), column]
    unit = rng.integers(0, CUSTOMERS, n)
    batch = np.repeat(np.arange(NIGHTS), PER_NIGHT)
    rules = promotion.Rules(planned=n)
    for night in range(1, NIGHTS + 1):
        m = night * PER_NIGHT
        log = Log(column[:m], reward[:m], p_logged[:m], np.unique(unit[:m], return_inverse=True)[1])
        q = np.zeros((m, k))
        if promotion.passes(promotion.judge(log, np.zeros(m), batch[:m], one[:m], other[:m], q, rules)):
            return True
    return False


def _soft(score: np.ndarray, floor: float) -> np.ndarray:
    likely = np.exp(score - score.max(axis=1, keepdims=True))
    return (1 - floor) * likely / likely.sum(axis=1, keepdims=True) + floor / score.shape[1]


BENCHMARKS = {"promotion": false_promotions}
