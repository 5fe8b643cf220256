import numpy as np
import pytest
from scipy.special import expit

from nba.errors import DataError
from nba.models import reward, reward_linear

FAST = (
    reward.Learner("linear", "linear", 3.0),
    reward.Learner("products", "products", 4.0),
    reward.Learner("smooth", "smooth", 2.0),
)


def logged(n: int, kind: str, seed: int = 0) -> tuple[reward.Log, np.ndarray]:
    rng = np.random.default_rng(seed)
    X, column = rng.normal(size=(n, 5)), rng.integers(0, 3, n)
    every = _truth(X, kind)
    y = (rng.random(n) < every[np.arange(n), column]).astype(float)
    return reward.Log(X, column, y, 3), every


def _truth(X: np.ndarray, kind: str) -> np.ndarray:
    if kind == "linear":
        return expit(X @ np.array([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [0, 0, 0], [0, 0, 0]]) - 1)
    return expit(np.column_stack([3 * X[:, 0] * X[:, 1], -3 * X[:, 0] * X[:, 1], 0 * X[:, 0]]))


# by hand


def test_weights_go_to_who_was_right():
    y = np.array([1.0, 0.0] * 200)
    odds = np.column_stack([np.where(y == 1, 2.0, -2.0), np.zeros(400), np.where(y == 1, -2.0, 2.0)])
    weight = reward.stack(odds, y)
    assert weight[0] > 1
    assert weight[2] == 0


def test_weights_stay_until_the_log_has_grown_by_a_sixth():
    log, _ = logged(700, "linear")
    first = reward.fit(log.part(slice(0, 600)), 0, FAST)
    assert reward.fit(log.part(slice(0, 699)), 0, FAST, first).chosen_at == 600
    assert reward.fit(log, 0, FAST, first).chosen_at == 700


def test_logs_that_cannot_be_learnt_from_are_refused():
    log, _ = logged(50, "linear")
    with pytest.raises(DataError, match="no decision with a reward"):
        reward.fit(log.part(slice(0, 0)), 0)
    with pytest.raises(DataError, match="rewards run from 0 to 3; expected 0 to 1"):
        reward.fit(log._replace(y=np.append(log.y[:-1], 3.0) * np.append(np.ones(49), 1)), 0)


def test_missing_features_count_as_the_mean():
    log, _ = logged(300, "linear")
    log.X[::7, 1] = np.nan
    mean, se = reward.fit(log, 0, FAST).predict(log.X)
    assert np.isfinite(mean).all()
    assert np.isfinite(se).all()


def test_a_treatment_never_tried_is_believed_widely():
    log, _ = logged(900, "linear")
    log = log._replace(column=np.where(log.column == 2, 0, log.column))
    _, se = reward.fit(log, 0, FAST[:1]).predict(log.X)
    assert se[:, 2].mean() > 3 * se[:, :2].mean()


# recovery


@pytest.mark.parametrize(("kind", "best"), [("linear", "linear"), ("products", "products")])
def test_capacity_follows_the_data(kind, best):
    log, every = logged(3000, kind)
    found = reward.fit(log, 0, FAST)
    names = [learner.name for learner in FAST]
    assert names[int(found.weight.argmax())] == best
    mean, se = found.predict(log.X)
    assert np.sqrt(((mean - every) ** 2).mean()) < 0.06
    assert found.loss[-1] <= found.loss[:-1].min() + 0.01
    inside = np.abs(mean - every) <= 2 * se
    assert inside.mean() > 0.7


def test_trees_see_steps():
    rng = np.random.default_rng(0)
    X, column = rng.normal(size=(3000, 4)), rng.integers(0, 2, 3000)
    every = np.column_stack([0.1 + 0.8 * (X[:, 0] > 0.5), 0.1 + 0.8 * (X[:, 1] > 0.5)])
    y = (rng.random(3000) < every[np.arange(3000), column]).astype(float)
    for learner in reward.LEARNERS[-2:]:
        mean, _ = learner.fit(reward.Log(X, column, y, 2), 0).predict(X)
        assert np.sqrt(((mean - every) ** 2).mean()) < 0.16


# reference


def test_the_linear_learner_is_penalised_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    log, _ = logged(800, "linear")
    own = log.column == 1
    found = reward_linear.fit(log.X[own], np.zeros(own.sum(), int), log.y[own], 1, "products", 1.0, 0)
    F = found.inputs(log.X[own])
    peer = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(F[:, 1:], log.y[own])
    ours, _ = found.predict(log.X[own])
    np.testing.assert_allclose(ours[:, 0], peer.predict_proba(F[:, 1:])[:, 1], atol=0.02)
