"""How experiments are commonly misread, in numbers: what `docs/experiments-for-marketers.md` quotes."""

import numpy as np
from numpy.typing import NDArray
from scipy import special

from benchmarks.experiments import DAILY, DAYS, bandit, best_chance, daily
from benchmarks.record import Row, row
from nba.experiments import analyze, planning, sequential
from nba.stats import wilson

Array = NDArray[np.float64]
LOOKS = "A/A, 30 daily looks, 1,000 users an arm a day, normal"


def misread() -> list[Row]:
    """Read experiments the wrong ways; about 60 s."""
    return [*_looks(), *_segments(), *_early(), _naive_means(), *policy_aa_rows()]


def _looks(reps: int = 20_000) -> list[Row]:
    effect, se = daily("normal", reps, DAYS, 0.0, np.random.default_rng(30))
    z = np.abs(effect / se)
    cases = (
        ("misread.peeked", 1.959964, "share of tests with p < 0.05 on some day"),
        ("misread.chance_to_win", 1.644854, "share in which a chance to win (flat prior) passes 95% or 5%"),
    )
    return [
        row(name, (z > edge).any(axis=1).mean(), "share", None, "<=", n=reps, conditions=f"{LOOKS}; {text}")
        for name, edge, text in cases
    ]


def _segments(reps: int = 20_000, parts: int = 20) -> list[Row]:
    p = 2 * special.ndtr(-np.abs(np.random.default_rng(31).normal(size=(reps, parts))))
    holm = np.mean([(analyze.correct(one).p_value < 0.05).any() for one in p[:4000]])
    text = f"{parts} segments without any effect; share of tests with a segment below 0.05"
    return [
        row("misread.segments", (p < 0.05).any(axis=1).mean(), "share", None, "<=", n=reps, conditions=text),
        row("misread.segments_holm", holm, "share", 0.055, "<=", n=4000, conditions=f"{text} after Holm"),
    ]


def _early(reps: int = 20_000) -> list[Row]:
    mde = planning.detectable(1.0, DAILY * DAYS, DAILY * DAYS)
    effect, se = daily("normal", reps, DAYS, mde, np.random.default_rng(32))
    looks = np.arange(1, DAYS + 1)
    cases = {
        "planned": sequential.spending_bounds(looks / DAYS),
        "sequence": sequential.sequence_bound(2.0 * DAILY * looks, 2.0 * DAILY * DAYS),
        "at_the_end": np.where(looks == DAYS, 1.959964, np.inf),
    }
    out = []
    for name, bound in cases.items():
        crossed = np.abs(effect) > bound * se
        stopped = crossed.any(axis=1)
        at = crossed.argmax(axis=1)[stopped]
        size = np.abs(effect[stopped, at]).mean() / mde
        text = f"true effect of 80% power, 30 looks; mean size at the stop over the truth, {name}"
        out.append(
            row(f"misread.size_{name}", size, "times", None, "<=", n=int(stopped.sum()), conditions=text)
        )
    return out


def _naive_means(reps: int = 1000) -> Row:
    # Thompson sampling by segment; the plain difference of two actions' means with Welch's interval.
    pattern = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1.0]])
    held = []
    for gap in (0.3, 0.09, 0.0):
        truth = np.arange(4.0)[:, None] + gap * pattern  # segments differ in level, by a standard deviation
        reward, _, action, _ = bandit(truth, 30, 400, 0.05, reps, np.random.default_rng(33))
        goal = float((truth[:, 1] - truth[:, 0]).mean())
        reward, action = reward.reshape(reps, -1), action.reshape(reps, -1)
        n, mean, variance = (np.empty((2, reps)) for _ in range(3))
        for a in (0, 1):
            chosen = action == a
            n[a] = chosen.sum(axis=1)
            mean[a] = (reward * chosen).sum(axis=1) / n[a]
            variance[a] = ((reward**2 * chosen).sum(axis=1) - n[a] * mean[a] ** 2) / (n[a] - 1)
        found = analyze.welch(n[1], mean[1], variance[1], n[0], mean[0], variance[0], 0.95)
        held.append(float(((found["lower"] <= goal) & (goal <= found["upper"])).mean()))
    text = (
        "4 segments (levels 1 sd apart) x 4 actions, 30 batches of 400; worst of gaps 0.3, 0.09, 0: "
        + ", ".join(f"{value:.3f}" for value in held)
    )
    return row("misread.naive_means", min(held), "coverage", None, ">=", n=3 * reps, conditions=text)


def policy_aa(*, shared: bool, gap: float, reps: int, seed: int, size: int = 200) -> float:
    """Test two copies of one learning policy against each other, user by user, after 30 days.

    Args:
        shared: Whether both learn from the pooled log, or each from its own arm.
        gap: Difference between one of 4 actions and the next, in standard deviations of the reward.
        reps: Experiments.
        seed: Of the randomness.
        size: Customers an arm a day.
    """
    rng = np.random.default_rng(seed)
    truth = gap * np.arange(4.0)
    count, total = np.zeros((reps, 2, 4)), np.zeros((reps, 2, 4))
    square = np.zeros((reps, 2))
    for _ in range(DAYS):
        known, gained = (x.sum(axis=1, keepdims=True) if shared else x for x in (count, total))
        belief = gained / np.maximum(known, 1), 1 / np.sqrt(np.maximum(known, 0.01))
        p = np.broadcast_to(0.05 + (1 - 4 * 0.05) * best_chance(*belief), count.shape)
        drawn = rng.multinomial(size, p / p.sum(axis=-1, keepdims=True)).astype(float)
        noise = np.sqrt(drawn) * rng.normal(size=drawn.shape)
        spread = rng.chisquare(np.maximum(drawn - 1, 1e-9)) * (drawn > 1)
        reward = drawn * truth + noise
        square += (spread + np.divide(reward**2, drawn, out=np.zeros_like(drawn), where=drawn > 0)).sum(
            axis=2
        )
        count += drawn
        total += reward
    n = np.full((2, reps), float(size * DAYS))
    mean = total.sum(axis=2).T / n
    variance = (square.T - n * mean**2) / (n - 1)
    found = analyze.welch(n[1], mean[1], variance[1], n[0], mean[0], variance[0], 0.95)
    return float((found["p_value"] < 0.05).mean())


def policy_aa_rows(reps: int = 4000) -> list[Row]:
    """Give the share of false differences between two copies of a policy that learns."""
    text = "two copies of Thompson sampling over 4 actions, floor 5%, 200 customers an arm a day, 30 days; "
    gaps = (0.3, 0.09, 0.03)
    pooled = [policy_aa(shared=True, gap=gap, reps=reps, seed=34) for gap in gaps]
    own = [policy_aa(shared=False, gap=gap, reps=reps, seed=35) for gap in gaps]
    detail = f"gaps {gaps}: pooled log {pooled}, own data {own}"
    upper = wilson(float(np.mean(pooled)) * 3 * reps, 3 * reps, 0.98).upper
    text += detail
    more = {"n": 3 * reps, "conditions": text}
    return [
        row("policy.aa_shared", upper, "share", 0.06, "<=", **more),
        row("policy.aa_own_lowest", min(own), "share", None, "<=", **more),
        row("policy.aa_own_highest", max(own), "share", None, "<=", **more),
    ]


BENCHMARKS = {"experiments.misread": misread}
