"""Off-policy evaluation on five simulated settings: error against listed estimators, coverage, promotions."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from scipy.special import expit

from benchmarks import ope_worlds
from benchmarks.record import Row, row

ERROR_SEEDS, FOLDS = 300, 3
COVERAGE_SEEDS = int(os.environ.get("NBA_OPE_LOGS", "2000"))  # fewer on a machine without time; rows say so
_LAMBDAS = (1e0, 1e1, 1e2, 1e3, 1e4, 1e5)
_MIXES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


def ope_error() -> list[Row]:
    """Mean relative error of the default estimator over that of the best of eleven others, by setting."""
    rows, worst = [], 0.0
    for name, found in zip(ope_worlds.SETTINGS, _parallel(_errors, ope_worlds.SETTINGS)):
        best = min((v, k) for k, v in found.items() if k != "default")
        ratio = found["default"] / best[0]
        worst = max(worst, ratio)
        text = ", ".join(f"{k} {v:.3f}" for k, v in sorted(found.items(), key=lambda item: item[1]))
        rows.append(
            row(f"ope.error_{name}", found["default"], "fraction", None, "<=", peer=f"best: {best[1]}",
                n=ope_worlds.SETTINGS[name][1], seeds=ERROR_SEEDS, conditions=text)
        )  # fmt: skip
    head = row(
        "ope.worst_vs_best_estimator", worst, "ratio", 1.05, "<=", peer="best of 11 estimators per setting",
        n=5, seeds=ERROR_SEEDS, conditions="mean |error| / truth, dros with the default model of the reward",
    )  # fmt: skip
    return [head, *rows]


def ope_coverage() -> list[Row]:
    """How often the default 95% interval holds the truth; a setting may be refused instead."""
    rows, shares = [], []
    for name, (share, refused, width) in zip(ope_worlds.SETTINGS, _parallel(_covered, ope_worlds.SETTINGS)):
        if refused < 0.5:
            shares.append(share)
        rows.append(
            row(f"ope.coverage_{name}", share, "fraction", None, ">=", n=ope_worlds.SETTINGS[name][1],
                seeds=COVERAGE_SEEDS, conditions=f"{refused:.1%} refused, relative width {width:.2f}")
        )  # fmt: skip
    more = {"n": len(shares), "seeds": COVERAGE_SEEDS, "conditions": "settings that are not refused"}
    return [
        row("ope.coverage_min", min(shares), "fraction", 0.93, ">=", **more),
        row("ope.coverage_max", max(shares), "fraction", 0.97, "<=", **more),
        *rows,
    ]


def _parallel(work, names) -> list:
    for library in (
        "OMP",
        "OPENBLAS",
    ):  # before the workers load them: threads would only wait for each other
        os.environ[f"{library}_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return list(pool.map(work, names))


def _errors(name: str) -> dict[str, float]:
    from nba.evaluation import offpolicy

    made, rng = ope_worlds.world(name), np.random.default_rng(7)
    total: dict[str, float] = {}
    for _ in range(ERROR_SEEDS):
        drawn = ope_worlds.draw(made, rng)
        log = offpolicy.Log(drawn.column, drawn.reward, drawn.p_logged, np.arange(made.n))
        q = offpolicy.outcome_model(drawn.X, log, drawn.p_target)
        found = {"default": offpolicy.dros(log, drawn.p_target, q).value, **listed(drawn)}
        for key, value in found.items():
            total[key] = total.get(key, 0.0) + abs(value / made.truth - 1) / ERROR_SEEDS
    return total


def _covered(name: str) -> tuple[float, float, float]:
    from nba.evaluation import offpolicy

    made, rng = ope_worlds.world(name), np.random.default_rng(11)
    held, widths = [], []
    for _ in range(COVERAGE_SEEDS):
        drawn = ope_worlds.draw(made, rng)
        log = offpolicy.Log(drawn.column, drawn.reward, drawn.p_logged, np.arange(made.n))
        q = offpolicy.outcome_model(drawn.X, log, drawn.p_target)
        found = offpolicy.dros(log, drawn.p_target, q)
        if not np.isnan(found.lower):
            held.append(found.lower <= made.truth <= found.upper)
            widths.append((found.upper - found.lower) / made.truth)
    refused = 1 - len(held) / COVERAGE_SEEDS
    return float(np.mean(held)) if held else np.nan, refused, float(np.mean(widths)) if widths else np.nan


def listed(drawn: ope_worlds.Draw) -> dict[str, float]:
    """Give eleven estimators as they are commonly run: cross-fitted logistic model of main effects."""
    n = len(drawn.column)
    every = np.arange(n)
    weight = drawn.p_target[every, drawn.column] / drawn.p_logged[every, drawn.column]
    q = _main_effects(drawn)
    direct, residual = (drawn.p_target * q).sum(axis=1), drawn.reward - q[every, drawn.column]
    out = {
        "ips": float(np.mean(weight * drawn.reward)),
        "ips clip 10": float(np.mean(np.minimum(weight, 10) * drawn.reward)),
        "snips": float(weight @ drawn.reward / weight.sum()),
        "dm": float(direct.mean()),
        "dr": float((direct + weight * residual).mean()),
        "sndr": float(direct.mean() + weight @ residual / weight.sum()),
    }
    taus = np.quantile(weight, [0.5, 0.75, 0.9, 0.95, 0.99, 1.0])
    families = {
        "sg-dr": [weight / (1 - lam + lam * weight) for lam in _MIXES],
        "switch-dr": [np.where(weight <= tau, weight, 0.0) for tau in taus],
        "dros": [lam * weight / (weight**2 + lam) for lam in _LAMBDAS],
    }
    for name, shrunk in families.items():
        tuned = [_tuning(direct, residual, weight, part) for part in shrunk]
        out[name if name == "sg-dr" else f"{name} mse"] = min(tuned)[1]
        if name != "sg-dr":
            out[f"{name} slope"] = _slope(direct, residual, shrunk)
    return out


def _tuning(direct, residual, weight, shrunk) -> tuple[float, float]:
    score = direct + shrunk * residual
    bias = float(np.mean((weight - shrunk) * residual))
    return float(score.var() / len(score) + bias**2), float(score.mean())


def _slope(direct, residual, shrunk) -> float:
    # Su, Srinath, Krishnamurthy (2020): from the least biased on, as long as all intervals meet.
    found, low, high = float("nan"), -np.inf, np.inf
    for part in reversed(shrunk):
        score = direct + part * residual
        mean, half = float(score.mean()), 2 * float(score.std() / np.sqrt(len(score)))
        if mean - half > high or mean + half < low:
            break
        found, low, high = mean, max(low, mean - half), min(high, mean + half)
    return found


def _main_effects(drawn: ope_worlds.Draw) -> np.ndarray:
    n, k = drawn.p_logged.shape
    part, out = np.arange(n) % FOLDS, np.zeros((n, k))
    design = np.hstack([np.ones((n, 1)), drawn.X, np.eye(k)[drawn.column]])
    penalty = np.append(1e-9, np.ones(design.shape[1] - 1))
    for held in range(FOLDS):
        Z, y = design[part != held], drawn.reward[part != held]
        beta = np.zeros(design.shape[1])
        beta[0] = np.log(y.mean() / (1 - y.mean()))
        for _ in range(6):
            p = expit(Z @ beta)
            h = np.maximum(p * (1 - p), 1e-4)
            beta = beta + np.linalg.solve(
                (Z * h[:, None]).T @ Z + np.diag(penalty), Z.T @ (y - p) - penalty * beta
            )
        out[part == held] = expit((design[part == held, :-k] @ beta[:-k])[:, None] + beta[-k:])
    return out


BENCHMARKS = {"ope.error": ope_error, "ope.coverage": ope_coverage}
