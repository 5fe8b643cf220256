import numpy as np
import pytest
from scipy.stats import norm as normal

from nba import stats
from nba.evaluation import intervals
from nba.evaluation.offpolicy import Log, difference
from nba.evaluation.promotion import Rules, health, judge, passes


def nights(seed: int, n: int, effect: float, nights: int = 20):
    """A log of even draws over two treatments; the second is worth `effect` more."""
    rng = np.random.default_rng(seed)
    column = rng.integers(0, 2, n)
    reward = effect * column + rng.normal(size=n)
    batch = np.arange(n) * nights // n
    return Log(column, reward, np.full((n, 2), 0.5), np.arange(n)), batch


def policy(share: float, n: int) -> np.ndarray:
    return np.tile([1 - share, share], (n, 1))


def asked(log, batch, challenger, champion, rules=None):
    n = len(batch)
    zero = np.zeros((n, 2))
    return judge(log, np.zeros(n), policy(challenger, n), policy(champion, n), zero, rules or Rules())


OPT_OUTS = "additional opt-outs per decision, upper bound at any look"


# by hand


def test_a_better_challenger_passes_and_a_worse_one_does_not():
    log, batch = nights(0, 8000, 0.3)
    assert passes(asked(log, batch, 0.9, 0.2))
    worse = asked(log, batch, 0.2, 0.9)
    assert not passes(worse)
    assert worse[0].status == "fail"


def test_a_margin_lets_an_equal_pass_and_doing_the_same_is_no_gain():
    log, batch = nights(1, 8000, 0.0)
    assert not passes(asked(log, batch, 0.6, 0.4))
    assert passes(asked(log, batch, 0.6, 0.4, Rules(margin=0.1)))
    same = asked(log, batch, 0.5, 0.5)
    assert (same[0].status, same[0].note) == ("fail", "both do the same")
    assert asked(log, batch, 0.5, 0.5, Rules(margin=0.1))[0].status == "pass"


def test_opt_outs_no_support_and_a_poor_model_stop_it():
    log, batch = nights(2, 8000, 0.3)
    n = len(batch)
    lost = 0.02 * log.column
    found = {c.check: c for c in judge(log, lost, policy(0.9, n), policy(0.2, n), np.zeros((n, 2)), Rules())}
    assert found[OPT_OUTS].status == "fail"
    never = log._replace(p_logged=np.tile([1.0, 0.0], (n, 1)), column=np.zeros(n, dtype=np.int64))
    found = asked(never, batch, 0.9, 0.0)
    assert found[0].status == "unknown"
    assert not passes(found)
    good = {"ece": 0.01, "log_loss": 0.2, "log_loss_constant": 0.25}
    assert passes(health(good, Rules()))
    assert not passes(health({**good, "ece": 0.2}, Rules()))
    # Where one in a hundred responds, an error of 0.01 is as large as the rate; chance alone is borne.
    assert not passes(health({**good, "base_rate": 0.01, "ece_of_noise": 0.001}, Rules()))
    assert passes(health({**good, "base_rate": 0.01, "ece_of_noise": 0.008}, Rules()))
    assert not passes(health({**good, "log_loss": 0.3}, Rules()))
    assert not passes(health({}, Rules()))


def test_the_bound_of_opt_outs_is_of_all_looks_and_where_they_are_many_that_of_the_sequence():
    log, _ = nights(4, 4_000, 0.0)
    lost = (np.random.default_rng(5).random(4_000) < 0.3).astype(float)
    p, base, q = policy(0.8, 4_000), policy(0.2, 4_000), np.zeros((4_000, 2))
    found = {check.check: check for check in judge(log, lost, p, base, q, Rules(planned=3_000))}[OPT_OUTS]
    once = difference(log._replace(reward=lost), p, base, q)
    raw = float(np.sqrt(np.mean(((1.2 * (2 * log.column - 1)) * lost) ** 2) / 4_000))  # not centred
    wider = float(stats.sequence_bound(np.array([4_000.0]), 3_000, 0.05)[0])
    assert wider > 2.5
    assert found.value == pytest.approx(once.value + wider * raw, rel=0.06)
    assert found.value > once.value + wider * raw
    assert f"by {int(lost.sum())} opt-outs" in found.note


def test_few_opt_outs_are_bounded_as_poisson_counts_with_one_more():
    # Two rates of three and five in 100 (Garwood 1936, one-sided 2.5%), and their difference.
    three, five = np.ones(3), np.ones(5)
    assert intervals.rare(three, 100, 1.0, 0.025) == pytest.approx(0.08767, abs=1e-5)
    low = 0.01 * (5 - 1.62349)
    expected = 0.03 - 0.05 + np.hypot(0.08767 - 0.03, low)
    assert intervals.rare(np.concatenate([three, -five]), 100, 1.0, 0.025) == pytest.approx(
        expected, abs=1e-5
    )
    # Of unlike weights the bound is of fewer: Fay and Feuer's gamma with shape (y + w)^2 / (v + w^2).
    assert intervals.rare(np.array([0.5, 2.5]), 100, 1.0, 0.025) > 1.05 * intervals.rare(
        np.array([1.5, 1.5]), 100, 1.0, 0.025
    )


