"""Uplift and response models, on public data and on worlds with known effects, against peers.

Peers run in their own environments, which `make peers` makes (econml 0.17.0, causalml 0.18.0); every model
sees the same rows. Peers' base learner is LightGBM with 100 trees, learning rate 0.05, 15 leaves and
200 rows per leaf: what was found to serve them best, not their defaults; causalml's `XSmall` has 60 of 4
leaves.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.special import expit
from sklearn.model_selection import StratifiedKFold

from benchmarks.record import Row, peer_python, row
from nba import metrics, targeting
from nba.catalog import Action, Catalog, Treatment
from nba.models import balance
from nba.models.ensemble import UpliftEnsemble
from nba.models.inputs import Coding
from nba.models.report import deciles, effects
from nba.models.scorer import Scorer
from nba.settings import Models

DATA = Path(os.environ.get("NBA_DATA", Path(__file__).parents[2] / "shared" / "data"))
CACHE = Path(os.environ.get("NBA_BENCH_CACHE", tempfile.gettempdir())) / "nba-peers"
PEER_SEEDS = int(os.environ.get("NBA_PEER_SEEDS", "10"))
SERVED_WORLDS = int(os.environ.get("NBA_SERVED_WORLDS", "20"))
SERVED_N, SERVED_ROWS = 12_000, (1, 4, 12)
SERVED = Catalog(
    (Action("offer", "sales", "all", "Offer", margin=10.0),),
    tuple(Treatment(f"offer_{channel}", "offer", channel, 0.1) for channel in ("email", "sms", "push")),
)
BASE: dict[str, Any] = {
    "n_estimators": 100, "learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 200, "n_jobs": 1,
    "verbosity": -1,
}  # fmt: skip
VERSIONS = {"econml": "econml 0.17.0", "causalml": "causalml 0.18.0"}
PEERS = {"econml": ("CausalForestDML", "LinearDR"), "causalml": ("X", "XSmall", "UpliftRF")}
HILLSTROM_PEERS = {"econml": ("LinearDR",), "causalml": ("X", "T")}


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


def ask_peers(
    train: World, new: World, peers: dict[str, tuple[str, ...]], *, timed: bool = False
) -> dict[str, np.ndarray]:
    """Give effects (n, T) by method, or CPU seconds if timed; peers that are not there are left out.

    What a peer answered to the same arrays, by the same script, is kept under `NBA_BENCH_CACHE` (the system's
    temporary folder if absent), so that an interrupted benchmark goes on; times are always measured anew.
    """
    out: dict[str, np.ndarray] = {}
    arrays = {"X": train.X, "y": train.y, "arm": train.arm, "p": train.p, "new": new.X, "p_new": new.p}
    for peer, names in peers.items():
        if peer_python(peer) is None:
            continue
        script = Path(__file__).parent / "peers" / f"uplift_{peer}.py"
        digest = hashlib.sha256(script.read_bytes())
        for part in arrays.values():
            digest.update(np.ascontiguousarray(part).tobytes())
        kept = {name: CACHE / f"{peer}.{name}.{digest.hexdigest()[:16]}.npz" for name in names}
        asked = {name: file for name, file in kept.items() if timed or not file.is_file()}
        if asked:
            _ask(peer, script, arrays, asked)
        for name, file in kept.items():
            with np.load(file) as found:
                out[f"{peer}.{name}"] = found["seconds" if timed else "effects"]
    return out


def _asked(names: Any) -> str:
    # Peers that answered, with their versions; empty where none ran.
    peers = {name.split(".")[0] for name in names}
    return ", ".join(version for peer, version in VERSIONS.items() if peer in peers)


def _ask(peer: str, script: Path, arrays: dict[str, np.ndarray], asked: dict[str, Path]) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, **arrays)
        command = [str(peer_python(peer)), str(script), ",".join(asked), str(source), str(target)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
        with np.load(target) as found:
            for name, file in asked.items():
                np.savez(file, effects=found[name], seconds=found[f"cpu {name}"])


def hillstrom_arrays() -> tuple[np.ndarray, pd.DataFrame]:
    """Read Hillstrom's test as numbers: 12 features, and the frame with arms and outcomes."""
    frame = pd.read_csv(DATA / "hillstrom" / "hillstrom.csv")
    parts = [frame.recency, frame.history, frame.mens, frame.womens, frame.newbie]
    parts += [frame.zip_code == zone for zone in ("Surburban", "Urban", "Rural")]
    parts += [frame.channel == channel for channel in ("Web", "Phone", "Multichannel")]
    parts += [frame.history_segment.str[0].astype(int)]
    return np.column_stack(parts).astype(float), frame


