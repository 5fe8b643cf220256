"""Can the readout be fooled, and does it cover: simulations of experiments.

On one idle core: peek about 60 s, coverage 90 s, decision 60 s.
"""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from scipy import special

from benchmarks.record import Row, row
from nba import settings
from nba.experiments import adaptive, analyze, planning, readout, sequential, srm
from nba.experiments.cube import Sums
from nba.experiments.decision import Verdict
from nba.stats import wilson

Array = NDArray[np.float64]
DAYS, DAILY = 30, 1000


def _upper99(hits: float, n: int) -> float:
    return wilson(hits, n, 0.98).upper


def daily(kind: str, reps: int, days: int, effect: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Simulate estimates and standard errors after each day, shapes (reps, days); 1,000 an arm a day."""
    shape = (2, reps, days)
    if kind == "normal":
        first = rng.normal(size=shape) * np.sqrt(DAILY)
        second = rng.chisquare(DAILY - 1, shape) + first**2 / DAILY
    elif kind == "binary":
        first = rng.binomial(DAILY, 0.05, shape).astype(float)
        second = first.copy()
    else:
        buyers = rng.binomial(DAILY, 0.05, shape)
        spent = rng.lognormal(3, 1, int(buyers.sum()))
        at = np.repeat(np.arange(buyers.size), buyers.ravel())
        first = np.bincount(at, spent, buyers.size).reshape(shape)
        second = np.bincount(at, spent**2, buyers.size).reshape(shape)
    n = DAILY * np.arange(1, days + 1)
    first, second = first.cumsum(axis=2), second.cumsum(axis=2)
    mean = first / n
    variance = (second - first * mean) / (n - 1)
    return mean[1] - mean[0] + effect, np.sqrt(variance.sum(axis=0) / n)


def _crossed(kind: str, reps: int, bound: Array, seed: int, chunk: int = 2000) -> int:
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(reps // chunk):
        effect, se = daily(kind, chunk, len(bound), 0.0, rng)
        hits += int((np.abs(effect) > bound * se).any(axis=1).sum())
    return hits


def peek() -> list[Row]:
    """Look every day, after every observation, and on after the end; about 60 s."""
    looks = np.arange(1, DAYS + 1)
    planned = sequential.spending_bounds(looks / DAYS)
    always = sequential.sequence_bound(2.0 * DAILY * looks, 2.0 * DAILY * DAYS)
    setting = "A/A, 30 daily looks, 1,000 users an arm a day, alpha 5%; value is the upper 99% bound"
    out = []
    for kind, reps in (("normal", 40_000), ("binary", 40_000), ("revenue", 60_000)):
        for name, bound in (("", planned), ("_sequence", always)):
            hits = _crossed(kind, reps, bound, seed=1)
            text = f"{setting}; point {hits / reps:.4f}; {'confidence sequence' if name else 'planned test'}"
            out.append(
                row(
                    f"peek.fpr_{kind}{name}",
                    _upper99(hits, reps),
                    "share",
                    0.055,
                    "<=",
                    n=reps,
                    conditions=text,
                )
            )
    out.append(_every_observation())
    longer = sequential.sequence_bound(2.0 * DAILY * np.arange(1, 2 * DAYS + 1), 2.0 * DAILY * DAYS)
    hits = _crossed("normal", 20_000, longer, seed=2)
    text = f"confidence sequence tuned to day 30, looked at daily to day 60; point {hits / 20_000:.4f}"
    out.append(
        row("peek.fpr_overrun", _upper99(hits, 20_000), "share", 0.055, "<=", n=20_000, conditions=text)
    )
    return out + _planned_power(planned)


def _every_observation(pairs: int = 20_000, reps: int = 2000, chunk: int = 100) -> Row:
    rng = np.random.default_rng(3)
    n = np.arange(1, pairs + 1)
    bound = sequential.sequence_bound(2.0 * n, 2.0 * pairs)[50:]
    hits = 0
    for _ in range(reps // chunk):
        x = rng.normal(size=(2, chunk, pairs))
        mean = x.cumsum(axis=2) / n
        variance = ((x**2).cumsum(axis=2) / n - mean**2)[:, :, 50:] * (n / np.maximum(n - 1, 1))[50:]
        se = np.sqrt(variance.sum(axis=0) / n[50:])
        hits += int((np.abs(mean[1] - mean[0])[:, 50:] > bound * se).any(axis=1).sum())
    text = f"confidence sequence, a look after every pair from 51 to {pairs}; point {hits / reps:.4f}"
    return row(
        "peek.fpr_every_observation", _upper99(hits, reps), "share", 0.055, "<=", n=reps, conditions=text
    )


def _planned_power(bound: Array, reps: int = 20_000) -> list[Row]:
    mde = planning.detectable(1.0, DAILY * DAYS, DAILY * DAYS)
    effect, se = daily("normal", reps, DAYS, mde, np.random.default_rng(4))
    above = effect > bound * se
    stop = np.where(above.any(axis=1), above.argmax(axis=1) + 1, DAYS)
    text = "planned test at the 80% MDE of the fixed test, 30 looks"
    return [
        row("peek.power_planned", above.any(axis=1).mean(), "share", 0.76, ">=", n=reps, conditions=text),
        row("peek.mean_stop", stop.mean(), "days", 23, "<=", n=reps, conditions=text),
    ]


def _sums(values: Array) -> Sums:
    # values (cells, n, m): one cell each.
    cells, n, _ = values.shape
    shift = values[0].mean(axis=0)
    x = values - shift
    return Sums(np.full(cells, float(n)), shift, x.sum(axis=1), np.einsum("cni,cnj->cij", x, x))


def _covered(
    draw: Callable[[np.random.Generator, int, int], Array],
    columns: list[int],
    truth: float,
    seed: int,
    ends: str = "",
) -> tuple[float, int]:
    # The share of intervals that hold the truth; `ends` is "relative_" for those of the relative effect.
    rng = np.random.default_rng(seed)
    reps, chunk, hits = 20_000, 1000, 0
    for _ in range(reps // chunk):
        values = np.concatenate([draw(rng, chunk, 0), draw(rng, chunk, 1)])
        at = np.arange(chunk)
        found = analyze.compare(_sums(values), np.array([columns]), at + chunk, at)._asdict()
        hits += int(((found[f"{ends}lower"] <= truth) & (truth <= found[f"{ends}upper"])).sum())
    return hits / reps, reps


def coverage() -> list[Row]:
    """Cover the truth: means, ratios, CUPED, binary, any look, adaptive data; about 90 s."""
    n = 200

    def mean(rng: np.random.Generator, chunk: int, arm: int) -> Array:
        return rng.gamma(2, 1, (chunk, n, 1)) + 0.1 * arm

    def binary(rng: np.random.Generator, chunk: int, arm: int) -> Array:
        return (rng.random((chunk, n, 1)) < 0.1 + 0.03 * arm).astype(float)

    def cuped(rng: np.random.Generator, chunk: int, arm: int) -> Array:
        level = rng.normal(size=(chunk, n))
        x, y = (np.exp(0.7 * (level + 0.6 * rng.normal(size=(chunk, n)))) for _ in range(2))
        return np.stack([y + 0.2 * arm, x], axis=2)

    out = []
    cases = (("mean", mean, [0, -1, -1, -1], 0.1), ("binary", binary, [0, -1, -1, -1], 0.03))
    for name, draw, columns, truth in (*cases, ("cuped", cuped, [0, -1, 1, -1], 0.2)):
        value, reps = _covered(draw, columns, truth, seed=5)
        out.append(
            row(f"coverage.{name}", value, "share", (0.94, 0.96), "in", n=reps, conditions=f"{n} an arm")
        )
    lift = 0.2 / float(np.exp(0.5 * 0.49 * 1.36))  # of the mean of the lognormal of `cuped`
    value, reps = _covered(cuped, [0, -1, 1, -1], lift, seed=5, ends="relative_")
    text = f"{n} an arm, with CUPED, relative effect of {lift:.0%}"
    out.append(row("coverage.relative", value, "share", (0.94, 0.96), "in", n=reps, conditions=text))
    value, reps = _covered(_sessions(n, 0.3), [0, 1, -1, -1], 0.3 * 0.2 / 1.5, seed=6)
    out.append(row("coverage.ratio", value, "share", (0.94, 0.96), "in", n=reps, conditions=f"{n} an arm"))
    return [*out, _coverage_sequence(), *_coverage_adaptive()]


def _sessions(n: int, lift: float) -> Callable[[np.random.Generator, int, int], Array]:
    # Clicks per session: users differ in how much they come and how much they click.
    def draw(rng: np.random.Generator, chunk: int, arm: int) -> Array:
        sessions = 1 + rng.poisson(rng.gamma(1, 3, (chunk, n)))
        rate = rng.beta(2, 8, (chunk, n)) / 1.5 * (1 + lift * arm)
        return np.stack([rng.binomial(sessions, rate), sessions], axis=2).astype(float)

    return draw


def ratio_aa() -> list[Row]:
    """Test a ratio metric against itself, 500 users an arm; about 10 s."""
    rng = np.random.default_rng(7)
    hits, reps, chunk = 0, 40_000, 1000
    for _ in range(reps // chunk):
        values = np.concatenate([_sessions(500, 0.0)(rng, chunk, 0) for _ in range(2)])
        at = np.arange(chunk)
        found = analyze.compare(_sums(values), np.array([[0, 1, -1, -1]]), at + chunk, at)
        hits += int((found.p_value < 0.05).sum())
    return [
        row("ratio.aa", hits / reps, "share", (0.045, 0.055), "in", n=reps, conditions="500 users an arm")
    ]


def _coverage_sequence(reps: int = 20_000) -> Row:
    looks = np.arange(1, DAYS + 1)
    bound = sequential.sequence_bound(2.0 * DAILY * looks, 2.0 * DAILY * DAYS)
    truth = 0.02
    effect, se = daily("normal", reps, DAYS, truth, np.random.default_rng(8))
    held = (np.abs(effect - truth) <= bound * se).all(axis=1).mean()
    return row("coverage.sequence", held, "share", 0.95, ">=", n=reps, conditions="all of 30 daily looks")


def best_chance(mean: Array, se: Array) -> Array:
    """Give Thompson's probability that each of the last axis is best, for normal beliefs."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    k = mean.shape[-1]
    out = np.empty_like(mean)
    for a in range(k):
        at = mean[..., a, None] + se[..., a, None] * nodes
        product = np.ones_like(at)
        for b in (b for b in range(k) if b != a):
            product *= special.ndtr((at - mean[..., b, None]) / se[..., b, None])
        out[..., a] = product @ weights / np.sqrt(2 * np.pi)
    return out / out.sum(axis=-1, keepdims=True)


def bandit(
    truth: Array, batches: int, size: int, floor: float, reps: int, rng: np.random.Generator
) -> tuple[Array, NDArray[np.int64], NDArray[np.int64], Array]:
    """Run batched Thompson sampling by segment; truth (segments, actions).

    Returns:
        Rewards, segments, actions (reps, batches, size), probabilities (reps, batches, segments, actions).
    """
    g, k = truth.shape
    count, total = np.zeros((reps, g, k)), np.zeros((reps, g, k))
    shape = (reps, batches, size)
    reward, segment, action = np.empty(shape), np.empty(shape, np.int64), np.empty(shape, np.int64)
    p = np.empty((reps, batches, g, k))
    base = np.arange(reps)[:, None] * g * k
    for b in range(batches):
        belief = total / np.maximum(count, 1), 1 / np.sqrt(np.maximum(count, 0.01))
        p[:, b] = floor + (1 - k * floor) * best_chance(*belief)
        seg = rng.integers(0, g, (reps, size))
        chances = np.take_along_axis(p[:, b], seg[:, :, None], axis=1).cumsum(axis=2)
        act = np.minimum((rng.random((reps, size, 1)) > chances).sum(axis=2), k - 1)
        got = truth[seg, act] + rng.normal(size=(reps, size))
        at = (base + seg * k + act).ravel()
        count += np.bincount(at, minlength=reps * g * k).reshape(reps, g, k)
        total += np.bincount(at, got.ravel(), reps * g * k).reshape(reps, g, k)
        reward[:, b], segment[:, b], action[:, b] = got, seg, act
    return reward, segment, action, p


def adaptive_coverage(
    truth: Array, batches: int, size: int, floor: float, reps: int, seed: int
) -> tuple[float, float]:
    """Give the coverage of action 1 against 0 by the final estimate, and by the monitor at all looks."""
    rng = np.random.default_rng(seed)
    reward, segment, action, p = bandit(truth, batches, size, floor, reps, rng)
    batch = np.repeat(np.arange(batches), size)
    k = truth.shape[1]
    goal = float((truth[:, 1] - truth[:, 0]).mean())
    target = np.zeros((batches * size, k))
    target[:, 1], target[:, 0] = 1.0, -1.0
    hits = all_looks = 0
    for r in range(reps):
        y, s, a = reward[r].ravel(), segment[r].ravel(), action[r].ravel()
        model = adaptive.lagged_means(y, a, batch, k, s)
        log = adaptive.Log(y, a, p[r][batch, s], batch, model)
        found = adaptive.final(log, target)
        watched = adaptive.monitor(log, target, planned=float(batches * size))
        hits += found.lower <= goal <= found.upper
        all_looks += bool(((watched.lower <= goal) & (goal <= watched.upper)).all())
    return hits / reps, all_looks / reps


def _coverage_adaptive() -> list[Row]:
    out = []
    null, gap = np.array([[0.0, 0.0]]), np.array([[0.0, 0.1]])
    text = "Thompson sampling, 25 batches of 100, floor 5%, action 1 against 0; "
    reps = 10_000
    pair = [adaptive_coverage(truth, 25, 100, 0.05, reps, seed) for truth, seed in ((null, 9), (gap, 19))]
    for name, (value, always) in zip(("no effect", "gap 0.1"), pair):
        slug = name.replace(" ", "_").replace(".", "")
        out.append(
            row(
                f"coverage.adaptive_{slug}",
                value,
                "share",
                (0.94, 0.96),
                "in",
                n=reps,
                conditions=text + name,
            )
        )
        out.append(
            row(f"coverage.monitor_{slug}", always, "share", 0.95, ">=", n=reps, conditions="at all batches")
        )
    both = float(np.mean([value for value, _ in pair]))
    out.append(
        row("coverage.adaptive", both, "share", (0.94, 0.96), "in", n=2 * reps, conditions=text + "both")
    )
    truth = 0.3 * np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1.0]])
    value, always = adaptive_coverage(truth, 30, 400, 0.05, 2500, seed=10)
    text = "4 segments x 4 actions, 30 batches of 400, floor 5%"
    out.append(
        row("coverage.adaptive_contextual", value, "share", (0.94, 0.96), "in", n=2500, conditions=text)
    )
    out.append(row("coverage.monitor_contextual", always, "share", 0.95, ">=", n=2500, conditions=text))
    return out


