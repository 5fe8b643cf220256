from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from nba import tables
from nba.models import belief
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
    rows = expected(
        examples(["mail", "mail", "none"], [0, 1, 0]), np.full(3, 2.0), found, np.array([0.2, 0.2, 0.1])
    )
    shown = {row["decision_id"]: (row["is_response"], row["weight"]) for row in rows.to_pylist()}
    later = 0.2 * 0.5 / (1 - 0.2 * 0.5)
    assert shown["d0"] == (False, pytest.approx(0.5 * (1 - later)))
    assert shown["d0+"] == (True, pytest.approx(0.5 * later))
    assert shown["d1"] == (True, 0.5)
    assert shown["d2+"][1] == pytest.approx(0.5 * 0.1 * 0.5 / (1 - 0.1 * 0.5))


def test_a_decision_of_this_moment_tells_nothing():
    found = completeness(np.array([1.0, 3.0]), np.array([True, True]), 4.0)
    rows = expected(examples(["mail", "none"], [0, 0]), np.array([0.0, 4.0]), found, np.array([0.2, 0.1]))
    assert [(row["decision_id"], row["weight"]) for row in rows.to_pylist()] == [("d1", 1.0)]


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
    rows = expected(examples(["mail"] * 20_000, seen), age, found, np.full(20_000, base))
    weight, y = rows["weight"].to_numpy(), rows["is_response"].to_numpy(zero_copy_only=False)
    assert weight.sum() == pytest.approx(found.at(age, np.ones(20_000, dtype=bool)).sum())
    assert seen.mean() < truth - 0.05
    assert weight @ y / weight.sum() == pytest.approx(truth, abs=3 * np.sqrt(truth / 20_000))
    assert pa.types.is_floating(rows["weight"].type)


def test_open_decisions_leave_treatments_as_far_apart_as_they_are(catalog, quick):
    rng = np.random.default_rng(1)
    names = np.array(["none", *catalog.treatment_ids[1:3]])
    truth = np.array([0.05, 0.40, 0.05])
    n, n_closed = 6_000, 1_500
    column = rng.integers(0, 3, n)
    responds = rng.random(n) < truth[column]
    delay = rng.uniform(0, 14, n)
    is_open = np.arange(n) >= n_closed
    age = np.where(is_open, rng.choice([0.0, 3.5], n), 14.0)
    rows = examples(names[column], responds & (delay <= age))
    rows = rows.set_column(rows.column_names.index("f_x"), "f_x", pa.array(rng.normal(size=n)))
    closed, waiting = rows.slice(0, n_closed), rows.slice(n_closed)
    found = completeness(np.linspace(0, 14, 1_000)[1:], np.ones(999, dtype=bool), 14.0)
    asked = quick.model_copy(update={"trees": 5, "folds": 2, "capacity": "linear"})
    p = belief.chances(closed, waiting, catalog, asked, 0)
    done = expected(waiting, age[is_open], found, p)
    weight, y = done["weight"].to_numpy(), done["is_response"].to_numpy(zero_copy_only=False)
    given = np.array(done["treatment_id"].to_pylist())
    for name, rate in zip(names, truth):
        own = given == name
        error = np.sqrt(rate * (1 - rate) / (n_closed / 3))  # of closed decisions of a treatment
        assert weight[own] @ y[own] / weight[own].sum() == pytest.approx(rate, abs=3 * error)
    assert weight.sum() == pytest.approx(found.at(age[is_open], column[is_open] > 0).sum())
