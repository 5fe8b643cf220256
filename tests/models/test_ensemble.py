import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LinearRegression

from nba import stats
from nba.errors import DataError
from nba.models import candidates, ensemble, gate
from nba.models.ensemble import UpliftEnsemble
from nba.models.learners import Shifted
from nba.models.trial import Trial, split

KNOWN = {0: 0.4, 1: 0.3, 2: 0.3}


def trial(seed, n=6000, strength=1.0):
    # Binary; treatment 1 helps those with a high first feature, treatment 2 helps all alike.
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    arm = rng.choice(3, n, p=list(KNOWN.values()))
    odds = -1 + 0.5 * X[:, 1]
    chance = expit(np.column_stack([odds, odds + strength * (0.3 + X[:, 0]), odds + 0.3 * strength]))
    y = (rng.random(n) < chance[np.arange(n), arm]).astype(float)
    return X, y, arm, chance[:, 1:] - chance[:, :1]


@pytest.fixture(scope="module")
def fitted():
    X, y, arm, effect = trial(0)
    return UpliftEnsemble(control=0, folds=3).fit(X, y, arm, KNOWN), X, effect


# by hand


def test_gate_by_hand():
    # Two customers of a kind: treatment 1 helps half of them and hurts the others as much.
    scores = np.array([[1.0], [-1.0]] * 50) + np.tile([[0.1], [0.1], [-0.1], [-0.1]], (25, 1))
    knowing = gate.decide(np.sign(scores), scores, ("none", "mail"), np.ones(100))
    assert knowing.rule == "personalise"
    assert knowing.gain.value == pytest.approx(0.5, abs=0.06)
    blind = gate.decide(np.ones((100, 1)), scores, ("none", "mail"), np.ones(100))
    assert blind.rule == "none"
    # A hundred scores of ±1 leave a standard error of 0.1: that is no sign of nothing.
    assert "cannot tell" in blind.reason
    assert "a gain below 0.2 each would not show" in blind.reason
    assert "nothing to find" not in blind.reason
    two = (scores[:, 0] < 0).astype(int)
    few = gate.decide(np.sign(scores), scores, ("none", "mail"), np.ones(100), two)
    assert (few.rule, few.gain.value) == ("none", knowing.gain.value)
    everyone = gate.decide(np.ones((100, 1)), scores + 2, ("none", "mail"), np.ones(100))
    assert everyone.rule == "mail"
    assert "that choosing by customer beats it does not show" in everyone.reason


def test_the_gate_takes_no_evidence_for_evidence_of_nothing_only_where_gains_are_excluded():
    scores = np.array([[1.0], [-1.0]] * 50)
    flat, silent = stats.Interval(0.0, 0.1, -0.2, 0.2, 100), ("none", "mail")
    told = {"better": (), "raising": 0, "level": 10.0, "n": 80.0}

    def reason(**more):
        known = gate.Evidence(**{"rate": flat, **told, **more})
        return gate.decide(np.ones((100, 1)), scores, silent, np.ones(100), None, known).reason

    assert "There is nothing to find" in reason()  # 0.2 of 10 is little
    assert "2% of what a customer is worth" in reason()
    assert "does not show (RATE 0, 95% -0.2 to 0.2)" in reason()
    assert "cannot tell" in reason(level=1.0)
    assert "with 80 effective rows" in reason(level=1.0)
    better = stats.Interval(0.0062, 0.0014, 0.0034, 0.009, 100)
    ranked = reason(rate=better)
    assert "nothing to find" not in ranked
    assert "better than chance (RATE 0.0062, 95% 0.0034 to 0.009)" in ranked
    assert "beyond chance among all candidates: stack (loss), t_trees (rank)." in reason(
        better=("stack (loss)", "t_trees (rank)")
    )
    assert "1 of 1 treatments raise the outcome by more than chance." in reason(raising=1)


