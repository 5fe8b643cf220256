"""Shared traversal: equal to LightGBM on the rows expanded, bit for bit."""

import os

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nba.models.traverse import Forest, expanded, raw


def model(rng, p, m, *, trees=4, n=300, values=None, **params):
    X = rng.normal(size=(n, p + m)) if values is None else values(rng, (n, p + m))
    X[:, p:] = rng.random((n, m)) < 0.4
    y = (np.nansum(X[:, : min(p, 3)], axis=1) + X[:, p:].sum(axis=1) + rng.normal(size=n) > 0.5).astype(float)
    base = {"objective": "binary", "num_leaves": 15, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    return lgb.train({**base, **params}, lgb.Dataset(X, y, params={"verbose": -1}), trees), X[:, :p]


def gappy(rng, shape):
    X = rng.normal(size=shape).round(1)
    X[rng.random(shape) < 0.2] = np.nan
    X[rng.random(shape) < 0.2] = 0.0
    return X


# by hand


def test_a_split_on_a_code_divides_the_treatments():
    rng = np.random.default_rng(0)
    booster, X = model(rng, 1, 2, trees=1)
    codes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = Forest.of(booster).scores(X, codes)
    assert found.shape == (300, 3)
    assert len(np.unique(found)) > 2
    np.testing.assert_array_equal(found, expanded(booster, X, codes))


def test_more_treatments_than_bits_are_scored_in_groups():
    rng = np.random.default_rng(1)
    booster, X = model(rng, 4, 3)
    codes = (rng.random((150, 3)) < 0.5).astype(float)
    np.testing.assert_array_equal(Forest.of(booster).scores(X, codes), expanded(booster, X, codes))
    np.testing.assert_array_equal(
        Forest.of(booster).scores(X, codes[:64], threads=2), expanded(booster, X, codes[:64])
    )


@pytest.mark.parametrize(
    ("params", "categorical"),
    [
        ({"linear_tree": True}, "auto"),
        ({"min_data_per_group": 5, "cat_smooth": 1.0}, [0]),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "auto"),
    ],
)
def test_what_it_cannot_walk_is_left_to_lightgbm(params, categorical):
    rng = np.random.default_rng(2)
    X = np.column_stack([rng.integers(0, 6, 400), rng.normal(size=400), rng.random(400) < 0.5]).astype(float)
    y = (3 * np.isin(X[:, 0], [1, 3]) + X[:, 1] + X[:, 2] > 1.5).astype(float)
    base = {"objective": "binary", "verbose": -1, "min_data_in_leaf": 5, "num_threads": 1}
    data = lgb.Dataset(X, y, categorical_feature=categorical, params={"verbose": -1})
    booster = lgb.train({**base, **params}, data, 3)
    forest = Forest.of(booster)
    assert forest is None
    codes = np.array([[0.0], [1.0]])
    full = np.column_stack([X[:, :2], np.ones(400)])
    np.testing.assert_array_equal(
        raw(booster, forest, X[:, :2], codes)[:, 1], booster.predict(full, raw_score=True)
    )


def test_trees_of_a_single_leaf():
    X, y = np.zeros((200, 3)), np.r_[np.zeros(100), np.ones(100)]
    booster = lgb.train({"objective": "binary", "verbose": -1}, lgb.Dataset(X, y), 2)
    codes = np.zeros((2, 1))
    np.testing.assert_array_equal(
        Forest.of(booster).scores(X[:, :2], codes), expanded(booster, X[:, :2], codes)
    )


# laws


@settings(max_examples=3_000 if "NBA_SLOW" in os.environ else 120)
@given(
    seed=st.integers(0, 10**6),
    p=st.integers(1, 8),
    m=st.integers(1, 6),
    leaves=st.integers(2, 40),
    missing=st.sampled_from(["none", "nan", "zero"]),
)
def test_every_score_is_lightgbms_bit_for_bit(seed, p, m, leaves, missing):
    rng = np.random.default_rng(seed)
    params = {"num_leaves": leaves, "use_missing": missing != "none", "zero_as_missing": missing == "zero"}
    booster, X = model(rng, p, m, trees=3, n=200, values=None if missing == "none" else gappy, **params)
    codes = rng.choice([0.0, 1.0, np.nan], (7, m), p=[0.5, 0.4, 0.1])
    X = np.vstack([X, gappy(rng, (50, p)), np.full((1, p), np.nan), np.zeros((1, p))])
    np.testing.assert_array_equal(Forest.of(booster).scores(X, codes), expanded(booster, X, codes))
