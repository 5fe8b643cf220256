"""Time contextualbandits' LinUCB choosing for many customers; run inside the peer's environment.

Reads `X`, and `action` and `reward` of its first rows, from the file of argv[1]; prints customers per CPU
second of one core, best of three, as JSON.
"""

import json
import sys
import time

import numpy as np
from contextualbandits.online import LinUCB

if __name__ == "__main__":
    data = np.load(sys.argv[1])
    X, action, reward = data["X"], data["action"], data["reward"]
    model = LinUCB(nchoices=int(data["k"]), njobs=1)
    model.fit(X=X[: len(action)], a=action, r=reward)
    model.predict(X[:100])
    times = []
    for _ in range(3):
        begun = time.process_time()
        chosen = model.predict(X)
        times.append(time.process_time() - begun)
    assert len(chosen) == len(X)
    print(json.dumps(len(X) / min(times)))
