"""Frozen values of scikit-uplift 0.5.1 and causalml 0.18.0 for tests/test_targeting.py.

Run with the Python of each environment that `make peers` makes, from this folder:
    .peers/sklift/bin/python uplift_metrics.py; .peers/causalml/bin/python uplift_metrics.py
"""

import json
from pathlib import Path

import numpy as np

TARGET = Path(__file__).with_suffix(".json")
CASES = 20


def case(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make responses, predicted uplift (with ties in even cases) and treatment of changing shares."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    treated = (rng.random(n) < 0.3 + 0.02 * seed).astype(float)
    y = (rng.random(n) < 0.1 + 0.02 * seed + 0.15 * treated * (x > 0)).astype(float)
    uplift = x + rng.normal(size=n)
    return y, np.round(uplift, 1) if seed % 2 == 0 else uplift, treated


def sklift() -> list[dict[str, float]]:
    """Ties at the edge of uplift at k count by row order there; distinct values do not."""
    from sklift.metrics import qini_auc_score, uplift_at_k, uplift_auc_score

    rows = []
    for seed in range(CASES):
        y, uplift, t = case(seed)
        distinct = uplift + 1e-6 * np.arange(len(y))[::-1]
        rows.append(
            {
                "qini": qini_auc_score(y, uplift, t),
                "auuc": uplift_auc_score(y, uplift, t),
                "at30": uplift_at_k(y, distinct, t, strategy="overall", k=0.3),
            }
        )
    return rows


def causalml() -> list[dict[str, float]]:
    """Ties count by row order there: these cases are made distinct."""
    import pandas as pd
    from causalml.metrics import auuc_score, qini_score

    rows = []
    for seed in range(CASES):
        y, uplift, t = case(seed)
        frame = pd.DataFrame({"y": y, "w": t, "m": uplift + 1e-6 * np.arange(len(y))[::-1]})
        rows.append({"qini": float(qini_score(frame)["m"]), "auuc": float(auuc_score(frame)["m"])})
    return rows


if __name__ == "__main__":
    found = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    for name, run in (("sklift", sklift), ("causalml", causalml)):
        try:
            found[name] = [{k: float(v) for k, v in row.items()} for row in run()]
        except ImportError:
            continue
    TARGET.write_text(json.dumps(found, indent=1) + "\n")
