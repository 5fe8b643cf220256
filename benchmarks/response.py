"""Response models on public data, against a tuned LightGBM and scikit-learn's own boosting.

Online Retail: who buys within 30 days, features of the platform at rolling origins, each judged by models
that have seen earlier origins only. Telco churn: five folds.
"""

import os
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold

from benchmarks.record import Row, row
from nba import metrics
from nba.features import examples
from nba.history import History
from nba.models import inputs, tuning
from nba.models.classifier import ResponseClassifier
from nba.models.tuning import Search
from nba.settings import Models
from pipelines import ingest, train_snapshots
from pipelines.example import make_example
from pipelines.online_retail import EXAMPLE

DATA = Path(os.environ.get("NBA_DATA", Path(__file__).parents[2] / "shared" / "data"))
HORIZON, ORIGINS, JUDGED, TRIALS = 30, 7, 3, 20
PEER = "LightGBM 4.7.0 (20 random trials), scikit-learn 1.9.1 HistGradientBoosting with isotonic calibration"


def tuned_lightgbm(X: np.ndarray, y: np.ndarray, new: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Search 20 settings on the validation rows with early stopping, fit the best to all rows."""
    rng = np.random.default_rng(0)
    best, chosen = np.inf, {}
    for _ in range(TRIALS):
        params = {
            "num_leaves": int(2 ** rng.uniform(2, 6)), "learning_rate": float(np.exp(rng.uniform(-4, -1.5))),
            "min_child_samples": int(2 ** rng.uniform(3, 8)), "reg_lambda": float(10 ** rng.uniform(-2, 1.5)),
            "colsample_bytree": float(rng.uniform(0.3, 1)), "subsample": float(rng.uniform(0.5, 1)),
            "subsample_freq": 1, "n_jobs": 1, "verbosity": -1,
        }  # fmt: skip
        model = lgb.LGBMClassifier(n_estimators=600, **params)
        model.fit(
            X[~valid], y[~valid], eval_X=X[valid], eval_y=y[valid], eval_metric="logloss",
            callbacks=[lgb.early_stopping(30, verbose=False)],
        )  # fmt: skip
        loss = metrics.log_loss(y[valid], model.predict_proba(X[valid])[:, 1])
        if loss < best:
            best, chosen = loss, {**params, "n_estimators": max(model.best_iteration_, 5)}
    return lgb.LGBMClassifier(**chosen).fit(X, y).predict_proba(new)[:, 1]


def boosting_isotonic(X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Fit scikit-learn's boosting, calibrated by isotonic regression in five folds.

    Columns known in less than 1% of the rows are left out: it raises where a fold has no value of a column.
    """
    kept = np.isfinite(X).mean(axis=0) >= 0.01
    X, new = X[:, kept], new[:, kept]
    model = CalibratedClassifierCV(HistGradientBoostingClassifier(random_state=0), method="isotonic", cv=5)
    return model.fit(X, y).predict_proba(new)[:, 1]


def judge(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    return {k: v for k, v in metrics.classification(y.astype(float), p).items() if k != "n"}


@dataclass
class Predicted:
    """Outcomes and predicted chances, part by part: folds, or origins."""

    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)

    def add(self, name: str, y: np.ndarray, p: np.ndarray) -> None:
        self.parts.setdefault(name, []).append((y.astype(float), p))

    def means(self, name: str) -> dict[str, float]:
        """Give the mean over parts of every measure."""
        found = [judge(y, p) for y, p in self.parts[name]]
        return {k: float(np.mean([m[k] for m in found])) for k in found[0]}

    def ece(self, name: str) -> tuple[float, float, float]:
        """Give the calibration error of all parts' predictions together, and what noise alone makes of it.

        The third is what noise alone makes of the mean of the parts' own errors.
        """
        y, p = (np.concatenate(both) for both in zip(*self.parts[name]))
        return metrics.ece(y, p), metrics.ece_of_noise(p), self.means(name)["ece_of_noise"]


def retail_examples() -> pa.Table:
    """Ingest Online Retail and build examples at seven origins, 30 days apart."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "retail"
        make_example(EXAMPLE, workspace)
        ingest.ingest(workspace, data=DATA / "online_retail" / "online_retail.parquet")
        history = History.read(workspace)
        moments = train_snapshots._cutoffs(history, HORIZON, ORIGINS)
        assert moments[1] - moments[0] == timedelta(days=HORIZON)
        parts = [examples.snapshots(history, [moment], HORIZON, moments[-1]) for moment in moments[:-1]]
        return pa.concat_tables(parts, promote_options="permissive").combine_chunks()


def _rows(found: Predicted, what: str, said: str) -> list[Row]:
    mean = {name: found.means(name) for name in found.parts}
    pooled = {name: found.ece(name) for name in found.parts}
    peers = [name for name in mean if name != "nba"]
    listed = "; ".join(
        f"{name} PR-AUC {m['pr_auc']:.4f} log loss {m['log_loss']:.4f} slope {m['calibration_slope']:.2f}"
        for name, m in mean.items()
    )
    ours = mean["nba"]
    area = ours["pr_auc"] / max(mean[name]["pr_auc"] for name in peers)
    loss = ours["log_loss"] / min(mean[name]["log_loss"] for name in peers)
    n, parts = sum(len(y) for y, _ in found.parts["nba"]), len(found.parts["nba"])
    more = {"n": n, "peer": PEER}
    errors = "; ".join(
        f"{name} {pooled[name][0]:.4f} (noise {pooled[name][1]:.4f}), mean of the {parts} parts' own"
        f" {mean[name]['ece']:.4f} (noise {pooled[name][2]:.4f})"
        for name in mean
    )
    binned = f"{said}; 10 bins of equal size over all predictions for unseen rows; noise: what a perfectly"
    return [
        row(f"response.{what}_prauc_vs_best", area, "ratio", 1, ">=", **more, conditions=f"{said}; {listed}"),
        row(f"response.{what}_logloss_vs_best", loss, "ratio", 1, "<=", **more, conditions=said),
        row(
            f"response.{what}_slope", ours["calibration_slope"], "", (0.9, 1.1), "in", **more, conditions=said
        ),
        row(f"response.{what}_ece", pooled["nba"][0], "", 0.02, "<=", **more,
            conditions=f"{binned} calibrated model has by chance; {errors}"),
    ]  # fmt: skip


def response() -> list[Row]:
    """Judge all models on both sets; `response.ece` is the larger of the two."""
    table = retail_examples()
    names = inputs.feature_names(table)
    X, y = inputs.matrix(table, names), table["is_response"].to_numpy().astype(int)
    at = table["as_of"].cast(pa.int64()).to_numpy()
    origins = np.unique(at)
    found = Predicted()
    for origin in origins[-JUDGED:]:
        # An outcome is known one horizon later: the origin before is the last to learn from.
        old, new = at < origin, at == origin
        valid = at[old] == at[old].max()
        ours = ResponseClassifier().fit(X[old], y[old], at=at[old])
        found.add("nba", y[new], ours.predict_proba(X[new])[:, 1])
        found.add("LightGBM", y[new], tuned_lightgbm(X[old], y[old], X[new], valid))
        found.add("HistGB", y[new], boosting_isotonic(X[old], y[old], X[new]))
    said = (
        f"Online Retail, buys within {HORIZON} days, mean of the last {JUDGED} of {ORIGINS} rolling origins"
    )
    rows = _rows(found, "retail", said)
    rows += telco()
    worst = max(r["value"] for r in rows if r["id"].endswith("_ece"))
    return [*rows, row("response.ece", worst, "", 0.02, "<=", conditions="the larger of both sets")]


def telco() -> list[Row]:
    """Telco churn, five folds."""
    frame = pd.read_csv(DATA / "telco_churn" / "Telco-Customer-Churn.csv").drop(columns="customerID")
    y = (frame.pop("Churn") == "Yes").to_numpy().astype(int)
    frame["TotalCharges"] = pd.to_numeric(frame["TotalCharges"], errors="coerce")
    codes = frame.apply(lambda c: c if pd.api.types.is_numeric_dtype(c) else c.astype("category").cat.codes)
    X = codes.to_numpy(dtype=float)
    found = Predicted()
    for old, new in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
        valid = np.random.default_rng(0).random(len(old)) < 0.2
        ours = ResponseClassifier().fit(frame.iloc[old], y[old])
        found.add("nba", y[new], ours.predict_proba(frame.iloc[new])[:, 1])
        found.add("LightGBM", y[new], tuned_lightgbm(X[old], y[old], X[new], valid))
        found.add("HistGB", y[new], boosting_isotonic(X[old], y[old], X[new]))
    return _rows(found, "telco", "Telco churn, 5 folds")


def tuned() -> list[Row]:
    """Online Retail: a search of the classifier's capacity against its defaults, on the same origins."""
    table = retail_examples()
    X = inputs.matrix(table, inputs.feature_names(table))
    y, at = table["is_response"].to_numpy().astype(int), table["as_of"].cast(pa.int64()).to_numpy()
    found = Predicted()
    with tempfile.TemporaryDirectory() as folder:
        search = Search(Models(tune_trials=TRIALS), 0, Path(folder) / "tuning.db")
        for origin in np.unique(at)[-JUDGED:]:
            old, new = at < origin, at == origin
            best = tuning.responses(ResponseClassifier(), X[old], y[old], search, at=at[old])
            for name, parameters in (("default", {}), ("tuned", best.parameters)):
                model = ResponseClassifier(**parameters).fit(X[old], y[old], at=at[old])
                found.add(name, y[new], model.predict_proba(X[new])[:, 1])
    default, ours = found.means("default"), found.means("tuned")
    said = (
        f"Online Retail, mean of the last {JUDGED} of {ORIGINS} rolling origins, {TRIALS} trials on those"
        f" before; log loss {ours['log_loss']:.4f} against {default['log_loss']:.4f}, PR-AUC"
        f" {ours['pr_auc']:.4f} against {default['pr_auc']:.4f}, ECE of all parts together"
        f" {found.ece('tuned')[0]:.4f} against {found.ece('default')[0]:.4f}"
    )
    ratio = ours["log_loss"] / default["log_loss"]
    return [
        row("response.tuned_logloss_vs_default", ratio, "ratio", None, "<=", n=len(y), conditions=said,
            peer="the same classifier with its default capacity"),
    ]  # fmt: skip


BENCHMARKS: dict[str, Any] = {"response": response, "response.tuned": tuned}