def test_nobody_opting_out_bounds_what_would_have_shown_by_now():
    for n, status in ((2_000, "fail"), (8_000, "pass")):
        log, batch = nights(3, n, 0.3)
        found = {check.check: check for check in asked(log, batch, 0.9, 0.2)}[OPT_OUTS]
        assert found.status == status
        assert found.value == pytest.approx(np.log(40) * 1.4 / n)  # 0.7 more of what was logged half the time


def test_what_was_hardly_logged_is_not_taken_for_harmless():
    # One in twenty gets what was logged one time in twenty: 30 such decisions say nothing of one in fifty.
    n, rng = 12_000, np.random.default_rng(8)
    concerns = rng.random(n) < 0.05
    logged = np.where(concerns[:, None], [[0.95, 0.05]], [[0.5, 0.5]])
    column = (rng.random(n) < logged[:, 1]).astype(np.int64)
    log = Log(column, rng.normal(size=n), logged, np.arange(n))
    moved = np.where(concerns[:, None], [[0.0, 1.0]], logged)
    for lost in (np.zeros(n), (rng.random(n) < np.where(concerns, 0.0, 0.005)).astype(float)):
        found = {c.check: c for c in judge(log, lost, moved, logged, np.zeros((n, 2)), Rules(planned=n))}
        assert found[OPT_OUTS].status == "fail"
        assert found[OPT_OUTS].value > 0.9 * np.log(40) * 19 / n


# recovery


def test_the_bound_of_value_is_the_sequence_at_the_challengers_share():
    log, batch = nights(6, 4_000, 0.1)
    p, base, q = policy(0.8, 4_000), policy(0.2, 4_000), np.zeros((4_000, 2))
    for n, nth in ((1_000, 1), (4_000, 1), (4_000, 7)):
        part = Log(log.column[:n], log.reward[:n], log.p_logged[:n], np.arange(n))
        found = asked(part, batch[:n], 0.8, 0.2, Rules(planned=3_000, nth=nth))[0]
        once = difference(part, p[:n], base[:n], q[:n])
        assert found.value == pytest.approx(once.value - bound(n, nth) * once.se, rel=0.02, abs=1e-3)
        assert f"as challenger {nth} of this champion" in found.note


def bound(n, nth=1):
    """Standard errors below the value at which the gate's lower bound lies after n decisions."""
    return stats.sequence_bound(np.atleast_1d(n).astype(float), 3_000, 1 - Rules(nth=nth).share)


def passed(widths, effect=0.0, challengers=1, repeats=4_000, per_night=150):
    """Share of series of challengers of whom one passes on any night, by the sums of its nights.

    A sum of a night's influences is normal; widths are what `bound` gives, shape (challengers, nights).
    """
    rng = np.random.default_rng(7)
    n = per_night * np.arange(1, widths.shape[1] + 1)
    sums = rng.normal(effect * per_night, np.sqrt(per_night), (repeats, challengers, len(n)))
    standard = sums.cumsum(axis=2) / np.sqrt(n)
    return float((standard > widths).any(axis=(1, 2)).mean())


def test_nightly_looks_rarely_promote_what_is_no_better_and_a_wrong_gate_would_show():
    n = 150 * np.arange(1, 41)
    most = 0.025 + 3 * np.sqrt(0.025 * 0.975 / 4_000)
    gate, uncorrected = bound(n)[None], np.full((1, 40), 1.96)
    assert passed(gate) <= most
    assert passed(gate, effect=-0.01) <= most
    assert passed(uncorrected) > 2 * most
    assert passed(gate, effect=0.06) > 0.8


def test_many_challengers_of_one_champion_rarely_promote_one_and_an_unshared_level_would_show():
    n = 150 * np.arange(1, 41)
    most = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1_000)
    shared = np.stack([bound(n, nth) for nth in range(1, 21)])
    unshared = np.tile(bound(n), (20, 1))
    assert passed(shared, challengers=20, repeats=1_000) <= most
    assert passed(unshared, challengers=20, repeats=1_000) > 2 * most


def test_rare_opt_outs_at_the_limit_rarely_pass_and_the_asymptotic_bound_would_often():
    # 100 decisions a night, of which 2% opt out, of unlike weights with mean 1: the true rate is the limit.
    # A variance by the few that came is too small as long as no heavy one did.
    rng, n_worlds, nights_ = np.random.default_rng(8), 200, np.arange(100, 1_300, 100)
    heavy = rng.random((n_worlds, 1_200)) < 0.1
    weight = np.where(heavy, 8.0, 2 / 9)
    drawn = weight * (rng.random((n_worlds, 1_200)) < 0.02)
    limit, ess = 0.02, 1 / np.mean(weight**2)
    bounds = stats.sequence_bound(nights_.astype(float), 1_200)
    asymptotic, rare = np.zeros(n_worlds, bool), np.zeros(n_worlds, bool)
    for n, bound in zip(nights_, bounds):
        alpha = float(normal.sf(bound))
        known = drawn[:, :n].any(axis=1)
        mean, se = drawn[:, :n].mean(axis=1), drawn[:, :n].std(axis=1) / np.sqrt(n)
        asymptotic |= known & (mean + bound * se <= limit)
        rare |= [
            on and intervals.rare(y[y > 0], n, 1 / ess, alpha) <= limit for on, y in zip(known, drawn[:, :n])
        ]
    most = 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_worlds)
    assert rare.mean() <= 0.05
    assert asymptotic.mean() > most
