"""Regret of nightly batches on classification sets as bandits, against Vowpal Wabbit and contextualbandits.

Twenty batches, the model frozen within each; the first batch is drawn evenly and is the same for everybody.
One configuration of ours on all sets; Vowpal Wabbit gets its best of three, chosen per set with hindsight.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.record import Row, peer, row
from nba import draws
from nba.models import reward
from nba.policy.explore import Estimate, Softmax

SETS = ("letter", "pendigits", "nursery", "waveform5000")
NIGHTS, SEEDS = 20, (1, 2, 3, 4, 5)
CB_SEEDS = (1,)  # it takes minutes per set
TEMPERATURE = 0.05
HERE = Path(__file__).parent
_VW = "--cb_explore_adf --squarecb -q sa --cb_type mtr "
VW_OPTIONS = tuple(
    _VW + more for more in ("--gamma_scale 100", "--gamma_scale 1000", "--gamma_scale 1000 -l 2")
)


def regret() -> list[Row]:
    """Play every set with every seed; mean regret over all nights.

    Where `NBA_RESUME` names a folder, what was played stays there, and several processes share the work.
    """
    folder = _folder()
    if folder is None:
        print("NBA_DATA names no folder with bandit/*.npz: the rows are unknown")
        return _rows({})
    with tempfile.TemporaryDirectory() as scratch:
        kept = Path(os.environ.get("NBA_RESUME", scratch))
        kept.mkdir(parents=True, exist_ok=True)
        tasks = [(name, seed) for seed in SEEDS for name in SETS]
        for name, seed in tasks:
            _once(kept, folder, name, seed)
        while any(not (kept / f"{name}-{seed}.json").is_file() for name, seed in tasks):
            time.sleep(5)  # another process has claimed it
        found = {task: json.loads((kept / f"{task[0]}-{task[1]}.json").read_text()) for task in tasks}
    return _rows(found)


def _once(kept: Path, folder: Path, name: str, seed: int) -> None:
    # Processes that share a folder share the work; what is there already is not played again.
    try:
        (kept / f"{name}-{seed}.claimed").touch(exist_ok=False)
    except FileExistsError:
        return
    found = _played((name, seed, str(folder)))
    path = kept / f"{name}-{seed}.json"
    path.with_suffix(".part").write_text(json.dumps(found))
    path.with_suffix(".part").rename(path)


def case(folder: Path, name: str, seed: int) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """Give features, classes, the size of a night and the first night's actions, in the seed's order."""
    data = np.load(folder / f"{name}.npz", allow_pickle=True)
    X, y = data["X"].astype(float), data["y"]
    night = min(500, len(y) // NIGHTS)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))[: NIGHTS * night]
    return X[order], y[order], night, rng.integers(0, int(y.max()) + 1, night)


def play(X: np.ndarray, y: np.ndarray, night: int, first: np.ndarray, seed: int) -> np.ndarray:
    """Play this platform's belief and policy; regret by night."""
    k, n = int(y.max()) + 1, len(y)
    policy, belief = Softmax(TEMPERATURE, 0.0), None
    action = np.zeros(n, dtype=np.int64)
    action[:night] = first
    for start in range(night, n, night):
        rows = slice(start, start + night)
        gain = (action[:start] == y[:start]).astype(float)
        belief = reward.fit(reward.Log(X[:start], action[:start], gain, k), seed, before=belief)
        mean, se = belief.predict(X[rows])
        p = policy.probabilities(Estimate(mean, se), np.ones(mean.shape, dtype=bool))
        ids = [str(i) for i in range(start, start + night)]
        action[rows] = draws.pick(p, draws.uniform(ids, f"regret|{seed}"))
    return 1 - (action == y).reshape(-1, night).mean(axis=1)


def _played(task: tuple[str, int, str]) -> dict[str, float]:
    name, seed, folder = task
    X, y, night, first = case(Path(folder), name, seed)
    begun = time.process_time()
    with threadpool_limits(1):
        ours = play(X, y, night, first, seed)
    out = {"ours": float(ours.mean()), "later": float(ours[1:].mean())}
    out["cpu"] = time.process_time() - begun
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "case.npz"
        np.savez(path, X=X, y=y, night=night, first=first)
        vw = peer("vw", "run_vw.py", str(path), json.dumps(VW_OPTIONS))
        out |= {f"vw{i}": value for i, value in enumerate(vw if isinstance(vw, list) else [])}
        if seed in CB_SEEDS:
            softmax = peer("contextualbandits", "run_contextualbandits.py", str(path))
            out["cb"] = float(softmax) if isinstance(softmax, float) else float("nan")
    shown = "  ".join(f"{key} {value:.4f}" for key, value in out.items())
    print(f"{name} seed {seed}: {shown}", flush=True)
    return out


def _folder() -> Path | None:
    named = os.environ.get("NBA_DATA")
    folder = Path(named) / "bandit" if named else None
    return folder if folder is not None and (folder / "letter.npz").is_file() else None


def _rows(found: dict[tuple[str, int], dict[str, float]]) -> list[Row]:
    def mean(name: str, key: str) -> float:
        seeds = CB_SEEDS if key == "cb" else SEEDS
        values = [one.get(key, float("nan")) for (own, s), one in found.items() if own == name and s in seeds]
        return float(np.mean(values)) if values else float("nan")

    options = range(len(VW_OPTIONS))
    ours = {name: mean(name, "ours") for name in SETS}
    vw = {name: min((mean(name, f"vw{i}") for i in options), default=float("nan")) for name in SETS}
    cb = {name: mean(name, "cb") for name in SETS}
    ratio = np.array([ours[name] / vw[name] for name in SETS])
    alike = {
        name: np.mean([found.get((name, s), {}).get("ours", float("nan")) for s in CB_SEEDS]) for name in SETS
    }
    other = np.array([alike[name] / cb[name] for name in SETS])
    text = (
        f"{NIGHTS} nights, one configuration: stacked learners, softmax {TEMPERATURE:g}, no floor;"
        " nba.models.reward, which no pipeline uses"
    )
    more = {"n": len(SETS), "seeds": len(SEEDS), "conditions": text}
    vw_name = "vowpalwabbit 9.11.9 squarecb, quadratics, 4 passes, best of 3 per set"
    cb_name = "contextualbandits 0.3.30 SoftmaxExplorer, quadratics"
    rows = [
        row("regret.geomean_vs_vw", np.exp(np.log(ratio).mean()), "ratio", 0.80, "<=", peer=vw_name, **more),
        row("regret.worst_vs_vw", ratio.max(), "ratio", 1.0, "<=", peer=vw_name, **more),
        row(
            "regret.geomean_vs_cb",
            np.exp(np.log(other).mean()),
            "ratio",
            1.0,
            "<=",
            peer=cb_name,
            n=len(SETS),
            seeds=len(CB_SEEDS),
            conditions=text,
        ),
    ]
    for name in SETS:
        own = {"n": 1, "seeds": len(SEEDS), "conditions": "mean regret over all nights"}
        rows += [
            row(f"regret.{name}", ours[name], "regret", None, "<=", **own),
            row(f"regret.{name}_later", mean(name, "later"), "regret", None, "<=", **own),
            row(f"regret.{name}_vw", vw[name], "regret", None, "<=", peer=vw_name, **own),
            row(
                f"regret.{name}_cb",
                cb[name],
                "regret",
                None,
                "<=",
                peer=cb_name,
                **(own | {"seeds": len(CB_SEEDS)}),
            ),
        ]
    return rows


BENCHMARKS = {"regret": regret}