def mismatch() -> list[Row]:
    """Look for SRM daily, 2,000 users a day to 60,000; about 10 s."""
    rng = np.random.default_rng(11)
    reps, out = 20_000, []
    half = np.array([0.5, 0.5])
    for name, share, target, direction in (("false_alarm", 0.5, 0.011, "<="), ("detection", 0.51, 0.9, ">=")):
        first = rng.binomial(2000, share, (reps, DAYS)).cumsum(axis=1)
        counts = np.stack([first, 2000 * np.arange(1, DAYS + 1) - first], axis=2).astype(float)
        looks = np.moveaxis(counts, 0, 1)  # every repetition as a "stratum" would multiply; so one by one
        alarm = np.array([srm.sequential(looks[:, r], half)[-1] < srm.SEQUENTIAL_ALARM for r in range(reps)])
        statistic = (
            ((counts - counts.sum(axis=2, keepdims=True) / 2) ** 2).sum(axis=2) / counts.sum(axis=2) * 2
        )
        single = (special.chdtrc(1, statistic) < srm.ALARM).any(axis=1)
        text = f"share {share}, 30 daily looks, 60,000 users"
        out.append(
            row(
                f"srm.{name}",
                alarm.mean(),
                "share",
                target,
                direction,
                n=reps,
                conditions=f"sequential at 1%; {text}",
            )
        )
        out.append(
            row(
                f"srm.{name}_chi2",
                single.mean(),
                "share",
                None,
                direction,
                n=reps,
                conditions=f"chi-square at 0.001; {text}",
            )
        )
    return [*out, *_traffic(rng)]


