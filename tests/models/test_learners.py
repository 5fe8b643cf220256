import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.utils.estimator_checks import check_estimator

from nba.errors import DataError
from nba.models.ensemble import UpliftEnsemble
from nba.models.learners import DRLearner, RLearner, SLearner, TLearner, XLearner

REFERENCE = Path(__file__).parents[1] / "reference" / "uplift_effects.py"
spec = importlib.util.spec_from_file_location("uplift_effects", REFERENCE)
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
FROZEN = json.loads(REFERENCE.with_suffix(".json").read_text())
LEARNERS = (SLearner, TLearner, XLearner, RLearner, DRLearner)


def linear(cls, **more):
    final = {} if cls in (SLearner, TLearner) else {"final": LinearRegression()}
    return cls(LinearRegression(), control=0, **final, **more)


def trial(seed, n=4000, noise=0.5):
    # Money; assignment leans on a feature, with known probabilities.
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    lean = 0.1 * np.tanh(X[:, 0])
    p = np.column_stack([np.full(n, 0.4), 0.3 + lean, 0.3 - lean])
    arm = (rng.random(n)[:, None] > np.cumsum(p, axis=1)).sum(axis=1)
    effect = np.column_stack([np.zeros(n), 1 + X[:, 0], 0.5 - X[:, 1]])
    y = X @ [1.0, 2.0, 0.0] + effect[np.arange(n), arm] + rng.normal(size=n) * noise
    return X, y, arm, p, effect[:, 1:]


# by hand


@pytest.mark.parametrize("cls", LEARNERS)
def test_without_noise_a_linear_effect_is_found_exactly(cls):
    X, y, arm, p, effect = trial(0, 400, noise=0)
    model = linear(cls).fit(X, y, arm, p)
    assert model.treatments_ == (1, 2)
    np.testing.assert_allclose(model.effect(X), effect, atol=1e-8)
    np.testing.assert_array_equal(model.predict(X), model.effect(X))


def test_one_treatment_gives_a_vector_and_several_ways_to_say_the_probabilities_agree():
    X, y, arm, _, _ = trial(1, 600)
    keep = arm < 2
    X, y, arm = X[keep], y[keep], arm[keep]
    ways = ({0: 0.5, 1: 0.5}, np.full(len(y), 0.5), np.full((len(y), 2), 0.5))
    first, *others = (linear(DRLearner).fit(X, y, arm, way).predict(X) for way in ways)
    assert first.shape == (len(y),)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_columns_that_are_not_numbers_are_all_named_in_one_error():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=100), "known": pd.array([1, None] * 50, dtype="Int64")})
    frame["objects"] = frame["x"].astype(object)
    wrong = frame.assign(
        segment=pd.Categorical(["new", "old"] * 50), day=pd.Timestamp("2026-01-01"), text="a"
    )
    y, arm, p = rng.normal(size=100), np.arange(100) // 2 % 2, {0: 0.5, 1: 0.5}
    named = r"segment holds category; .*\n.*day holds datetime64.*\n.*text holds str"
    for model in (TLearner(control=0), UpliftEnsemble(control=0, names=("dr_ridge",), folds=2)):
        with pytest.raises(DataError, match=named):
            model.fit(wrong, y, arm, p)
        fitted = model.fit(frame, y, arm, p)
        assert np.isfinite(fitted.effect(frame)).all()
        with pytest.raises(DataError, match="x holds str; expected numbers"):
            fitted.effect(frame.assign(x="a"))


def test_r_learner_needs_all_probabilities_and_says_so():
    X, y, arm, p, _ = trial(1, 600)
    with pytest.raises(DataError, match="needs the probabilities of all arms"):
        RLearner(control=0).fit(X, y, arm, p[np.arange(600), arm])


def test_joint_learner_shares_channels_and_answers_for_unseen_combinations():
    rng = np.random.default_rng(0)
    n = 8000
    parts = {"none": None, "a_mail": ("a", "mail"), "a_sms": ("a", "sms"), "b_mail": ("b", "mail")}
    names = np.array(list(parts))
    X, arm = rng.normal(size=(n, 1)), rng.integers(0, 4, n)
    worth = {"none": 0.0, "a_mail": 1.0, "a_sms": 3.0, "b_mail": 2.0}
    y = X[:, 0] + np.array([worth[name] for name in names])[arm] + rng.normal(size=n) * 0.1
    given_parts = {name: part for name, part in parts.items() if part}
    model = DRLearner(LinearRegression(), Ridge(0.1), parts=given_parts)
    model.fit(X, y, names[arm], dict.fromkeys(names.tolist(), 0.25))
    np.testing.assert_allclose(model.effect(X[:5]), [[1, 3, 2]] * 5, atol=0.05)
    # b differs from a by 1 and sms from mail by 2, so b by sms is worth 1 + 1 + 2
    np.testing.assert_allclose(model.effect_of(X[:5], ("b", "sms")), 4, atol=0.05)
    with pytest.raises(DataError, match="does not say what"):
        DRLearner(parts={"a_mail": ("a", "mail")}).fit(X, y, names[arm], dict.fromkeys(names.tolist(), 0.25))


