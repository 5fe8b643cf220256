"""Half a year of weekly batches: the loop against the oracle, Vowpal Wabbit, and itself without learning.

All arms live in one world and share its limits in proportion: `policy` (learns every week from the pooled
log), `frozen` (the same until batch 4, then the model of that day for ever), `vw` (Vowpal Wabbit's contextual
bandit on the same features and log, its expected rewards through the same limits and exploration), `random`,
`response` (to whoever is likeliest to buy), `holdout`. Steps run as in the pipelines, without MLflow and
files of delivery. Values are the simulator's exact expectations.
"""

import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.record import Row, peer_python, row

CUSTOMERS = int(os.environ.get("NBA_LOOP_CUSTOMERS", "20000"))  # fewer on a machine without time; rows say so
BATCHES, LAST, FROZEN_AT = 26, 8, 4
CYCLES = 10  # batches: the oracle's cooldowns come round every five, of which the last 8 hold the best twice
SEEDS = tuple(range(1, 11))
SHARES = {"holdout": 0.05, "policy": 0.45, "random": 0.1, "response": 0.1, "frozen": 0.15, "vw": 0.15}
POLICIES = {
    "holdout": "none", "policy": "champion", "random": "random", "response": "response_greedy",
    "frozen": "alias:frozen", "vw": "alias:vw",
}  # fmt: skip
JUDGED = (18, 21, 24)  # batches on which the learnable ceiling is measured


def loop_long() -> list[Row]:
    """Play worlds while `NBA_LOOP_MINUTES` (35) last, at most ten; two at a time.

    Worlds played are kept in the folder `NBA_LOOP_KEEP`, where it is named: a run that was stopped goes on
    from there, if the code is the same. A world that would not end in time is not begun, and with two worlds
    played none is waited for beyond the time.
    """
    deadline = time.monotonic() + 60 * float(os.environ.get("NBA_LOOP_MINUTES", "35"))
    for library in ("OMP", "OPENBLAS"):  # before the workers load them
        os.environ[f"{library}_NUM_THREADS"] = "1"
    found = _kept()
    seeds = [seed for seed in SEEDS if seed not in {one["seed"] for one in found}]
    longest = max((one["seconds"] for one in found), default=0.0)
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1)
    running: dict[Future, float] = {}
    try:
        while seeds or running:
            while (
                seeds
                and len(running) < 2
                and (time.monotonic() + longest < deadline or not (found or running))
            ):
                running[pool.submit(world, seeds.pop(0))] = time.monotonic()
            for future in [future for future in running if future.done()]:
                longest = max(longest, time.monotonic() - running.pop(future))
                found.append(_keep(future.result()))
            if not running or (time.monotonic() > deadline and len(found) > 1):
                break
            time.sleep(0.5)
    finally:
        for process in list((pool._processes or {}).values()) if running else []:
            process.terminate()
        pool.shutdown(wait=not running, cancel_futures=True)
    return summary(sorted(found, key=lambda one: one["seed"]))


def _code() -> str:
    # What a kept world was played with: other code or another size makes other worlds.
    here = Path(__file__).parents[1]
    files = [Path(__file__), here / "benchmarks" / "peers" / "vw_loop.py", *sorted(here.glob("nba/**/*.py"))]
    text = b"".join(path.read_bytes() for path in files) + f"{CUSTOMERS}|{BATCHES}".encode()
    return hashlib.sha256(text).hexdigest()[:16]


def _keep(found: dict) -> dict:
    if folder := os.environ.get("NBA_LOOP_KEEP"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / f"world-{found['seed']}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**found, "code": _code()}), encoding="utf-8")
        part.replace(path)
    return found


def _kept() -> list[dict]:
    folder = os.environ.get("NBA_LOOP_KEEP")
    if not folder:
        return []
    worlds = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("world-*.json")]
    same = [one for one in worlds if one.get("code") == _code()]
    if len(same) < len(worlds):
        print(f"{len(worlds) - len(same)} kept worlds are of other code and are played again", flush=True)
    return same


