"""Time Vowpal Wabbit choosing from a text file of its own format; run inside the peer's environment.

Reads `X`, and `action` and `reward` of its first rows, from the file of argv[1]. A squarecb model over
features by actions learns from these; then all rows are predicted from a file, through VW's own parser.
Prints customers per CPU second of one core, best of three, as JSON; writing the files is not counted.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import vowpalwabbit as vw

OPTIONS = "--cb_explore_adf --squarecb -q sa --cb_type mtr --quiet"


def write(path, X, k, action=(), reward=()):
    """Write shared features and one line per action, the first rows with what they brought."""
    with path.open("w") as out:
        for i, row in enumerate(X):
            lines = [f"|a {a}" for a in range(k)]
            if i < len(action):
                lines[action[i]] = f"0:{-reward[i]:g}:{1 / k:.6f} {lines[action[i]]}"
            shared = " ".join(f"{c}:{v:.5g}" for c, v in enumerate(row))
            out.write("\n".join([f"shared |s {shared}", *lines]) + "\n\n")


def main(data, folder):
    """Learn, then predict three times."""
    X, k, action, reward = data["X"], int(data["k"]), data["action"], data["reward"]
    write(folder / "train", X[: len(action)], k, action, reward)
    write(folder / "test", X, k)
    vw.Workspace(f"{OPTIONS} -d {folder / 'train'} -f {folder / 'model'}").finish()
    times = []
    for number in range(3):
        told = folder / f"told{number}"
        begun = time.process_time()
        vw.Workspace(f"--quiet -t -i {folder / 'model'} -d {folder / 'test'} -p {told}").finish()
        times.append(time.process_time() - begun)
        with told.open() as file:
            assert sum(1 for line in file if line.strip()) == len(X)
    return len(X) / min(times)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(main(np.load(sys.argv[1]), Path(scratch))))