def hillstrom() -> list[Row]:
    """Women's e-mail against none: every row is ranked by a model that has not seen it."""
    X, frame = hillstrom_arrays()
    keep = (frame.segment != "Mens E-Mail").to_numpy()
    X, y = X[keep], frame.visit[keep].to_numpy(float)
    t = (frame.segment[keep] != "No E-Mail").to_numpy().astype(int)
    trial = World(X, y, t, np.full((len(y), 2), 0.5), np.full((len(y), 2), np.nan))
    found_by: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for seed in (0, 1):
        for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(X, 2 * t + y):
            model = UpliftEnsemble(control=0, random_state=seed)
            model.fit(X[train], y[train], t[train], {0: 0.5, 1: 0.5})
            found_by.setdefault("nba", []).append((test, model.predict(X[test])))
            asked = HILLSTROM_PEERS if PEER_SEEDS else {}
            for name, effect in ask_peers(trial.part(train), trial.part(test), asked).items():
                found_by.setdefault(name, []).append((test, effect[:, 0]))
    parts = found_by.pop("nba")

    def qini(weight: np.ndarray) -> float:
        return float(np.mean([metrics.qini(y[i], e, t[i], weight[i]) for i, e in parts]))

    def mean_of(measure: Any, *args: Any) -> str:
        means = {k: np.mean([measure(y[i], e, t[i], *args) for i, e in v]) for k, v in found_by.items()}
        return ", ".join(f"{k} {v:.4f}" for k, v in sorted(means.items(), key=lambda kv: -kv[1])) or "none"

    top = float(np.mean([metrics.uplift_at(y[i], e, t[i], 0.3) for i, e in parts]))
    found = targeting.interval(qini, len(y), np.random.default_rng(0), repeats=100)
    more = {"n": len(y), "seeds": 2, "peer": _asked(found_by)}
    said = (
        "women's e-mail against none, visit, 5 folds x 2 seeds, default pipeline; scikit-uplift's definition"
    )
    return [
        row("uplift.hillstrom_qini", found.value, "", 0.060, ">=", **more,
            conditions=f"{said}; peers on the same folds: {mean_of(metrics.qini)}"),
        row("uplift.hillstrom_qini_lower", found.lower, "", 0.035, ">=", **more,
            conditions="2.5% quantile over 100 resamples of customers, models held fixed"),
        row("uplift.hillstrom_at30", top, "", 0.072, ">=", **more,
            conditions=f"{said}; peers on the same folds: {mean_of(metrics.uplift_at, 0.3)}"),
    ]  # fmt: skip


def hillstrom3() -> list[Row]:
    """Three arms: the value of each customer's best-looking arm, and what the gate says."""
    X, frame = hillstrom_arrays()
    names = {"No E-Mail": "none", "Mens E-Mail": "mens", "Womens E-Mail": "womens"}
    arm = frame.segment.map(names).to_numpy()
    code = np.select([arm == "mens", arm == "womens"], [1, 2], 0)
    p = dict.fromkeys(names.values(), 1 / 3)
    chosen, looks_best = np.empty(len(X), dtype=int), np.empty(len(X), dtype=int)
    gates: dict[str, list[Any]] = {"visit": [], "spend": []}
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(X, code):
        for outcome in ("visit", "spend"):
            y = frame[outcome].to_numpy(float)
            model = UpliftEnsemble().fit(X[train], y[train], arm[train], p)
            gates[outcome].append(model.gate_.rule)
            if outcome == "visit":
                chosen[test] = pd.Index(["none", "mens", "womens"]).get_indexer(model.recommend(X[test]))
                effect = model.effect(X[test])
                looks_best[test] = np.column_stack([np.zeros(len(test)), effect]).argmax(axis=1)
    y, everyone = frame.visit.to_numpy(float), np.tile([0.0, 1.0, 0.0], (len(X), 1))
    args = y, code, np.full(len(X), 1 / 3)

    def value(policy: np.ndarray) -> float:
        return targeting.policy_value(*args, policy, "sn")

    gap = targeting.interval(
        lambda w: targeting.policy_value(*args, np.eye(3)[looks_best], "sn", weight=w)
        - targeting.policy_value(*args, everyone, "sn", weight=w),
        len(X), np.random.default_rng(0),
    )  # fmt: skip
    n = len(X)
    said = (
        f"best-looking arm by customer, 5-fold out of fold; men's e-mail to all: {value(everyone):.5f};"
        f" 95% interval of the difference {gap.lower:.4f} to {gap.upper:.4f}"
    )
    gated = f"what the gate recommends, fold by fold: {sorted(set(gates['visit']))}"
    mens = float(np.mean([rule == "mens" for rule in gates["spend"]]))
    more = {"n": n, "peer": "men's e-mail to all"}
    return [
        row("uplift.hillstrom3_visit", value(np.eye(3)[looks_best]), "visits", 0.1828, ">=", **more,
            conditions=said),
        row("uplift.hillstrom3_visit_gated", value(np.eye(3)[chosen]), "visits", None, ">=", **more,
            conditions=gated),
        row("uplift.hillstrom3_spend_gate", mens, "share of folds", 1.0, ">=", n=n,
            conditions="folds in which the gate returns men's e-mail to all on spend"),
    ]  # fmt: skip


