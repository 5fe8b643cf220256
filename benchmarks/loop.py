"""The whole loop: how long it takes, and what it is worth against baselines and the oracle."""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.record import Row, row

ROOT = Path(__file__).parents[1]
CUSTOMERS, BATCHES, SEEDS = 20_000, 12, (1, 2, 3, 4, 5)


def demo_seconds() -> list[Row]:
    """Time `nba demo` in a fresh process and workspace, the environment being there."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        command = [str(Path(sys.executable).with_name("nba")), "demo", str(Path(folder) / "demo")]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - begun
    return [
        row("demo.seconds", seconds, "s", 300, "<=", n=CUSTOMERS, conditions=f"{BATCHES} batches, 2 cores")
    ]


def test_seconds() -> list[Row]:
    """Time `make test`, the environment being there."""
    begun = time.perf_counter()
    subprocess.run(["make", "test"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return [row("test.seconds", time.perf_counter() - begun, "s", 240, "<=", conditions="2 cores")]


def loop() -> list[Row]:
    """Play the loop on five worlds: true incremental value per customer of each arm, and the oracle's."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        found = list(pool.map(_world, SEEDS))
    policy, random, response, oracle_values = np.array(found).T
    more = {
        "n": CUSTOMERS,
        "seeds": len(SEEDS),
        "conditions": f"{BATCHES} weekly batches, first weeks included",
    }
    return [
        row("loop.beats_random_se", _standard_errors(policy - random), "se", 3, ">=", peer="random", **more),
        row(
            "loop.beats_response_se",
            _standard_errors(policy - response),
            "se",
            3,
            ">=",
            peer="response",
            **more,
        ),
        row(
            "loop.oracle_share",
            float((policy / oracle_values).mean()),
            "fraction",
            None,
            ">=",
            peer="oracle",
            **more,
        ),
        row("loop.policy_value", float(policy.mean()), "money/customer", None, ">=", **more),
        row("loop.random_value", float(random.mean()), "money/customer", None, ">=", **more),
        row("loop.response_value", float(response.mean()), "money/customer", None, ">=", **more),
        row("loop.oracle_value", float(oracle_values.mean()), "money/customer", None, ">=", **more),
    ]


def _world(seed: int) -> tuple[float, float, float, float]:
    # One world in a process of its own, so that two worlds use two cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    from pipelines import demo
    from pipelines.progress import silent

    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        workspace = Path(folder) / "world"
        demo.run_loop(workspace, CUSTOMERS, BATCHES, seed, progress=silent())
        true = demo.true_values(workspace)
        oracle = demo.oracle_value(workspace).value
    found = (true["policy"].value, true["random"].value, true["response"].value, oracle)
    print(
        f"seed {seed}: policy, random, response, oracle " + "  ".join(f"{x:.3f}" for x in found), flush=True
    )
    return found


def _standard_errors(differences: np.ndarray) -> float:
    return float(differences.mean() / (differences.std(ddof=1) / np.sqrt(len(differences))))


BENCHMARKS = {"demo": demo_seconds, "test": test_seconds, "loop": loop}
