"""A randomised log with known effects: small, and quick to learn from."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from nba.catalog import Action, Catalog, Treatment
from nba.models.scorer import Scorer
from nba.settings import Models

PAIRS = (("sale", "email"), ("sale", "sms"), ("advice", "email"), ("advice", "call"))
COST = {"email": 0.02, "sms": 0.1, "call": 2.0}
QUICK = Models(folds=3, trees=30, leaves=8, min_leaf=100)


def shop() -> Catalog:
    """Make a catalog of two actions on three channels, four treatments."""
    actions = tuple(Action(a, "sales", "all", a, margin=10.0) for a in ("sale", "advice"))
    return Catalog(actions, tuple(Treatment(f"{a}_{c}", a, c, COST[c]) for a, c in PAIRS))


@dataclass(frozen=True)
class Log:
    """Examples with their truth: effects of every treatment, shape (n, k), and chances, shape (n, k)."""

    examples: pa.Table
    effect: np.ndarray
    chance: np.ndarray


def log(n: int, seed: int, kind: str = "varied") -> Log:
    """Draw a log.

    Args:
        n: Rows; three per customer.
        seed: Of everything.
        kind: varied (effects depend on x), constant (odds ratios), or none.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    base = -2.8 + 0.9 * x[:, 0] + 0.4 * x[:, 1]
    odds = np.zeros((n, 5))
    if kind != "none":
        odds[:, 1:] = [0.3, 0.6, 0.4, 1.0]
    if kind == "varied":
        odds[:, 1:3] += 0.9 * x[:, [2]] - 0.5 * x[:, [0]]
        odds[:, 3:] += 0.9 * x[:, [3]] - 0.5 * x[:, [0]]
    chance = expit(base[:, None] + odds)
    column = np.where(rng.random(n) < 0.5, rng.integers(1, 5, n), 0)
    response = rng.random(n) < chance[np.arange(n), column]
    catalog = shop()
    start = datetime(2026, 1, 5, tzinfo=UTC)
    data = {
        "decision_id": [f"d{i}" for i in range(n)],
        "customer_id": [f"c{i // 3}" for i in range(n)],
        "as_of": pa.array([start + timedelta(weeks=i % 3) for i in range(n)], pa.timestamp("us", tz="UTC")),
        "treatment_id": [catalog.treatment_ids[c] for c in column],
        "p_action": np.where(column > 0, 0.125, 0.5),
        "is_response": response,
        "reward": response * 30.0 - catalog.cost[column],
        **{f"f_x{j}": x[:, j] for j in range(6)},
        "f_margin_per_order": np.full(n, 15.0),
        "f_orders_total": np.full(n, 3.0),
    }
    return Log(pa.table(data), chance - chance[:, :1], chance)


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return shop()


@pytest.fixture(scope="session")
def draw() -> Callable[..., Log]:
    """The function that draws a log."""
    return log


@pytest.fixture(scope="session")
def quick() -> Models:
    """Settings that are quick to fit."""
    return QUICK


@pytest.fixture(scope="session")
def varied() -> Log:
    return log(24_000, seed=1)


@pytest.fixture(scope="session")
def scorer(varied: Log) -> Scorer:
    """A scorer fitted to effects that vary."""
    return Scorer.fit(varied.examples, shop(), QUICK, seed=0)
