"""Frozen effects of econml 0.17.0 and causalml 0.18.0 on three small trials (tests/models/test_learners.py).

Run with the Python of each environment that `make peers` makes, from this folder:
    .peers/econml/bin/python uplift_effects.py; .peers/causalml/bin/python uplift_effects.py
"""

import json
from pathlib import Path

import numpy as np

TARGET = Path(__file__).with_suffix(".json")
POINTS = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])


def case(number: int, n: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make a randomised trial with money outcomes: constant, linear and noisy linear effects."""
    rng = np.random.default_rng(number)
    X = rng.normal(size=(n, 2))
    arm = rng.integers(0, 2, n)
    effect = [np.full(n, 1.0), 1 + X[:, 0], 0.5 - X[:, 1]][number]
    return X, X @ [1.0, -1.0] + arm * effect + rng.normal(size=n) * [1, 1, 3][number], arm


def econml() -> list[list[float]]:
    """LinearDRLearner with linear nuisances: effects at five points."""
    from econml.dr import LinearDRLearner
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LinearRegression

    rows = []
    for number in range(3):
        X, y, arm = case(number)
        model = LinearDRLearner(
            model_regression=LinearRegression(), model_propensity=DummyClassifier(), cv=5, random_state=0
        )
        model.fit(y, arm, X=X)
        rows.append(model.effect(POINTS).tolist())
    return rows


def causalml() -> list[list[float]]:
    """X-learner with linear models: effects at five points."""
    from causalml.inference.meta import BaseXRegressor
    from sklearn.linear_model import LinearRegression

    rows = []
    for number in range(3):
        X, y, arm = case(number)
        model = BaseXRegressor(LinearRegression(), control_name=0)
        model.fit(X, arm, y, p=np.full(len(y), 0.5))
        rows.append(np.ravel(model.predict(POINTS, p=np.full(len(POINTS), 0.5))).tolist())
    return rows


if __name__ == "__main__":
    found = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    for name, run in (("econml", econml), ("causalml", causalml)):
        try:
            found[name] = run()
        except ImportError:
            continue
    TARGET.write_text(json.dumps(found, indent=1) + "\n")