def test_signs_are_by_loss_or_by_rank_and_hold_for_all_candidates_at_once():
    def row(name, gain, rate):  # in standard errors
        bounds = {"gain_lower": gain - 1.96, "gain_upper": gain + 1.96, "rate_lower": rate - 1.96}
        return {"candidate": name, "gain": gain, "rate": rate, **bounds}

    rows = [row("none", 9, 0), row("constant", 0, 0), row("stack", 0, 3.5), row("dr_trees", -3, 3.5)]
    rows += [row("t_trees", 3.5, 0), row("x_trees", 4, 4), row("dr_ridge", 2.2, 2.2)]
    said = ("stack (rank)", "dr_trees (rank alone: its loss is worse)", "t_trees (loss)")
    assert gate.shown(rows, 5000) == (*said, "x_trees (loss and rank)")
    assert gate.shown([row("stack", 2.5, 0)], 5000) == ("stack (loss)",)  # of two bounds, not of ten
    assert gate.shown(rows, 3) == ()  # of two degrees of freedom
    assert gate.raising(np.array([2.2, 3.0, -9.0]), np.ones(3)) == 1
    assert gate.raising(np.array([2.2]), np.ones(1)) == 1


def test_value_may_differ_by_treatment():
    X, y, arm, _ = trial(0, 900)
    model = UpliftEnsemble(control=0, folds=2, names=("dr_ridge",), value={1: 1.0, 2: 0.0}, cost={2: 0.1})
    model.fit(X, y, arm, KNOWN)
    average = model.average_["effect"].to_pylist()
    assert model.gate_.single == 1
    assert model.gate_.single_gain.value == pytest.approx(average[0])
    dear = model.set_params(value={1: 0.0, 2: 50.0 * np.sign(average[1])}).fit(X, y, arm, KNOWN)
    assert dear.gate_.single == 2
    assert dear.gate_.single_gain.value == pytest.approx(50 * abs(average[1]) - 0.1)


def test_a_customers_rows_count_once():
    rng = np.random.default_rng(0)
    values, code = rng.normal(size=(60, 2)), np.arange(60)
    values -= values.mean(axis=0)
    assert ensemble.repetition(values, None).tolist() == [1.0, 1.0]
    assert ensemble.repetition(values, code).tolist() == [1.0, 1.0]
    np.testing.assert_allclose(ensemble.repetition(np.repeat(values, 4, axis=0), np.repeat(code, 4)), 4)
    part, effects = rng.normal(size=(2, 60, 1))
    once = ensemble.judge("x", part, effects, effects.mean(axis=0))
    again = [np.repeat(x, 4, axis=0) for x in (part, effects)]
    judged = ensemble.judge("x", *again, effects.mean(axis=0), np.repeat(code, 4))
    assert judged["rate_upper"] - judged["rate_lower"] == pytest.approx(
        once["rate_upper"] - once["rate_lower"]
    )
    assert judged["gain_lower"] == pytest.approx(once["gain_lower"])


def test_ranking_by_hand():
    effects = np.array([[1.0], [2.0], [3.0], [4.0]])
    # ranks -3/8, -1/8, 1/8, 3/8 times deviations -1.5, -0.5, 0.5, 1.5
    assert gate.ranking(effects, effects).value == pytest.approx(2 * (1.5 * 3 + 0.5) / 8 / 4)
    assert gate.ranking(np.zeros((4, 1)), effects).value == 0
    assert gate.ranking(-effects, effects).value < 0


def test_stack_takes_what_is_true_and_the_prior_where_nothing_is_known():
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(size=(2, 60_000, 1)) * 0.3
    target = truth + rng.normal(size=truth.shape)
    both = np.stack([truth, noise], axis=2)
    weights = ensemble.stack(both, target, np.ones(len(truth)), np.array([0.5, 0.5]))
    assert weights[0] == pytest.approx(1, abs=0.1)
    assert weights[1] < 0.05
    few = ensemble.stack(both[:10] / 100, target[:10], np.ones(10), np.array([0.5, 0.3]))
    np.testing.assert_allclose(few, [0.5, 0.3], atol=0.05)
    # Two candidates that see the same cannot be told apart: they share alike what is true of both.
    same = np.concatenate([truth, truth], axis=1)[:, None, :] + 0.05 * rng.normal(size=(60_000, 1, 2))
    alike = ensemble.stack(
        same, 0.5 * truth + rng.normal(size=truth.shape), np.ones(60_000), np.array([0.5, 0.3])
    )
    assert alike.sum() == pytest.approx(0.5, abs=0.1)