def _traffic(rng: np.random.Generator, reps: int = 300, batches: int = 30, k: int = 10) -> list[Row]:
    # Probabilities of their own for every decision; one treatment of k chosen as logged, or 20% more often.
    batch = np.repeat(np.arange(batches), 500)
    out = []
    for name, tilt, target, direction in (("false_alarm", 1.0, 0.011, "<="), ("detection", 1.2, 0.9, ">=")):
        alarms = 0
        for _ in range(reps):
            p = rng.dirichlet(np.full(k, 2.0), size=len(batch))
            drawn = p * np.append(tilt, np.ones(k - 1))
            edges = (drawn / drawn.sum(axis=1, keepdims=True)).cumsum(axis=1)
            chosen = (rng.random((len(batch), 1)) > edges).sum(axis=1).clip(max=k - 1)
            alarms += srm.logged(chosen, p, batch).is_alarm
        text = f"any look over {batches} batches of 500 decisions, {k} treatments, one chosen {tilt:g} times"
        text += " as often as logged"
        out.append(
            row(f"srm.traffic_{name}", alarms / reps, "share", target, direction, n=reps, conditions=text)
        )
    return out


def segments() -> list[Row]:
    """Claim nothing from 5 metrics x 20 segments of an A/A test; about 20 s."""
    rng = np.random.default_rng(12)
    reps, n, metrics, parts = 8000, 500, 5, 20
    wrong = 0
    columns = np.array([[i, -1, -1, -1] for i in range(metrics)])
    chunk, each = 200, np.arange(metrics)
    for _ in range(reps // chunk):
        cells = chunk * 2 * parts
        shared = rng.normal(size=(cells, 1))
        mean = (np.sqrt(0.5) * shared + np.sqrt(0.5) * rng.normal(size=(cells, metrics))) / np.sqrt(n)
        second = np.zeros((cells, metrics, metrics))
        second[:, each, each] = rng.chisquare(n - 1, (cells, metrics)) + n * mean**2
        sums = Sums(np.full(cells, float(n)), np.zeros(metrics), n * mean, second)
        found = analyze.compare(sums, columns, np.arange(0, cells, 2), np.arange(1, cells, 2))
        p_values = found.p_value.reshape(metrics, chunk, parts)
        for r in range(chunk):
            wrong += bool((analyze.correct(p_values[:, r], "holm").p_value < 0.05).any())
    text = "any claim, Holm over all 100; metrics correlated 0.5, 500 customers an arm and segment"
    return [row("fwer.segments", wrong / reps, "share", 0.055, "<=", n=reps, conditions=text)]


def _declared(planned_effect: float, margin: float) -> settings.Experiment:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    guards = [
        settings.Measured(name=f"guard{i}", numerator="returns", role="guardrail", margin=margin)
        for i in (1, 2)
    ]
    first = settings.Measured(
        name="margin", numerator="margin", role="primary", planned_effect=planned_effect
    )
    return settings.Experiment(
        metrics=(first, *guards), starts_at=start, ends_at=start + timedelta(days=DAYS), look_days=1
    )


def verdicts(primary: float, guard: float, reps: int, seed: int) -> dict[str, int]:
    """Count the verdicts of the whole rule; effects in units of the 80% MDE and of the margin."""
    mde = planning.detectable(1.0, DAILY * DAYS, DAILY * DAYS)
    margin = 2 * mde
    experiment = _declared(mde, margin)
    looks = [experiment.starts_at + timedelta(days=d + 1) for d in range(DAYS)]  # type: ignore[operator]
    rng = np.random.default_rng(seed)
    days = np.arange(1, DAYS + 1)
    always = sequential.sequence_bound(2.0 * DAILY * days, 2.0 * DAILY * DAYS)
    bound = np.stack([sequential.spending_bounds(days / DAYS), always, always])
    truth = np.array([primary * mde, guard * margin, 0.0])
    drawn = [daily("normal", reps, DAYS, float(t), rng) for t in truth]
    effect, se = (np.stack(x, axis=1) for x in zip(*drawn))
    ones = np.ones_like(bound)
    count: dict[str, int] = {}
    for r in range(reps):
        half = bound * se[r]
        path = readout.Path(effect[r], se[r], bound, effect[r] - half, effect[r] + half, ones)
        verdict = readout.judge(experiment, path, looks).verdict.value
        count[verdict] = count.get(verdict, 0) + 1
    return count


def decisions() -> list[Row]:
    """Run the whole decision rule on experiments that should not ship; about 60 s."""
    out, worst, reps = [], 0.0, 4000
    cases = (("no effect", 0.0, 0.0), ("harm", -0.5, 0.0), ("guardrail at its margin", 1.5, -1.0))
    for i, (name, primary, guard) in enumerate(cases):
        count = verdicts(primary, guard, reps, seed=13 + i)
        worst = max(worst, count.get(Verdict.SHIP.value, 0) / reps)
        out.append(
            row(
                f"decision.ship_{name.replace(' ', '_')}",
                count.get(Verdict.SHIP.value, 0) / reps,
                "share",
                0.05,
                "<=",
                n=reps,
                conditions=json.dumps(count),
            )
        )
    good = verdicts(1.0, 0.0, reps, seed=20)
    out.append(
        row(
            "decision.right_ship",
            good.get(Verdict.SHIP.value, 0) / reps,
            "share",
            None,
            ">=",
            n=reps,
            conditions=f"primary at its planned effect; {json.dumps(good)}",
        )
    )
    text = "worst of: " + ", ".join(name for name, _, _ in cases)
    return [row("decision.wrong_ship", worst, "share", 0.05, "<=", n=reps, conditions=text), *out]


BENCHMARKS = {
    "experiments.peek": peek,
    "experiments.coverage": coverage,
    "experiments.ratio": ratio_aa,
    "experiments.srm": mismatch,
    "experiments.segments": segments,
    "experiments.decision": decisions,
}
if __name__ == "__main__":
    sys.exit("run `python -m benchmarks experiments.peek` and the like")
