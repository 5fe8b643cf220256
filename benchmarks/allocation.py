"""Allocation against the exact linear programme, speed of choice, replay of draws, limits over batches."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import sparse, stats
from scipy.optimize import linprog
from threadpoolctl import threadpool_limits

from benchmarks.record import Row, peer, row
from nba import draws
from nba.policy import allocate as allocating
from nba.policy import streamed
from nba.policy.allocate import allocate, trim
from nba.policy.explore import (
    EpsilonGreedy,
    Estimate,
    Greedy,
    Policy,
    Softmax,
    SquareCB,
    Thompson,
    Uniform,
    choose,
)
from nba.policy.streamed import Cut
from nba.serving.engines import ROWS

K = 21  # twenty treatments and none
CHANNEL = np.r_[-1, np.arange(K - 1) % 4]
COST = np.where(CHANNEL < 0, 0.0, np.array([0.002, 0.06, 0.005, 4.0])[CHANNEL])


def world(n: int, seed: int) -> tuple[Estimate, np.ndarray, np.ndarray, np.ndarray]:
    """Make belief, eligibility, use and limits: four channel caps and a budget, 80% eligible."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0.02, 0.04, (n, K)) * rng.gamma(2, 20, (n, 1)) - COST
    mean[:, CHANNEL == 3] += 2
    mean[:, 0] = 0
    is_eligible = rng.random((n, K)) < 0.8
    is_eligible[:, 0] = True
    use = np.column_stack([*[(c == CHANNEL).astype(float) for c in range(4)], COST])
    available = np.floor(n * np.array([0.3, 0.1, 0.1, 0.05, 0.1]))
    return Estimate(mean, rng.gamma(4, 0.1, (n, K))), is_eligible, use, available


def exact(
    estimate: Estimate, is_eligible: np.ndarray, use: np.ndarray, available: np.ndarray, method: str
) -> float:
    """Solve the linear programme with HiGHS: as it chooses (`highs`), or its interior point (`highs-ipm`)."""
    n = len(is_eligible)
    row_, column = np.nonzero(is_eligible)
    each = sparse.csr_matrix((np.ones(len(row_)), (row_, np.arange(len(row_)))), shape=(n, len(row_)))
    found = linprog(
        -estimate.mean[row_, column],
        A_ub=sparse.csr_matrix(use[column].T),
        b_ub=available,
        A_eq=each,
        b_eq=np.ones(n),
        method=method,
    )
    return float(-found.fun)


def allocation() -> list[Row]:
    """Time 100,000 customers on one core; the gap is bounded by the dual, which no allocation exceeds."""
    allocate(Greedy(), *world(500, 0))  # compiled before it is timed
    case = world(100_000, 1)
    times = []
    for _ in range(2):
        begun = time.process_time()
        found = allocate(Greedy(), *case)
        times.append(time.process_time() - begun)
    gap = 1 - _value(found.final, case) / dual(case, found.price)
    text = "20 treatments, four channel caps and a budget; greedy; from belief to logged probabilities, CPU"
    proof = f"{text}; an upper bound of the gap to the exact linear programme, by weak duality"
    return [
        row("allocation.gap", gap, "fraction", 0.001, "<=", n=100_000, conditions=proof),
        row("allocation.seconds_100k", min(times), "s", 3, "<=", n=100_000, conditions=text),
    ]


def allocation_highs() -> list[Row]:
    """Compare value and CPU time with HiGHS at 20,000 customers: as it comes, and its interior point."""
    allocate(Greedy(), *world(500, 0))
    case = world(20_000, 2)
    begun = time.process_time()
    found = allocate(Greedy(), *case)
    own = time.process_time() - begun
    seconds, best = {}, 0.0
    for method in ("highs", "highs-ipm"):
        begun = time.process_time()
        best = exact(*case, method)
        seconds[method] = time.process_time() - begun
    text = f"20 treatments, four channel caps and a budget; CPU seconds; ours {own:.2f}, HiGHS " + ", ".join(
        f"{value:.1f} ({name})" for name, value in seconds.items()
    )
    as_is = {"peer": "HiGHS (scipy), its own choice of method", "n": 20_000, "conditions": text}
    inner = as_is | {"peer": "HiGHS (scipy) interior point"}
    return [
        row("allocation.vs_highs_20k", seconds["highs"] / own, "factor", 50, ">=", **as_is),
        row("allocation.vs_highs_ipm_20k", seconds["highs-ipm"] / own, "factor", None, ">=", **inner),
        row("allocation.gap_20k", 1 - _value(found.final, case) / best, "fraction", 0.001, "<=", **inner),
        row("allocation.dual_20k", dual(case, found.price) / best - 1, "fraction", None, "<=", **inner),
    ]


