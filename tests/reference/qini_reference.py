"""Frozen values of scikit-uplift 0.5.1 for tests/test_metrics.py; run in an environment that has it."""

import numpy as np
from sklift.metrics import qini_auc_score, uplift_at_k


def case(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make responses, predicted uplift (rounded: with ties) and treatment."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    treated = (rng.random(n) < 0.4).astype(float)
    y = (rng.random(n) < 0.2 + 0.15 * treated * (x > 0)).astype(float)
    return y, np.round(x + rng.normal(size=n), 1), treated


if __name__ == "__main__":
    for seed in range(4):
        y, uplift, treated = case(seed)
        qini = qini_auc_score(y, uplift, treated)
        top = uplift_at_k(y, uplift + 1e-6 * np.arange(len(y))[::-1], treated, strategy="overall", k=0.3)
        print(f"    ({seed}, {qini!r}, {top!r}),")
