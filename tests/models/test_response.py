import numpy as np
import pytest
from scipy.special import expit, logit
from threadpoolctl import threadpool_limits

from nba.models import calibration, response
from nba.models.inputs import Coding
from nba.models.response import CrossFitted, Response
from nba.settings import Models

ACTIONS, CHANNELS = ("loan", "card", "fund", "advice"), ("mail", "sms", "push", "call")
GRID = Coding(
    tuple(f"{a}_{c}" for a in ACTIONS for c in CHANNELS),
    tuple(a for a in ACTIONS for _ in CHANNELS),
    tuple(c for _ in ACTIONS for c in CHANNELS),
)


def rates(sizes, odds, seed, base=0.1):
    """Examples of 16 treatments for which the trees say `base`; their odds are `odds` times that."""
    rng = np.random.default_rng(seed)
    column = np.repeat(np.arange(1, 17), sizes)
    p = np.full(len(column), base)
    y = (rng.random(len(p)) < response.times_odds(p, odds[column - 1])).astype(float)
    crossed = CrossFitted(Response(None, 0), p, p, p, p)
    split = column, y, np.ones(len(y)), np.arange(len(y)) % 3, GRID
    with threadpool_limits(limits=1, user_api="blas"):
        return response.with_rates(crossed, *split), y, column


# by hand


def test_faults_name_everything_that_lacks():
    assert len(response.check_responses(np.zeros(10))) == 2
    assert response.check_responses(np.tile([0.0, 1.0], 100)) == []


def test_odds_are_multiplied_and_none_stays():
    crossed, _, _ = rates([3000] * 16, np.full(16, 3.0), seed=0)
    p = crossed.model.at_rates(np.full((2, 17), 0.1), GRID)
    assert (p[:, 0] == 0.1).all()
    assert (p[0] == p[1]).all()
    np.testing.assert_allclose(p[0, 1:], 0.25, atol=0.03)  # odds of 1/9 times 3 are 1/3
    assert crossed.p_served.mean() == pytest.approx(0.25, abs=0.02)
    assert Response(None, 0).at_rates(p, GRID) is p  # nothing was seen: nothing is moved


def test_trees_stop_where_unseen_customers_gain_nothing_more():
    rng = np.random.default_rng(0)
    X, fold, none = rng.normal(size=(2000, 5)), np.arange(2000) % 3, np.zeros((2000, 1))
    params = response.parameters(Models(leaves=8, min_leaf=20), 0)
    sizes = []
    for slope in (0.0, 2.0):
        y = (rng.random(2000) < expit(slope * X[:, 0] - 1)).astype(float)
        found = response.fit(X, none, none, y, np.ones(2000), fold, params, 60)
        sizes.append(found.model.booster.num_trees())
    assert sizes[0] == 6 < sizes[1] <= 60  # a tenth is the least
    whole = response.Plan(X, y, np.ones(2000), params, 60).grow()
    np.testing.assert_allclose(response.staged(whole, X, 60)[:, -1], response.raw(whole, X))
    scores = response.staged(whole, X, 60)[:, 3]
    np.testing.assert_allclose(response.raw(response.cut(whole, 24), X), scores)


def test_blocks_of_time_are_judged_by_what_had_closed_before():
    day, y = np.repeat(np.arange(8.0) * 7, 200), np.arange(1600) % 2.0
    parts = response.later(day, y, 14.0)
    assert len(parts) == 3
    for known, new in parts:
        assert day[known].max() + 14 <= day[new].min()
    assert np.concatenate([new for _, new in parts]).tolist() == np.flatnonzero(day >= 14).tolist()
    assert [len(known) for known, _ in response.later(day, y, 0.0)] == [400, 800, 1200]
    assert response.later(np.zeros(1600), y, 0.0) == ()  # one moment
    assert response.later(day, y, 100.0) == ()  # nothing had closed