def synthetic() -> list[Row]:
    """Root mean square error of effects on fresh customers of the synthetic trial, against the best peer."""
    ratios, gains, rows = [], [], []
    for seed in range(PEER_SEEDS):
        drawn = world(seed, 60_000)
        train, new = drawn.part(slice(0, 50_000)), drawn.part(slice(50_000, None))
        found = ask_peers(train, new, PEERS)
        ours = UpliftEnsemble(control=0, random_state=seed).fit(train.X, train.y, train.arm, train.p)
        found["nba"] = ours.effect(new.X)
        error = {k: float(np.sqrt(np.mean((v - new.effect) ** 2))) for k, v in found.items()}
        order = {k: _qini_of_truth(v, new.effect) for k, v in found.items()}
        peers = [k for k in found if k != "nba"]
        rows.append((error, order))
        if peers:
            ratios.append(error["nba"] / min(error[k] for k in peers))
            gains.append(order["nba"] - max(order[k] for k in peers))
    means = {k: np.mean([error[k] for error, _ in rows]) for k in rows[0][0]}
    said = "mean error " + ", ".join(f"{k} {v:.4f}" for k, v in sorted(means.items(), key=lambda kv: kv[1]))
    ranks = {k: np.mean([order[k] for _, order in rows]) for k in rows[0][1]}
    asked = _asked(means)
    more = {"n": 50_000, "seeds": PEER_SEEDS, "peer": f"best per seed of {asked}" if asked else ""}
    return [
        row("uplift.synthetic_pehe_vs_best", np.mean(ratios or [np.nan]), "ratio", 0.9, "<=",
            **more, conditions=said),
        row("uplift.synthetic_qini_vs_best", np.mean(gains or [np.nan]), "", 0.0, ">=", **more,
            conditions="Qini by true effects, as a part of the true order's; " + ", ".join(
                f"{k} {v:.3f}" for k, v in sorted(ranks.items(), key=lambda kv: -kv[1]))),
    ]  # fmt: skip


def _qini_of_truth(effect: np.ndarray, truth: np.ndarray) -> float:
    parts = zip(effect.T, truth.T)
    return float(np.mean([targeting.rate(t, e, "qini") / targeting.rate(t, t, "qini") for e, t in parts]))


def permuted() -> list[Row]:
    """Nothing to find: Hillstrom's women's e-mail with arms dealt out again at random."""
    X, frame = hillstrom_arrays()
    keep = (frame.segment != "Mens E-Mail").to_numpy()
    X, y = X[keep], frame.visit[keep].to_numpy(float)
    zero, simple = 0, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        t = rng.integers(0, 2, len(y))
        test = rng.random(len(y)) < 0.2
        model = UpliftEnsemble(control=0, random_state=seed)
        model.fit(X[~test], y[~test], t[~test], {0: 0.5, 1: 0.5})
        found = metrics.qini_interval(y[test], model.predict(X[test]), t[test], rng)
        zero += found.lower <= 0 <= found.upper
        simple += model.gate_.rule != "personalise"
    said = "treatment permuted; Qini of a held-out fifth, 95% bootstrap interval"
    return [
        row("uplift.permuted_contains_zero", zero, "of 20", 18, ">=", n=len(y), seeds=20, conditions=said),
        row("uplift.permuted_gate_simple", simple, "of 20", 19, ">=", n=len(y), seeds=20,
            conditions="runs in which the gate does not personalise"),
    ]  # fmt: skip


