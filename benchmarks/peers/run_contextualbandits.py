"""Play contextualbandits' SoftmaxExplorer as a nightly bandit; run inside the peer's environment.

Reads the same file as `run_vw.py` from argv[1]; prints the mean regret as JSON. The oracle is scikit-learn's
logistic regression on features and all their quadratic terms, fitted to the whole history every night.
"""

import json
import sys
import warnings

import numpy as np
from contextualbandits.online import SoftmaxExplorer
from sklearn.linear_model import LogisticRegression


def play(X, y, night, first):
    """Mean regret over all nights, the model frozen within a night."""
    i, j = np.triu_indices(X.shape[1])
    full = np.hstack([X, X[:, i] * X[:, j]])
    full = full[:, full.std(axis=0) > 1e-9]
    k, n = int(y.max()) + 1, len(y)
    action = np.zeros(n, dtype=int)
    action[:night] = first
    oracle = LogisticRegression(solver="lbfgs", max_iter=200)
    for start in range(night, n, night):
        seen = slice(0, start)
        reward = (action[seen] == y[seen]).astype(float)
        model = SoftmaxExplorer(oracle, nchoices=k, random_state=1 + start, njobs=1)
        model.fit(X=full[seen], a=action[seen], r=reward)
        action[start : start + night] = model.predict(full[start : start + night])
    return float(1 - (action == y).mean())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    data = np.load(sys.argv[1])
    print(json.dumps(play(data["X"].astype(float), data["y"], int(data["night"]), data["first"])))
