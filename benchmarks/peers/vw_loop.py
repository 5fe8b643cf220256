"""Vowpal Wabbit as a contextual bandit in the loop: reads JSON lines of commands, answers with one line each.

`learn`: rows of features, chosen column, probability and reward; each batch is learnt from `passes` times.
`predict`: rows of features; answers the expected reward of every column.
"""

import json
import sys

import numpy as np
from vowpalwabbit import Workspace


def main() -> None:
    setup = json.loads(sys.stdin.readline())
    actions = setup["actions"]
    vw = Workspace(
        "--cb_adf --cb_type mtr --interactions sa --interactions sc --interactions ac --ignore_linear s "
        f"--learning_rate {setup['learning_rate']} --power_t 0 --l2 {setup['l2']} --quiet"
    )
    lines = [f"|a {action} |c {channel} |t {name}" for name, action, channel in actions]
    print(json.dumps({"ok": True}), flush=True)
    for text in sys.stdin:
        command = json.loads(text)
        data = np.load(command["path"])
        shared = [_shared(row, command["names"]) for row in data["X"]]
        if command["do"] == "learn":
            columns, chance, reward = data["column"], data["p"], data["reward"]
            for _ in range(setup["passes"]):
                for i in np.random.default_rng(0).permutation(len(shared)):
                    rows = list(lines)
                    rows[columns[i]] = f"0:{-reward[i]:.6f}:{chance[i]:.6f} {lines[columns[i]]}"
                    vw.learn([shared[i], *rows])
        else:
            out = np.zeros((len(shared), len(lines)))
            for i, one in enumerate(shared):
                # With mtr the scores of actions are their expected costs.
                out[i] = -np.array(vw.predict([one, *lines]))
            np.save(command["out"], out)
        print(json.dumps({"ok": True}), flush=True)


def _shared(row, names) -> str:
    parts = " ".join(f"{name}:{value:.4g}" for name, value in zip(names, row) if value)
    return f"shared |s one:1 {parts}"


if __name__ == "__main__":
    main()