def test_noise_that_effects_share_does_not_hide_how_they_differ():
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(4_000, 1)), rng.normal(size=(4_000, 3))
    own -= own.mean(axis=1, keepdims=True)
    noise = 9 * rng.normal(size=common.shape) + 0.5 * rng.normal(size=own.shape)  # the control's, their own
    candidates = np.stack([np.broadcast_to(common, own.shape), own], axis=2)
    args = candidates, own + noise, np.ones(len(own)), np.zeros(2)
    blind, seen = ensemble.stack(*args), ensemble.stack(*args, np.array([81.0, 0.25, 0.25, 0.25]))
    assert seen[1] == pytest.approx(1, abs=0.05)
    assert seen[1] > 2 * blind[1]
    # With one treatment there is nothing to share.
    one = candidates[:, :1], (own + noise)[:, :1], np.ones(len(own)), np.array([0.5, 0.5])
    np.testing.assert_allclose(ensemble.stack(*one, np.array([40.0, 42.0])), ensemble.stack(*one), atol=0.02)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": ("magic",)}, r"names has \['magic'\]; expected some of"),
        ({"names": ()}, r"names has \[\]; expected some of"),
        ({"parts": {1: ("a", "b")}}, r"parts does not say what \[2\] are made of"),
        ({"value": {1: 5.0}}, r"value does not say what \[2\] is worth"),
        ({"value": float("nan")}, "value is nan; expected a finite number"),
        ({"value": {1: 5.0, 2: "much"}}, "value of 2 is 'much'; expected a finite number"),
        (
            {"names": ("x_trees", "t_trees"), "monotone": [1, 0, 0, 0]},
            r"names has \['t_trees'\], which cannot",
        ),
        ({"cost": {0: 5.0}}, "cost of the control 0 is 5.0; expected none"),
        (
            {"cost": [1, 2], "names": "hierarchy"},
            r"names is 'hierarchy'; (.|\n)*cost is \[1, 2\]; expected money",
        ),
        ({"monotone": {"age": 1}}, "monotone is {'age': 1}; expected one of -1, 0 or 1 per feature"),
        ({"cost": {3: 1.0}}, r"cost names \[3\], which no row got; expected some of \[1, 2\]"),
        ({"trees": {"num_leafs": 3}}, r"trees names \['num_leafs'\]; expected some of \[(.|\n)*'num_leaves'"),
        ({"cost": {1: np.inf, 4: 1.0}}, r"cost names \[4\](.|\n)*cost of 1 is inf"),
    ],
)
def test_arguments_are_checked_before_anything_is_fitted(given, message, monkeypatch):
    X, y, arm, _ = trial(1, 600)
    monkeypatch.setattr(UpliftEnsemble, "_outcomes", lambda *_: pytest.fail("fitted"))
    with pytest.raises(DataError, match=message):
        UpliftEnsemble(control=0, **given).fit(X, y, arm, KNOWN)


def test_no_rows_have_no_effects(fitted):
    model, X, _ = fitted
    assert [part.shape for part in (model.predict(X[:0]), *model.effect_with_se(X[:0]))] == [(0, 2)] * 3
    assert model.recommend(X[:0]).shape == (0,)


def test_the_stack_keeps_the_signs_that_are_asked_for():
    # The effect falls with the feature, and is asked to rise.
    rng = np.random.default_rng(0)
    X, arm = rng.normal(size=(1500, 2)), rng.integers(0, 2, 1500)
    y = (rng.random(1500) < 0.2 + 0.2 * arm * (X[:, 0] < 0)).astype(float)
    model = UpliftEnsemble(control=0, folds=2, monotone=[1, 0]).fit(X, y, arm, {0: 0.5, 1: 0.5})
    assert model.names_ == ("x_trees", "dr_trees")
    grid = np.column_stack([np.linspace(-2, 2, 50), np.zeros(50)])
    assert np.diff(model.predict(grid)).min() >= -1e-12


def test_groups_are_one_per_training_row(fitted):
    with pytest.raises(DataError, match=r"group has shape \(5,\); expected \(6000,\)"):
        fitted[0].group_effects(np.zeros(5))


# laws


