import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr
from sklearn.linear_model import LinearRegression

from nba.errors import DataError
from nba.models import compare, leaking, overlap, trial
from nba.models.ensemble import UpliftEnsemble
from nba.models.learners import DRLearner, Fitted, RLearner, TLearner


def rows(n=400, seed=0):
    rng = np.random.default_rng(seed)
    X, arm = rng.normal(size=(n, 3)), rng.integers(0, 2, n)
    return X, (rng.random(n) < 0.3 + 0.2 * arm).astype(float), arm


# by hand


def test_scores_by_hand():
    data = trial.read(np.zeros((10, 1)), [1, 0] * 5, [0, 1] * 5, np.tile([0.8, 0.2], 5), control=0, folds=2)
    scores = data.scores(np.full((10, 2), 0.5))
    np.testing.assert_allclose(scores[:2], [[0.5 + 0.5 / 0.8, 0.5], [0.5, 0.5 - 0.5 / 0.2]])


def test_folds_share_arms_and_outcomes_and_keep_customers_together():
    _, y, arm = rows()
    fold = trial.split(arm, y, None, 5, 0)
    counts = [np.bincount(2 * arm[fold == k] + y[fold == k].astype(int), minlength=4) for k in range(5)]
    assert np.ptp(counts, axis=0).max() <= 1
    customer = np.repeat(np.arange(100), 4)
    grouped = trial.split(arm, y, customer, 5, 0)
    assert all(len(set(grouped[customer == c])) == 1 for c in range(100))


# bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"treatment": None}, "treatment is missing"),
        ({"p_action": None}, "p_action is missing"),
        ({"y": np.ones(400)}, "one class only, every outcome is 1"),
        ({"y": np.where(np.arange(400) == 3, np.nan, 0.0)}, "y: 1 of 400 values are missing"),
        ({"y": [None, *[0.0, 1.0] * 199, None]}, "y: 2 of 400 values are missing"),
        ({"treatment": np.zeros(400, int)}, "nobody got anything but 0"),
        ({"treatment": np.r_[2, np.tile([0, 1], 200)[1:]]}, "treatment 2: 1 rows; expected 5 or more"),
        ({"treatment": np.zeros(399, int)}, r"treatment has shape \(399,\); expected \(400,\)"),
        ({"p_action": np.zeros(400)}, "400 of 400 values are 0 or less"),
        ({"p_action": np.full(400, np.nan)}, "400 of 400 values are missing"),
        ({"p_action": np.full(400, 1.5)}, "400 of 400 values are above 1"),
        ({"p_action": np.full((400, 2), 0.4)}, "400 rows do not sum to 1"),
        ({"p_action": np.full((400, 3), 1 / 3)}, r"expected \(400,\) or \(400, 2\)"),
        ({"p_action": {0: 0.5}}, r"no probability of \[1\]"),
        ({"p_action": {0: 0.5, 1: 0.4, "z": 0.1}}, r"names \['z'\], which no row got; .* among \[0, 1\]"),
        ({"X": np.full((400, 3), np.inf)}, r"X: infinite values in columns \[0, 1, 2\]"),
        ({"p_action": np.full(400, 0.9)}, r"contradicts the arms: rows that got 1,(.|\n)* expected 100%"),
        ({"p_action": np.full(400, 0.1)}, r"contradicts the arms: rows that got 0,"),
        ({"p_action": np.tile([0.8, 0.2], (400, 1))}, r"contradicts the arms: rows that got 1,"),
        ({"treatment": np.r_[np.full(30, np.nan), np.zeros(370)]}, "treatment: 30 values are missing"),
        ({"treatment": [None, *["mail"] * 399]}, "treatment: 1 values are missing"),
        ({"sample_weight": np.r_[-1.0, np.ones(399)]}, "weight: 1 of 400 values are negative"),
        ({"sample_weight": np.r_[np.nan, np.ones(399)]}, "weight: 1 of 400 values are missing"),
        ({"sample_weight": np.zeros(400)}, "treatment 1: 0 rows; expected 5 or more"),
        ({"sample_weight": ["a", *[1.0] * 399]}, "weight holds 'a'; expected numbers"),
        ({"y": np.tile(["yes", "no"], 200)}, "y holds 'yes'; expected numbers"),
        ({"p_action": ["half"] * 400}, "p_action holds 'half'; expected numbers"),
        ({"p_action": {0: None, 1: 0.5}}, r"p_action: \d+ of 400 values are missing"),
        ({"groups": ["anna"] * 400}, "groups: 1 customers, all in one fold"),
        ({"groups": [None, *range(399)]}, "groups: 1 values are missing"),
        ({"groups": [np.nan, *["anna", "ben"] * 199, None]}, "groups: 2 values are missing"),
        (
            {"p_action": pd.DataFrame({0: [0.5] * 400, "z": 0.5})},
            r"no probability of \[1\](.|\n)*names \['z'\]",
        ),
    ],
)
def test_bad_input_is_one_clear_error(change, message):
    X, y, arm = rows()
    given = {"X": X, "y": y, "treatment": arm, "p_action": np.full(400, 0.5), **change}
    for model in (DRLearner(control=0), UpliftEnsemble(control=0)):
        with pytest.raises(ValueError, match=message):
            model.fit(**given)


