"""Uplift and response models, on public data and on worlds with known effects, against peers.

Peers run in their own environments, which `make peers` makes (econml 0.17.0, causalml 0.18.0); every model
sees the same rows. Peers' base learner is LightGBM with 100 trees, learning rate 0.05, 15 leaves and
200 rows per leaf: what was found to serve them best, not their defaults.
"""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from benchmarks.record import peer_python

DATA = Path(os.environ.get("NBA_DATA", Path(__file__).parents[2] / "shared" / "data"))
PEER_SEEDS = int(os.environ.get("NBA_PEER_SEEDS", "10"))
BASE: dict[str, Any] = {
    "n_estimators": 100, "learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 200, "n_jobs": 1,
    "verbosity": -1,
}  # fmt: skip
PEERS = {"econml": ("CausalForestDML", "LinearDR"), "causalml": ("X", "UpliftRF")}


@dataclass(frozen=True)
class World:
    """A randomised trial with known effects.

    Attributes:
        X: Features, (n, 20).
        y: 0 or 1.
        arm: 0 to 3.
        p: Assignment probabilities, (n, 4).
        chance: Chance of a response under each arm, (n, 4).
    """

    X: np.ndarray
    y: np.ndarray
    arm: np.ndarray
    p: np.ndarray
    chance: np.ndarray

    @property
    def effect(self) -> np.ndarray:
        return self.chance[:, 1:] - self.chance[:, :1]

    def part(self, rows: Any) -> "World":
        return World(self.X[rows], self.y[rows], self.arm[rows], self.p[rows], self.chance[rows])


def world(seed: int, n: int, strength: float = 1.0) -> World:
    """Make a trial: 20 features of which 15 say nothing, three treatments, effects of a few points.

    Effects are saturating, stepped, in an interaction and V-shaped, on the log-odds of a response of about
    20%; assignment probabilities differ by customer with a useless feature, and are known.
    """
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 20))
    X[:, 3] = rng.random(n) < 0.4
    X[:, 4] = rng.poisson(2, n)
    X[:, 10:13] = rng.random((n, 3)) < 0.5
    a, b, c, d, e = X[:, :5].T
    few = np.minimum(e, 4)
    base = -1.9 + 0.5 * a - 0.3 * b + 0.25 * np.sin(2 * c) + 0.3 * d + 0.15 * few
    first = 0.25 + 0.25 * np.tanh(a) - 0.2 * d
    second = 0.10 + 0.35 * (b > 0.5) - 0.25 * (c > 1)
    third = 0.15 + 0.2 * np.tanh(b) * d + 0.08 * few - 0.15 * np.abs(a)
    odds = base[:, None] + strength * np.column_stack([np.zeros(n), first, second, third])
    lean = 0.3 * np.tanh(X[:, 5])
    p = np.column_stack([np.full(n, 1.2), 1 + lean, np.ones(n), 1 - lean])
    p /= p.sum(axis=1, keepdims=True)
    chance = expit(odds)
    arm = (rng.random(n)[:, None] > np.cumsum(p, axis=1)).sum(axis=1)
    y = (rng.random(n) < chance[np.arange(n), arm]).astype(float)
    return World(X, y, arm, p, chance)


def ask_peers(train: World, new: World, peers: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Give effects (n, T) and CPU seconds by method; peers that are not there are left out."""
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, X=train.X, y=train.y, arm=train.arm, p=train.p, new=new.X, p_new=new.p)
        for peer, names in peers.items():
            python = peer_python(peer)
            if python is None:
                continue
            script = Path(__file__).parent / "peers" / f"uplift_{peer}.py"
            command = [python, str(script), ",".join(names), str(source), str(target)]
            subprocess.run(
                command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True
            )
            with np.load(target) as found:
                out |= {f"{peer}.{name}" if " " not in name else name: found[name] for name in found.files}
    return out


BENCHMARKS: dict[str, Any] = {}