def coverage() -> list[Row]:
    """How often intervals hold known effects: groups (90%), single customers (90%), averages (2 se)."""
    groups, single = [], []
    for seed in range(20):
        drawn = world(100 + seed, 10_000, strength=2.0)
        model = UpliftEnsemble(control=0, random_state=seed).fit(drawn.X, drawn.y, drawn.arm, drawn.p)
        for k in range(3):
            ranks = np.argsort(np.argsort(model.oof_[:, k])) * 10 // len(drawn.y)
            for got in model.group_effects(ranks, 0.9).to_pylist():
                if got["treatment"] == str(k + 1):
                    truth = drawn.effect[ranks == int(got["group"]), k].mean()
                    groups.append(got["lower"] <= truth <= got["upper"])
        new = world(500 + seed, 2_000, strength=2.0)
        mean, se = model.effect_with_se(new.X)
        single.append(float((np.abs(mean - new.effect) <= 1.645 * se).mean()))
    within = []
    for seed in range(200):
        drawn = world(1000 + seed, 3_000)
        model = UpliftEnsemble(control=0, names=("t_trees",), folds=3, random_state=seed)
        found = model.fit(drawn.X, drawn.y, drawn.arm, drawn.p).average_.to_pandas()
        within += (np.abs(found.effect - drawn.effect.mean(axis=0)) <= 2 * found.se).tolist()
    return [
        row("uplift.coverage90", np.mean(groups), "", (0.87, 0.93), "in", n=10_000, seeds=20,
            conditions=f"{len(groups)} AIPW intervals of deciles of predicted effect, three treatments"),
        row("uplift.coverage90_customer", np.mean(single), "", None, "in", n=2_000, seeds=20,
            conditions="predicted effect of a new customer within 1.645 standard errors of the truth"),
        row("uplift.average_within_2se", np.mean(within), "", 0.93, ">=", n=3_000, seeds=200,
            conditions="average effects of three treatments; nominal 0.954"),
    ]  # fmt: skip


def served() -> list[Row]:
    """How often 90% intervals of the served model hold known effects: of groups, and of single customers."""
    groups: list[bool] = []
    single: dict[str, list[float]] = {}
    for seed in range(SERVED_WORLDS):
        for n_rows in SERVED_ROWS:
            drawn = repeated(2000 + seed, SERVED_N, n_rows)
            examples = _examples(drawn.trial, drawn.customer)
            # Everything of the fit, out of fold too, which `fit` keeps to itself.
            scorer, learnt = Scorer._fit(examples, SERVED, Models(), seed)
            groups += _groups_held(learnt, drawn)
            new = repeated(3000 + seed, 2_000 * n_rows, n_rows).trial.part(slice(None, None, n_rows))
            found = scorer.scores(_examples(new, np.arange(len(new.y))))
            held = np.abs(found.uplift[:, 1:] - new.effect) <= 1.645 * found.uplift_se[:, 1:]
            single.setdefault(f"{n_rows} rows a customer", []).append(float(held.mean()))
    picked, leaning = list[bool](), list[float]()
    for seed in range(SERVED_WORLDS):
        drawn = confounded(4000 + seed, SERVED_N)
        examples = _examples(drawn.trial, drawn.customer)
        scorer, learnt = Scorer._fit(examples, SERVED, Models(), seed)
        picked += _groups_held(learnt, drawn)
        found = scorer.scores(examples)
        leaning.append(float((np.abs(found.uplift) <= 1.645 * found.uplift_se)[:, 1:].mean()))
    said = f"trials of {SERVED_N:,} rows, {' or '.join(map(str, SERVED_ROWS))} a customer, three treatments"
    parts = "; ".join(f"{k} {np.mean(v):.3f}, {min(v):.2f} to {max(v):.2f}" for k, v in single.items())
    more = {"seeds": SERVED_WORLDS * len(SERVED_ROWS)}
    return [
        row("uplift.coverage90_served", np.mean(groups), "", (0.87, 0.93), "in", n=len(groups), **more,
            conditions=f"intervals of deciles of predicted effect and of treatments; {said}"),
        row("uplift.coverage90_served_policy", np.mean(picked), "", 0.87, ">=", n=len(picked),
            seeds=SERVED_WORLDS, conditions="the same intervals where a policy picked whom to treat by a"
            " baseline of steps and waves, with known chances, and contact changes nothing;"
            f" {SERVED_N:,} rows of as many customers; of single customers, {np.mean(leaning):.3f} within"
            f" 1.645 uplift_se, {min(leaning):.2f} to {max(leaning):.2f} by world"),
        row("uplift.coverage90_served_customer", np.mean(list(single.values())), "", None, "in", n=2_000,
            **more, conditions=f"uplift of a new customer within 1.645 uplift_se of the truth; {said}; by"
            f" design, and from the least of the worlds to the most: {parts}"),
    ]  # fmt: skip


