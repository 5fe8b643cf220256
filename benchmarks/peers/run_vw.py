"""Play Vowpal Wabbit as a nightly bandit on a classification set; run inside the peer's environment.

Reads `X`, `y`, `night` (size of a night) and `first` (actions of the first night) from the file of argv[1],
and a list of option strings as JSON from argv[2]; prints the mean regret of each as JSON. Features come with
all their quadratic terms, and each night's examples are learnt four times.
"""

import json
import sys

import numpy as np
import vowpalwabbit as vw


def lines(X):
    """Write each row as VW's shared line, features and quadratic terms."""
    i, j = np.triu_indices(X.shape[1])
    full = np.hstack([X, X[:, i] * X[:, j]])
    return ["shared |s " + " ".join(f"{c}:{v:.5g}" for c, v in enumerate(row) if v) for row in full]


def play(shared, y, night, first, options, passes=4):
    """Mean regret over all nights, the model frozen within a night."""
    k, n = int(y.max()) + 1, len(y)
    rng = np.random.default_rng(1)
    model = vw.Workspace(options, quiet=True)
    arms = [f"|a {a}" for a in range(k)]
    got = 0.0
    for start in range(0, n, night):
        rows = range(start, min(start + night, n))
        examples = []
        for row in rows:
            if start == 0:
                action, p = int(first[row]), 1 / k
            else:
                found = np.clip(np.array(model.predict([shared[row], *arms])), 0, None)
                found /= found.sum()
                action = int(rng.choice(k, p=found))
                p = float(found[action])
            reward = float(action == y[row])
            got += reward
            lined = [shared[row], *arms]
            lined[action + 1] = f"0:{-reward:g}:{p:.6f} |a {action}"
            examples.append(lined)
        for _ in range(passes):
            for lined in examples:
                model.learn(lined)
    model.finish()
    return 1 - got / n


if __name__ == "__main__":
    data = np.load(sys.argv[1])
    shared = lines(data["X"].astype(float))
    night, first = int(data["night"]), data["first"]
    played = [play(shared, data["y"], night, first, options) for options in json.loads(sys.argv[2])]
    print(json.dumps(played))
