"""Make `experiments.json`: values of tea-tasting 1.14.0, statsmodels and SciPy on data of our own making.

Run it in an environment of its own with ``pip install tea-tasting==1.14.0 statsmodels scipy``:

    python tests/reference/experiments.py

Data are made by the rule in `data`, which the test repeats.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
import scipy.stats
import statsmodels
import tea_tasting as tt
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

SIZES = ((40, 40), (200, 300), (1500, 500), (3000, 3000), (25, 1000))


def data(seed: int, n_control: int, n_treated: int) -> dict[str, np.ndarray]:
    """Make one data set: users with orders, revenue, sessions, and the same before the experiment."""
    rng = np.random.Generator(np.random.PCG64(seed))
    n = n_control + n_treated
    arm = np.repeat([0, 1], [n_control, n_treated])
    level = rng.random(n)
    before = np.floor(10 * level + 5 * rng.random(n))
    orders = np.floor(10 * level + 5 * rng.random(n) + arm * rng.random(n))
    sessions = 1 + np.floor(8 * rng.random(n) + orders)
    sessions_before = 1 + np.floor(8 * rng.random(n) + before)
    revenue = 100 + 50 * orders * rng.random(n)
    revenue_before = 100 + 50 * before * rng.random(n)
    return {
        "arm": arm, "orders": orders, "before": before, "sessions": sessions,
        "sessions_before": sessions_before, "revenue": revenue, "revenue_before": revenue_before,
        "bought": (orders > 7).astype(float),
    }  # fmt: skip


METRICS = {
    "mean": tt.Mean("revenue", use_t=True, equal_var=False),
    "binary": tt.Mean("bought", use_t=True, equal_var=False),
    "cuped": tt.Mean("revenue", "revenue_before", use_t=True, equal_var=False),
    "cuped_orders": tt.Mean("orders", "before", use_t=True, equal_var=False),
    "ratio": tt.RatioOfMeans("orders", "sessions", use_t=True, equal_var=False),
    "ratio_cuped": tt.RatioOfMeans(
        "orders", "sessions", "before", "sessions_before", use_t=True, equal_var=False
    ),
}
FIELDS = {
    "mean_control": "control", "mean": "treatment", "effect": "effect_size", "lower": "effect_size_ci_lower",
    "upper": "effect_size_ci_upper", "relative_effect": "rel_effect_size",
    "relative_lower": "rel_effect_size_ci_lower", "relative_upper": "rel_effect_size_ci_upper",
    "p_value": "pvalue",
}  # fmt: skip


def effects() -> list[dict]:
    out = []
    for seed, (n_control, n_treated) in enumerate(SIZES):
        made = data(seed, n_control, n_treated)
        found = tt.Experiment(METRICS, variant="arm").analyze(pd.DataFrame(made))
        for name in METRICS:
            values = {ours: float(getattr(found[name], theirs)) for ours, theirs in FIELDS.items()}
            out.append(
                {"seed": seed, "sizes": [n_control, n_treated], "metric": name, "by": "tea-tasting", **values}
            )
        compared = CompareMeans(*(DescrStatsW(made["revenue"][made["arm"] == a]) for a in (1, 0)))
        lower, upper = compared.tconfint_diff(usevar="unequal")
        p_value = compared.ttest_ind(usevar="unequal")[1]
        out.append(
            {"seed": seed, "sizes": [n_control, n_treated], "metric": "mean", "by": "statsmodels",
             "lower": float(lower), "upper": float(upper), "p_value": float(p_value)}
        )  # fmt: skip
        tested = scipy.stats.ttest_ind(*(made["bought"][made["arm"] == a] for a in (1, 0)), equal_var=False)
        ends = tested.confidence_interval()
        out.append(
            {"seed": seed, "sizes": [n_control, n_treated], "metric": "binary", "by": "scipy",
             "lower": float(ends.low), "upper": float(ends.high), "p_value": float(tested.pvalue)}
        )  # fmt: skip
    return out


def others() -> dict[str, list]:
    power = TTestIndPower()
    shares = ((k, n, proportion_confint(k, n, 0.05, "wilson")) for k, n in ((5, 100), (0, 30), (77, 80)))
    p = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]
    effect, se = [0.1, 0.5, -0.2, 0.3], [0.1, 0.2, 0.15, 0.12]
    spread = float(combine_effects(np.array(effect), np.square(se)).test_homogeneity().pvalue)
    return {
        "power": [
            [d, n, r, float(power.power(d, n, 0.05, ratio=r))]
            for d, n, r in ((0.1, 500, 1), (0.2, 300, 1), (0.3, 100, 2), (0.05, 5000, 0.5), (0.5, 20, 1))
        ],
        "size": [
            [d, r, float(power.solve_power(d, power=0.8, alpha=0.05, ratio=r))]
            for d, r in ((0.1, 1), (0.25, 1), (0.05, 3))
        ],
        "chi_square": [
            [c, s, float(scipy.stats.chisquare(c, np.array(s) * sum(c)).pvalue)]
            for c, s in (
                ([510, 490], [0.5, 0.5]),
                ([90_300, 9_700], [0.9, 0.1]),
                ([340, 330, 390], [1 / 3] * 3),
            )
        ],
        "holm": [p, multipletests(p, method="holm")[1].tolist()],
        "bh": [p, multipletests(p, method="fdr_bh")[1].tolist()],
        "heterogeneity": [effect, se, spread],
        "wilson": [[k, n, float(a), float(b)] for k, n, (a, b) in shares],
    }  # fmt: skip


if __name__ == "__main__":
    versions = {m.__name__: m.__version__ for m in (statsmodels, scipy, np)}
    versions["tea-tasting"] = importlib.metadata.version("tea-tasting")
    frozen = {"versions": versions, "python": sys.version.split()[0], "effects": effects(), **others()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(frozen, indent=1) + "\n", encoding="utf-8")