def test_monotone_effects_only_rise():
    X, y, arm, p, _ = trial(2, 3000, noise=2)
    for cls in (XLearner, RLearner, DRLearner):
        model = cls(monotone=[1, -1, 0], control=0).fit(X, y, arm, p)
        line = np.tile(np.linspace(-2, 2, 50)[:, None], (1, 3)) * [1, 0, 0]
        found = model.effect(line)
        assert (np.diff(found, axis=0) >= -1e-12).all()
        assert found[-1, 0] > found[0, 0]
        with pytest.raises(DataError, match="expected 3 numbers"):
            cls(monotone=[1], control=0).fit(X, y, arm, p)
        with pytest.raises(DataError, match="default final"):
            cls(final=Ridge(), monotone=[1, 0, 0], control=0).fit(X, y, arm, p)


def test_classifiers_serve_binary_outcomes():
    X, _, arm, p, _ = trial(3, 8000)
    effect = 0.3 * np.tanh(X[:, 0])
    y = (np.random.default_rng(0).random(len(X)) < 0.4 + effect * (arm == 1)).astype(float)
    for cls in LEARNERS:
        found = cls(LogisticRegression(), control=0).fit(X, y, arm, p).effect(X)
        assert np.corrcoef(found[:, 0], effect)[0, 1] > 0.8
        assert np.abs(found).max() < 1
        with pytest.raises(DataError, match="LogisticRegression, a classifier, but y is no response"):
            cls(LogisticRegression(), control=0).fit(X, 20.0 * y, arm, p)


# laws


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 100), shift=st.floats(-100, 100))
def test_effects_have_the_unit_of_the_outcome_and_ignore_its_level(seed, scale, shift):
    X, y, arm, p, _ = trial(seed, 300)
    for cls in LEARNERS:
        before, after = (linear(cls).fit(X, v, arm, p).effect(X) for v in (y, scale * y + shift))
        np.testing.assert_allclose(after, scale * before, rtol=1e-6, atol=1e-7 * scale * 100)


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 1000))
def test_names_of_treatments_do_not_matter(seed):
    X, y, arm, p, _ = trial(seed, 300)
    named = np.array(["none", "call", "mail"])[arm]
    for cls in LEARNERS:
        more = {} if cls in (SLearner, TLearner) else {"final": LinearRegression()}
        found = cls(LinearRegression(), **more).fit(X, y, named, p).effect(X)
        np.testing.assert_allclose(found, linear(cls).fit(X, y, arm, p).effect(X), atol=1e-8)


def assigned(cls):
    """Give every row an arm, so that scikit-learn's checks, which know no treatments, run the whole fit."""

    class Assigned(cls):
        def fit(self, X, y):
            arm = np.arange(len(y)) // 5 % 2 if hasattr(y, "__len__") else None
            return super().fit(X, y, arm, {0: 0.5, 1: 0.5})

    Assigned.__name__ = Assigned.__qualname__ = f"Assigned{cls.__name__}"
    globals()[Assigned.__name__] = Assigned  # where pickle looks for it
    return Assigned


@pytest.mark.parametrize("cls", [*LEARNERS, UpliftEnsemble])
def test_scikit_learns_own_checks(cls):
    with_defaults = assigned(cls)(control=0, folds=2)
    if cls is UpliftEnsemble:
        with_defaults.set_params(names=("hierarchy", "x_trees"))
    results = check_estimator(with_defaults, on_skip=None, on_fail=None)
    failed = {r["check_name"]: str(r["exception"])[:200] for r in results if r["status"] == "failed"}
    assert failed == {}
    assert len(results) > 30


# recovery


@pytest.mark.parametrize("cls", LEARNERS)
def test_average_effects_within_three_standard_errors(cls):
    X, y, arm, p, effect = trial(5, 6000)
    found = cls(control=0).fit(X, y, arm, p).effect(X)
    se = np.sqrt(1 / 2400 + 1 / 1800) * 1.2  # of a difference of means whose residual sd is about 1.2
    assert (np.abs(found.mean(axis=0) - effect.mean(axis=0)) < 3 * se).all()
    assert np.sqrt(np.mean((found - effect) ** 2)) < 0.6 * effect.std()


def test_known_probabilities_undo_what_the_wrong_outcome_model_misses():
    # Assignment leans on the feature that moves the outcome; the outcome model sees nothing.
    rng = np.random.default_rng(0)
    n = 20_000
    X = rng.normal(size=(n, 1))
    p1 = 0.5 + 0.4 * np.tanh(2 * X[:, 0])
    arm = (rng.random(n) < p1).astype(int)
    y = 3 * X[:, 0] + arm + rng.normal(size=n)
    blind = Ridge(1e12)
    right = DRLearner(blind, LinearRegression(), control=0).fit(X, y, arm, np.column_stack([1 - p1, p1]))
    wrong = TLearner(blind, control=0).fit(X, y, arm, np.column_stack([1 - p1, p1]))
    assert right.predict(X).mean() == pytest.approx(1, abs=0.3)
    assert wrong.predict(X).mean() > 2.5


# reference


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(("peer", "cls"), [("econml", DRLearner), ("causalml", XLearner)])
def test_the_peers_find_the_same_effects(peer, cls, number):
    # The same method with the same regressions; folds differ, which is worth a part of the standard error.
    X, y, arm = reference.case(number)
    found = linear(cls).fit(X, y, arm, {0: 0.5, 1: 0.5}).predict(reference.POINTS)
    se = 2 * [1, 1, 3][number] / np.sqrt(len(y))
    np.testing.assert_allclose(found, FROZEN[peer][number], atol=0.5 * se)