def summary(found: list[dict]) -> list[Row]:
    """Make the rows of the worlds played."""
    more = {"n": CUSTOMERS, "seeds": len(found)}
    values = {arm: np.array([x["values"][arm] for x in found]) for arm in SHARES}
    oracle = np.array([x["oracle"] for x in found])
    late = {arm: v[:, -LAST:].mean(axis=1) for arm, v in values.items()}
    shares = late["policy"] / oracle[:, -LAST:].mean(axis=1)
    whole = values["policy"][:, -CYCLES:].mean(axis=1) / oracle[:, -CYCLES:].mean(axis=1)
    curve = values["policy"].mean(axis=0) / oracle.mean(axis=0)
    ceilings = np.array([x["ceiling"] for x in found])
    text = "policy as a share of the oracle by batch: " + " ".join(f"{x:.2f}" for x in curve)
    out = [
        row("loop.oracle_share_last8", float(shares.mean()), "fraction", 0.80, ">=", peer="oracle",
            conditions=f"{BATCHES} weekly batches; {text}", **more),
        row("loop.oracle_share_last8_se", _se(shares), "fraction", None, "<=", **more),
        row("loop.oracle_share_last10", float(whole.mean()), "fraction", None, ">=", peer="oracle",
            conditions="over two whole cycles of the oracle's cooldowns", **more),
        row("loop.learnable_share", float(ceilings[:, 0].mean()), "fraction", None, ">=", peer="oracle",
            conditions="a model of the noiseless truth on the same features, of the oracle in this state",
            **more),
        row("loop.belief_of_learnable", float((ceilings[:, 1] / ceilings[:, 0]).mean()), "fraction", None,
            ">=", peer="that model", conditions="the champion's belief, greedy, in the same state", **more),
        row("loop.policy_of_belief", float((ceilings[:, 2] / ceilings[:, 1]).mean()), "fraction", None, ">=",
            peer="greedy", conditions="the policy as it explores against its belief, greedy", **more),
    ]  # fmt: skip
    names = {"vw": "beats_vw_se", "frozen": "beats_frozen_uplift_se", "random": "beats_random_last8_se",
             "response": "beats_response_last8_se"}  # fmt: skip
    for arm, name in names.items():
        gap = late["policy"] - late[arm]
        se = _se(gap)
        text = f"last {LAST} batches, {gap.mean():+.4f} per customer and batch, paired by world"
        peer = {"vw": "vowpalwabbit 9.11.9", "frozen": "the model of batch 4"}.get(arm, arm)
        value = float(gap.mean() / se) if se > 0 else np.nan
        out.append(row(f"loop.{name}", value, "se", 3, ">=", peer=peer, conditions=text, **more))
    for arm in SHARES:
        by_share = late[arm] / oracle[:, -LAST:].mean(axis=1)
        out.append(row(f"loop.{arm}_share_last8", float(by_share.mean()), "fraction", None, ">=", **more))
    return out