def _groups_held(learnt: Any, drawn: "Repeated") -> list[bool]:
    # Whether intervals of deciles and of treatments hold the mean true effect on the rows that they speak of.
    arm, customer = drawn.trial.arm, drawn.customer
    own = np.where(arm > 0, drawn.trial.chance[np.arange(len(arm)), arm] - drawn.trial.chance[:, 0], 0.0)
    coding = Coding.of(SERVED)
    out = []
    of = customer, balance.weights(arm, drawn.trial.p[np.arange(len(arm)), arm]), 0.9
    for make in (lambda x: deciles(arm, x, *of), lambda x: effects(coding, arm, x, *of)):
        truth = make(replace(learnt, residual=own)).to_pandas()
        told = make(learnt).to_pandas()
        true = truth["observed" if "observed" in truth else "effect"]
        out += ((told.lower <= true) & (true <= told.upper)).tolist()
    return out


@dataclass(frozen=True)
class Repeated:
    """A trial of several rows a customer, shape (n,); chances are averages over what no feature tells."""

    trial: World
    customer: np.ndarray


def repeated(seed: int, n: int, n_rows: int) -> Repeated:
    """Draw customers once, with features that stay, and each `n_rows` times an arm and an outcome.

    Where there are several rows, customers also differ in their level (standard deviation 1 of the log-odds)
    and in their answer to any contact (0.5), which no feature tells: their rows are then alike.
    """
    rng = np.random.default_rng([seed, n_rows])
    drawn = world(seed, n // n_rows, strength=2.0)
    odds = np.log(drawn.chance / (1 - drawn.chance))
    level, answer = (1.0, 0.5) if n_rows > 1 else (0.0, 0.0)
    spread = np.array([level, *(np.hypot(level, answer),) * 3])
    nodes, share = np.polynomial.hermite_e.hermegauss(31)
    mean = np.tensordot(share / share.sum(), expit(odds + nodes[:, None, None] * spread), axes=1)
    customer = np.repeat(np.arange(len(odds)), n_rows)
    own = rng.normal(0, level, len(odds)), rng.normal(0, answer, len(odds))
    every = odds + own[0][:, None] + np.column_stack([np.zeros(len(odds)), *(own[1],) * 3])
    p = drawn.p[customer]
    arm = (rng.random(len(p))[:, None] > np.cumsum(p, axis=1)).sum(axis=1)
    y = (rng.random(len(p)) < expit(every)[customer, arm]).astype(float)
    return Repeated(World(drawn.X[customer], y, arm, p, mean[customer]), customer)


def confounded(seed: int, n: int) -> Repeated:
    """Draw a log of a policy that picked by the baseline's steps and waves; contact changes nothing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    shape = 1.0 * (X[:, 0] * X[:, 1] > 0.3) + np.sin(2 * X[:, 2])
    p = np.exp(np.column_stack([np.zeros(n), 0.7 * shape - 0.3, -0.7 * shape - 0.3, np.full(n, -0.3)]))
    p /= p.sum(axis=1, keepdims=True)
    chance = np.repeat(expit(-2.2 + 1.1 * shape)[:, None], 4, axis=1)
    arm = (rng.random(n)[:, None] > np.cumsum(p, axis=1)).sum(axis=1)
    y = (rng.random(n) < chance[:, 0]).astype(float)
    return Repeated(World(X, y, arm, p, chance), np.arange(n))


def _examples(drawn: World, customer: np.ndarray) -> pa.Table:
    # A trial as the table that a scorer is fitted on, a week between two rows of a customer.
    n = len(drawn.y)
    week = np.arange(n) - np.searchsorted(customer, customer)
    at = np.datetime64("2026-01-05", "us") + week * np.timedelta64(7, "D")
    data = {
        "customer_id": [f"c{i}" for i in customer],
        "as_of": pa.array(at.astype("datetime64[us]"), pa.timestamp("us", tz="UTC")),
        "treatment_id": [SERVED.treatment_ids[k] for k in drawn.arm],
        "p_action": drawn.p[np.arange(n), drawn.arm],
        "is_response": drawn.y > 0,
        "reward": drawn.y * 10.0 - SERVED.cost[drawn.arm],
    }
    return pa.table(data | {f"f_x{j}": column for j, column in enumerate(drawn.X.T)})


def cpu() -> list[Row]:
    """CPU time of the default pipeline, fit and predict, against a LightGBM T-learner and CausalForestDML."""
    X, frame = hillstrom_arrays()
    y, t = frame.visit.to_numpy(float), (frame.segment != "No E-Mail").to_numpy().astype(int)
    rng = np.random.default_rng(0)
    train = rng.random(len(y)) < 0.8
    p = np.tile([1 / 3, 2 / 3], (len(y), 1))

    def plain() -> None:
        for k in (0, 1):
            own = train & (t == k)
            lgb.LGBMClassifier(**BASE).fit(X[own], y[own]).predict_proba(X[~train])

    def ours() -> None:
        UpliftEnsemble(control=0).fit(X[train], y[train], t[train], p[train]).effect_with_se(X[~train])

    def seconds(run: Any) -> float:
        begun = time.process_time()
        run()
        return time.process_time() - begun

    plain()
    taken = [(seconds(plain), seconds(ours)) for _ in range(3)]
    base, mine = (float(np.median(part)) for part in zip(*taken))
    n = int(train.sum())
    tied = np.round(rng.normal(size=1_000_000), 3)
    who, got = (rng.random((2, len(tied))) < 0.3).astype(float)
    metric = float(np.median([seconds(lambda: metrics.qini(who, tied, got)) for _ in range(3)]))
    chance = np.column_stack([1 - y, y])  # a world is only a carrier of arrays here
    trial = World(X, y, t, p, chance)
    peer = ask_peers(trial.part(train), trial.part(~train), {"econml": ("CausalForestDML",)}, timed=True)
    forest = float(peer.get("econml.CausalForestDML", np.nan))
    asked = f"{_asked(peer)} CausalForestDML, 100 trees, cv=3" if peer else ""
    said = "any e-mail against none, visit, 12 features, fit and predict 20%; one thread each"
    return [
        row("uplift.cpu_vs_t", mine / base, "ratio", 15, "<=", n=n, conditions=said,
            peer="LightGBM 4.7.0, two models of 100 trees"),
        row("uplift.cpu_vs_causalforest", mine / forest, "ratio", 1, "<=", n=n, conditions=said,
            peer=asked),
        row("uplift.metric_1m_seconds", metric, "s", 0.5, "<=", n=len(tied),
            conditions="Qini with ties at three digits, CPU time"),
    ]  # fmt: skip


_BIG = """
import resource, sys, time
import numpy as np
from nba.models.ensemble import UpliftEnsemble
n = int(sys.argv[1])
rng = np.random.default_rng(0)
X = rng.normal(size=(n, 60))
arm = rng.integers(0, 7, n)
y = (rng.random(n) < 0.1 + 0.02 * (arm > 0) * (X[:, 0] > 0)).astype(float)
begun = time.process_time()
UpliftEnsemble(control=0, folds=3).fit(X, y, arm, np.full(n, 1 / 7))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.process_time() - begun)
"""


def big() -> list[Row]:
    """Peak memory of training on a million customers, 60 features, 6 treatments."""
    n = 1_000_000
    done = subprocess.run([sys.executable, "-c", _BIG, str(n)], check=True, capture_output=True, text=True)
    gigabytes, seconds = map(float, done.stdout.split()[-2:])
    said = f"default pipeline with 3 folds, peak resident memory of the process; {seconds:.0f} s of CPU"
    return [row("uplift.train_1m_gb", gigabytes, "GB", 8, "<=", n=n, conditions=said)]


BENCHMARKS: dict[str, Any] = {
    "uplift.hillstrom": hillstrom,
    "uplift.hillstrom3": hillstrom3,
    "uplift.synthetic": synthetic,
    "uplift.permuted": permuted,
    "uplift.coverage": coverage,
    "uplift.served": served,
    "uplift.cpu": cpu,
    "uplift.big": big,
}