@pytest.mark.parametrize("cls", [DRLearner, UpliftEnsemble])
def test_one_fold_is_too_few(cls):
    X, y, arm = rows()
    with pytest.raises(DataError, match="folds=1; expected a whole number, 2 or more"):
        cls(control=0, folds=1).fit(X, y, arm, {0: 0.5, 1: 0.5})
    with pytest.raises(DataError, match=r"folds=2\.5; expected a whole number"):
        cls(control=0, folds=2.5).fit(X, y, arm, {0: 0.5, 1: 0.5})


@pytest.mark.parametrize("cls", [DRLearner, RLearner])
def test_arms_that_some_could_not_have_got_are_not_guessed(cls):
    X, y, _ = rows(2000)
    p = np.where(X[:, :1] > 0.5, [0.0, 1.0], 0.5)
    arm = (np.random.default_rng(1).random(2000) < p[:, 1]).astype(int)
    n = int((X[:, 0] > 0.5).sum())
    with pytest.raises(DataError, match=f"{n} of 2000 rows have 0 or less for 0, which they did not get"):
        cls(control=0).fit(X, y, arm, p)
    both = X[:, 0] <= 0.5
    assert np.isfinite(cls(control=0).fit(X[both], y[both], arm[both], p[both]).effect(X)).all()


def blocked(seed=0, n=6000):
    # Half of the customers cannot get the mail and buy less; contact changes nothing.
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    can = X[:, 0] > 0
    p = np.column_stack([np.where(can, 0.5, 1.0), np.where(can, 0.5, 0.0)])
    arm = np.where(rng.random(n) < p[:, 1], "mail", "none")
    return X, (rng.random(n) < 0.1 + 0.2 * can).astype(float), arm, p, can


@pytest.mark.parametrize("is_whole", [True, False])
def test_the_stack_learns_from_rows_that_could_have_got_both(is_whole):
    X, y, arm, p, can = blocked(2)
    own = np.where(arm == "mail", p[:, 1], p[:, 0])
    model = UpliftEnsemble(folds=2).fit(X, y, arm, p if is_whole else own)
    (row,) = model.average_.to_pylist()
    assert row["lower"] < 0 < row["upper"]
    assert (row["n"], model.support_[0]) == ((arm == "mail").sum(), pytest.approx(can.mean()))
    assert model.gate_.rule == "none"
    np.testing.assert_array_equal(model.possible_[:, 0], can)
    with pytest.raises(DataError, match="leave out rows that could not get every arm"):
        TLearner().fit(X, y, arm, p if is_whole else own)
    alone = UpliftEnsemble(folds=2).fit(X[can], y[can], arm[can], p[can])
    (same,) = alone.average_.to_pylist()
    assert row["effect"] == pytest.approx(same["effect"], abs=0.5 * same["se"])
    assert row["se"] == pytest.approx(same["se"], rel=0.05)
    groups = model.group_effects(can).to_pylist()
    assert [found["group"] for found in groups] == ["True"]


def test_an_arm_that_nobody_could_and_could_not_have_got_is_named():
    X, y, arm, p, can = blocked()
    few = ~can | (np.cumsum(can) <= 8) | (arm == "mail")
    rare = np.where((arm == "mail")[:, None], p, [1.0, 0.0])
    with pytest.raises(DataError, match=r"'mail': \d+ rows with it and 0 with 'none' could have got either"):
        UpliftEnsemble().fit(X[few], y[few], arm[few], np.where(rare == 0.5, [0.02, 0.98], rare)[few])


def test_tiny_probabilities_warn_with_what_is_left_of_the_rows():
    X, y, arm = rows()
    p = np.full(400, 0.5)
    p[np.flatnonzero(arm == 1)[0]] = 1e-9
    said = (
        f"1 of 400 rows have less than 0.01 for 1 .down to 1e-09.; .* an effective 1 of its {arm.sum()} rows"
    )
    with pytest.warns(trial.RareWarning, match=said):
        trial.read(X, y, arm, p, control=0)
    with trial.quiet():
        trial.read(X, y, arm, p, control=0)