def _se(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan


def world(seed: int) -> dict:
    """Play one world; true value per person of each arm and of the oracle by batch, and the ceiling."""
    with tempfile.TemporaryDirectory() as folder:
        found = _play(Path(folder) / "world", seed)
    late = {
        arm: float(np.mean(v[-LAST:]) / np.mean(found["oracle"][-LAST:]))
        for arm, v in found["values"].items()
    }
    text = "  ".join(f"{arm} {x:.3f}" for arm, x in late.items())
    ceiling = " ".join(f"{x:.3f}" for x in found["ceiling"])
    spent = " ".join(f"{part} {seconds:.0f}" for part, seconds in found["parts"].items())
    spent = f"CPU seconds: {spent}"
    print(f"seed {seed}, {found['seconds']:.0f} s, last {LAST} batches of the oracle: {text}; "
          f"learnable, belief, policy of the state's oracle: {ceiling}; {spent}", flush=True)  # fmt: skip
    return found


def _play(workspace: Path, seed: int) -> dict:
    from threadpoolctl import threadpool_limits

    from nba import settings
    from nba.features import table as features
    from nba.histories.simulated import World
    from nba.history import History
    from nba.models.scorer import Scorer
    from nba.serving import decide as serving
    from pipelines import feedback, ingest, train
    from pipelines.decide import _reachable, batch_name
    from pipelines.progress import silent

    begun = time.perf_counter()
    made = World.create(CUSTOMERS, seed, n_batches=BATCHES)
    made.write_workspace(workspace)
    _arms(workspace / settings.FILE)
    config = settings.read(workspace)
    catalog = settings.read_catalog(workspace, config)
    values: dict[str, list[float]] = {arm: [] for arm in SHARES}
    models: dict = {}
    vw = _Vw(catalog, workspace)
    ceiling = []
    clock = _Clock()
    with threadpool_limits(limits=1):
        for number in range(BATCHES):
            at = made.decided_at(number)
            clock("world")
            ingest.ingest(workspace, progress=silent())
            clock("ingest")
            feedback.feedback(workspace, at, progress=silent())
            history = History.read(workspace)
            clock("feedback")
            if history.has("outcomes"):
                rows = train.examples(history, at)
                models["champion"] = Scorer.fit(rows, catalog, config.models, config.workspace.seed)
                clock("fit")
                vw.learn(rows)
                clock("vw")
                models["alias:vw"] = vw
                if number <= FROZEN_AT:
                    models["alias:frozen"] = models["champion"]
            with history.as_of(at) as snapshot:
                seen = features.build(snapshot, _reachable(snapshot))
                clock("features")
                batch = serving.decide(snapshot, seen, catalog, config, models, batch_name(at))
            clock("decide")
            logged = {"decisions": batch.decisions, "choices": batch.choices, "features": batch.features}
            logged |= {"assignments": batch.assignments} if batch.assignments.num_rows else {}
            history.commit(append=logged, replace=dict(zip(("actions", "treatments"), catalog.to_tables())))
            true = made.true_value(batch.decisions)
            arm = np.array(batch.decisions["arm"].to_pylist())
            for name, share in SHARES.items():
                values[name].append(float(true[arm == name].sum()) / (share * CUSTOMERS))
            if number in JUDGED:
                ceiling.append((number, _judged(made, number, batch, catalog, config)))
            made.respond(batch.decisions, workspace)
    vw.close()
    limits = config.limits
    oracle = made.play_oracle(limits.capacity, limits.budget).by_batch
    return {
        "seed": seed, "values": values, "oracle": list(oracle), "ceiling": _ceiling([x for _, x in ceiling]),
        "seconds": time.perf_counter() - begun, "parts": clock.total,
    }  # fmt: skip


class _Clock:
    # CPU seconds by part of a batch.
    def __init__(self) -> None:
        self.total: dict[str, float] = {}
        self._last = time.process_time()

    def __call__(self, part: str) -> None:
        now = time.process_time()
        self.total[part] = self.total.get(part, 0.0) + now - self._last
        self._last = now


def _arms(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = text[: text.index("[[experiment.arms]]")]
    arms = "".join(
        f'[[experiment.arms]]\nname = "{arm}"\nshare = {share}\npolicy = "{POLICIES[arm]}"\n\n'
        for arm, share in SHARES.items()
    )
    path.write_text(head + arms, encoding="utf-8")


class _Vw:
    """Vowpal Wabbit behind the interface of a scorer: expected money by treatment."""

    model_id = "vw"

    def __init__(self, catalog, folder: Path) -> None:
        self._catalog, self._folder, self._seen = catalog, folder, set()
        self._scale: tuple | None = None
        python = peer_python("vw")
        if python is None:
            raise FileNotFoundError(".peers/vw is not there; `make peers` makes it")
        script = str(Path(__file__).parent / "peers" / "vw_loop.py")
        self._process = subprocess.Popen(
            [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        actions = [
            list(x) for x in zip(catalog.treatment_ids, catalog.action.tolist(), catalog.channel.tolist())
        ]
        self._ask({"actions": actions, "learning_rate": 0.05, "l2": 1e-7, "passes": 2})

    def learn(self, rows) -> None:
        """Learn the decisions that have closed since the last time, each twice."""
        from nba.models import inputs

        names = inputs.feature_names(rows)
        fresh = np.array([x not in self._seen for x in rows["decision_id"].to_pylist()])
        self._seen.update(rows["decision_id"].to_pylist())
        new = rows.filter(fresh)
        X = inputs.matrix(new, names)
        if self._scale is None:
            self._scale = names, *_scale(np.sign(X) * np.log1p(np.abs(X)))
        column = self._catalog.columns(new["treatment_id"].to_pylist())
        reward = np.clip(new["reward"].to_numpy() / 10, -10, 20)
        path = str(self._folder / "vw.npz")
        p = np.maximum(new["p_action"].to_numpy(), 0.01)
        np.savez(path, X=self._inputs(new), column=column, p=p, reward=reward)
        self._ask({"do": "learn", "path": path, "names": self._names})

    def scores(self, features, catalog):
        """Give expected money over no contact as an uplift of worth 1 before cost."""
        path, out = str(self._folder / "vw.npz"), str(self._folder / "vw.npy")
        np.savez(path, X=self._inputs(features))
        self._ask({"do": "predict", "path": path, "names": self._names, "out": out})
        money = 10 * np.load(out)
        gain = money - money[:, :1] + catalog.cost
        gain[:, 0] = 0.0
        n = len(gain)
        return SimpleNamespace(
            p_response=np.zeros_like(gain), uplift=gain, uplift_se=np.zeros_like(gain),
            margin_per_response=np.ones(n),
        )  # fmt: skip

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _inputs(self, table) -> np.ndarray:
        from nba.models import inputs

        names, center, spread = self._scale
        X = inputs.matrix(table, names)
        return np.clip(np.nan_to_num((np.sign(X) * np.log1p(np.abs(X)) - center) / spread), -4, 4)

    @property
    def _names(self) -> list[str]:
        return [re.sub(r"[^a-z0-9_]", "_", name) for name in self._scale[0]]

    def _ask(self, command: dict) -> None:
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("Vowpal Wabbit's process ended")


def _scale(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Fixed once, as online learning needs; what does not vary yet (answers to contacts) still may later.
    known = np.isfinite(logs)
    n = np.maximum(known.sum(axis=0), 1)
    center = np.where(known, logs, 0).sum(axis=0) / n
    spread = np.sqrt((np.where(known, logs - center, 0) ** 2).sum(axis=0) / n)
    return center, np.where(known.any(axis=0), np.maximum(spread, 0.1), 1.0)


def _judged(made, number: int, batch, catalog, config) -> dict:
    # The policy arm of a batch: features, truth in this state, belief, probabilities, eligibility.
    from nba.histories.simulated_oracle import limit_matrix
    from nba.histories.simulated_play import look, values

    n, k = batch.decisions.num_rows, len(catalog.treatment_ids)
    rows = np.array(batch.decisions["arm"].to_pylist()) == "policy"
    person = made._persons(batch.decisions)
    truth = values(made._truth, look(made._truth, made._state, number))[0][person]
    grid = {name: batch.choices[name].to_numpy(zero_copy_only=False).reshape(n, k)[rows]
            for name in ("mean", "p_action", "is_eligible")}  # fmt: skip
    names = [name for name in batch.features.column_names if name.startswith("f_")]
    X = np.column_stack([batch.features[name].cast("double").to_numpy() for name in names])[rows]
    use, available = limit_matrix(config.limits.capacity, config.limits.budget)
    return {"X": X, "truth": truth[rows], "person": person[rows], "use": use,
            "available": available * rows.mean(), **grid}  # fmt: skip


def _ceiling(judged: list[dict]) -> list[float]:
    # Learnable, belief and policy as shares of the oracle in the same state.
    import lightgbm as lgb

    from nba.histories.simulated_oracle import best_within

    X, truth, person = (np.concatenate([part[name] for part in judged]) for name in ("X", "truth", "person"))
    fold, predicted = person % 3, np.zeros_like(truth)
    params = {"objective": "regression", "num_leaves": 31, "min_data_in_leaf": 50, "feature_fraction": 0.5,
              "max_bin": 63, "num_threads": 1, "verbose": -1}  # fmt: skip
    for held in range(3):
        known, new = fold != held, fold == held
        for j in range(1, truth.shape[1]):
            booster = lgb.train(params, lgb.Dataset(X[known], truth[known, j]), 120)
            predicted[new, j] = booster.predict(X[new])
    totals, start = np.zeros(4), 0
    for part in judged:
        rows = slice(start, start := start + len(part["X"]))

        def worth(belief: np.ndarray, part: dict = part) -> float:
            value = np.where(part["is_eligible"], belief, -np.inf)
            value[:, 0] = 0.0
            chosen = best_within(value, part["use"], part["available"]).column
            return float(part["truth"][np.arange(len(value)), chosen].sum())

        played = float((part["p_action"] * part["truth"]).sum())
        totals += [worth(part["truth"]), worth(predicted[rows]), worth(part["mean"]), played]
    return (totals[1:] / totals[0]).tolist()


BENCHMARKS: dict[str, Callable[[], list[Row]]] = {"loop.long": loop_long}