def test_same_seed_same_model_and_treatments_share_what_they_are_made_of():
    X, y, arm, _ = trial(2, 900)
    made = {1: ("loan", "mail"), 2: ("loan", "sms")}
    first, second = (UpliftEnsemble(control=0, folds=2, parts=made).fit(X, y, arm, KNOWN) for _ in range(2))
    np.testing.assert_array_equal(first.effect(X), second.effect(X))
    apart = UpliftEnsemble(control=0, folds=2).fit(X, y, arm, KNOWN)
    assert np.abs(first.effect(X) - apart.effect(X)).max() > 0


@given(seed=st.integers(0, 1000))
def test_ranking_is_of_those_who_could_have_got_it(seed):
    rng = np.random.default_rng(seed)
    part, effects, weight = rng.normal(size=(40, 2)), rng.normal(size=(40, 2)), rng.random(40)
    could = rng.random((40, 2)) < 0.6
    could[:2] = True
    flat = gate.ranking(np.full((40, 2), 0.3), effects, possible=could, weight=weight)
    assert (flat.value, flat.lower, flat.upper) == (0, 0, 0)
    found = gate.ranking(part, effects, possible=could, weight=weight)
    other = np.where(could, part, 9.0), np.where(could, effects, -9.0)
    assert gate.ranking(*other, possible=could, weight=weight) == pytest.approx(found)
    alone = [
        gate.ranking(part[at, k : k + 1], effects[at, k : k + 1], weight=weight[at]).value
        for k, at in enumerate(could.T)
    ]
    assert found.value == pytest.approx(np.mean(alone))


@given(seed=st.integers(0, 1000))
def test_whole_weights_are_repeats(seed):
    rng = np.random.default_rng(seed)
    part, effects = rng.normal(size=(2, 30, 2))
    could, times = rng.random((30, 2)) < 0.7, rng.integers(0, 4, 30)
    could[:2], times[:2] = True, 1
    args, average = (part, effects), np.array([0.1, -0.2])
    weighed = ensemble.judge("x", *args, average, np.arange(30), could, times.astype(float))
    rows = [np.repeat(x, times, axis=0) for x in (*args, np.arange(30), could)]
    again = ensemble.judge("x", *rows[:2], average, *rows[2:])
    for name in ("gain", "rate"):
        assert weighed[name] == pytest.approx(again[name])
    # Rows without weight still count as units of the interval: it is as wide, but for its degrees of freedom.
    half = [(found["rate_upper"] - found["rate_lower"]) for found in (weighed, again)]
    assert half[0] == pytest.approx(half[1], rel=0.1)


def test_a_group_of_all_is_the_average_with_weights_too():
    X, y, arm, _ = trial(4, 900)
    weight = np.where(X[:, 0] > 0, 10.0, 1.0)
    model = UpliftEnsemble(LinearRegression(), control=0, folds=2, names=("dr_ridge",))
    model.fit(X, y, arm, KNOWN, sample_weight=weight)
    for one, other in zip(model.group_effects(np.zeros(900)).to_pylist(), model.average_.to_pylist()):
        assert one["effect"] == pytest.approx(other["effect"])
        assert one["se"] == pytest.approx(other["se"], rel=0.01)
    found = {row["candidate"]: row for row in model.candidates_.to_pylist()}
    assert (found["constant"]["rate"], found["constant"]["gain"]) == (0, 0)


def test_trees_of_the_prior_know_nothing_of_the_fold_that_judges_them():
    X, y, arm, _ = trial(0, 1500)
    customer = np.arange(len(y))
    judged = split(arm, y, customer, 3, 0) == 0
    other = np.where(judged, 1 - y, y)
    model = UpliftEnsemble(control=0, folds=3, names=("x_trees", "t_trees"))
    first, second = (
        model.fit(X, outcome, arm, KNOWN, groups=customer)._members[0](X[judged]) for outcome in (y, other)
    )
    np.testing.assert_array_equal(first, second)


