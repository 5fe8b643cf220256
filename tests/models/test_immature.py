from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from nba import tables
from nba.models.immature import completeness, expected

AT = datetime(2026, 3, 2, tzinfo=UTC)


def examples(treatments, responded):
    return tables.EXAMPLES.build(
        {"decision_id": f"d{i}", "customer_id": f"c{i}", "as_of": AT, "treatment_id": t, "p_action": 0.5,
         "is_response": bool(r), "reward": 0.0, "f_x": 1.0}
        for i, (t, r) in enumerate(zip(treatments, responded))
    )  # fmt: skip


# by hand


def test_an_open_decision_counts_as_part_of_a_response():
    found = completeness(np.array([1.0, 3.0]), np.array([True, True]), 4.0)
    rows = expected(examples(["mail", "mail", "none"], [0, 1, 0]), np.full(3, 2.0), found, (0.2, 0.1))
    shown = {row["decision_id"]: (row["is_response"], row["weight"]) for row in rows.to_pylist()}
    later = 0.2 * 0.5 / (1 - 0.2 * 0.5)
    assert shown["d0"] == (False, pytest.approx(1 - later))
    assert shown["d0+"] == (True, pytest.approx(later))
    assert shown["d1"] == (True, 1.0)
    assert shown["d2+"][1] == pytest.approx(0.1 * 0.5 / (1 - 0.1 * 0.5))


def test_without_responses_they_come_evenly():
    found = completeness(np.zeros(0), np.zeros(0, dtype=bool), 14.0)
    assert found.at(np.array([0.0, 7.0, 14.0]), np.array([True, False, True])).tolist() == [0.0, 0.5, 1.0]


# recovery


def test_the_rate_of_open_decisions_is_recovered():
    rng = np.random.default_rng(0)
    delay = rng.weibull(0.9, 40_000) * 4.5
    delay = np.where(rng.random(40_000) < 0.3, delay, np.inf)
    delay[delay > 14] = np.inf
    truth = float(np.isfinite(delay[:20_000]).mean())
    closed = delay[20_000:][np.isfinite(delay[20_000:])]
    found = completeness(closed, np.ones(len(closed), dtype=bool), 14.0)
    age = rng.uniform(0.5, 13, 20_000)
    seen = delay[:20_000] <= age
    base = float(np.isfinite(delay[20_000:]).mean())
    rows = expected(examples(["mail"] * 20_000, seen), age, found, (base, base))
    weight, y = rows["weight"].to_numpy(), rows["is_response"].to_numpy(zero_copy_only=False)
    assert weight.sum() == pytest.approx(20_000)
    assert seen.mean() < truth - 0.05
    assert weight @ y / weight.sum() == pytest.approx(truth, abs=3 * np.sqrt(truth / 20_000))
    assert pa.types.is_floating(rows["weight"].type)