def allocation_1m() -> list[Row]:
    """Time a million customers on one core."""
    allocate(Greedy(), *world(500, 0))
    case = world(1_000_000, 3)
    begun = time.process_time()
    found = allocate(Greedy(), *case)
    seconds = time.process_time() - begun
    text = "20 treatments, four channel caps and a budget; from belief to logged probabilities, CPU"
    gap = 1 - _value(found.final, case) / dual(case, found.price)
    return [
        row("allocation.seconds_1m", seconds, "s", 5, "<=", n=1_000_000, conditions=text),
        row("allocation.gap_1m", gap, "fraction", 0.001, "<=", n=1_000_000, conditions="bound by duality"),
    ]


def rounding() -> list[Row]:
    """Compare margin and trimming with dependent rounding, which would meet the channels' caps exactly.

    Its marginals are those that are drawn from where expected use may reach the caps, with no margin and
    nothing trimmed: their value needs no rounding to be known.
    """
    rows = []
    for n, seeds in ((50, 40), (200, 20), (1000, 10), (10_000, 3), (100_000, 1)):
        for policy, name in ((Softmax(0.25, 0.05), "softmax"), (Greedy(), "greedy")):
            lost = [_lost(policy, n, seed) for seed in range(seeds)]
            text = f"four channel caps of {0.05 * n:g} to {0.3 * n:g} contacts; {policy.policy_id}"
            rows.append(
                row(f"allocation.margin_{name}_{n}", float(np.mean(lost)), "fraction", None, "<=",
                    peer="dependent rounding", n=n, seeds=seeds, conditions=text)
            )  # fmt: skip
    return rows


def _lost(policy: Policy, n: int, seed: int) -> float:
    estimate, is_eligible, use, available = world(n, 100 + seed)
    case = estimate, is_eligible, use[:, :4], available[:4]
    ours = _value(allocate(policy, *case).final, case)
    kept = allocating.MARGIN_SHARE
    try:
        allocating.MARGIN_SHARE = 0.0
        rounded = _value(allocate(policy, *case).drawn, case)
    finally:
        allocating.MARGIN_SHARE = kept
    return 1 - ours / rounded


def dual(case: tuple[Estimate, np.ndarray, np.ndarray, np.ndarray], price: np.ndarray) -> float:
    """Give the value of the linear programme's dual at prices: at least its optimum."""
    estimate, is_eligible, use, available = case
    net = np.where(is_eligible, estimate.mean - use @ price, -np.inf)
    return float(net.max(axis=1).sum() + price @ available)


def choice() -> list[Row]:
    """Time choices with masks, prices and exact probabilities in one pass, on one core."""
    n = 300_000
    estimate, is_eligible, use, _ = world(n, 4)
    price = use @ np.array([1.0, 2.0, 2.0, 0.0, 0.5])
    draw = np.random.default_rng(0).random(n)
    out = []
    for policy, name in (
        (Softmax(0.05, 0.03), "choose.customers_per_s"),
        (SquareCB(1.0, 0.0), "choose.squarecb_per_s"),
        (Greedy(), "choose.greedy_per_s"),
    ):
        head = Estimate(estimate.mean[:100], estimate.se[:100])
        choose(policy, head, is_eligible[:100], price, draw[:100])
        times = []
        for _ in range(3):
            begun = time.process_time()
            column, p = choose(policy, estimate, is_eligible, price, draw)
            times.append(time.process_time() - begun)
        assert is_eligible[np.arange(n), column].all()
        assert (p > 0).all()
        target = 1_000_000 if name == "choose.customers_per_s" else None
        text = (
            f"{policy.policy_id}, 20 treatments; draws given; best of 3, CPU; one pass that no pipeline uses"
        )
        out.append(row(name, n / min(times), "customers/s", target, ">=", n=n, conditions=text))
    return [*out, _batch_choice(estimate, is_eligible, use, draw), *_against_peers()]


PEER_FEATURES, PEER_SEEN = 30, 5_000
PEER_CUSTOMERS = int(os.environ.get("NBA_CHOOSE_CUSTOMERS", "200000"))  # fewer to try it
# Result, environment, script, peer, target, and what part of the customers it is asked of: VW parses text.
_CHOOSERS = (
    ("choose.vs_linucb", "contextualbandits", "choose_linucb.py", "contextualbandits 0.3.30 LinUCB", 5, 1),
    ("choose.vs_vw_file", "vw", "choose_vw.py", "vowpalwabbit 9.11.9 squarecb ADF, text file", 30, 10),
)


