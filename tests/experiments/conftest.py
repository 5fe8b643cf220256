"""Fixtures of the experiments' tests: a workspace that is built once."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from nba import settings, tables
from nba.experiments import design
from nba.history import History
from tests.experiments.shop import START, TOML, WEEKS, N, decisions_of


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A workspace in which every policy doubles orders, and the two of the trial are the same."""
    folder = tmp_path_factory.mktemp("readout")
    (folder / "nba.toml").write_text(TOML, encoding="utf-8")
    config = settings.read(folder)
    rng = np.random.default_rng(0)
    ids = [f"c{i}" for i in range(N)]
    placed = design.place(config, ids, START)
    treated = placed.standing.arm != "holdout"
    level = rng.gamma(2, 0.5, N)
    before, after = rng.poisson(4 * level), rng.poisson(3 * level * (1 + treated))
    who = np.repeat(np.arange(N), before + after)
    is_before = np.concatenate([np.arange(b + a) < b for b, a in zip(before, after)])
    days = np.where(is_before, -rng.integers(1, 200, len(who)), rng.integers(0, 7 * WEEKS, len(who)))
    revenue = rng.gamma(2, 5, len(who))
    orders = tables.ORDERS.conform(
        pa.table(
            {
                "order_id": [f"o{i}" for i in range(len(who))],
                "customer_id": [ids[i] for i in who],
                "ordered_at": pa.array([START + timedelta(days=int(d), hours=1) for d in days], tables.TIME),
                "revenue": revenue,
                "margin": revenue / 2,
                "n_items": [1] * len(who),
                "is_return": rng.random(len(who)) < 0.05,
            }
        )
    )
    customers = tables.CUSTOMERS.build(
        {
            "customer_id": c, "joined_at": START - timedelta(days=300), "can_email": True, "can_sms": True,
            "can_push": True, "can_call": True, "a_city": ("Rome", "Oslo")[i % 2],
        }
        for i, c in enumerate(ids)
    )  # fmt: skip
    history = History.read(folder).commit(
        append={
            "assignments": design.assignments(config, ids, START, {}),
            "decisions": decisions_of(ids, placed),
            "orders": orders,
            "customers": customers,
        }
    )
    assert history.version == 1
    return folder