def test_trees_of_chances_move_the_odds_and_signs_are_those_of_points():
    # The odds double for everyone: nothing is left to trees but to leave it so.
    rng = np.random.default_rng(0)
    offset = np.repeat([-3.0, 0.0, 2.0], 4000)
    y = (rng.random(12_000) < expit(offset + np.log(2))).astype(float)
    X, base = rng.normal(size=(12_000, 2)), candidates.base_effect(0, None)
    moved = Shifted(base, X, y, np.ones(12_000), offset)
    assert moved.shift == pytest.approx(np.log(2), abs=3 * 0.03)
    assert np.abs(moved(X) - moved.shift).max() < 0.2
    few = Shifted(base, X[:4], np.zeros(4), np.ones(4), offset[:4])
    assert -1 < few.shift < 0
    assert few.model is None
    trees = candidates.OddsTrees(((moved, moved, 0.5),))
    mu = expit(np.array([[-3.0, 0.0], [0.0, 0.0]]))
    move = np.repeat(moved(X[:1]), 2)
    np.testing.assert_allclose(trees(X[[0, 0]], mu)[:, 0], expit(np.array([-3, 0]) + move) - mu[:, 0])
    X, y, arm, _ = trial(0, 1500)
    for monotone, kind in ((None, candidates.OddsTrees), ([1, 0, 0, 0], candidates.XTrees)):
        model = UpliftEnsemble(control=0, folds=2, names=("x_trees",), monotone=monotone)
        assert type(model.fit(X, y, arm, KNOWN)._members[0].effects[0]) is kind


def test_recommendation_follows_the_gate_and_costs(fitted):
    model, X, effect = fitted
    assert model.gate_.rule == "personalise"
    chosen = model.recommend(X)
    got = np.select([chosen == 1, chosen == 2], [effect[:, 0], effect[:, 1]], 0.0)
    assert got.mean() > effect.mean(axis=0).max() + 0.01
    _, y, arm, _ = trial(0)
    dear = UpliftEnsemble(control=0, folds=3, names=("hierarchy",), value=1.0, cost={1: 9, 2: 9})
    dear.fit(X, y, arm, KNOWN)
    assert dear.gate_.rule == 0
    assert set(dear.recommend(X)) == {0}


def test_report_tables_hold_every_candidate_with_intervals(fitted):
    model, _, _ = fitted
    found = {row["candidate"]: row for row in model.candidates_.to_pylist()}
    assert set(found) == {"none", "constant", *model.names, "stack"}
    assert found["constant"]["gain"] == pytest.approx(0, abs=1e-12)
    assert found["stack"]["gain_lower"] > 0 > found["none"]["gain_upper"]
    assert found["stack"]["rate_lower"] > 0
    assert found["stack"]["gain"] > found["response"]["gain"]
    again = model.judged("stack", model.oof_)
    for name in ("gain", "gain_lower", "rate", "rate_upper"):
        assert again[name] == pytest.approx(found["stack"][name], rel=1e-9)
    lean = np.random.default_rng(0).normal(size=3)[model.fold_, None]
    assert model.judged("leaning", model.oof_ + lean)["rate"] == pytest.approx(again["rate"], rel=1e-9)
    unknown = model.judged("?", np.full_like(model.oof_, np.nan))
    assert (unknown["gain"], unknown["rate"]) == pytest.approx((0, 0), abs=1e-12)


def test_a_fold_has_no_part_in_the_averages_that_choose_for_it():
    X, y, arm, _ = trial(0, 600)
    p, fold = np.tile(list(KNOWN.values()), (600, 1)), np.arange(600) % 3
    data = Trial(X, y, arm, p, np.ones(600), fold, (0, 1, 2))
    effects, share = np.random.default_rng(0).normal(size=(600, 2)), np.full((600, 2), 1 / 600)
    found = ensemble.averages_without(effects, share, data)
    assert found[0] == pytest.approx(effects[fold != 0].mean(axis=0))
    again = ensemble.averages_without(np.where((fold == 1)[:, None], 9.0, effects), share, data)
    np.testing.assert_array_equal(again[fold == 1], found[fold == 1])
    assert (again[fold != 1] > found[fold != 1]).all()


# recovery


def test_effects_averages_and_errors_on_known_truth(fitted):
    model, X, effect = fitted
    average = model.average_.to_pandas()
    assert (np.abs(average.effect - effect.mean(axis=0)) < 3 * average.se).all()
    found, se = model.effect_with_se(X)
    assert np.sqrt(np.mean((found - effect) ** 2)) < 0.5 * effect[:, 0].std()
    assert 0.5 < np.sqrt(np.mean(((found - effect) / se) ** 2)) < 2