def test_infinite_values_are_named_by_column_when_scoring_too():
    X, y, arm = rows()
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = TLearner(LinearRegression(), control=0).fit(frame, y, arm, {0: 0.5, 1: 0.5})
    frame.loc[3, "b"] = -np.inf
    with pytest.raises(DataError, match=r"X: infinite values in columns \['b'\]"):
        model.effect(frame)
    with pytest.raises(DataError, match=r"X: infinite values in columns \['b'\]"):
        model.fit(frame, y, arm, {0: 0.5, 1: 0.5})


def test_rows_without_weight_count_for_nothing():
    X, y, arm = rows()
    weight = np.repeat([1.0, 0.0], 200)
    found = TLearner(LinearRegression(), control=0).fit(X, y, arm, {0: 0.5, 1: 0.5}, sample_weight=weight)
    first = X[:200], y[:200], arm[:200]
    alone = TLearner(LinearRegression(), control=0).fit(*first, {0: 0.5, 1: 0.5})
    np.testing.assert_allclose(found.effect(X), alone.effect(X))


def test_all_faults_are_named_at_once():
    X, _, arm = rows()
    X[0, 1] = np.inf
    with pytest.raises(
        DataError, match=r"one class only(.|\n)*infinite values in columns \[1\](.|\n)*0 or less"
    ):
        trial.read(X, np.zeros(400), arm, np.zeros(400), control=0)


def test_ten_rows_say_how_many_are_needed():
    X, y, arm = rows(10)
    arm[:] = [0] * 7 + [1] * 3
    y[:] = [0, 1] * 5
    with pytest.raises(DataError, match="treatment 1: 3 rows; expected 5 or more"):
        UpliftEnsemble(control=0).fit(X, y, arm, {0: 0.5, 1: 0.5})
    enough = UpliftEnsemble(control=0, folds=2).fit(X, y, [0, 1] * 5, {0: 0.5, 1: 0.5})
    assert np.isfinite(enough.effect(X)).all()
    assert enough.gate_.rule in (0, 1)


def test_useless_columns_do_no_harm():
    X, y, arm = rows()
    p = {0: 0.5, 1: 0.5}
    more = np.column_stack([X, np.full(400, 7.0), np.full(400, np.nan)])
    model = UpliftEnsemble(control=0, folds=2).fit(more, y, arm, p)
    assert np.isfinite(model.effect_with_se(more)).all()


def test_without_a_column_that_varies_everyone_has_the_average():
    _, y, arm = rows(200)
    for empty in (np.zeros((200, 2)), np.full((200, 1), np.nan)):
        model = UpliftEnsemble(control=0, folds=2).fit(empty, y, arm, {0: 0.5, 1: 0.5})
        assert np.isfinite(model.effect_with_se(empty)).all()
        np.testing.assert_allclose(model.predict(empty), model.average_["effect"][0].as_py(), atol=1e-9)
    kept = Fitted(LinearRegression(), np.empty((4, 0)), np.arange(4.0), np.ones(4))
    assert kept(np.empty((2, 0))).tolist() == [1.5, 1.5]


def test_columns_of_probabilities_count_by_their_names():
    rng = np.random.default_rng(0)
    p = pd.DataFrame({"sms": 0.2, "none": np.where(rng.random(900) < 0.5, 0.3, 0.5)})
    p["mail"] = 1 - p["none"] - p["sms"]
    names = np.array(["none", "mail", "sms"])
    arm = names[(rng.random((900, 1)) > p[names].to_numpy().cumsum(axis=1)).sum(axis=1)]
    X, y = np.zeros((900, 1)), np.arange(900) % 7 == 0
    found = trial.read(X, y, arm, p)
    np.testing.assert_array_equal(found.p, trial.read(X, y, arm, p[names].to_numpy()).p)
    np.testing.assert_array_equal(found.p, trial.read(X, y, arm, pd.DataFrame(p[names].to_numpy())).p)


def test_two_thousand_columns():
    _, y, arm = rows(120)
    wide = np.random.default_rng(0).normal(size=(120, 2000))
    model = UpliftEnsemble(control=0, folds=2, names=("x_trees", "dr_ridge"))
    assert np.isfinite(model.fit(wide, y, arm, {0: 0.5, 1: 0.5}).effect(wide)).all()


def test_responses_that_are_coded_1_and_2_are_warned_of():
    X, y, arm = rows()
    with pytest.warns(trial.CodingWarning, match="y is 1 or 2: taken for money"):
        trial.read(X, y + 1, arm, np.full(400, 0.5), control=0)
    trial.read(X, 30 * y, arm, np.full(400, 0.5), control=0)  # money that some spend


