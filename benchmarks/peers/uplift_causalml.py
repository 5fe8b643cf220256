"""causalml's side of the uplift benchmarks; runs in its own environment, never in the project's.

`make peers` makes it from `causalml.txt`. Arguments: methods (comma-separated), an .npz with X, y, arm, p,
new, p_new, and where to write; answers with one array of effects (n, T) per method and its CPU seconds.
"""

import sys
import time
import warnings

import numpy as np
from causalml.inference.meta import BaseTClassifier, BaseXClassifier, BaseXRegressor
from causalml.inference.tree import UpliftRandomForestClassifier
from lightgbm import LGBMClassifier, LGBMRegressor

warnings.filterwarnings("ignore")
BASE = {
    "n_estimators": 100, "learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 200, "n_jobs": 1,
    "verbose": -1,
}  # fmt: skip


SMALL = {**BASE, "n_estimators": 60, "num_leaves": 4}


def x_learner(X, y, arm, p, new, p_new, base=BASE):
    def against_control(p):
        return {k: p[:, k] / (p[:, k] + p[:, 0]) for k in range(1, p.shape[1])}

    if set(np.unique(y)) <= {0.0, 1.0}:
        model = BaseXClassifier(LGBMClassifier(**base), LGBMRegressor(**base), control_name=0)
    else:
        model = BaseXRegressor(LGBMRegressor(**base), control_name=0)
    model.fit(X, arm, y, against_control(p))
    return model.predict(new, p=against_control(p_new))


def small_x_learner(*parts):
    return x_learner(*parts, base=SMALL)


def t_learner(X, y, arm, p, new, p_new):  # noqa: ARG001
    model = BaseTClassifier(LGBMClassifier(**BASE), control_name=0)
    model.fit(X, arm, y)
    return model.predict(new)


def uplift_forest(X, y, arm, p, new, p_new):  # noqa: ARG001
    model = UpliftRandomForestClassifier(
        control_name="control", n_estimators=50, max_depth=8, min_samples_leaf=200, min_samples_treatment=50,
        n_jobs=1, random_state=0,
    )  # fmt: skip
    names = np.array(["control", *(f"t{k}" for k in range(1, arm.max() + 1))])
    model.fit(X, names[arm], y.astype(int))
    return model.predict(new)


METHODS = {"T": t_learner, "X": x_learner, "XSmall": small_x_learner, "UpliftRF": uplift_forest}


def main(names: str, source: str, target: str) -> None:
    with np.load(source) as data:
        parts = [data[name] for name in ("X", "y", "arm", "p", "new", "p_new")]
    out = {}
    for name in names.split(","):
        begun = time.process_time()
        out[name] = np.asarray(METHODS[name](*parts)).reshape(len(parts[4]), -1)
        out[f"cpu {name}"] = time.process_time() - begun
    np.savez(target, **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
