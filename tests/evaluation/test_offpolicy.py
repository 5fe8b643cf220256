import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nba.evaluation import intervals, offpolicy
from nba.evaluation.offpolicy import Log

ESTIMATORS = ["ips", "snips", "dr", "sndr"]


def play(n: int, seed: int, k: int = 4, floor: float = 0.3):
    """A world whose truth is known: reward = base(x) + effect(x, a) + noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    effect = np.column_stack([np.zeros(n), *[0.5 * a + X[:, a % 3] for a in range(1, k)]])
    truth = 2 * X[:, :1] + effect

    def soft(score, floor):
        likely = np.exp(score - score.max(axis=1, keepdims=True))
        return (1 - floor) * likely / likely.sum(axis=1, keepdims=True) + floor / k

    p_logged, p_target = soft(-effect, floor), soft(2 * effect, 0.05)
    column = (rng.random((n, 1)) >= p_logged.cumsum(axis=1)).sum(axis=1).clip(0, k - 1)
    reward = truth[np.arange(n), column] + rng.normal(size=n)
    log = Log(column, reward, p_logged, np.arange(n))
    return log, p_target, X, float((p_target * truth).sum(axis=1).mean())


def run(name, log, p_target, q, level=0.95):
    estimator = getattr(offpolicy, name)
    return estimator(log, p_target, q, level) if "dr" in name else estimator(log, p_target, level)


# by hand


def test_estimators_on_four_rows(monkeypatch):
    monkeypatch.setattr(offpolicy, "MIN_ESS", 1.0)
    log = Log(
        np.array([0, 1, 1, 0]), np.array([1.0, 4.0, 2.0, 3.0]), np.array([[0.5, 0.5]] * 2 + [[0.2, 0.8]] * 2),
        np.arange(4),
    )  # fmt: skip
    target = np.array([[0.25, 0.75]] * 4)
    weight = np.array([0.5, 1.5, 0.9375, 1.25])
    assert offpolicy.ips(log, target).value == pytest.approx((weight * log.reward).mean())
    assert offpolicy.snips(log, target).value == pytest.approx((weight * log.reward).sum() / weight.sum())
    q = np.array([[2.0, 3.0]] * 4)
    residual = log.reward - np.array([2, 3, 3, 2])
    assert offpolicy.dr(log, target, q).value == pytest.approx(2.75 + (weight * residual).mean())
    assert offpolicy.sndr(log, target, q).value == pytest.approx(
        2.75 + (weight * residual).sum() / weight.sum()
    )
    found = offpolicy.ips(log, target)
    assert found.ess == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert (found.max_weight, found.n) == (1.5, 4)


def test_errors_are_clustered_by_customer():
    reward = np.repeat(np.random.default_rng(0).normal(size=200), 5)
    apart = offpolicy.on_policy(reward, np.arange(1000))
    together = offpolicy.on_policy(reward, np.repeat(np.arange(200), 5))
    assert together.se == pytest.approx(apart.se * np.sqrt(5), rel=0.01)


def test_arms_are_compared_within_batches():
    # The first arm has its larger share in the poorer batch: pooled, the better arm would look worse.
    rng = np.random.default_rng(1)
    batch = np.repeat([0, 1], 1000)
    first = np.arange(2000) % 1000 < np.where(batch == 0, 900, 100)
    reward = 10.0 * batch + 2.0 * first + rng.normal(size=2000)
    found = offpolicy.between_arms(reward, first, batch, np.arange(2000))
    mean = [[reward[(batch == b) & (first == f)].mean() for f in (True, False)] for b in (0, 1)]
    assert found.value == pytest.approx(np.mean([one - other for one, other in mean]))
    assert reward[first].mean() < reward[~first].mean()
    # Two means of 900 and of 100 rows of variance 1 in each batch, half the weight each.
    assert found.se == pytest.approx(np.sqrt(2 * 0.25 * (1 / 900 + 1 / 100)), rel=0.1)
    assert found.lower < 2.0 < found.upper
    assert "no closed batch" in offpolicy.between_arms(reward[:0], first[:0], batch[:0], batch[:0]).reason


def test_small_arms_are_as_uncertain_as_they_are():
    # Arms of two decisions in each of many batches: their own means leave half of the variance.
    rng = np.random.default_rng(2)
    batch = np.repeat(np.arange(2000), 4)
    first = np.tile([True, True, False, False], 2000)
    reward = rng.normal(size=8000)
    found = offpolicy.between_arms(reward, first, batch, np.arange(8000))
    assert found.se == pytest.approx(np.sqrt(2 / 4000), rel=0.05)
    # A batch with a single decision of an arm says nothing of how far off it is.
    one = np.append(batch, [2000, 2000, 2000])
    more = offpolicy.between_arms(
        np.append(reward, [100.0, 0, 0]), np.append(first, [True, False, False]), one, np.arange(8003)
    )
    assert (more.value, more.se, more.n) == pytest.approx((found.value, found.se, 8000))


def test_a_log_that_cannot_tell_is_refused_with_a_reason():
    log, p_target, _X, _ = play(2000, 0)
    few = Log(*(part[:50] for part in log))
    assert "effective sample size" in offpolicy.snips(few, p_target[:50]).reason
    never = log._replace(p_logged=np.where(np.arange(4) == 3, 0.0, log.p_logged), column=log.column % 3)
    found = offpolicy.ips(never, p_target)
    assert "could not have been logged" in found.reason
    assert np.isnan([found.value, found.se, found.lower, found.upper]).all()
    wrong = log._replace(p_logged=log.p_logged * 0.7)
    assert "do not fit the log" in offpolicy.ips(wrong, p_target).reason
    assert "2 or more" in offpolicy.on_policy(np.ones(1), np.zeros(1, dtype=np.int64)).reason


def test_ends_follow_the_skewness():
    even = offpolicy.on_policy(np.array([1.0, 2.0, 3.0, 4.0] * 10), np.arange(40))
    assert even.upper - even.value == pytest.approx(even.value - even.lower)
    tail = offpolicy.on_policy(np.array([1.0] * 36 + [9.0] * 4), np.arange(40))
    assert tail.upper - tail.value > 1.3 * (tail.value - tail.lower)
    rng = np.random.default_rng(4)
    held = []
    for _ in range(1500):  # a symmetric interval holds 92% of these, and misses nearly all above
        found = offpolicy.on_policy(rng.exponential(1.0, 25), np.arange(25))
        held.append((found.lower <= 1 <= found.upper, found.upper < 1, found.lower > 1))
    covered, above, below = np.mean(held, axis=0)
    assert covered > 0.95 - 3 * 0.0056
    assert above < 3 * below + 0.02


# laws


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_logging_policy_is_worth_what_it_got(name):
    log, _target, X, _ = play(3000, 1)
    q = offpolicy.outcome_model(X, log)
    found = run(name, log, log.p_logged, q)
    assert found.lower < log.reward.mean() < found.upper
    assert found.ess == pytest.approx(3000)


@settings(deadline=None, max_examples=30)
@given(shift=st.floats(-100, 100), factor=st.floats(0.1, 10))
def test_money_has_no_unit(shift, factor):
    log, p_target, X, _ = play(600, 2)
    moved = log._replace(reward=log.reward * factor + shift)
    for name in ("snips", "sndr"):
        q = offpolicy.outcome_model(X, log)
        before, after = run(name, log, p_target, q), run(name, moved, p_target, q * factor + shift)
        assert after.value == pytest.approx(before.value * factor + shift, rel=1e-6, abs=1e-6)
        assert after.se == pytest.approx(before.se * factor, rel=1e-6)


def test_the_outcome_model_does_not_see_the_customer_it_speaks_of():
    log, _target, X, _ = play(600, 3)
    log = log._replace(unit=np.arange(600) // 2)
    changed = log.reward.copy()
    changed[:2] += 1000
    before, after = (offpolicy.outcome_model(X, log._replace(reward=r)) for r in (log.reward, changed))
    np.testing.assert_allclose(after[:2], before[:2])
    assert not np.allclose(after[2:], before[2:])


def test_unknown_and_constant_features_do_no_harm():
    log, _target, X, _ = play(300, 4)
    odd = np.column_stack([X, np.full(300, np.nan), np.full(300, 7.0)])
    odd[::7, 0] = np.nan
    assert np.isfinite(offpolicy.outcome_model(odd, log)).all()
    assert np.isfinite(offpolicy.outcome_model(np.zeros((300, 0)), log)).all()


# recovery


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_truth_is_recovered_and_covered(name):
    truth = np.mean([play(20_000, 1000 + seed)[3] for seed in range(20)])
    found = []
    for seed in range(120):
        log, p_target, X, _ = play(1500, seed)
        found.append(run(name, log, p_target, offpolicy.outcome_model(X, log) if "dr" in name else None))
    values = np.array([x.value for x in found])
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - truth) < 3 * error + 0.01
    covered = np.mean([x.lower <= truth <= x.upper for x in found])
    assert covered >= 0.95 - 3 * 0.02
    assert np.mean([x.se for x in found]) == pytest.approx(values.std(ddof=1), rel=0.25)


def test_a_model_that_knows_nothing_is_shrunk_until_it_does_no_harm():
    log, p_target, _X, _ = play(1500, 8)
    noise = np.random.default_rng(0).normal(size=(1500, 300))
    harmless = offpolicy.sndr(log, p_target, offpolicy.outcome_model(noise, log, p_target)).se
    assert harmless < 1.1 * offpolicy.snips(log, p_target).se


def test_a_model_of_the_reward_makes_the_estimate_sharper():
    log, p_target, X, _ = play(4000, 7)
    q = offpolicy.outcome_model(X, log)
    assert offpolicy.sndr(log, p_target, q).se < 0.8 * offpolicy.snips(log, p_target).se


# shrinking and paired estimators

SHRINKING = ["clipped_ips", "switch_dr", "dros"]


@pytest.mark.parametrize("name", ["dm", *SHRINKING])
def test_the_logging_policy_is_worth_what_it_got_however_shrunk(name):
    log, _target, X, _ = play(3000, 1)
    q = offpolicy.outcome_model(X, log)
    found = getattr(offpolicy, name)(log, log.p_logged, *(() if name == "clipped_ips" else (q,)))
    assert ("no interval" in found.reason) == (name == "dm")
    assert found.value == pytest.approx(log.reward.mean(), abs=3 * log.reward.std() / np.sqrt(3000))


def test_shrinkage_follows_its_formula():
    log, p_target, X, _ = play(2000, 5)
    q = offpolicy.outcome_model(X, log, p_target)
    weight = offpolicy.weights(log, p_target)
    direct, residual = (p_target * q).sum(axis=1), log.reward - q[np.arange(2000), log.column]
    tried = [float((direct + t * weight / (weight**2 + t) * residual).mean()) for t in offpolicy._SHRINKAGE]
    found = offpolicy.dros(log, p_target, q)
    assert min(abs(found.value - value) for value in tried) < 1e-12
    assert offpolicy.clipped_ips(log, p_target, most=1e9).value == pytest.approx(
        offpolicy.ips(log, p_target).value
    )
    assert offpolicy.dm(log, p_target, q).value == pytest.approx(direct.mean())


def test_too_few_give_a_value_without_an_interval_and_no_support_gives_none():
    log, p_target, X, _ = play(60, 0)
    q = offpolicy.outcome_model(X, log)
    found = offpolicy.dros(log, p_target, q)
    assert "effective sample size" in found.reason
    assert np.isfinite(found.value)
    assert np.isnan(found.lower)
    never = log._replace(p_logged=np.where(np.arange(4) == 3, 0.0, log.p_logged), column=log.column % 3)
    assert np.isnan(offpolicy.dros(never, p_target, q).value)


def test_a_policy_differs_from_itself_by_nothing_and_pairs_are_sharper_than_two_intervals():
    log, p_target, X, _ = play(4000, 6)
    q = offpolicy.outcome_model(X, log, p_target)
    same = offpolicy.difference(log, p_target, p_target, q)
    assert (same.value, same.se) == (0.0, 0.0)
    near = 0.9 * p_target + 0.1 * log.p_logged
    found = offpolicy.difference(log, p_target, near, q)
    apart = [offpolicy.sndr(log, p, q) for p in (p_target, near)]
    assert found.value == pytest.approx(apart[0].value - apart[1].value)
    assert found.se < 0.3 * apart[0].se


def test_a_difference_that_rests_on_a_few_decisions_is_refused():
    rng = np.random.default_rng(3)
    n = 8000
    p_logged = np.tile([0.9, 0.1], (n, 1))
    column = (rng.random(n) < 0.1).astype(np.int64)
    reward, same = rng.normal(0, 0.1, n), np.tile([0.88, 0.12], (n, 1))
    log, q = Log(column, reward, p_logged, np.arange(n)), np.zeros((n, 2))
    assert not offpolicy.difference(log, same, p_logged, q).reason
    # One that the other policy would hardly have logged, with a large reward: weight 130, reward 60.
    base = p_logged.copy()
    p_logged[0], column[0], reward[0] = [0.99231, 0.00769], 1, 60.0
    base[0] = [0.0, 1.0]
    found = offpolicy.difference(log, same, base, q)
    assert "5 customers make 100% of its variance" in found.reason
    assert found.max_weight == pytest.approx(130, abs=0.1)
    assert np.isnan([found.value, found.lower, found.upper]).all()
    assert not offpolicy.unanswerable(log, same, base)


def test_differences_are_recovered_and_covered():
    found, truth = [], np.mean([play(20_000, 1000 + seed)[3] for seed in range(20)])
    base = np.mean([play(20_000, 1000 + seed)[0].reward.mean() for seed in range(20)])
    for seed in range(100):
        log, p_target, X, _ = play(1200, seed)
        q = offpolicy.outcome_model(X, log, p_target)
        found.append(offpolicy.difference(log, p_target, log.p_logged, q))
    values = np.array([x.value for x in found])
    assert abs(values.mean() - (truth - base)) < 3 * values.std(ddof=1) / 10 + 0.01
    assert np.mean([x.lower <= truth - base <= x.upper for x in found]) > 0.95 - 3 * 0.022


# intervals


def test_the_bootstrap_by_customer_agrees_with_the_delta_method():
    log, p_target, X, _ = play(2000, 9)
    log = log._replace(unit=np.arange(2000) // 2)
    q = offpolicy.outcome_model(X, log, p_target)
    found = offpolicy.sndr(log, p_target, q)
    lower, upper = intervals.bootstrap(log, p_target, q, np.random.default_rng(0), repeats=800)
    assert (lower, upper) == pytest.approx((found.lower, found.upper), abs=0.25 * (found.upper - found.lower))
    gap = intervals.bootstrap(log, p_target, q, np.random.default_rng(0), repeats=50, p_base=p_target)
    assert gap == (0.0, 0.0)


def test_the_sequence_holds_at_all_looks_together():
    missed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        score = rng.exponential(size=600) - 1
        looks = intervals.sequence(score, score, np.arange(600) // 30, np.arange(600), planned=600)
        assert [look.n for look in looks][:2] == [30, 60]
        missed += any(not look.lower <= 0 <= look.upper for look in looks)
    assert missed / 200 < 0.05 + 3 * 0.0154