def test_a_feature_that_tells_the_outcome_is_named():
    X, y, arm = rows()
    X[:, 2] = y + 1e-3 * X[:, 2]
    with pytest.warns(trial.LeakWarning, match="feature 2 tells the outcome"):
        trial.read(X, y, arm, np.full(400, 0.5), control=0)
    assert leaking.leaks(X[:, :2], y) == []
    money = np.exp(10 * X[:, 0])
    assert leaking.leaks(X, money) == [0]


def test_a_feature_that_tells_far_more_than_all_others_is_a_suspicion():
    rng = np.random.default_rng(0)
    X, arm = rng.normal(size=(6000, 3)), rng.integers(0, 2, 6000)
    y = (rng.random(6000) < 0.3 + 0.1 * arm).astype(float)
    X[:, 1] = y + 0.35 * rng.normal(size=6000)
    ((j, area, rest),) = leaking.suspected(X, y)
    assert (j, area) == (1, pytest.approx(ndtr(1 / (0.35 * 2**0.5)), abs=0.01))
    assert 0.5 <= rest < 0.55
    assert leaking.leaks(X, y) == []
    said = compare.checks(("f_a", "f_b", "f_c"), X, y, np.full(6000, 0.5), arm)
    assert said[0].startswith("Feature 'f_b' tells the outcome suspiciously well (AUC 0.98, all others 0.5")
    assert compare.caveat(said).startswith("Only if 'f_b' is known before the decision:")
    assert leaking.suspected(X, 30 * y) == []  # money
    X[:, 2] = y + 0.57 * rng.normal(size=6000)  # where another tells nearly as much, habits may
    assert leaking.suspected(X, y) == []
    said = compare.checks(("f_a", "f_b", "f_c"), X, y, np.full(6000, 0.5), arm)
    assert compare.caveat(said) == ""


def test_more_rows_show_a_smaller_difference_between_arms():
    rng = np.random.default_rng(0)
    arm = rng.integers(0, 2, 40_000)
    X = (rng.normal(size=40_000) + 0.18 * arm)[:, None]
    p = np.full((40_000, 2), 0.5)
    assert leaking.uneven(X, arm, p) == [0]
    assert leaking.uneven(X, arm, p, most=5000) == []


def leaky(kind, n=3000, seed=0):
    rng = np.random.default_rng(seed)
    X, arm = rng.normal(size=(n, 3)), rng.integers(0, 2, n)
    y = (rng.random(n) < 0.1 + 0.05 * arm).astype(float)
    leak = {
        "only the treated open": arm * (rng.random(n) < 0.2 + 0.6 * y),
        "the treatment": arm.astype(float),
        "known of the treated": np.where(arm == 1, rng.normal(size=n), np.nan),
        "known of who responds": np.where(y == 1, rng.normal(size=n), np.nan),
        "the outcome of the treated": np.where(arm == 1, y, 0.0),
        "nothing": rng.normal(size=n),
        "who was asked before": np.where(rng.random(n) < 0.3, rng.normal(size=n), np.nan),
    }
    return np.column_stack([X, leak[kind]]), y, arm


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("only the treated open", "feature 3 differs between arms more than p_action allows"),
        ("the treatment", "feature 3 differs between arms more than p_action allows"),
        ("known of the treated", "feature 3 differs between arms more than p_action allows"),
        ("known of who responds", "feature 3 tells the outcome"),
        ("the outcome of the treated", "feature 3 tells the outcome"),
    ],
)
def test_what_was_known_only_after_the_treatment_is_named(kind, message):
    X, y, arm = leaky(kind)
    with pytest.warns(trial.LeakWarning, match=message) as said:
        trial.read(X, y, arm, np.full(len(y), 0.5), control=0)
    assert len(said) == 1
    assert leaking.leaks(X, 50 * y, arm) == leaking.leaks(X, y, arm)


def test_of_three_arms_the_own_probability_is_enough_to_name_what_was_known_after():
    rng = np.random.default_rng(0)
    X, arm = rng.normal(size=(3000, 2)), rng.integers(0, 3, 3000)
    y = (rng.random(3000) < 0.2).astype(float)
    X[:, 1] = (arm > 0) & (rng.random(3000) < np.where(y > 0, 0.7, 0.25))  # only the treated can open
    with pytest.warns(trial.LeakWarning, match="feature 1 differs") as said:
        trial.read(X, y, arm, np.full(3000, 1 / 3), control=0, has_gaps=True)
    assert len(said) == 1
    # Who is not free to get an arm differs from who is: nothing can be said of features then.
    p = np.where(np.arange(3)[None] == arm[:, None], 0.5, np.nan)
    (told,) = compare._uneven(("a", "b"), X, arm, p, np.arange(3000))
    assert told.startswith("Whether features differ between arms could not be checked")