def test_group_intervals_cover_known_truth():
    covered = []
    for seed in range(6):
        X, y, arm, effect = trial(10 + seed, 3000)
        model = UpliftEnsemble(control=0, folds=3, names=("hierarchy",)).fit(X, y, arm, KNOWN)
        group = np.digitize(model.oof_[:, 0], np.quantile(model.oof_[:, 0], [0.2, 0.4, 0.6, 0.8]))
        rows = model.group_effects(group, 0.9).to_pylist()
        for row in rows:
            truth = effect[group == int(row["group"]), int(row["treatment"]) - 1].mean()
            covered.append(row["lower"] <= truth <= row["upper"])
    assert np.mean(covered) == pytest.approx(0.9, abs=3 * np.sqrt(0.09 / len(covered)))


def test_where_there_is_nothing_to_find_it_says_so():
    said = []
    for seed in range(6):
        X, y, arm, _ = trial(30 + seed, 1500, strength=0)
        model = UpliftEnsemble(control=0, folds=2, names=("hierarchy", "dr_ridge")).fit(X, y, arm, KNOWN)
        said.append(model.gate_.rule == 0)
    assert sum(said) >= 5


def test_where_contact_helps_half_and_hurts_half_as_much_choosing_is_recommended():
    # The best single rule is the one that looks good by chance: beating it is not asked, beating none is.
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        X, arm = rng.normal(size=(3000, 2)), rng.integers(0, 2, 3000)
        y = (rng.random(3000) < 0.3 + 0.07 * arm * np.sign(X[:, 0])).astype(float)
        model = UpliftEnsemble(control=0, folds=2, names=("hierarchy",))
        found.append(model.fit(X, y, arm, {0: 0.5, 1: 0.5}).gate_)
    chosen = [one for one in found if one.rule == "personalise"]
    by_single = [one for one in found if one.gain.lower > 0]
    assert len(chosen) >= 9 > len(by_single)
    assert all("Choosing by customer is worth" in one.reason for one in chosen)
    assert not any("nothing to find" in one.reason for one in chosen)


def test_the_gate_says_what_choosing_was_compared_with():
    rng = np.random.default_rng(0)
    arms, ones, noise = ("none", "mail", "call"), np.ones(400), 0.1 * rng.normal(size=(400, 2))
    half = np.tile([1.0, -1.0], 200)
    knows = np.column_stack([half, -np.ones(400)])

    def said(mail, call):
        return gate.decide(knows, np.column_stack([mail, call]) + noise, arms, ones)

    # The average is what a few large values make of it: 0.2, but for all that is known 0.
    lucky = said(half + np.where(np.arange(400) < 2, 40.0, 0.0), -ones)
    assert (lucky.rule, lucky.single) == ("personalise", "mail")
    assert lucky.choice.value == pytest.approx(0.6, abs=0.02)
    assert lucky.choice.value == pytest.approx(lucky.gain.value + lucky.single_gain.value)
    assert "more each than 'none' (95%: from" in lucky.reason
    assert "'mail' to everyone, the best that all could get, does not show to be: 0.19" in lucky.reason
    assert "The choice is better than that: 0.4" in lucky.reason
    none = said(half - 0.1, -ones)
    assert (none.rule, none.gain) == ("personalise", none.choice)
    assert "no treatment to everyone looks to be worth more" in none.reason
    # What shows to pay is not outdone by what only looks better: that mail, but not call, is sure.
    sure = said(0.5 * ones, np.where(np.arange(400) < 2, 150.0, 0.0))
    assert (sure.rule, sure.single) == ("mail", "mail")
    both = said(0.4 + half, 0.1 * ones)
    assert (both.rule, both.single) == ("personalise", "mail")
    assert "more each than 'mail' to everyone (95%: from" in both.reason
    assert "which itself is worth more than 'none' by 0.39" in both.reason


def one_is_best_for_all(rng, n=1000):
    # Of six treatments the first is worth .12 to everyone, the others .09; the models choose by noise. Most
    # of the scores' own is the control's, so that the best of six looks good by little more than chance.
    truth = np.array([0.12, 0.09, 0.09, 0.09, 0.09, 0.09])
    scores = truth + 1.4 * rng.normal(size=(n, 1)) + 0.4 * rng.normal(size=(n, 6))
    believed = truth + 0.05 * rng.normal(size=scores.shape)
    return gate.decide(believed, scores, ("none", *"abcdef"), np.ones(n))


