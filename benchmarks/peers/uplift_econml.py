"""econml's side of the uplift benchmarks; runs in its own environment, never in the project's.

`make peers` makes it from `econml.txt`. Arguments: methods (comma-separated), an .npz with X, y, arm, new,
and where to write; answers with one array of effects (n, T) per method and the CPU seconds of each.
"""

import sys
import time
import warnings

import numpy as np
from econml.dml import CausalForestDML
from econml.dr import LinearDRLearner
from lightgbm import LGBMClassifier, LGBMRegressor

warnings.filterwarnings("ignore")
BASE = {
    "n_estimators": 100, "learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 200, "n_jobs": 1,
    "verbose": -1,
}  # fmt: skip


def forest(X, y, arm, new):
    model = CausalForestDML(
        model_y=LGBMRegressor(**BASE), model_t=LGBMClassifier(**BASE), discrete_treatment=True,
        n_estimators=100, min_samples_leaf=300, cv=3, n_jobs=1, random_state=0,
    )  # fmt: skip
    model.fit(y, arm, X=X)
    return model.const_marginal_effect(new)


def linear_dr(X, y, arm, new):
    model = LinearDRLearner(
        model_regression=LGBMRegressor(**BASE), model_propensity=LGBMClassifier(**BASE), cv=3, random_state=0
    )
    model.fit(y, arm, X=X)
    return model.const_marginal_effect(new)


METHODS = {"CausalForestDML": forest, "LinearDR": linear_dr}


def main(names: str, source: str, target: str) -> None:
    with np.load(source) as data:
        X, y, arm, new = (data[name] for name in ("X", "y", "arm", "new"))
    out = {}
    for name in names.split(","):
        begun = time.process_time()
        out[name] = METHODS[name](X, y, arm, new).reshape(len(new), -1)
        out[f"cpu {name}"] = time.process_time() - begun
    np.savez(target, **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
