import contextlib
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from nba import settings, tables
from nba.catalog import Action, Catalog, Treatment
from nba.experiments import design
from nba.history import History
from tests.believer import Believer

AT = datetime(2026, 3, 2, 6, tzinfo=UTC)


class Mortal(Believer):
    """The same, but it takes the worker that first asks it down, then the executor of the next one."""

    def __init__(self, marks: Path) -> None:
        super().__init__("believer-1", least=-0.05, spread=0.2)
        self.marks = marks

    def scores(self, features, catalog):
        executor = int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])
        for name, victim in (("worker", os.getpid()), ("executor", executor)):
            with contextlib.suppress(FileExistsError):
                (self.marks / name).touch(exist_ok=False)
                os.kill(victim, signal.SIGKILL)
                time.sleep(60)
        return super().scores(features, catalog)


def arm(name: str, share: float, policy: str) -> settings.Arm:
    return settings.Arm(name=name, share=share, policy=policy)


@pytest.fixture
def shop():
    """The shop of `make_shop`."""
    return make_shop()


def make_shop():
    """A catalog, settings, a history of 400 customers at a moment, their features, and a model."""
    catalog = Catalog(
        (Action("sale", "s", "s", "Sale", 20.0), Action("club", "s", "s", "Club", 50.0)),
        (
            Treatment("sale_mail", "sale", "email", 0.1, 14),
            Treatment("sale_sms", "sale", "sms", 0.5, 14),
            Treatment("club_mail", "club", "email", 0.1),
            Treatment("club_call", "club", "call", 4.0, 28),
        ),
    )
    arms = (
        arm("holdout", 0.1, "none"),
        arm("random", 0.2, "random"),
        arm("response", 0.2, "response_greedy"),
        arm("policy", 0.5, "champion"),
    )
    config = settings.Settings(
        workspace=settings.Workspace(name="shop"),
        limits=settings.Limits(capacity={"email": 120, "sms": 31, "call": 10}, budget=60.0),
        experiment=settings.Experiment(arms=arms),
    )
    rng = np.random.default_rng(0)
    ids = [f"c{i:04d}" for i in range(400)]
    customers = pa.table(
        {
            "customer_id": ids,
            "external_id": [None if i % 17 == 0 else f"x{i}" for i in range(400)],
            "joined_at": pa.array([AT - timedelta(days=90)] * 400, tables.TIME),
            **{f"can_{channel}": rng.random(400) < 0.8 for channel in tables.CHANNELS},
        }
    )
    features = pa.table(
        {"customer_id": ids, "as_of": pa.array([AT] * 400, tables.TIME), "f_x": rng.normal(size=400)}
    )
    return SimpleNamespace(
        at=AT,
        catalog=catalog,
        config=config,
        customers=customers,
        features=features,
        model=Believer("believer-1", least=-0.05, spread=0.2),
    )


def with_merged(history, shop):
    """Let others go into the first 60 customers, and tell by which id each of the 60 is drawn.

    Of three, the first was assigned only as the other, the second as the other and later as itself, the third
    as itself and later as the other.
    """
    config, day = shop.config, timedelta(days=1)
    first = [f"v{i:04d}" if i % 3 < 2 else f"c{i:04d}" for i in range(60)]
    second = [f"{'cv'[i % 3 - 1]}{i:04d}" for i in range(60) if i % 3]
    aliases = [
        {"alias_id": f"v{i:04d}", "customer_id": f"c{i:04d}", "joined_at": AT - day, "is_pending": False}
        for i in range(60)
    ]
    assigned = [design.assignments(config, ids, AT - age * day, {}) for ids, age in ((first, 9), (second, 5))]
    after = history.commit(
        append={"aliases": tables.ALIASES.build(aliases), "assignments": pa.concat_tables(assigned)}
    )
    return after, {f"c{i:04d}": unit for i, unit in enumerate(first)}


@pytest.fixture
def history(shop, tmp_path):
    """The customers, committed."""
    return History.read(tmp_path / "shop").commit(append={"customers": shop.customers})


@pytest.fixture
def batch(shop, history):
    """One batch of that shop."""
    from nba.serving.decide import decide

    with history.as_of(shop.at) as snapshot:
        return decide(snapshot, shop.features, shop.catalog, shop.config, {"champion": shop.model}, "b1")