def test_where_one_treatment_is_best_for_all_choosing_is_not_recommended_if_it_looks_worse():
    rng = np.random.default_rng(0)
    found = [one_is_best_for_all(rng) for _ in range(200)]
    assert all(one.gain.value > 0 for one in found if one.rule == "personalise")
    # The choice beats none, no single treatment shows to, and one of them looks better than the choice.
    untold = [one for one in found if one.choice.lower > 0 >= max(one.gain.value, one.single_gain.lower)]
    assert len(untold) >= 5
    assert {one.rule for one in untold} == {"none"}
    assert all("Which of the two is best cannot be told" in one.reason for one in untold)
    assert not any("nothing to find" in one.reason for one in untold)


def test_what_pays_for_all_stands_where_another_treatment_looks_better_than_choosing():
    half = np.tile([1.0, -1.0], 200)
    few = np.where(np.arange(400) < 2, 400.0, 0.0)  # two customers make it look worth 2
    scores = np.column_stack([0.4 + half, few])
    found = gate.decide(
        np.column_stack([half, -np.ones(400)]), scores, ("none", "mail", "call"), np.ones(400)
    )
    assert found.gain.lower > 0
    assert (found.rule, found.single) == ("mail", "mail")
    assert "does not look better than 'call' to everyone" in found.reason


def of_ten_that_do_nothing(rng, n=300):
    scores = rng.normal(size=(n, 1)) + 2 * rng.normal(size=(n, 10))  # the control's noise is in all
    believed = 0.1 * rng.normal(size=scores.shape)
    average, se = scores.mean(axis=0), scores.std(axis=0, ddof=1) / np.sqrt(n)
    signs = gate.shown([ensemble.judge("stack", believed, scores, average)], n)
    known = gate.Evidence(gate.ranking(believed, scores), signs, gate.raising(average, se), 10.0, float(n))
    return gate.decide(believed, scores, ("none", *"abcdefghij"), np.ones(n), known=known), scores


def test_of_ten_treatments_that_do_nothing_none_is_given_to_everyone_but_by_chance():
    rng, runs = np.random.default_rng(0), 300
    found, uncorrected = [], []
    for _ in range(runs):
        one, scores = of_ten_that_do_nothing(rng)
        found.append(one)
        best = scores[:, scores.mean(axis=0).argmax()]
        uncorrected.append(best.mean() - 1.97 * best.std() / np.sqrt(300) > 0)
    most = 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert np.mean([one.rule != "none" for one in found]) <= most
    assert np.mean(uncorrected) > most
    told = next(one.reason for one in found if one.rule in tuple("abcdefghij"))
    assert ", as the best of 10); that choosing by customer beats it does not show" in told
    # Of those for none, hardly any sees a sign where there is none: all others say that there is nothing.
    said = ["There is nothing to find" in one.reason for one in found if one.rule == "none"]
    assert np.mean(said) >= 0.925 - 3 * np.sqrt(0.925 * 0.075 / runs)


def test_money_outcomes():
    rng = np.random.default_rng(3)
    X, arm = rng.normal(size=(4000, 3)), rng.integers(0, 2, 4000)
    effect = 5 + 10 * X[:, 0]
    y = 100 + 20 * X[:, 1] + arm * effect + rng.normal(size=4000) * 20
    found = UpliftEnsemble(control=0, folds=3).fit(X, y, arm, {0: 0.5, 1: 0.5}).predict(X)
    assert np.sqrt(np.mean((found - effect) ** 2)) < 0.35 * effect.std()


def test_rows_of_the_same_customers_are_no_news_to_each_other():
    held, said = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        customer = np.repeat(np.arange(120), 10)
        own = rng.normal(size=(2, 120))[:, customer]
        arm = rng.integers(0, 2, 120)[customer]
        y = own[0] + rng.normal(size=1200)
        model = UpliftEnsemble(LinearRegression(), control=0, folds=2, names=("dr_ridge",))
        model.fit(own[1][:, None], y, arm, {0: 0.5, 1: 0.5}, groups=customer)
        average = model.average_.to_pylist()[0]
        held.append(average["lower"] <= 0 <= average["upper"])
        said.append(model.gate_.rule == 0)
    # Counted as rows, the interval holds 0 in about half of them.
    assert sum(held) >= 17
    assert sum(said) >= 17