@pytest.mark.parametrize("kind", ["nothing", "who was asked before"])
def test_what_was_known_before_is_not_named(kind):
    for seed in range(20):
        X, y, arm = leaky(kind, 600, seed)
        assert leaking.leaks(X, y, arm) == []
        assert leaking.uneven(X, arm, np.full((600, 2), 0.5)) == []
        p1 = np.where(X[:, 0] > 0, 0.9, 0.05)
        chosen = (np.random.default_rng(seed).random(600) < p1).astype(int)
        p = np.column_stack([1 - p1, p1])
        assert leaking.uneven(X, chosen, p) == []
        assert 0 in leaking.uneven(X, chosen, np.full((600, 2), 0.5))


def test_columns_in_another_order_or_missing_at_scoring():
    X, y, arm = rows()
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = DRLearner(control=0, folds=2).fit(frame, y, arm, {0: 0.5, 1: 0.5})
    with pytest.raises(ValueError, match="same order"):
        model.predict(frame[["c", "b", "a"]])
    with pytest.raises(ValueError, match="missing"):
        model.predict(frame[["a", "b"]])


# observational data


def test_estimated_probabilities_undo_confounding_and_warn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6000, 2))
    p1 = 1 / (1 + np.exp(-X[:, 0]))
    arm = (rng.random(6000) < p1).astype(int)
    y = 2 * X[:, 0] + arm + rng.normal(size=6000)
    with pytest.warns(overlap.ObservationalWarning, match="estimated, not known"):
        found = overlap.estimate(X, arm, control=0)
    assert np.sqrt(np.mean((found.p[:, 1] - p1) ** 2)) < 0.06
    assert found.is_comparable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        average = UpliftEnsemble(control=0, folds=3).fit(X, y, arm, found.p).average_["effect"][0].as_py()
    assert average == pytest.approx(1, abs=0.15)
    assert y[arm == 1].mean() - y[arm == 0].mean() > 2


def test_no_overlap_is_said_plainly():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 1))
    arm = (X[:, 0] + 0.1 * rng.normal(size=3000) > 0.8).astype(int)
    with pytest.warns(overlap.ObservationalWarning, match="is a guess"):
        found = overlap.estimate(X, arm, control=0)
    assert not found.is_comparable
    assert found.table["auc"][1].as_py() > 0.99
    with pytest.raises(DataError, match="expected 5 or more"):
        overlap.estimate(X, np.r_[np.ones(2, int), np.zeros(2998, int)], control=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.r_[np.inf, np.zeros(399)][:, None]}, r"X: infinite values in columns \[0\]"),
        ({"X": pd.DataFrame({"town": ["x"] * 400})}, "town holds (object|str); expected numbers"),
        ({"treatment": np.zeros(399, int)}, r"treatment has shape \(399,\); expected \(400,\)"),
        ({"treatment": np.r_[np.nan, np.tile([0.0, 1.0], 200)[1:]]}, "treatment: 1 values are missing"),
        ({"groups": np.zeros(3)}, r"groups has shape \(3,\)"),
        ({"groups": np.r_[np.nan, np.arange(399)]}, "groups: 1 values are missing"),
    ],
)
def test_what_overlap_cannot_be_told_from_is_one_clear_error(change, message):
    X, _, arm = rows()
    with pytest.raises(DataError, match=message):
        overlap.estimate(**{"X": X, "treatment": arm, "control": 0, **change})


def test_overlap_tells_the_least_chance_as_estimated_and_minds_no_empty_column(monkeypatch):
    rng = np.random.default_rng(0)
    X, arm = np.column_stack([rng.normal(size=100), np.full(100, np.nan)]), np.tile([0, 1], 50)
    chance = np.r_[0.002, np.full(99, 0.5)]
    monkeypatch.setattr(
        overlap, "_fit", lambda *_: lambda new: np.column_stack([chance[new], 1 - chance[new]])
    )
    with pytest.warns(overlap.ObservationalWarning) as said:
        found = overlap.estimate(X, arm, control=0, groups=np.arange(100) // 2, folds=2)
    assert len(said) == 1
    assert found.table["p_min"].to_pylist() == pytest.approx([0.002, 0.5])
    assert found.p.min() == pytest.approx(0.01, rel=0.02)
