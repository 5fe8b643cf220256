"""How often the gate promotes what is no better, or loses customers, when it is asked every night."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from benchmarks.record import Row, row

SIMULATIONS = int(os.environ.get("NBA_PROMOTION_WORLDS", "1000"))  # fewer on a machine without time
NIGHTS, PER_NIGHT, CUSTOMERS = 40, 150, 1500
LIFT = 0.35  # money per decision, for the power
CHALLENGERS = 5  # one after another against the same champion, on the same nights
LOST = 0.02  # opt-outs per decision where they are what is wrong: above what is borne by just nothing
FEWER = -2.0  # how opt-outs follow what the challenger favours, where it loses fewer
BORNE = 0.002  # additional opt-outs per decision: the gate's default
# Segments in which opt-outs hide: share, chance that the harmful treatment was logged with, its additional
# opt-outs, and those of everybody else.
SEGMENTS = (
    (0.05, 0.05, 0.06, 0.0),
    (0.05, 0.05, 0.06, 0.005),
    (0.05, 0.02, 0.06, 0.002),
    (0.1, 0.1, 0.03, 0.002),
)
HIDDEN = SIMULATIONS // 5


def false_promotions() -> list[Row]:
    """Ask the gate on each night; promoted is who passes on any of them."""
    for library in ("OMP", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        tasks = [
            (0.0, 0.0, SIMULATIONS, 1),
            (LIFT, 0.0, SIMULATIONS // 5, 1),
            (3 * LIFT, LOST, SIMULATIONS // 2, 1),
            (0.0, 0.0, SIMULATIONS // 10, CHALLENGERS),
            (3 * LIFT, -LOST, SIMULATIONS // 10, 1),
            (3 * LIFT, 0.0, SIMULATIONS // 10, 1),
        ]
        rates = list(pool.map(_rate, tasks))
        hidden = list(pool.map(_hidden, SEGMENTS))
    more = {"n": NIGHTS * PER_NIGHT}
    return [
        row("promotion.false_rate", rates[0], "fraction", 0.05, "<=", seeds=SIMULATIONS,
            conditions="the first challenger, worth the same, opt-outs borne, asked"
            f" on each of {NIGHTS} nights, money of 5% responders; the judging step alone", **more),
        row("promotion.false_rate_many", rates[3], "fraction", 0.05, "<=", seeds=SIMULATIONS // 10,
            conditions=f"any of {CHALLENGERS} challengers of one champion, each worth the same, each asked on"
            f" each of the same {NIGHTS} nights at its share of the level", **more),
        row("promotion.power", rates[1], "fraction", None, ">=", seeds=SIMULATIONS // 5,
            conditions=f"challenger worth {LIFT} more per decision, opt-outs borne", **more),
        row("promotion.false_rate_opt_outs", rates[2], "fraction", 0.05, "<=", seeds=SIMULATIONS // 2,
            conditions=f"one challenger worth {3 * LIFT:g} more that makes just so many more opt out that it"
            f" is not borne, where {LOST:.0%} do, asked on each of {NIGHTS} nights; standard error of the"
            f" share {np.sqrt(rates[2] * (1 - rates[2]) / (SIMULATIONS // 2)):.3f}", **more),
        row("promotion.false_rate_opt_outs_rare", max(hidden), "fraction", 0.05, "<=", seeds=HIDDEN,
            conditions="worst of segments of 5 to 10% who all get what was logged 2 to 10 times in 100 there,"
            f" worth more, 0.003 more opt-outs per decision where {BORNE:g} are borne, asked on each of 20"
            f" nights of 600; by segment: {' '.join(f'{rate:.3f}' for rate in hidden)}", n=12_000),
        row("promotion.power_opt_outs", rates[4], "fraction", None, ">=", seeds=SIMULATIONS // 10,
            conditions=f"challenger worth {3 * LIFT:g} more that makes fewer opt out, where {LOST:.0%} do and"
            f" {BORNE:g} more per decision are borne; {rates[5]:.2f} pass where nobody opts out", **more),
    ]  # fmt: skip


def _rate(task: tuple[float, float, int, int]) -> float:
    lift, lost, repeats, challengers = task
    numbers = range(1, challengers + 1)
    return float(
        np.mean([any(_promoted(seed, lift, lost, nth) for nth in numbers) for seed in range(repeats)])
    )


def _hidden(segment: tuple[float, float, float, float]) -> float:
    return float(np.mean([_hidden_passes(seed, *segment) for seed in range(HIDDEN)]))


def _hidden_passes(seed: int, share: float, p_rare: float, more: float, base: float) -> bool:
    from nba.evaluation import promotion
    from nba.evaluation.offpolicy import Log

    rng = np.random.default_rng([seed, 19])
    n = 12_000
    concerns = rng.random(n) < share
    champion = np.where(
        concerns[:, None], [[0.45 - p_rare / 2, 0.55 - p_rare / 2, p_rare]], [[0.4, 0.55, 0.05]]
    )
    challenger = np.where(concerns[:, None], [[0.0, 0.0, 1.0]], champion)
    column = (rng.random((n, 1)) > champion.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    is_rare = concerns & (column == 2)
    p_lost = np.where(is_rare, base + more, np.where(column == 0, base / 2, base))
    unsubscribed = (rng.random(n) < p_lost).astype(float)
    reward = rng.normal(0, 0.5, n) + 8 * is_rare
    rules = promotion.Rules(planned=n, unsubscribes=BORNE)
    for m in range(600, n + 1, 600):
        log = Log(column[:m], reward[:m], champion[:m], np.arange(m))
        q = np.zeros((m, 3))
        if promotion.passes(promotion.judge(log, unsubscribed[:m], challenger[:m], champion[:m], q, rules)):
            return True
    return False


def _promoted(seed: int, lift: float, lost: float, nth: int) -> bool:
    from nba.evaluation import promotion
    from nba.evaluation.offpolicy import Log

    rng = np.random.default_rng([seed, 17])
    n, k = NIGHTS * PER_NIGHT, 4
    X = rng.normal(size=(n, 2))
    p_logged = _soft(X @ rng.normal(size=(2, k)), 0.2)
    one, other = (_soft(2 * X @ rng.normal(size=(2, k)), 0.05) for _ in range(2))
    if nth > 1:
        one = _soft(2 * X @ np.random.default_rng([seed, nth]).normal(size=(2, k)), 0.05)
    column = (rng.random((n, 1)) > p_logged.cumsum(axis=1)).sum(axis=1).clip(0, k - 1)
    # The same for every treatment, so that all policies are worth the same; the lift is added after.
    reward = np.where(rng.random(n) < 0.05, rng.lognormal(3.0, 0.6, n), 0.0)
    gap = one - other
    effect = lift * gap / np.mean((gap**2).sum(axis=1))
    reward = reward + effect[np.arange(n), column]
    unit = rng.integers(0, CUSTOMERS, n)
    # More of those opt out who get what the challenger favours; what is borne is just as much in all. Where
    # `lost` is negative fewer of them do.
    p_lost = np.clip(abs(lost) * (1 + (4 if lost > 0 else FEWER) * gap), 0, 1)
    unsubscribed = (rng.random(n) < p_lost[np.arange(n), column]).astype(float)
    borne = float((gap * p_lost).sum(axis=1).mean()) if lost > 0 else BORNE if lost else 1.0
    rules = promotion.Rules(planned=n, unsubscribes=borne, nth=nth)
    for night in range(1, NIGHTS + 1):
        m = night * PER_NIGHT
        log = Log(column[:m], reward[:m], p_logged[:m], np.unique(unit[:m], return_inverse=True)[1])
        q = np.zeros((m, k))
        if promotion.passes(promotion.judge(log, unsubscribed[:m], one[:m], other[:m], q, rules)):
            return True
    return False


def _soft(score: np.ndarray, floor: float) -> np.ndarray:
    likely = np.exp(score - score.max(axis=1, keepdims=True))
    return (1 - floor) * likely / likely.sum(axis=1, keepdims=True) + floor / score.shape[1]


BENCHMARKS = {"promotion": false_promotions}