def test_validation_by_time_minds_what_other_customers_do_not_show():
    # Three months of their own levels; within a month the first feature tells, but the other way in each.
    rng = np.random.default_rng(0)
    n, month, none = 3000, np.repeat(np.arange(3), 1000), np.zeros((3000, 1))
    X = np.column_stack([rng.normal(size=(n, 3)), month])
    sign = np.array([1.5, -1.5, 1.5])[month]
    y = (rng.random(n) < expit(sign * X[:, 0] - 1)).astype(float)
    fixed = X, none, none, y, np.ones(n), np.arange(n) % 3
    params = response.parameters(Models(leaves=8, min_leaf=20), 0) | {"feature_fraction": 1.0}
    parts = response.later(30.0 * month, y, 0.0)
    others, by_time = (response.fit(*fixed, params, 60, parts=split) for split in ((), parts))
    assert (others.blocks, by_time.blocks) == (0, 2)
    assert by_time.model.booster.num_trees() == 6 < others.model.booster.num_trees()
    assert others.model.calibrator(1.0) - others.model.calibrator(0.0) > 0.7
    assert by_time.model.calibrator(1.0) - by_time.model.calibrator(0.0) < 0.4
    assert by_time.losses["none"] > others.losses["none"]
    # A row has no part in the calibration of its own chance.
    flipped = np.where((np.arange(n) % 3 == 0) & (month == 2), 1 - y, y)
    ahead = calibration.Ahead(np.arange(1000, n), X[1000:, 0], month[1000:])
    seen = [
        calibration.over_time(ahead, X[:, 0], answer, np.ones(n), np.arange(n) % 3) for answer in (y, flipped)
    ]
    if seen[0].kind == seen[1].kind:
        np.testing.assert_array_equal(seen[0].unseen[::3], seen[1].unseen[::3])
    one = calibration.over_time(
        ahead._replace(block=np.zeros(2000)), X[:, 0], y, np.ones(n), np.arange(n) % 3
    )
    assert (one.kind, one.losses) == ("platt", {})


# laws


def test_rates_follow_the_treatment_then_its_action_and_channel_then_all():
    # Loans do well on every channel and mail of every action; nobody has got a loan by mail yet.
    odds = np.ones(16)
    odds[:4] *= 3
    odds[::4] *= 2
    odds[-1] = 4  # advice by call alone
    crossed, _, _ = rates([0, *[2000] * 15], odds, seed=0)
    new = Coding((*GRID.treatment_ids, "gold_letter"), (*GRID.action_ids, "gold"), (*GRID.channels, "letter"))
    p = dict(zip(new.treatment_ids, crossed.model.at_rates(np.full((1, 18), 0.1), new)[0, 1:]))
    assert p["loan_mail"] > p["loan_sms"] > p["card_sms"]  # both parts, neither seen together
    assert p["loan_mail"] > p["card_mail"] > p["card_sms"]
    assert p["advice_call"] > p["advice_sms"] + 0.1 < p["loan_call"]  # its own
    assert p["card_sms"] < p["gold_letter"] < p["loan_mail"]  # of which nothing is known


def test_few_examples_move_a_rate_less_than_many():
    odds = np.ones(16)
    odds[5] = 6
    moved = []
    for n in (8, 60, 1000):
        sizes = np.full(16, 1000)
        sizes[5] = n
        found = [
            rates(sizes, odds, seed)[0].model.at_rates(np.full((1, 17), 0.1), GRID)[0, 6] for seed in range(3)
        ]
        moved.append(np.mean(found))
    assert 0.09 < moved[0] < moved[1] < moved[2] < 0.42  # 0.4 is true


# recovery


def test_first_days_of_treatments_are_told_better_than_by_their_own_rate_or_by_all():
    errors = []
    for seed in range(12):
        rng = np.random.default_rng(100 + seed)
        action, channel, own = (0.4 * rng.normal(size=size) for size in (4, 4, 16))
        truth = expit(logit(0.1) + np.repeat(action, 4) + np.tile(channel, 4) + 0.5 * own)
        sizes = rng.permutation([0, 0, *[15] * 6, *[60] * 4, *[400] * 4])
        crossed, y, column = rates(sizes, truth / (1 - truth) * 9, seed)
        told = crossed.model.at_rates(np.full((1, 17), 0.1), GRID)[0, 1:]
        n = np.bincount(column, minlength=17)[1:]
        raw = np.where(n > 0, np.bincount(column, y, minlength=17)[1:] / np.maximum(n, 1), y.mean())
        few, none = n == 15, n == 0
        errors.append([
            ((x - truth)[rows] ** 2).mean() for rows in (few, none) for x in (told, raw, y.mean())
        ])  # fmt: skip
    few_told, few_raw, few_all, none_told, _, none_all = np.mean(errors, axis=0)
    assert few_told < 0.8 * min(few_raw, few_all)
    assert none_told < none_all


def test_joint_model_is_calibrated_out_of_fold_and_knows_treatments(scorer, varied, catalog):
    assert scorer.report.metrics["ece"] < 0.012
    assert scorer.report.metrics["log_loss"] < scorer.report.metrics["log_loss_constant"]
    p = scorer.scores(varied.examples).p_response
    assert np.corrcoef(p[:, 0], varied.chance[:, 0])[0, 1] > 0.85
    assert p[:, 4].mean() > p[:, 0].mean()