def _against_peers() -> list[Row]:
    # From features to the draw and its probability: a linear score of every treatment, as the peers have it,
    # masks, prices and probabilities.
    n, k, rng = PEER_CUSTOMERS, K - 1, np.random.default_rng(5)
    X, weight = rng.normal(size=(n, PEER_FEATURES)), rng.normal(0, 0.1, (PEER_FEATURES, K))
    is_eligible, draw, policy = rng.random((n, K)) < 0.8, rng.random(n), Softmax(0.05, 0.03)
    is_eligible[:, 0] = True
    price, se = world(100, 4)[2] @ np.array([1.0, 2.0, 2.0, 0.0, 0.5]), np.zeros((n, K))
    times = []
    with threadpool_limits(1):  # as the peers run
        for _ in range(3):
            begun = time.process_time()
            choose(policy, Estimate(X @ weight, se), is_eligible, price, draw)
            times.append(time.process_time() - begun)
    own = n / min(times)
    text = f"{PEER_FEATURES} features, {k} treatments, linear scores in both; best of 3, CPU, one core; ours"
    text += f" {own:,.0f} customers/s with mask, prices, probabilities and draw"
    seen = {"k": k, "action": rng.integers(0, k, PEER_SEEN), "reward": (rng.random(PEER_SEEN) < 0.1) * 1.0}
    out = []
    for name, env, script, title, target, part in _CHOOSERS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "case.npz")
            np.savez(path, X=X[: n // part], **seen)
            theirs = peer(env, script, str(path))
        ratio = own / theirs if theirs else float("nan")
        out.append(row(name, ratio, "factor", target, ">=", peer=title, n=n // part, conditions=text))
    return out


def _batch_choice(estimate: Estimate, is_eligible: np.ndarray, use: np.ndarray, draw: np.ndarray) -> Row:
    # As a batch does it: probabilities at the prices, cuts, the draw, and what trimming leaves for the log.
    n, policy = len(draw), Softmax(0.05, 0.03)
    cut = Cut.none(K, use.shape[1])._replace(
        price=np.array([1.0, 2.0, 2.0, 0.0, 0.5]), amounts=np.full(K, 0.99)
    )
    times = []
    for _ in range(3):
        begun = time.process_time()
        for start in range(0, n, ROWS):
            rows = slice(start, start + ROWS)
            own = Estimate(estimate.mean[rows], estimate.se[rows])
            p = streamed.probabilities(policy, own, is_eligible[rows], use, cut)
            column = draws.pick(p, draw[rows])
            logged = streamed.logged(p, use, cut)
        times.append(time.process_time() - begun)
    assert (logged[np.arange(len(column)), column] > 0).all()
    text = f"{policy.policy_id}, 20 treatments; as batches do it, in parts; best of 3, CPU"
    return row(
        "choose.batch_customers_per_s", n / min(times), "customers/s", None, ">=", n=n, conditions=text
    )


SALTS, REPLAY_CUSTOMERS = 20_000, 20
REPLAYED: tuple[Policy, ...] = (
    Softmax(0.5, 0.1),
    SquareCB(2.0, 0.05),
    Thompson(1.0, 0.02),
    EpsilonGreedy(0.2),
    Uniform(),
)


def replay() -> list[Row]:
    """Draw within limits under 20,000 salts: chi-square of what happened against what was logged."""
    rows, exceeded = [], 0
    for more, beside in (
        ("", ""),
        ("_budget", " and a budget of unlike amounts"),
        ("_overlap", " and one across"),
    ):
        found, over, error = _replayed(more.lstrip("_"))
        exceeded += over
        text = f"{len(REPLAYED)} policies, {REPLAY_CUSTOMERS} customers, contact caps of 4 and 2{beside}"
        rows += [
            row(f"replay.chi2_p{more}", found, "p", 0.001, ">=", n=SALTS, conditions=f"{text}; Bonferroni"),
            row(f"replay.error{more}", error, "probability", None, "<=", n=SALTS,
                conditions=f"{text}; largest of happened less logged, noise of 20,000 draws included"),
        ]  # fmt: skip
    return [*rows, row("replay.limits_exceeded", exceeded, "limits", 0, "=", n=SALTS)]


def _replayed(more: str) -> tuple[float, int, float]:
    worst, exceeded, furthest = 1.0, 0, 0.0
    for number, policy in enumerate(REPLAYED):
        p_value, over, error = replayed(policy, SALTS, number, more)
        worst, exceeded, furthest = min(worst, p_value), exceeded + over, max(furthest, error)
        print(f"{policy.policy_id}: p {p_value:.3g}, off by {error:.3g}, {over} exceeded", flush=True)
    return min(1.0, worst * len(REPLAYED)), exceeded, furthest


# What stands beside the two disjoint caps: use of one of each treatment, and how much there is.
_BESIDE = {
    "": ([0, 0, 0, 0, 0], np.inf),
    "budget": ([0, 1.0, 0.5, 2.0, 0.25], 4.5),
    "overlap": ([0, 1, 1, 1, 1], 5.0),
}


def replayed(policy: Policy, salts: int, seed: int, more: str) -> tuple[float, int, float]:
    """Replay one policy's draws: p of the chi-square, limits exceeded, largest error of a probability."""
    n, k, rng = REPLAY_CUSTOMERS, 5, np.random.default_rng(seed)
    mean = np.column_stack([np.zeros(n), rng.normal(0.5, 1, (n, k - 1))])
    se = np.column_stack([np.zeros(n), rng.uniform(0.2, 0.8, (n, k - 1))])
    is_eligible = rng.random((n, k)) < 0.8
    is_eligible[:, 0] = True
    beside, most = _BESIDE[more]
    use = np.column_stack([[0, 1, 1, 0, 0], [0, 0, 0, 1, 1], beside]).astype(float)
    available = np.array([4.0, 2.0, most])
    found = allocate(policy, Estimate(mean, se), is_eligible, use, available)
    ids, count, over = [f"c{i}" for i in range(n)], np.zeros((n, k)), 0
    for salt in range(salts):
        column = draws.pick(found.drawn, draws.uniform(ids, str(salt)))
        dropped = trim(column, use, available, ids, str(salt))
        column = np.where(dropped >= 0, 0, column)
        over += int((use[column].sum(axis=0) > available + 1e-9).sum())
        count[np.arange(n), column] += 1
    expected = found.final * salts
    random = (expected > 5) & (expected < salts - 5)
    square = float(((count - expected)[random] ** 2 / expected[random]).sum())
    freedom = int(random.sum() - random.any(axis=1).sum())
    error = float(np.abs(count / salts - found.final).max())
    return float(stats.chi2.sf(square, freedom)), over, error


def limits() -> list[Row]:
    """Draw many batches of all policies and sizes: no limit is exceeded, nothing ineligible is drawn."""
    broken, batches = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n = int(rng.choice([20, 200, 2_000, 20_000], p=[0.3, 0.3, 0.3, 0.1]))
        estimate, is_eligible, use, available = world(n, seed)
        available = np.append(
            np.floor(available[:4] * rng.uniform(0, 1.5, 4)), available[4] * rng.uniform(0, 2)
        )
        policy = (Softmax(0.05, 0.03), Greedy(), *REPLAYED)[seed % 7]
        if isinstance(policy, Thompson) and n > 2_000:
            continue
        found = allocate(policy, estimate, is_eligible, use, available)
        ids = [f"c{i}" for i in range(n)]
        for salt in ("a", "b", "c"):
            column = draws.pick(found.drawn, draws.uniform(ids, salt))
            column = np.where(trim(column, use, available, ids, salt) >= 0, 0, column)
            broken += int((use[column].sum(axis=0) > available * (1 + 1e-12)).sum())
            broken += int((~is_eligible[np.arange(n), column]).sum())
            broken += int((found.final[np.arange(n), column] <= 0).sum())
            batches += 1
    text = "batches of 20 to 20,000 customers, 7 policies; limits, eligibility, probability of what was drawn"
    return [row("limits.violations", broken, "rows", 0, "=", n=batches, conditions=text)]


def _value(p: np.ndarray, case: tuple[Estimate, np.ndarray, np.ndarray, np.ndarray]) -> float:
    return float((p * np.where(case[1], case[0].mean, 0)).sum())


os.environ.setdefault("OMP_NUM_THREADS", "1")
BENCHMARKS = {
    "allocation": allocation,
    "allocation.highs": allocation_highs,
    "allocation.1m": allocation_1m,
    "allocation.rounding": rounding,
    "choose": choice,
    "replay": replay,
    "limits": limits,
}
